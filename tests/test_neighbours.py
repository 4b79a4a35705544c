"""The head of neighbours, and runs that are stacked on a blend: alone, and from the command line to a bundle."""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression

from src.__main__ import main
from src.core.errors import UserError
from src.core.run_settings import Run, Transformer
from src.core.settings_loader import load_config
from src.data.inputs import token_shape
from src.data.submission_files import read_submission
from src.data.tasks import ICU, LOS, ROUND1, ROUND2
from src.ensemble import blending
from src.ensemble.blending import BlendWeights, Evidence, apply_folds, contributions, equal_weights, stacked
from src.evaluation.metrics import sigmoid
from src.evaluation.runs import RunFolder, members_of
from src.evaluation.workspace import Workspace
from src.models.classifier import build_model
from src.models.neighbours import MIDDLE, PRIOR, SHARPNESS, NeighbourHead
from src.pipeline import pace, time_budget
from src.pipeline.stages import tune
from src.pipeline.stages.train import Training
from src.reporting.explanations import member_shares
from src.serving.bundle import _check_blend
from src.training import checkpoints, device_cache
from src.training.initialization import pretrain_settings
from src.training.planning import fold_jobs
from tests.conftest import error_of, run_command

PRESET = """
folds: {k: 3}
average: probabilities
train: {noise: {replacement: 0.05}}
runs:
  lstm:
    model: {embedding_size: 8, hidden_size: 8}
    train: {epochs: 2, batch_size: 32, learning_rate: 0.02}
  neighbours:
    like: transformer
    model: {embedding_size: 16, heads: 2, layers: 1, feedforward_size: 32, pooling: mean, head: neighbours}
    pretrain: {epochs: 2, learning_rate: 0.01}
  trained:
    like: lstm
    model: {embedding_size: 8, hidden_size: 8, pooling: mean, head: neighbours}
    pretrain: {by: lstm}
blend: {method: mean, stack: [neighbours, trained]}
"""


def drawn(rows: int, size: int = 6, n_labels: int = 3, seed: int = 0):
    """Features, labels of which some are unknown, and weights."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, n_labels)) < 0.3).astype(np.float32)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    mixing = np.linalg.qr(rng.normal(size=(size, size)))[0] * rng.uniform(1, 3, size)
    return rng.normal(size=(rows, size)) @ mixing + 5, labels, rng.uniform(0.5, 2, rows)


def fitted(features, labels, weights) -> NeighbourHead:
    head = NeighbourHead(features.shape[1], labels.shape[1])
    head.fit(features, labels, weights)
    return head


def answers(head: NeighbourHead, features: np.ndarray) -> np.ndarray:
    return head(torch.from_numpy(features).float()).numpy()


def test_the_head_answers_with_the_weighted_mean_of_what_is_alike():
    features, labels, weights = drawn(200)
    head, asked = fitted(features, labels, weights), drawn(20, seed=1)[0]
    white = head.whitening.double().numpy()
    # Whitened training features have variance 1 in every direction, but for the ridge.
    spread = np.cov(((features - features.mean(0)) @ white).T, aweights=weights)
    np.testing.assert_allclose(np.diag(spread), 1, atol=0.15)
    np.testing.assert_allclose(spread - np.diag(np.diag(spread)), 0, atol=0.01)

    def unit(rows):
        rows = (rows - np.average(features, axis=0, weights=weights)) @ white
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    near = np.exp(SHARPNESS * (unit(asked) @ unit(features).T - MIDDLE))[:, :, None] * weights[None, :, None]
    known = ~np.isnan(labels)
    rates = (np.nansum(labels, axis=0) + 0.5) / (known.sum(axis=0) + 1)
    found = (near * np.nan_to_num(labels)).sum(axis=1) + PRIOR * rates
    chance = found / ((near * known).sum(axis=1) + PRIOR)
    np.testing.assert_allclose(sigmoid(answers(head, asked)), chance, rtol=2e-3, atol=1e-5)


def test_many_reports_are_compared_a_part_at_a_time(monkeypatch):
    head, asked = fitted(*drawn(200)), drawn(20, seed=1)[0]
    whole = answers(head, asked)
    monkeypatch.setattr("src.models.neighbours.CHUNK", 64)
    np.testing.assert_allclose(answers(head, asked), whole, rtol=1e-4, atol=1e-4)


def test_a_training_report_is_answered_with_its_own_labels_and_an_unlike_one_with_the_rates():
    features, labels, weights = drawn(40, size=30)
    labels = np.nan_to_num(labels)
    head = fitted(features, labels, weights)
    assert ((answers(head, features) > 0) == (labels == 1)).all()
    # All that is remembered lies on the other side.
    head.put("memory", -torch.ones(40, 30) / 30**0.5)
    far = head.centre.numpy() + np.linalg.solve(head.whitening.double().numpy().T, np.ones(30))
    np.testing.assert_allclose(sigmoid(answers(head, far[None]))[0], head.rates.numpy(), rtol=1e-3)


def test_a_label_that_no_training_report_has_is_unlikely_but_possible():
    features, labels, weights = drawn(50)
    labels[:, 0], labels[:, 1] = 0, np.nan
    found = answers(fitted(features, labels, weights), features)
    assert np.isfinite(found).all()
    assert (found[:, 0] < -3).all()
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-4)  # nothing is known of it


def test_features_that_do_not_differ_decide_nothing():
    features, labels, weights = drawn(60)
    wide = np.hstack([features, np.full((60, 2), 3.0)])
    head = fitted(wide, labels, weights)
    shifted = wide + np.array([0] * 6 + [1e-6, -1e-6])
    np.testing.assert_allclose(answers(head, shifted), answers(head, wide), atol=0.05)


def test_what_is_remembered_is_saved_and_read_again(tmp_path):
    shape = token_shape(30)
    settings = Transformer(embedding_size=8, heads=2, layers=1, feedforward_size=8, pooling="mean", head="neighbours")
    model = build_model(settings, shape, 3).eval()
    features, labels, weights = drawn(25, size=8)
    model.head.fit(features, labels, weights)
    checkpoints.save_weights(tmp_path / "best.safetensors", model)
    other = build_model(settings, shape, 3).eval()
    checkpoints.load_weights(tmp_path / "best.safetensors", other)
    tokens, lengths = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]]), torch.tensor([3, 4])
    with torch.inference_mode():
        wanted = model({"tokens": tokens}, lengths)
        assert torch.equal(other({"tokens": tokens}, lengths), wanted)
        alone = model({"tokens": tokens[:1, :3]}, lengths[:1])
    torch.testing.assert_close(alone, wanted[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"pretrain": {"epochs": 0}}, "set pretrain.epochs, or pretrain.by=RUN"),
        ({"pretrain": {"by": "lstm"}}, "set epochs=0"),
        ({"pretrain": {"epochs": 0, "by": "lstm"}, "model": {"head": "linear"}}, "set it to null"),
        ({"model": {"pooling": "label"}}, "set model.pooling=mean"),
        ({"train": {"teachers": ["lstm"]}}, "train.teachers"),
        ({"train": {"pos_weight": "balanced"}}, "train.pos_weight"),
        ({"denoise": {"by": "transformer"}}, "learns nothing by denoise.by"),
        ({"train": {"regime": "fedavg"}}, "needs gradients, which model.head=neighbours has none of"),
        ({"train": {"own_epochs": 1, "extra_weight": 1}}, "about epochs, which model.head=neighbours has none of"),
    ],
)
def test_settings_that_the_head_cannot_follow_are_refused(changed, told):
    fields = {"model": {"encoder": "transformer", "pooling": "mean", "head": "neighbours"}, "pretrain": {"epochs": 2}}
    Run.model_validate(fields)
    for key, value in changed.items():
        fields[key] = fields.get(key, {}) | value
    with pytest.raises(ValueError, match=told):
        Run.model_validate(fields)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], None),
        (["runs.trained.model.dropout=0.1", "runs.trained.model.spatial_dropout=0"], None),
        (["runs.trained.pretrain.by=gru"], "unknown run 'gru'"),
        (["runs.trained.pretrain.by=neighbours"], "neighbours trains no encoder"),
        (["runs.trained.pretrain.by=trained"], "trained trains no encoder"),
        (["runs.trained.model.hidden_size=9"], "its model.hidden_size is 8, and here it is 9"),
        (["runs.trained.pretrain.by=reader"], "its model.encoder is transformer, and here it is recurrent"),
        (["runs.trained.train.seeds=[1,2]"], r"has no model of seed 2: set runs.trained.train.seeds=\[1\]"),
        (["runs.lstm.train.regime=single"], "train.regime=single: take a pooled one"),
        (["runs.lstm.train.teachers=[trained]"], "trained takes the encoder of lstm itself"),
    ],
)
def test_an_encoder_is_taken_of_a_trained_run_with_the_same_one(tmp_path, words, told):
    preset = tmp_path / "preset.yaml"
    preset.write_text(PRESET.replace("runs:", "runs:\n  reader: {like: transformer}"))
    if told is None:
        assert load_config(str(preset), words, ["trained"]).runs.keys() == {"trained", "lstm"}
        return
    with pytest.raises(UserError, match=told):
        load_config(str(preset), words)


@pytest.mark.parametrize("preset", ["round2", "round2-quick"])
def test_presets_read_by_the_encoder_that_is_there_and_can_do_without(preset):
    config = load_config(preset)
    assert pretrain_settings(config.runs["neighbours"]) == pretrain_settings(config.runs["transformer"])
    assert members_of(config)[-2:] == ["neighbours", "trained_neighbours"]
    assert not set(config.blend.stack) & set(members_of(load_config(preset, ["blend.stack=[]"])))
    memory = config.runs["trained_neighbours"]
    assert memory.model == config.runs["neighbours"].model
    assert memory.train.seeds == config.runs[memory.pretrain.by].train.seeds


def test_a_search_of_such_a_run_is_one_of_its_encoder():
    assert tune._usual_space(load_config("round2-quick").runs["neighbours"]) == "pretrain"


def test_the_speed_of_such_a_run_is_measured_by_its_encoder():
    run = load_config("round2-quick").runs["neighbours"]
    probe = pace._probe(run)
    assert Run.model_validate(probe.model_dump(mode="json")) == probe  # a job can be made of it
    assert (probe.model.head, probe.model.layers) == ("linear", run.model.layers)


# Stacked on a blend


def evidence_of(task, rows: int, seed: int = 0) -> tuple[Evidence, np.ndarray]:
    """Two members that do not know a thing that the third, a weak one, knows; and the truth."""
    rng = np.random.default_rng(seed)
    shown, hidden = rng.normal(-1, 2, (rows, task.n_labels)), rng.normal(0, 1.5, (rows, task.n_labels))
    labels = (rng.random(shown.shape) < sigmoid(shown + hidden)).astype(np.int8)
    members = [shown + rng.normal(0, 0.3, shown.shape) for _ in range(2)] + [4 * hidden - 2]
    return Evidence.of(members, labels, rng.integers(0, 4, rows)), shown + hidden


@pytest.mark.parametrize("task", [ROUND1, ICU], ids=["multilabel", "binary"])
def test_a_stack_is_the_logistic_regression_of_each_label(task, monkeypatch):
    monkeypatch.setattr(blending, "STACK_PENALTY", 1e-9)
    evidence, _truth = evidence_of(task, 3000)
    blend = stacked(equal_weights(evidence.members[:2]), evidence, task)
    mean = (evidence.members[0] + evidence.members[1]) / 2
    for label, one in enumerate(blend.stack):
        columns = np.column_stack([mean[:, label], evidence.members[2][:, label]])
        model = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(columns, evidence.labels[:, label])
        np.testing.assert_allclose(one.slopes, model.coef_[0], rtol=1e-3)
        np.testing.assert_allclose(one.bias, model.intercept_[0], rtol=1e-3, atol=1e-4)
    slopes = np.array([one.slopes for one in blend.stack])
    np.testing.assert_allclose(
        blend.apply(evidence.members),
        slopes[:, 0] * mean + slopes[:, 1] * evidence.members[2] + [one.bias for one in blend.stack],
    )


def test_a_stack_knows_its_slopes_of_the_loss():
    rng = np.random.default_rng(0)
    terms, labels, share = rng.normal(size=(3, 50)), rng.integers(0, 2, 50), np.full(50, 1 / 50)
    best = blending._logistic(terms, labels, share)

    def loss(w):
        z = w @ terms
        away = w - [1, 0, 0]
        return share @ (np.logaddexp(0, z) - labels * z) + blending.STACK_PENALTY * away @ away

    def nothing(_w):
        return np.zeros(3)

    assert check_grad(loss, nothing, best) < 1e-5  # the loss has no slope there


def test_types_are_stacked_by_the_reports_that_count_for_them():
    evidence, _truth = evidence_of(ROUND2, 600)
    evidence.labels[::3, :17] = 0  # normal reports
    blend = equal_weights(evidence.members[:2])
    whole = stacked(blend, evidence, ROUND2)
    counted = evidence.labels[:, :17].any(axis=1)
    assert 300 < counted.sum() <= 400
    labels = evidence.labels.copy()
    labels[~counted, 17:] = 1 - labels[~counted, 17:]
    assert stacked(blend, replace(evidence, labels=labels), ROUND2) == whole
    weights = np.where(np.arange(600) < 300, 1.0, 0.0)
    half = stacked(blend, replace(evidence, weights=weights), ROUND2)
    assert half == stacked(blend, evidence.only(np.arange(600) < 300), ROUND2)


def test_few_rows_leave_the_blend_nearly_as_it_is():
    evidence, _truth = evidence_of(ROUND1, 30)
    none = replace(evidence, labels=np.zeros_like(evidence.labels), weights=np.zeros(30))
    for one in stacked(equal_weights(evidence.members[:2]), none, ROUND1).stack:
        np.testing.assert_allclose([*one.slopes, one.bias], [1, 0, 0], atol=1e-6)


def test_a_stack_is_written_and_read_and_taken_off_again():
    evidence, _truth = evidence_of(ROUND1, 200)
    plain = equal_weights(evidence.members[:2])
    blend = stacked(plain, evidence, ROUND1)
    assert BlendWeights.from_json(json.loads(json.dumps(blend.to_json()))) == blend
    assert blend.n_stacked == 1
    assert blend.unstacked() == plain
    assert "stack" not in plain.to_json()
    with pytest.raises(ValueError, match="fitted on 3 members"):
        blend.apply(evidence.members[:2])


@pytest.mark.parametrize("n_stacked", [1, 2])
def test_what_each_member_of_a_stack_is_worth(n_stacked):
    evidence, _truth = evidence_of(ROUND1, 800)
    rng = np.random.default_rng(5)
    noise = [rng.normal(size=evidence.labels.shape) for _ in range(n_stacked - 1)]
    evidence = replace(evidence, members=[*evidence.members, *noise])
    names = ["one", "other", "memory", "noise"][: len(evidence.members)]
    blends = {
        fold: stacked(equal_weights(evidence.members[:2]), evidence.only(evidence.folds != fold), ROUND1)
        for fold in range(4)
    }
    worth = contributions(evidence, ROUND1, blends, names)
    lost = {name: one["lost_without"]["value"] for name, one in worth["members"].items()}
    assert lost["memory"] > 0.03 > 0.005 > lost["one"] > -0.005
    assert abs(lost.get("noise", 0)) < 0.005
    assert {step["member"] for step in worth["greedy"]} <= {"one", "other"}
    # Without the only run that is stacked, what is left is the mean, as it is.
    if n_stacked == 1:
        plain = apply_folds(dict.fromkeys(range(4), equal_weights(evidence.members[:2])), evidence.members[:2],
                            evidence.folds)  # fmt: skip
        whole = apply_folds(blends, evidence.members, evidence.folds)
        gain = blending.paired_difference(ROUND1, evidence.labels, sigmoid(whole), sigmoid(plain), *evidence.judging)
        assert lost["memory"] == pytest.approx(gain.value)


def test_a_regression_has_no_stack():
    evidence = Evidence.of([np.ones((5, 1))] * 2, np.ones((5, 1)), np.arange(5))
    with pytest.raises(UserError, match=r"set blend.stack=\[\]"):
        stacked(equal_weights(evidence.members[:1]), evidence, LOS)


# From the command line


@pytest.fixture(scope="module")
def made(made_once, tiny_input) -> Path:
    """A folder with a preset, preset.yaml, and output/, in which its runs are trained and blended."""

    def make(folder: Path) -> None:
        (folder / "preset.yaml").write_text(PRESET)
        for verb in ("train", "blend"):
            run_command([verb, *flags(folder, tiny_input)])

    return made_once("neighbours", make)


def flags(folder: Path, tiny_input: Path, *more: str) -> list[str]:
    places = [f"paths.input={tiny_input}", f"paths.output={folder / 'output'}"]
    return ["--preset", str(folder / "preset.yaml"), *places, "executor.threads=1", *more]


def run_of(folder: Path, tiny_input: Path, name: str):
    return Workspace(load_config(*_parsed(folder, tiny_input))).run(name)


def _parsed(folder: Path, tiny_input: Path):
    _flag, preset, *overrides = flags(folder, tiny_input)
    return preset, overrides


def test_a_run_of_neighbours_learns_in_one_step_and_is_stacked(made, tiny_input):
    neighbours, blend = (run_of(made, tiny_input, name) for name in ("neighbours", "blend"))
    (fold, *_others) = sorted(neighbours.path.glob("fold_*"))
    assert len((fold / "history.csv").read_text().splitlines()) == 2  # a header and the one step
    assert list(blend.record["members"]) == ["lstm", "neighbours", "trained"]
    whole = BlendWeights.from_json(blend.record["weights"])
    assert [group.weights for group in whole.groups] == [(1.0, 0.0, 0.0)]
    assert len(whole.stack) == ROUND1.n_labels
    # No row is judged by a stack that was fitted on it: each fold has one of its own.
    assert len({json.dumps(one) for one in blend.record["fold_weights"].values()}) == 3
    shares = member_shares(blend)
    np.testing.assert_allclose(shares["neighbours"], [one.slopes[1] for one in whole.stack])
    np.testing.assert_allclose(shares["lstm"], [one.slopes[0] for one in whole.stack])


def test_neighbours_read_with_the_encoder_that_was_trained_on_the_fold(made, tiny_input):
    folder = made / "output" / "runs"
    folds = sorted((folder / "trained").glob("fold_*"))
    assert len(folds) == 3
    for fold in folds:
        part = fold.name.rpartition(".")[0]
        (origin,) = (folder / "lstm").glob(f"{part}.*")
        found, trained = (load_file(one / "last.safetensors") for one in (fold, origin))
        body = [key for key in trained if key.startswith(("input_layer.", "encoder."))]
        assert len(body) > 4
        for key in body:
            assert torch.equal(found[key], trained[key]), key
        assert len(found["head.memory"]) == len(np.load(fold / "split.npz")["train_rows"])


def test_what_takes_an_encoder_is_trained_after_it(made, tiny_input, monkeypatch):
    _flag, preset, *words = flags(made, tiny_input)
    workspace, order = Workspace(load_config(preset, words)), []
    here = device_cache.recall_or_find(workspace)
    monkeypatch.setattr(Training, "train", lambda _self, names: order.append(sorted(names)) or [])
    Training(workspace, here, fold_jobs(workspace, here)).run()
    assert order == [["lstm", "neighbours"], ["trained"]]


def test_what_takes_an_encoder_is_made_anew_with_it(made, tiny_input, tmp_path, capsys):
    folder = Path(shutil.copytree(made, tmp_path / "made", copy_function=shutil.copy2))
    run_command(["train", "--model", "trained", *flags(folder, tiny_input)])
    assert "all 6 folds are up to date" in capsys.readouterr().out
    changed = flags(folder, tiny_input, "runs.lstm.train.epochs=1")
    run_command(["train", "--model", "trained", *changed])
    assert "6 of 6 folds to train" in capsys.readouterr().out
    _flag, preset, *words = changed
    workspace = Workspace(load_config(preset, words))
    jobs = fold_jobs(workspace, device_cache.recall_or_find(workspace))
    assert jobs["trained"][0].pretrained == f"{jobs['lstm'][0].folder}/last.safetensors"
    stopped = Workspace(load_config(preset, [*words, "runs.lstm.train.patience=1"]))
    jobs = fold_jobs(stopped, device_cache.recall_or_find(stopped))
    assert jobs["trained"][0].pretrained == f"{jobs['lstm'][0].folder}/best.safetensors"
    run_command(["train", *changed, "runs.lstm.train.patience=1"])
    told = RunFolder.at(folder / "output/runs/trained", stopped.settings).score
    assert told["optimistic"] and "run lstm stopped at its best epoch" in told["how"]


def test_each_seed_takes_the_encoder_of_its_own(made, tiny_input):
    _flag, preset, *words = flags(made, tiny_input, "train.seeds=[1,2]")
    workspace = Workspace(load_config(preset, words))
    workspace.read_only = True
    jobs = fold_jobs(workspace, device_cache.recall_or_find(workspace))
    taken = [job.pretrained.rpartition("/")[0] for job in jobs["trained"]]
    assert taken == [job.folder for job in jobs["lstm"]]
    assert len(set(taken)) == 6


def test_models_of_single_domains_take_the_encoder_too(made, tiny_input):
    words = ["runs.trained.train.regime=single", "domains.by=clusters", "domains.k=2"]
    _flag, preset, *words = flags(made, tiny_input, *words)
    workspace = Workspace(load_config(preset, words))
    workspace.read_only = True
    jobs = fold_jobs(workspace, device_cache.recall_or_find(workspace))
    assert len(jobs["trained"]) > len(jobs["lstm"])
    assert {job.pretrained for job in jobs["trained"]} == {f"{job.folder}/last.safetensors" for job in jobs["lstm"]}


def test_what_takes_an_encoder_has_nothing_to_tune(made, tiny_input, capsys):
    assert main(["tune", "trained", *flags(made, tiny_input)]) == 2
    assert "Tune that: ./run.sh tune lstm" in capsys.readouterr().err


def test_a_run_keeps_its_encoder_under_other_names():
    fields = {"model": {"encoder": "recurrent", "head": "neighbours"}, "pretrain": {"by": "lstm"}}
    run = Run.model_validate(fields)
    assert time_budget._needs(run) == {"lstm"}
    assert time_budget._renamed(run, {"lstm": "lstm_2"}).pretrain.by == "lstm_2"


def test_predictions_of_a_file_and_of_a_bundle_are_those_of_the_run(made, tiny_input, tmp_path):
    (test,) = tiny_input.glob("*testA*.csv")
    run_command(["predict", "blend", str(test), "--to", str(tmp_path / "file.csv"), *flags(made, tiny_input)])
    whole = run_of(made, tiny_input, "blend")
    _ids, predicted = read_submission(tmp_path / "file.csv", ROUND1)
    np.testing.assert_allclose(predicted, sigmoid(whole.test_logits(test.stem)), atol=1e-5)
    run_command(["bundle", "blend", "--to", str(tmp_path / "blend.bundle"), *flags(made, tiny_input)])
    run_command(
        ["predict", "--bundle", str(tmp_path / "blend.bundle"), str(test), "--to", str(tmp_path / "bundle.csv")]
    )
    assert (tmp_path / "bundle.csv").read_bytes() == (tmp_path / "file.csv").read_bytes()
    with zipfile.ZipFile(tmp_path / "blend.bundle") as archive:
        record, card = json.loads(archive.read("bundle.json")), archive.read("MODEL_CARD.md").decode()
    assert record["format"] == 3  # refused by what knows no stack
    assert "neighbours holds a vector and the labels of every training report" in card


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda stack: stack.pop(), "is not one of 17 labels"),
        (lambda stack: stack[3]["slopes"].append(1.0), "another number of slopes than of members"),
        (lambda stack: stack[2].update(bias=float("nan")), "holds no numbers"),
    ],
)
def test_a_bundle_whose_stack_is_broken_is_refused(made, tiny_input, change, told):
    run = run_of(made, tiny_input, "blend").record
    stack = copy.deepcopy(run["weights"]["stack"])
    _check_blend(Path("x.bundle"), "blend", run, ROUND1.n_labels)
    change(stack)
    broken = {**run, "weights": {**run["weights"], "stack": stack}}
    assert told in error_of(_check_blend, Path("x.bundle"), "blend", broken, ROUND1.n_labels)


def test_a_blend_of_named_runs_is_stacked_if_one_of_them_is_to_be(made, tiny_input, tmp_path, capsys):
    folder = Path(shutil.copytree(made, tmp_path / "made", copy_function=shutil.copy2))
    run_command(["blend", "neighbours", "trained", "lstm", "--name", "named", *flags(folder, tiny_input)])
    named, whole = (run_of(folder, tiny_input, name) for name in ("named", "blend"))
    assert named.record["weights"] == whole.record["weights"]
    assert "Stacked on it" in capsys.readouterr().out
    run_command(["blend", "lstm", "--name", "alone", *flags(folder, tiny_input)])
    assert "stack" not in run_of(folder, tiny_input, "alone").record["weights"]
    assert main(["blend", *flags(folder, tiny_input, "blend.stack=[memory]")]) == 2
    assert "blend.stack: unknown run 'memory'" in capsys.readouterr().err
