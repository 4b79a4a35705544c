"""Federations: one domain is central training, what leaves a domain, rounds that are killed, and their jobs."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from src.core import array_files, storage
from src.core.errors import UserError
from src.core.executors import Job
from src.core.run_settings import Recurrent, Regime, Run, Train
from src.core.settings_loader import load_config
from src.data.corpus import Corpus
from src.data.inputs import token_shape
from src.evaluation.membership import membership
from src.evaluation.workspace import Workspace
from src.models.classifier import build_model
from src.models.scaling import Scaler
from src.training import checkpoints, federated, federation, job_specs, prediction, privacy
from src.training.classification import train_fold
from src.training.device_cache import Machine
from src.training.federated import Client, average, train_client
from src.training.job_specs import FoldJob
from src.training.optimizers import make_optimizer
from src.training.planning import fold_jobs
from tests.conftest import words
from tests.test_classification import CPU, SIZE, TASK, rows
from tests.test_domains import batch_of

WEIGHTS = ("last.safetensors", "best.safetensors")
SMALL = Recurrent(embedding_size=6, hidden_size=5, embedding_init="random", spatial_dropout=0, head_dropout=0)


@pytest.fixture(scope="module")
def home(done, tmp_path_factory) -> Path:
    return Path(shutil.copytree(done, tmp_path_factory.mktemp("federated") / "output", copy_function=shutil.copy2))


@pytest.fixture
def fold(home, tiny_input, tmp_path):
    """Function that plans the first fold of the run lstm under further settings."""

    def planned(*settings: str) -> FoldJob:
        given = [word for word in words(tiny_input, home) if "=" in word] + ["train.epochs=2", *settings]
        workspace = Workspace(load_config("sample", given))
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        machine = Machine("cpu", "fp32", 1)
        return fold_jobs(workspace, machine, folder_of=lambda name: folder / name)["lstm"][0]

    return planned


def quiet(news) -> None:
    pass


def trained(job: FoldJob) -> dict[str, bytes]:
    train_fold(asdict(job), quiet)
    return results(job)


def results(job: FoldJob) -> dict[str, bytes]:
    assert job.is_done() and not (job.path / "rounds").exists() and not (job.path / "clients").exists()
    logits = array_files.read_npy(job.path / "logits.npy").tobytes()
    return {**{name: (job.path / name).read_bytes() for name in WEIGHTS}, "logits": logits}


FEDERATED = "train.regime=fedavg", "domains.by=clusters", "domains.k=3"


def test_one_domain_is_central_training_byte_for_byte(fold):
    federation_of_one = fold("train.regime=fedavg", "train.epochs=3", "regime.local_epochs=2")
    assert trained(federation_of_one) == trained(fold("train.epochs=3"))
    assert storage.read_json(federation_of_one.path / "result.json")["federation"]["rounds"] == 2


def test_fedprox_without_weight_is_fedavg(fold):
    averaged = trained(fold(*FEDERATED))
    assert trained(fold(*FEDERATED, "train.regime=fedprox", "regime.weight=0")) == averaged
    assert trained(fold(*FEDERATED, "train.regime=fedprox", "regime.weight=1000")) != averaged


def test_fedprox_pulls_to_the_weights_of_the_start():
    gradients = {}
    for regime in ("fedavg", "fedprox"):
        torch.manual_seed(0)
        model, train = build_model(SMALL, token_shape(SIZE), 3), rows(12)
        run = Run(model=SMALL, train=Train(regime=regime), regime=Regime(weight=0.5 if regime == "fedprox" else 1.0))
        given = Train(batch_size=12, regime=regime)
        one = Client(TASK, model, train, train, given, CPU, "fp32", run=run, optimizer=make_optimizer(model, given))
        with torch.no_grad():
            model.head.weight += 0.25
        one.step(*batch_of(one))
        gradients[regime] = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    for name, gradient in gradients["fedavg"].items():
        added = 0.125 if name == "head.weight" else 0.0
        torch.testing.assert_close(gradients["fedprox"][name], gradient + added)


def private(noise: float, clip: float, size: int = 12) -> Client:
    torch.manual_seed(0)
    model, train = build_model(SMALL, token_shape(SIZE), 3), rows(24)
    run = Run(model=SMALL, train=Train(regime="fedavg"), regime=Regime(noise=noise, clip=clip))
    given = Train(batch_size=size, regime="fedavg")
    return Client(TASK, model, train, train, given, CPU, "fp32", run=run, optimizer=make_optimizer(model, given))


def test_private_gradients_are_those_of_the_rows_clipped():
    plain, clipped = private(1e-9, 1e6), private(1e-9, 1e-3)
    batch, wanted = next(plain.batches(np.random.default_rng(0)))
    n = len(batch.rows)
    loss = plain.step(batch, wanted)
    whole = Client.loss(plain, plain.model, batch, wanted)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-4)
    for weight, gradient in zip(
        plain.model.parameters(), torch.autograd.grad(whole, list(plain.model.parameters())), strict=True
    ):
        torch.testing.assert_close(weight.grad, gradient * n / 12, rtol=1e-3, atol=2e-3)
    clipped.step(batch, wanted)
    norm = torch.stack([weight.grad.norm() for weight in clipped.model.parameters()]).norm()
    assert 0 < norm <= n * 1e-3 / 12 * 1.001


def test_noise_is_a_multiple_of_the_clip():
    one = private(3.0, 2.0)
    batch, wanted = next(one.batches(np.random.default_rng(0)))
    one.step(batch._replace(rows=batch.rows[:0]), wanted)
    drawn = torch.cat([weight.grad.flatten() for weight in one.model.parameters()])
    assert drawn.std().item() == pytest.approx(3.0 * 2.0 / 12, rel=0.1)


def test_rows_of_private_steps_are_drawn_independently():
    one = private(1.0, 1.0, size=6)
    sizes, seen = [], np.zeros(24)
    for seed in range(60):
        batches = list(one.batches(np.random.default_rng(seed)))
        assert len(batches) == 4
        for batch, wanted in batches:
            assert len(batch.rows) == len(wanted.targets) == len(set(batch.rows))
            sizes.append(len(batch.rows))
            seen[batch.rows] += 1
            np.testing.assert_array_equal(wanted.targets.numpy(), one._train.labels[batch.rows])
    assert np.mean(sizes) == pytest.approx(6, abs=0.5) and np.std(sizes) > 1.5
    assert seen.min() > 30


def test_a_private_federation_notes_its_epsilon(fold):
    pytest.importorskip("opacus", reason="Opacus is not installed (docs/requirements-privacy.txt)")
    job = fold(*FEDERATED, "regime.noise=1", "train.epochs=1", "regime.drop=0.5")
    assert trained(job)
    noted = storage.read_json(job.path / "result.json")
    assert noted["last_train_loss"] is None
    for one in noted["federation"]["domains"].values():
        assert one["delta"] == 1 / (10 * one["rows"]) and 0.5 < one["epsilon"] < 50
    less, more = (privacy.spent(noise, 1000, 32, 10)["epsilon"] for noise in (2.0, 1.0))
    assert less < more == pytest.approx(privacy.spent(1.0, 1000, 32, 10)["epsilon"])
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(4.0, 0.01, 10_000)]  # example of Abadi et al. (2016), whose bound is a little wider
    assert 0.9 < accountant.get_epsilon(delta=1e-5) < 1.26


def test_noise_without_opacus_is_told(monkeypatch):
    monkeypatch.setattr(privacy.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requirements-privacy\.txt"):
        privacy.check()


def test_members_are_told_by_their_loss():
    rng = np.random.default_rng(0)
    same = membership(rng.exponential(1, 2000), rng.exponential(1, 3000))
    assert abs(same.auc.value - 0.5) < 3 * same.auc.standard_error < 0.04
    assert abs(same.advantage.value) < 3 * same.advantage.standard_error < 0.06
    apart = membership(rng.uniform(0, 1, 500), rng.uniform(2, 3, 500))
    assert apart.auc.value == 1 and apart.advantage.value == pytest.approx(0.5, abs=0.1)


def test_an_average_is_weighed_by_rows():
    parts = [{"weight": torch.tensor([1.0, 2.0])}, {"weight": torch.tensor([4.0, 2.0])}]
    torch.testing.assert_close(average(parts, [200, 100])["weight"], torch.tensor([2.0, 2.0]))
    assert torch.equal(average(parts[:1], [7])["weight"], parts[0]["weight"])


def test_domains_take_part_at_random_and_one_at_least(fold):
    job = fold(*FEDERATED, "train.epochs=40", "regime.drop=0.9")
    rounds = federation.rounds_of(job)
    assert rounds == federation.rounds_of(job) and len(rounds) == 41 and rounds[0] == []
    sizes = [len(clients) for clients in rounds[1:]]
    assert min(sizes) == 1 and 40 <= sum(sizes) < 80
    before = dict.fromkeys(range(3), 0)
    for clients in rounds:
        for client in clients:
            assert client.since == before[client.domain]
            before[client.domain] = client.round
    lasts = {client.domain: client.round for clients in rounds for client in clients if client.is_last}
    assert lasts == {domain: number for domain, number in before.items() if number}
    assert [len(clients) for clients in federation.rounds_of(fold(*FEDERATED))[1:]] == [3, 3]


def test_what_is_personal_leaves_a_domain_with_its_last_round_alone(fold):
    job = fold(*FEDERATED, "regime.personal=[encoder,head]")
    first, last = federation.rounds_of(job)[1:]
    federated.close_round({**asdict(job), "round": 1}, quiet)
    for client in first:
        sent = checkpoints.load_tensors(client.sent)
        assert sent and not [name for name in sent if name.startswith(("encoder.", "head."))]
    sizes = {client.domain: client.sent.stat().st_size for client in first}
    models = []
    for client in last:
        train_client(asdict(client), quiet)
        sizes[client.domain] += client.sent.stat().st_size
        models.append(checkpoints.load_tensors(client.sent))
    heads = [model["head.weight"] for model in models]
    assert not torch.equal(heads[0], heads[1])
    counts = list(federation.client_rows(job).values())
    trained(job)
    whole = checkpoints.load_tensors(job.path / "last.safetensors")
    for name, weight in average(models, counts).items():
        assert torch.equal(whole[name], weight)
    noted = storage.read_json(job.path / "result.json")["federation"]
    assert {int(domain): one["bytes"] for domain, one in noted["domains"].items()} == sizes
    assert noted["bytes"] == sum(sizes.values())


def test_rows_of_a_domain_are_predicted_with_its_own_parts(fold):
    job = fold(*FEDERATED, "regime.personal=[head]")
    of_row = array_files.read_npy(job.locate(job.domains))
    model = build_model(SMALL, token_shape(SIZE), 3)
    biases = {0: torch.full((3,), 10.0), 2: torch.full((3,), 12.0)}
    parts = {domain: {"head.bias": bias} for domain, bias in biases.items()}
    before = model.head.bias.detach().clone()
    taken = np.array([int(np.flatnonzero(of_row == domain)[0]) for domain in (2, 1, 0, 2)])

    def predict(places: np.ndarray) -> np.ndarray:
        return model.head.bias.detach().numpy()[None].repeat(len(places), axis=0)

    found = federated.predict_by_domain(model, parts, of_row[taken], predict)
    np.testing.assert_array_equal(found, torch.stack([biases[2], before, biases[0], biases[2]]).numpy())
    assert torch.equal(model.head.bias, before)


def test_copies_are_predicted_as_the_rows_that_they_are_of(fold):
    """Copies that nothing was changed in have the out-of-fold logits of their rows."""
    job = fold(*FEDERATED, "regime.personal=[head]")
    train_fold(asdict(job), quiet)
    output, rows = Path(job.output), job.path / "rows.npy"
    chosen = array_files.read_npz(job.locate(job.split))["predicted_rows"][::3]
    corpus, copied = Corpus.load(job.locate(job.corpus)), job.path / "copied"
    copied.mkdir()
    for name in ("tokens", "lengths"):
        array = corpus.inputs[name] if name == "tokens" else corpus.lengths
        array_files.write_npy(copied / f"{name}.npy", np.asarray(array)[chosen])
    array_files.write_npy(copied / "ids.npy", corpus.ids[chosen])
    array_files.write_npy(copied / "sources.npy", corpus.sources[chosen])
    array_files.write_npy(rows, chosen)
    (asked,) = prediction.prediction_jobs(output, [job.path], [copied], "cpu", rows)
    prediction.predict_fold(asked.payload, quiet)
    found = array_files.read_npy(output / asked.payload["out"])
    np.testing.assert_allclose(found, array_files.read_npy(job.path / "logits.npy")[::3], atol=1e-6)
    assert {f"{asked.payload['fold']}/{name}" for name in ("personal.safetensors", "domains.npy")} <= set(
        job_specs.trained_fold(asked.payload)
    )
    made = storage.read_json(job.path / "result.json")
    del made["run"]["regime"]  # as in most runs: what is not set is not noted
    storage.write_json(job.path / "result.json", made)
    assert not [name for name in job_specs.trained_fold(asked.payload) if "personal" in name]


def test_a_killed_federation_ends_in_the_same_bytes(fold):
    settings = *FEDERATED, "train.epochs=4", "regime.local_epochs=2", "regime.drop=0.3"
    job, whole = fold(*settings), trained(fold(*settings))

    def killed(news) -> None:
        if news["epoch"] == 3:  # amid round 2
            raise ConnectionError

    executor = InProcess(lambda job: killed if "domain" in job.payload else quiet)
    with pytest.raises(ConnectionError):
        run_all(executor, job)
    assert list(job.path.glob("clients/*/round_*/state_*.json"))
    run_all(InProcess(lambda job: quiet), job)
    assert results(job) == whole


class InProcess:
    """Executor that runs jobs in this process, one after the other."""

    def __init__(self, progress_of):
        self.names, self._progress_of = [], progress_of

    def run_as_they_come(self, next_job, watcher):
        while job := next_job():
            self.names.append(job.name)
            function = {"train_client": train_client, "close_round": federated.close_round, "train_fold": train_fold}
            tell = self._progress_of(job)

            def progress(news, tell=tell, job=job) -> None:
                watcher.step(job, news)
                tell(news)

            function[job.function.split(":")[1]](job.payload, progress)
            watcher.finish(job, None)
        return []


def run_all(executor: InProcess, *jobs: FoldJob) -> None:
    folds = [Job(f"lstm fold_{i}", "src.training.classification:train_fold", asdict(job)) for i, job in enumerate(jobs)]
    assert federation.run_federations(executor, folds, None, lambda job: "done") == []


def test_rounds_of_all_folds_go_side_by_side(fold):
    executor, jobs = InProcess(lambda job: quiet), [fold(*FEDERATED), fold(*FEDERATED)]
    run_all(executor, *jobs)
    assert results(jobs[0]) == results(jobs[1])
    last = [max(i for i, name in enumerate(executor.names) if f"fold_{n} round 1" in name) for n in (0, 1)]
    first = [min(i for i, name in enumerate(executor.names) if f"fold_{n} round 2" in name) for n in (0, 1)]
    assert max(last) < min(first)
    assert "3 domains sent" in federation.told(jobs[0], ["a", "b", "c"])


def test_statistics_of_parts_fit_what_the_whole_fits():
    rng = np.random.default_rng(0)
    table = np.stack([rng.normal(5, 2, 3000), rng.lognormal(1, 1, 3000), np.ones(3000)], axis=1).astype(np.float32)
    table[rng.random(table.shape) < 0.3] = np.nan

    def fitted(table: np.ndarray) -> Scaler:
        scaler = Scaler(3)
        scaler.fit(table)
        return scaler

    whole, parts = fitted(table), Scaler(3)
    halves = [table[:1000], table[1000:]]
    parts.fit_to([Scaler.statistics(half) for half in halves])
    for name in ("mean", "scale", "offset"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=0.05, atol=0.02, equal_nan=True)
    assert torch.equal(parts.low, torch.stack([part.low for part in map(fitted, halves)]).amin(dim=0))
    assert torch.equal(parts.high, torch.stack([part.high for part in map(fitted, halves)]).amax(dim=0))


@pytest.mark.parametrize("setting", [{"patience": 2}, {"ema_decay": 0.9}, {"target_weight": 1}, {"teachers": ["gru"]}])
def test_what_needs_all_rows_in_one_place_is_refused(setting):
    with pytest.raises(ValueError, match=f"train.regime=fedavg goes without train.{next(iter(setting))}"):
        Run(train=Train(regime="fedavg", **setting))
