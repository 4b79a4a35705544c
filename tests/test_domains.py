"""Domains, and the regimes that learn from several: folds of domains, clusters, gradients of each regime."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from src.__main__ import main
from src.core.errors import UserError
from src.core.run_settings import Recurrent, Regime, Train, Transformer
from src.core.settings import Domains as DomainSettings
from src.core.settings_loader import load_config
from src.data.domains import find_domains
from src.data.inputs import token_shape
from src.data.splits import Split
from src.evaluation.workspace import Workspace
from src.models.classifier import build_model
from src.pipeline.stage import get_stage, make
from src.training import planning, regimes
from src.training.classification import Classification
from src.training.epoch_reader import Wanted
from src.training.job_specs import Beside
from src.training.loop import fit
from src.training.rows import Rows
from tests.conftest import error_of, words
from tests.test_classification import CPU, SIZE, TASK, rows

SMALL = Recurrent(embedding_size=6, hidden_size=5, embedding_init="random", spatial_dropout=0, head_dropout=0)
ATTENTIVE = Transformer(
    embedding_size=8, heads=2, layers=1, feedforward_size=8, embedding_init="random", spatial_dropout=0,
    head_dropout=0, dropout=0,
)  # fmt: skip


def objective(regime: str, model=SMALL, n_domains: int = 2, **settings):
    """Objective of a regime on 24 rows, whose domains take turns."""
    torch.manual_seed(0)
    fitted = build_model(model, token_shape(SIZE), 3)
    train = rows(24)
    train = replace(train, domain=(np.arange(24) % n_domains).astype(np.uint16), n_domains=n_domains)
    given = Train(epochs=1, batch_size=24, regime=regime, precision="fp32")
    return regimes.OBJECTIVES[regime](
        TASK, fitted, train, train, given, CPU, "fp32", regime=Regime(**settings)
    )  # fmt: skip


def batch_of(one):
    ((batch, wanted),) = one.batches(np.random.default_rng(0))
    return batch, wanted


def gradients(one) -> dict[str, torch.Tensor]:
    one.model.zero_grad()
    one.step(*batch_of(one))
    return {name: weight.grad.clone() for name, weight in one.model.named_parameters()}


@pytest.mark.parametrize("model", [SMALL, ATTENTIVE], ids=["lstm", "transformer"])
def test_maml_has_the_gradient_of_the_loss_after_the_inner_step(model):
    one = objective("maml", model, inner_rate=1.0)
    found = gradients(one)
    batch, wanted = batch_of(one)

    def after() -> float:
        total = 0.0
        for domain in (0, 1):
            places = torch.where(batch.domain == domain)[0]
            weights = dict(one.model.named_parameters())
            inner = one._inner(weights, one._loss_at(weights, batch, wanted, places[::2]), False)
            total += one._loss_at(inner, batch, wanted, places[1::2]).item() / 2
        return total

    first = gradients(objective("fomaml", model, inner_rate=1.0))
    differences = []
    for name in ("head.weight", "head.bias"):
        weight, step = dict(one.model.named_parameters())[name], 1e-2
        place, flat = int(found[name].abs().argmax()), weight.detach().view(-1)
        flat[place] += step
        above = after()
        flat[place] -= 2 * step
        below = after()
        flat[place] += step
        numeric = (above - below) / (2 * step)
        assert found[name].view(-1)[place].item() == pytest.approx(numeric, rel=0.02)
        differences.append(abs(first[name].view(-1)[place].item() - numeric) / abs(numeric))
    assert max(differences) > 0.05, "the first-order form lacks the second derivative"


def test_reptile_goes_to_the_weights_after_the_inner_steps():
    one = objective("reptile", inner_rate=0.1, inner_steps=3)
    found = gradients(one)
    batch, wanted = batch_of(one)
    way = dict.fromkeys(found, 0.0)
    for domain in (0, 1):
        places, copy = torch.where(batch.domain == domain)[0], objective("reptile")
        optimizer = torch.optim.SGD(copy.model.parameters(), lr=0.1)
        for i in range(3):
            part = places[i::3]
            optimizer.zero_grad()
            inputs = {name: tensor[part] for name, tensor in batch.inputs.items()}
            copy.task_loss(copy.model(inputs, batch.lengths[part]), wanted, part).backward()
            optimizer.step()
        for (name, before), (_, after) in zip(one.model.named_parameters(), copy.model.named_parameters(), strict=True):
            way[name] = way[name] + (before - after).detach() / 0.1 / 2
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, way[name], rtol=1e-4, atol=1e-6)


def test_the_adversary_learns_and_the_features_unlearn():
    x = torch.randn(5, 3, requires_grad=True)
    (regimes.reverse(x, 0.7) * torch.arange(3.0)).sum().backward()
    torch.testing.assert_close(x.grad, -0.7 * torch.arange(3.0).expand(5, 3))
    one = objective("dann", weight=2.0)
    one.settings = one.settings.model_copy(update={"epochs": 2})
    assert one.ramp == 0
    one._steps += 1  # half of training is done
    weight = one.ramp
    assert 1.9 < weight < 2.0
    batch, wanted = batch_of(one)
    plain = Classification.loss(one, one.model, batch, wanted)
    own = torch.autograd.grad(plain, list(one.model.parameters()))
    one.step(batch, wanted)
    pooled, _ = one.model.with_pooled(batch.inputs, batch.lengths)
    told = nn.functional.cross_entropy(one.adversary(pooled), batch.domain)
    slope = torch.autograd.grad(told, list(one.model.parameters()), allow_unused=True)
    for weight_of, label, adversary in zip(one.model.parameters(), own, slope, strict=True):
        expected = label if adversary is None else label - weight * adversary
        torch.testing.assert_close(weight_of.grad, expected, rtol=1e-4, atol=1e-6)
    assert one.adversary[0].weight.grad.abs().sum() > 0


def test_groupdro_weighs_the_worse_domain_more():
    one = objective("groupdro", step=5.0)
    batch, wanted = batch_of(one)
    logits = one.model(batch.inputs, batch.lengths)
    losses = torch.stack([one.task_loss(logits[batch.domain == d], wanted, batch.domain == d) for d in (0, 1)])
    loss = one.loss(one.model, batch, wanted)
    shares = (losses * 5).softmax(dim=0)
    assert loss.item() == pytest.approx((shares * losses).sum().item(), rel=1e-4)
    torch.testing.assert_close(one.weights, shares.detach())
    other = objective("groupdro")
    other.restore(one.state())
    torch.testing.assert_close(other.weights, one.weights)


def test_coral_is_zero_between_equal_domains_and_grows_with_their_distance():
    features = torch.randn(40, 4)
    assert regimes.coral(features, features).item() == pytest.approx(0, abs=1e-12)
    moved = regimes.coral(features, features + 2).item()
    assert moved == pytest.approx(4, rel=1e-4)
    assert regimes.coral(features, 3 * features).item() > 1
    batch, wanted = batch_of(one := objective("coral", weight=0.5))
    pooled, _ = one.model.with_pooled(batch.inputs, batch.lengths)
    expected = Classification.loss(one, one.model, batch, wanted) + 0.5 * regimes.coral(
        pooled[batch.domain == 0], pooled[batch.domain == 1]
    )
    assert one.loss(one.model, batch, wanted).item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_domain_is_refused():
    assert "the training rows are of one" in error_of(objective, "groupdro", n_domains=1)


def test_a_file_without_labels_is_a_domain_of_the_features_alone(tmp_path):
    corpus = tmp_path / "test"
    given = rows(4)
    from src.data.corpus import Corpus

    tokens = np.asarray(given.inputs["tokens"][given.chosen])
    Corpus(
        inputs={"tokens": tokens}, lengths=np.asarray(given.lengths[given.chosen]), ids=given.ids, labels=None,
        sources=np.zeros(4, np.uint8),
    ).save(corpus)  # fmt: skip
    beside = Rows.beside(Beside(str(corpus), None, [], 1.0), lambda name: corpus, TASK)
    assert np.isnan(beside.labels).all() and beside.labels.shape == (4, TASK.n_labels)
    both = Rows.joined([given, beside])
    assert both.n_domains == given.n_domains + 1 and set(both.domain[4:]) == {given.n_domains}
    one = regimes.Meta(
        TASK, build_model(SMALL, token_shape(SIZE), 3), both, given, Train(regime="maml", batch_size=8), CPU, "fp32",
        regime=Regime(),
    )  # fmt: skip
    for batch, wanted in one.batches(np.random.default_rng(0)):
        for places in one._tasks(batch, wanted):
            assert not wanted.targets[places].isnan().any()
            assert isinstance(wanted, Wanted)


def test_clusters_are_about_equal_and_keep_families_whole(done, tiny_input):
    workspace = Workspace(load_config("sample", [f"paths.input={tiny_input}", f"paths.output={done}"]), read_only=True)
    found = find_domains(workspace.dataset, DomainSettings(by="clusters", k=3))
    assert found.sizes.max() <= 1.5 * found.sizes.min() and found.sizes.sum() == len(workspace.labels)
    again = find_domains(workspace.dataset, DomainSettings(by="clusters", k=3))
    assert np.array_equal(found.of_row, again.of_row)
    assert "has no such property" not in str(found.names)
    assert "no such property" in error_of(find_domains, workspace.dataset, DomainSettings(by="ICUType"))
    by_file = find_domains(workspace.dataset, DomainSettings())
    assert by_file.names == ["sample_train.csv"] and not by_file.of_row.any()


@pytest.mark.parametrize("by, k", [("file", 3), ("ICUType", 5)])
def test_k_is_for_clusters(by, k):
    with pytest.raises(ValueError, match="k is for by=clusters only"):
        DomainSettings(by=by, k=k)


def test_a_regime_refuses_settings_of_another():
    with pytest.raises(
        UserError, match=r"regime.inner_rate=0.5 is for train.regime maml, fomaml, reptile; it is coral"
    ):
        load_config("quick", ["train.regime=coral", "regime.inner_rate=0.5"])
    with pytest.raises(UserError, match=r"train.regime=dann goes without train.attack"):
        load_config("standard", ["train.regime=dann"])


@pytest.mark.parametrize("regime", ["groupdro", "dann", "coral", "maml", "fomaml", "reptile"])
def test_a_killed_training_goes_on_with_the_state_of_its_regime(tmp_path, regime):
    def started(folder):
        one = objective(regime, step=1.0) if regime == "groupdro" else objective(regime)
        one.settings = one.settings.model_copy(update={"epochs": 4})
        folder.mkdir(exist_ok=True)
        return one, lambda news: None

    class Killed(Exception):
        pass

    def kill(news):
        if news["epoch"] == 2:
            raise Killed

    whole, quiet = started(tmp_path / "whole")
    fit(whole, (1, 0), tmp_path / "whole", quiet)
    with pytest.raises(Killed):
        fit(started(tmp_path / "cut")[0], (1, 0), tmp_path / "cut", kill)
    resumed, quiet = started(tmp_path / "cut")
    history = fit(resumed, (1, 0), tmp_path / "cut", quiet)
    assert len(history) == 4
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    assert {name: value.tolist() for name, value in whole.state().items()} == {
        name: value.tolist() for name, value in resumed.state().items()
    }


def test_train_files_of_both_rounds_can_be_domains(tmp_path, tiny_input):
    given = tmp_path / "input"
    shutil.copytree(tiny_input, given)
    lines = (given / "sample_train.csv").read_text().splitlines()[:60]
    (given / "other_train.csv").write_text(
        "".join(f"1{line},{'3' if line.rpartition('|,|')[2].strip() else ''}\n" for line in lines)
    )
    words = [f"paths.input={given}", f"paths.output={tmp_path / 'output'}"]
    pooled = ["domains.rounds=pooled", "folds.scheme=domains", "folds.k=2"]
    for more, roles in (([], ["train", "extra"]), (pooled, ["train", "train"])):
        workspace = Workspace(load_config("sample", ["task=round1", *words, *more]))
        make(workspace, get_stage("folds"))
        files = workspace.dataset.manifest["files"]
        assert [file["role"] for file in files if "train" in file["name"]] == roles and workspace.task.n_labels == 17
    assert workspace.domains.names == ["other_train.csv", "sample_train.csv"]
    assert np.array_equal(workspace.splits.table[:, 0], workspace.domains.of_row)
    assert workspace.domains.sizes.tolist() == [60, len(workspace.labels) - 60]
    told = error_of(load_config, "sample", ["domains.rounds=pooled", "task=round2"])
    assert "domains.rounds=pooled is for task=round1" in told
    wrong = Workspace(load_config("sample", [*words, *pooled, "folds.k=3"]))
    assert "set folds.k=2" in error_of(make, wrong, get_stage("folds"))


def test_a_row_whose_domain_a_fold_does_not_train_on_is_predicted_by_the_others():
    """train.regime=single: domain 2 has one row, domain 3 two, both in the fold."""
    of_row = np.array([0, 0, 0, 1, 1, 1, 2, 3, 3])
    held = np.array([0, 3, 6, 7, 8])
    split = Split(0, 0, np.setdiff1d(np.arange(9), held), held, held)
    cut = planning.by_domain(split, of_row)
    assert {domain: one.train_rows.tolist() for domain, one in cut.items()} == {0: [1, 2], 1: [4, 5]}
    assert {domain: one.predicted_rows.tolist() for domain, one in cut.items()} == {0: [0, 6, 7, 8], 1: [3, 6, 7, 8]}

    # A model of domain 2 would be validated by nothing. It has rows in the test part of a holdout nevertheless.
    parts = Split(0, 0, np.array([0, 3, 6]), valid_rows=np.array([1, 4]), predicted_rows=np.array([2, 5, 6]))
    cut = planning.by_domain(parts, of_row)
    assert {domain: one.predicted_rows.tolist() for domain, one in cut.items()} == {0: [2, 6], 1: [5, 6]}

    of_domains = Split(0, 0, np.arange(6), np.arange(6, 9), np.arange(6, 9))
    cut = planning.by_domain(of_domains, of_row)
    assert {domain: one.predicted_rows.tolist() for domain, one in cut.items()} == {0: [6, 7, 8], 1: [6, 7, 8]}


def test_a_domain_of_one_row_is_predicted_out_of_fold(tiny_input, tmp_path):
    (train,) = tiny_input.glob("*train*.csv")
    lines = train.read_text().splitlines(keepends=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/large_train.csv").write_text("".join(lines[1:]))
    (tmp_path / "in/small_train.csv").write_text(lines[0])
    settings = words(tmp_path / "in", tmp_path / "out", "train.regime=single", "domains.by=file", "select_on=clean")
    assert main(["train", "--model", "lstm", *settings]) == 0
    assert np.isfinite(np.load(tmp_path / "out/runs/lstm/oof.npy")).all()
    assert len(list((tmp_path / "out/runs/lstm").glob("fold_*"))) == 2, "no model of a single row"


def test_a_fold_without_a_row_to_judge_by_is_told():
    nothing = SimpleNamespace(rows=np.zeros(0, int), copies=None, weights=np.zeros(0))
    workspace = SimpleNamespace(
        settings=load_config("sample", ["select_on=shifted"]),
        target=object(),
        splits=SimpleNamespace(table=np.zeros((4, 1))),
        validation=lambda: SimpleNamespace(only=lambda is_valid: nothing),
    )
    split = Split(0, 3, np.arange(3), np.array([3]), np.array([3]))
    told = error_of(planning._valid_rows, workspace, split)
    assert "fold 3 has none of the rows" in told and "shift.max_rows" in told
