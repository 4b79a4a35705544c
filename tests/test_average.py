"""Means over models: of logits, and of probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.__main__ import main
from src.core import array_files, storage
from src.core.errors import UserError
from src.core.settings import Compress
from src.core.settings_loader import load_config
from src.data.splits import Split
from src.data.tasks import ICU, KINDS, LOGITS, ROUND1, Average
from src.ensemble.blending import BlendWeights, equal_weights, fixed_weights
from src.evaluation import runs
from src.evaluation.score_estimation import _expected_losses
from src.pipeline.stages import alarms, blend, train
from src.serving import compression, distillation
from src.training import early_reading, prediction
from src.tuning import trial_runner
from tests.conftest import error_of, words
from tests.test_blending import make, rows

PROBABILITIES = ROUND1.average("probabilities")


@pytest.mark.parametrize("kind", ["multilabel", "binary", "multiclass"])
def test_a_mean_of_probabilities_decodes_to_it(kind):
    outputs = np.random.default_rng(0).normal(0, 4, (5, 30, 4)).astype(np.float32)
    mean = Average(kind)(outputs)
    assert mean.dtype == np.float32
    decode = KINDS[kind].decode
    np.testing.assert_allclose(decode(mean), np.mean([decode(one) for one in outputs], axis=0), atol=1e-6)
    np.testing.assert_array_equal(LOGITS(outputs), np.mean(outputs, axis=0, dtype=np.float32))
    same = Average(kind)(outputs[:1] * 0.2)
    np.testing.assert_allclose(decode(same), decode(outputs[0] * 0.2), atol=1e-6)


def test_rows_without_a_prediction_stay_unknown():
    for kind in ("", "multilabel"):
        average = Average(kind)
        with np.errstate(invalid="ignore"):
            mean = average.outputs(average.terms(np.array([[0.5, -1.0], [np.nan, np.nan]])))
        np.testing.assert_allclose(mean[0], [0.5, -1.0])
        assert np.isnan(mean[1]).all()


def test_blends_without_fitted_parameters_may_be_of_probabilities():
    generator = np.random.default_rng(1)
    members = list(generator.normal(0, 3, (3, 40, 17)))
    for plain, shares in ((equal_weights(members), [1, 1, 1]), (fixed_weights([1, 0, 3], 17), [1, 0, 3])):
        mean = np.average([ROUND1.decode(member) for member in members], axis=0, weights=shares)
        found = plain.of_probabilities(ROUND1)
        np.testing.assert_allclose(ROUND1.decode(found.apply(members)), mean, atol=1e-7)
        assert BlendWeights.from_json(json.loads(json.dumps(found.to_json()))) == found
        assert "kind" not in plain.to_json() and BlendWeights.from_json(plain.to_json()) == plain


def settings_of(*given: str) -> SimpleNamespace:
    """A workspace of round 1 under these settings."""
    return SimpleNamespace(task=ROUND1, settings=load_config("sample", list(given)))


def test_a_mean_that_auto_chose_is_of_the_logits_that_it_was_compared_with():
    chosen = equal_weights([np.zeros((2, 17))] * 2)
    for given in (["blend.method=mean"], ["blend.fixed.lstm=1"], ["blend.fixed.lstm=1", "blend.method=auto"]):
        workspace = settings_of("average=probabilities", *given)
        assert blend._averaged(workspace, chosen).kind == "multilabel"
        assert blend._settings(workspace)["average"] == "probabilities"
    for given in (["average=probabilities", "blend.method=auto"], ["average=probabilities"], ["blend.method=mean"]):
        workspace = settings_of(*given)
        assert blend._averaged(workspace, chosen) == chosen
        assert "average" not in blend._settings(workspace)


def test_members_of_a_holdout_s_fixed_blend_have_a_worth():
    _, labels, members = make(ROUND1, 200, [0.5, 1.0])
    fixed = fixed_weights([1, 3], 17)
    evidence = rows(members, labels)
    assert evidence.has_one_fold
    found = blend._contributions(settings_of("blend.fixed.a=1"), evidence, fixed, {0: fixed}, ["a", "b"])
    assert all(one["lost_without"]["standard_error"] > 0 for one in found["members"].values())


def models(tmp_path: Path, generator: np.random.Generator, name: str, n_rows: int, seeds: int) -> list[np.ndarray]:
    """Writes the outputs of fold 0, which predicts the first rows, and of fold 1, by each seed of training."""
    outputs = []
    for fold in (0, 1):
        predicted = np.arange(n_rows)[fold * n_rows // 2 : (fold + 1) * n_rows // 2]
        for seed in range(seeds):
            folder = tmp_path / f"fold_{fold}.split_2021.seed_{seed}.x"
            folder.mkdir(parents=True, exist_ok=True)
            outputs.append(generator.normal(0, 4, (len(predicted), 17)).astype(np.float32))
            array_files.write_npy(folder / name, outputs[-1])
            array_files.write_npz(folder / "split.npz", predicted_rows=predicted)
    return outputs


def test_each_row_has_the_mean_of_the_probabilities_of_its_seeds(tmp_path, monkeypatch):
    """Out of fold, on noisy copies, and of each fold on a test file, where a fold has two seeds."""
    generator, seeds, n_rows = np.random.default_rng(3), 2, 8
    outputs = [ROUND1.decode(one) for one in models(tmp_path, generator, "logits.npy", n_rows, seeds)]
    parts = sorted(tmp_path.glob("fold_*"))
    mean = np.concatenate([np.mean(outputs[:2], axis=0), np.mean(outputs[2:], axis=0)])
    jobs = [
        SimpleNamespace(path=part, split=part / "split.npz", locate=lambda file: file, fold=int(part.name[5]))
        for part in parts
    ]
    found = train._mean_of_parts(jobs, n_rows + 1, 17, PROBABILITIES)
    np.testing.assert_allclose(ROUND1.decode(found[:-1]), mean, atol=1e-6)
    assert np.isnan(found[-1]).all() and found.dtype == np.float32
    monkeypatch.setattr(prediction, "prediction_name", lambda corpus, rows=None: "logits.npy")
    array_files.write_npy(tmp_path / "rows.npy", np.arange(n_rows))
    copies = prediction.out_of_fold_prediction(parts, tmp_path, tmp_path / "rows.npy", 17, PROBABILITIES)
    np.testing.assert_allclose(ROUND1.decode(copies), mean, atol=1e-6)
    chosen = np.array([2, 0])
    workspace = SimpleNamespace(dataset=SimpleNamespace(test_folder=lambda name: tmp_path))
    test = SimpleNamespace(name="test", array=lambda name: chosen)
    for job in jobs:
        job.valid = None
    monkeypatch.setattr(trial_runner, "_figure", lambda workspace, rows, logits: logits)
    monkeypatch.setattr(trial_runner, "judged_rows", lambda workspace: SimpleNamespace(copies=None, rows=chosen))
    of_trials = SimpleNamespace(
        task=ROUND1, labels=np.zeros((n_rows, 17)), target=None, settings=SimpleNamespace(average="probabilities")
    )
    np.testing.assert_allclose(ROUND1.decode(trial_runner.figure_of(of_trials, jobs)), mean[chosen], atol=1e-6)
    by_fold = train._by_fold(workspace, jobs, test, PROBABILITIES)
    np.testing.assert_allclose(ROUND1.decode(by_fold), mean.reshape(2, 4, 17)[:, chosen], atol=1e-6)


def test_students_are_taught_and_graphs_are_judged_by_the_same_mean(tmp_path, monkeypatch):
    """Lessons of a blend of two models with two seeds each, and what the graphs of one say out of fold."""
    generator, n_rows = np.random.default_rng(4), 6
    members, means = [], []
    for name in ("a", "b"):
        outputs = [ROUND1.decode(one) for one in models(tmp_path / name, generator, "logits.npy", n_rows, 2)]
        means.append(np.stack([np.mean(outputs[:2], axis=0), np.mean(outputs[2:], axis=0)]))
        record = {"fold_folders": [part.name for part in sorted((tmp_path / name).glob("fold_*"))]}
        members.append(
            SimpleNamespace(name=name, path=tmp_path / name, is_blend=False, record=record, average=PROBABILITIES)
        )
    weights = equal_weights([np.zeros((1, 17))] * 2).of_probabilities(ROUND1).to_json()
    record = {"weights": weights, "fold_weights": {"0": weights, "1": weights}}
    run = SimpleNamespace(is_blend=True, record=record, members=lambda: members, path=tmp_path)
    output = SimpleNamespace(run=lambda name: tmp_path / name, root=tmp_path)
    workspace = SimpleNamespace(output=output, settings=SimpleNamespace(compress=Compress()))
    every, nothing = np.arange(n_rows), np.arange(0)
    splits = [Split(2021, fold, every, nothing, nothing) for fold in (0, 1, 2)]
    monkeypatch.setattr(prediction, "prediction_name", lambda corpus, rows=None: "logits.npy")
    monkeypatch.setattr(distillation, "texts", lambda workspace: [tmp_path])
    student = SimpleNamespace(name="small", splits=splits)
    taught = distillation.lessons(workspace, run, student, lambda split: tmp_path)
    wanted = [np.mean([mean[0] for mean in means], axis=0), np.mean([mean[1] for mean in means], axis=0)]
    for lesson, mean in zip(taught, [*wanted, np.mean(wanted, axis=0)], strict=True):
        np.testing.assert_allclose(ROUND1.decode(np.load(lesson.beside[0].logits[0])), mean, atol=1e-6)

    said = {part: np.load(part / "logits.npy") for part in sorted((tmp_path / "a").glob("fold_*"))}
    monkeypatch.setattr(compression, "OnnxEngine", SimpleNamespace(load=lambda folders, *_: said[folders[0]]))
    monkeypatch.setattr(compression, "Corpus", SimpleNamespace(load=lambda folder: None))
    monkeypatch.setattr(compression, "_logits", lambda engine, corpus, rows: engine)
    one = SimpleNamespace(name="a", is_blend=False, models=lambda: members[:1])
    variant = SimpleNamespace(run=one, judges={"a": list(said)}, root=tmp_path)
    workspace.target, workspace.task, workspace.labels = None, ROUND1, np.zeros((n_rows, 17))
    workspace.dataset = SimpleNamespace(train_folder=tmp_path)
    workspace.splits = SimpleNamespace(scheme="random", first=np.repeat([0, 1], 3))
    oof, _ = compression.out_of_fold(workspace, variant)
    np.testing.assert_allclose(ROUND1.decode(oof), np.concatenate(means[0]), atol=1e-6)


def test_alarms_are_of_the_mean_that_the_run_predicts(tmp_path, monkeypatch):
    """Stays that two seeds read after each of three numbers of hours."""
    generator, outputs = np.random.default_rng(5), []
    for seed in (0, 1):
        outputs.append(generator.normal(0, 3, (4, 3, 1)).astype(np.float32))
        (tmp_path / f"fold_{seed}").mkdir()
        array_files.write_npy(tmp_path / f"fold_{seed}/early.npy", outputs[-1])
        array_files.write_npz(tmp_path / f"fold_{seed}/split.npz", predicted_rows=np.arange(4))
    monkeypatch.setattr(early_reading, "early_name", lambda corpus, steps: "early.npy")
    reading = alarms._Reading.__new__(alarms._Reading)
    reading.workspace = SimpleNamespace(labels=np.zeros((5, 1)), keep=lambda name, load: load())
    reading.task, reading.steps, reading.dataset = ICU, [1, 2, 3], SimpleNamespace(train_folder=tmp_path)
    run = SimpleNamespace(name="it", path=tmp_path, record={"fold_folders": ["fold_0", "fold_1"]})
    for of in ("logits", "probabilities"):
        run.average = ICU.average(of)
        found = reading._logits_of(run)
        assert np.isnan(found[4]).all()
        np.testing.assert_allclose(found[:4], run.average(outputs), atol=1e-5)
    stamps = []
    workspace = SimpleNamespace(
        settings=load_config("sample", ["task=icu"]),
        dataset=SimpleNamespace(manifest={"outcomes": None}),
        output=SimpleNamespace(alarms_of=lambda name: tmp_path / "alarms.json"),
    )
    monkeypatch.setattr(alarms, "_has_hours", lambda workspace: True)
    for of in ("logits", "probabilities"):
        source = SimpleNamespace(name="it", score={"fingerprint": "f"}, averages=of)
        monkeypatch.setattr(alarms, "source_of", lambda workspace, run, source=source: source)
        stamps += [target.fingerprint for target in alarms.AlarmStage().targets(workspace)]
    assert stamps[0] != stamps[1], "alarms of the mean of the logits are not current"


def test_members_that_are_averaged_otherwise_are_refused():
    def run(name: str, averages: str, is_model: bool = True) -> SimpleNamespace:
        one = SimpleNamespace(name=name, averages=averages, is_model=is_model, remedy=f"train --model {name}")
        one.leaves = lambda: [one]
        return one

    config = load_config("sample", ["average=probabilities"])
    alike = [run("a", "probabilities"), run("theirs", "logits", is_model=False)]
    runs.check_averages(config, alike)
    inner = SimpleNamespace(leaves=lambda: [*alike, run("b", "logits")])
    told = error_of(runs.check_averages, config, [inner])
    assert "run b is a mean of logits" in told and "./run.sh train --model b average=probabilities" in told


def test_the_expected_loss_is_that_of_the_mean_that_is_predicted():
    """Both means are one for a single model; where folds disagree, the loss is that of the mean probability under the
    mean truth, beside what a single model loses on other reports."""
    generator = np.random.default_rng(2)
    logits, truth = generator.normal(0, 2, (4, 50, 17)), np.tile(generator.random((50, 17)), (4, 1, 1))
    of_logits, _ = _expected_losses(ROUND1, logits, truth, [logits])
    found, _ = _expected_losses(ROUND1, logits, truth, [logits], ROUND1.average("probabilities"))
    probability, mean = ROUND1.decode(logits).mean(axis=0), ROUND1.decode(logits.mean(axis=0))

    def loss(p: np.ndarray) -> np.ndarray:
        return -(truth[0] * np.log(p) + (1 - truth[0]) * np.log(1 - p)).mean(axis=1)

    np.testing.assert_allclose(found - of_logits, loss(probability) - loss(mean), atol=1e-9)
    one = logits[:1], truth[:1]
    np.testing.assert_allclose(
        _expected_losses(ROUND1, *one, [one[0]], ROUND1.average("probabilities"))[0],
        _expected_losses(ROUND1, *one, [one[0]])[0],
    )


def test_runs_are_averaged_anew_and_nothing_is_trained(copy, tiny_input, tmp_path, capsys):
    settings = words(tiny_input, copy, "average=probabilities", "blend.method=mean")
    trained = {path: path.stat().st_mtime_ns for path in copy.glob("runs/*/fold_*/*.safetensors")}
    assert main(["blend", *settings]) == 2
    told = capsys.readouterr().err
    assert "./run.sh train" in told and "Or blend with average=logits" in told
    assert main(["blend", "lstm", "transformer", *settings]) == 2
    assert "run lstm is a mean of logits, and average=probabilities is set" in capsys.readouterr().err
    assert main(["train", *settings]) == 0
    assert main(["blend", *settings]) == 0
    assert "mean of the members' probabilities, nothing fitted" in capsys.readouterr().out
    assert trained == {path: path.stat().st_mtime_ns for path in copy.glob("runs/*/fold_*/*.safetensors")}
    corpus, means = copy / "data/test/sample_testA", []
    name = f"logits.{storage.array_hash(np.load(corpus / 'tokens.npy'))}.npy"
    record = storage.read_json(copy / "runs/blend/run.json")
    for member in record["members"]:
        folds = [ROUND1.decode(np.load(path)) for path in (copy / "runs" / member).glob(f"fold_*/{name}")]
        means.append(np.mean(folds, axis=0))
        found = np.load(copy / "runs" / member / "test_sample_testA.npy")
        np.testing.assert_allclose(ROUND1.decode(found), means[-1], atol=1e-6)
    blended = np.load(copy / "runs/blend/test_sample_testA.npy")
    np.testing.assert_allclose(ROUND1.decode(blended), np.mean(means, axis=0), atol=1e-6)


@pytest.mark.slow
def test_submission_prediction_and_bundle_average_alike(copy, tiny_input, tmp_path):
    settings = words(tiny_input, copy, "average=probabilities", "blend.method=mean")
    assert main(["train", *settings]) == main(["blend", *settings]) == 0
    file = tiny_input / "sample_testA.csv"
    assert main(["submit", *settings]) == 0
    assert main(["predict", "blend", str(file), *words(tiny_input, copy)]) == 0
    submitted = (copy / "submission_sample_testA.csv").read_bytes()
    assert (copy / "prediction_blend_sample_testA.csv").read_bytes() == submitted
    bundle = tmp_path / "blend.bundle"
    assert main(["bundle", "blend", "--to", str(bundle), *settings]) == 0
    assert main(["predict", "--bundle", str(bundle), str(file), "--to", str(tmp_path / "served.csv")]) == 0
    assert (tmp_path / "served.csv").read_bytes() == submitted


def test_days_have_no_probabilities():
    load_config("sample", ["average=logits", "task=los"])
    with pytest.raises(UserError, match="average=probabilities is for tasks that predict probabilities"):
        load_config("sample", ["average=probabilities", "task=los"])
