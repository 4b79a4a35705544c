"""Pretraining, teachers and extra files from the command line, on tiny sample data."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from src.__main__ import main
from src.core import array_files
from src.core.run_settings import Run
from src.core.settings_loader import load_config
from src.data.corpus import Corpus
from src.data.inputs import InputShape
from src.data.report_reader import read_reports
from src.data.splits import Split
from src.data.submission_files import read_submission
from src.data.tasks import ROUND1
from src.evaluation.metrics import sigmoid
from src.evaluation.workspace import Workspace
from src.models.classifier import build_model
from src.pipeline import forecast
from src.training import checkpoints, device_cache
from src.training.inference import mean_logits, predict_logits
from src.training.initialization import pretrain_jobs
from src.training.planning import Lesson, fold_jobs, taught_jobs
from src.training.pretraining import pretrain_encoder
from src.training.trained_fold import TrainedFold
from src.training.views import mean_of_views
from tests.conftest import error_of, run_command, words

CPU = torch.device("cpu")
PRETRAINED = ["pretrain.epochs=1", "pretrain.batch_size=64"]
TAUGHT = ["runs.transformer.train.teachers=[lstm]", "folds.seeds=[2021, 7]"]


def jobs_of(output: Path, run: str) -> list[dict]:
    paths = sorted((output / "runs" / run).glob("fold_*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) for path in paths]


@pytest.fixture(scope="module")
def with_extra(made_once, tiny_input) -> Path:
    """The tiny input with labelled extra reports: half of its own train file under other ids, half of it new."""
    return made_once("with_extra", lambda folder: add_extra(tiny_input, folder))


def add_extra(tiny_input: Path, folder: Path) -> None:
    shutil.copytree(tiny_input, folder, dirs_exist_ok=True)
    lines = (folder / "sample_train.csv").read_text().splitlines()
    made = [f"9{line}" for line in lines[:10]]
    for line in lines[10:40]:
        name, text, label = line.split("|,|")
        made.append(f"9{name}|,|{' '.join(reversed(text.split()))} |,|{label}")
    (folder / "more_extra.csv").write_text("\n".join(made) + "\n")


@pytest.fixture(scope="module")
def done(made_once, with_extra) -> Path:
    return made_once("taught", lambda output: run_command(["train", *words(with_extra, output, *PRETRAINED, *TAUGHT)]))


def test_each_encoder_reads_all_text_once(done, with_extra, capsys):
    folders = sorted(path.name.split(".")[0] for path in (done / "pretrained").iterdir())
    assert folders == ["recurrent", "transformer"]
    for result in (done / "pretrained").glob("*/result.json"):
        assert json.loads(result.read_text())["reports"] == 300 + 40 + 40 + 40
    made = {path: path.stat().st_mtime_ns for path in (done / "pretrained").rglob("*.safetensors")}
    # Another pooling or head is not what pretraining sees; other noise in training neither.
    more = [*PRETRAINED, "model.pooling=mean", "model.head_dropout=0.3", "train.noise.deletion=0.1"]
    assert main(["pretrain", *words(with_extra, done, *more)]) == 0
    assert "encoders to pretrain" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (done / "pretrained").rglob("*.safetensors")} == made


def test_models_start_from_the_pretrained_encoder(done, with_extra, tmp_path):
    """A fold that was trained with a rate of next to nothing still has the weights that it started from."""
    output = Path(shutil.copytree(done, tmp_path / "output", copy_function=shutil.copy2))
    more = [*PRETRAINED, "train.learning_rate=1e-12", "train.weight_decay=0", "train.epochs=1"]
    assert main(["train", "--model", "lstm", *words(with_extra, output, *more)]) == 0
    (encoder,) = (output / "pretrained").glob("recurrent.*")
    start = load_file(encoder / "last.safetensors")
    newest = max((output / "runs/lstm").glob("fold_0*/last.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    trained = load_file(newest)
    shared = {name for name in start if name.startswith(("input_layer.", "encoder."))}
    assert shared == {name for name in trained if name.startswith(("input_layer.", "encoder."))}
    for name in shared:
        np.testing.assert_allclose(trained[name], start[name], atol=1e-6)


def test_models_start_from_encoders_that_have_not_read_their_fold(tiny_input, tmp_path):
    assert main(["folds", *words(tiny_input, tmp_path, "folds.k=3")]) == 0
    for leave_out, n in (("none", 1), ("halves", 2), ("folds", 3)):
        given = [f"pretrain.leave_out={leave_out}", "denoise.by=transformer", "folds.k=3"]
        given += [*PRETRAINED, f"paths.input={tiny_input}", f"paths.output={tmp_path}"]
        workspace = Workspace(load_config("sample", given))
        here = device_cache.recall_or_find(workspace)
        encoders = pretrain_jobs(workspace, here)
        of_folder = {job.folder: job for jobs in encoders.values() for job in jobs}
        assert len(of_folder) == 2 * n == len({job.fingerprint for job in of_folder.values()})
        workspace.read_only = True  # nothing is pretrained
        for name, jobs in fold_jobs(workspace, here).items():
            assert len({job.fingerprint for job in jobs}) == 3
            for job in jobs:
                own, denoiser = of_folder[str(Path(job.pretrained).parent)], of_folder[job.denoiser]
                assert own in encoders[name] and denoiser in encoders["transformer"]
                unread = [array_files.read_npy(one.locate(one.left_out)) for one in (own, denoiser) if one.left_out]
                assert len(unread) == (0 if n == 1 else 2)
                for rows in unread:
                    folds = set(workspace.splits.first[rows])
                    assert job.fold in folds and len(folds) == (2 if leave_out == "halves" and job.fold != 1 else 1)
                    assert len(rows) == np.isin(workspace.splits.first, list(folds)).sum()
        # A student of all rows starts from the weights of fold 0, and reads by the encoder of these.
        every = Split(2021, 3, np.arange(300), np.arange(9), np.arange(0))
        lesson = Lesson(every, [], initial=tmp_path / "folds.csv")
        (job,) = taught_jobs(workspace, here, "lstm", [lesson])
        assert job.denoiser == fold_jobs(workspace, here)["lstm"][0].denoiser


def test_text_that_is_left_out_has_no_influence_on_an_encoder(tiny_input, tmp_path):
    more = ["pretrain.leave_out=halves", *PRETRAINED]
    assert main(["folds", *words(tiny_input, tmp_path, *more)]) == 0
    small = ["model.embedding_size=16", "folds.k=2", f"paths.input={tiny_input}", f"paths.output={tmp_path}"]
    workspace = Workspace(load_config("sample", [*small, *more]))
    job, _other = pretrain_jobs(workspace, device_cache.recall_or_find(workspace))["lstm"]
    left_out = array_files.read_npy(job.locate(job.left_out))
    (train, *tests), reports = job.corpora, Corpus.load(workspace.dataset.train_folder)
    losses = []
    for name, rows in (("as_it_is", left_out[:0]), ("others", left_out), ("read", np.setdiff1d([5, 50, 99], left_out))):
        tokens = np.array(reports.tokens)
        tokens[rows] = tokens[rows, ::-1].copy()
        ids, sources, lengths = (np.asarray(part) for part in (reports.ids, reports.sources, reports.lengths))
        Corpus({"tokens": np.maximum(tokens, 3)}, lengths, ids, None, sources).save(tmp_path / name)
        changed = dataclasses.replace(job, corpora=[name, *tests], folder=f"made/{name}")
        pretrain_encoder(dataclasses.asdict(changed), lambda news: None)
        losses.append(json.loads((tmp_path / "made" / name / "result.json").read_text())["last_train_loss"])
    assert train == "data/train" and losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["pretrain.epochs=1", "folds.seeds=[1,2]"], "leave_out takes one seed in folds.seeds"),
        ([], "none of lstm, transformer is pretrained"),
        (
            ["pretrain.epochs=1", "denoise.by=transformer", "runs.transformer.pretrain.leave_out=none"],
            "Set runs.transformer.pretrain.leave_out=halves, too",
        ),
    ],
)
def test_left_out_folds_stay_unread(more, told):
    assert told in error_of(load_config, "sample", ["pretrain.leave_out=halves", *more])


def test_a_denoiser_that_came_along_must_leave_folds_out_too():
    given = ["runs.transformer.pretrain.epochs=1", "denoise.by=transformer", "pretrain.leave_out=halves"]
    assert "transformer has read all folds" in error_of(load_config, "sample", given, models=["lstm"])


def test_without_epochs_there_is_nothing_to_pretrain(with_extra, tmp_path, capsys):
    assert main(["pretrain", *words(with_extra, tmp_path)]) == 0
    assert "pretrain: nothing to do, no run asks for it (pretrain.epochs)" in capsys.readouterr().out


def test_students_learn_from_the_teachers_of_their_fold(done):
    students = sorted((done / "runs/transformer").glob("fold_*"))
    assert len(students) == 4  # two folds of two splits
    for path in students:
        # Another fold's teacher has seen the labels that this one is judged by.
        (teacher,) = json.loads((path / "result.json").read_text())["teachers"]
        run, fold = Path(teacher).parts
        assert run == "lstm" and fold.split(".seed_")[0] == path.name.split(".seed_")[0]
        with np.load(path / "split.npz") as own, np.load(done / "runs" / teacher / "split.npz") as theirs:
            assert set(theirs["train_rows"]).isdisjoint(own["predicted_rows"])
        assert len(list((done / "runs" / teacher).glob("logits.*.npy"))) >= 3  # two tests and the extra file
    assert all(job["teachers"] == [] for job in jobs_of(done, "lstm"))


@pytest.fixture
def denoised(denoised_once, tmp_path) -> tuple[Path, list[str]]:
    """A copy of denoised_once."""
    output, more = denoised_once
    return Path(shutil.copytree(output, tmp_path / "output", copy_function=shutil.copy2)), more


@pytest.fixture(scope="module")
def denoised_once(done, with_extra, made_once) -> tuple[Path, list[str]]:
    """Output of runs that read reports denoised by the Transformer's encoder, and the words that make it so.

    The encoder is large enough to learn which words it expects: it takes some 37 of 12,000 words for noise.
    """
    pretrain = {"epochs": 30, "batch_size": 16, "learning_rate": 0.01, "precision": "fp32"}
    pretrain |= {"select": 0.4, "masked": 0.4, "replaced": 0.4, "spans": "[1.0]"}
    model = {"embedding_size": 64, "feedforward_size": 64, "dropout": 0, "spatial_dropout": 0}
    more = [f"runs.transformer.pretrain.{key}={value}" for key, value in pretrain.items()]
    more += [f"runs.transformer.model.{key}={value}" for key, value in model.items()]
    more += ["denoise.by=transformer", "denoise.prior=0.9", "denoise.confidence=0.5"]
    more += ["denoise.views=[raw,hard,soft]", "denoise.doubt=0.3"]

    def make(output: Path) -> None:
        shutil.copytree(done, output, dirs_exist_ok=True, copy_function=shutil.copy2)
        run_command(["train", *words(with_extra, output, *more)])

    return made_once("denoised", make), more


def test_runs_read_denoised_reports(denoised, with_extra, tmp_path):
    output, more = denoised
    train = Corpus.load(output / "data/train")
    views = [np.load(next((output / "data/train/denoised").glob(f"*.{view}.npy"))) for view in ("hard", "soft")]
    assert (views[0] != train.tokens).any(), "some words are taken for noise"
    for name in ("lstm", "transformer"):
        assert jobs_of(output, name)[-1]["denoiser"].startswith("pretrained/transformer.")
    assert main(["clean", "--superseded", *words(with_extra, output, *more)]) == 0
    assert len(list((output / "data/train/denoised").glob("*.npy"))) == 2, "the runs still read them"
    # What a run predicts is of the denoised reports.
    file = tmp_path / "again.csv"
    reports = [line.rsplit(b"|,|", 1)[0] for line in (with_extra / "sample_train.csv").read_bytes().splitlines()]
    file.write_bytes(b"\n".join(reports) + b"\n")
    assert main(["predict", "lstm", str(file), *words(with_extra, output, *more)]) == 0
    run = json.loads((output / "runs/lstm/run.json").read_text())
    logits = []
    for part in run["fold_folders"]:
        result = json.loads((output / "runs/lstm" / part / "result.json").read_text())
        model = build_model(
            Run.model_validate(result["run"]).model, InputShape.from_json(result["inputs"]), result["n_labels"]
        )
        checkpoints.load_weights(output / "runs/lstm" / part / "last.safetensors", model)
        seen = [predict_logits(model, {"tokens": tokens}, train.lengths, CPU) for tokens in [train.tokens, *views]]
        logits.append(mean_of_views(seen, 0.3))
    _, predicted = read_submission(output / "prediction_lstm_again.csv")
    np.testing.assert_allclose(predicted, sigmoid(np.mean(logits, axis=0)), atol=1e-4)


def test_submission_prediction_and_bundle_doubt_alike(denoised, with_extra, tmp_path):
    output, more = denoised
    settings, test = words(with_extra, output, *more), with_extra / "sample_testA.csv"
    run_command(["submit", "lstm", *settings])
    run_command(["predict", "lstm", str(test), *settings])
    bundle, served = tmp_path / "lstm.bundle", tmp_path / "served.csv"
    run_command(["bundle", "lstm", "--to", str(bundle), *settings])
    run_command(["predict", "--bundle", str(bundle), str(test), "--to", str(served), "executor.threads=1"])
    submitted = (output / "submission_lstm_sample_testA.csv").read_bytes()
    assert (output / "prediction_lstm_sample_testA.csv").read_bytes() == submitted == served.read_bytes()
    for part in json.loads((output / "runs/lstm/run.json").read_text())["fold_folders"]:
        result = json.loads((output / "runs/lstm" / part / "result.json").read_text())
        assert result["run"]["denoise"]["doubt"] == 0.3


@pytest.mark.slow
def test_denoised_in_prediction_alone_and_for_later_files(denoised, with_extra, capsys):
    output, more = denoised
    # Trained on reports as they are, and denoised only to predict, it has the weights of a run that never denoises.
    parts = []
    for how in ([*more, "denoise.in_training=false"], []):
        assert main(["train", "--model", "lstm", *words(with_extra, output, *how)]) == 0
        parts.append(output / "runs/lstm" / json.loads((output / "runs/lstm/run.json").read_text())["fold_folders"][0])
    one, other = (load_file(part / "last.safetensors") for part in parts)
    assert all((one[name] == other[name]).all() for name in other)
    assert (np.load(parts[0] / "logits.npy") != np.load(parts[1] / "logits.npy")).any()
    assert main(["train", "--model", "lstm", *words(with_extra, output, *more)]) == 0
    # A file that comes later goes the same way, and gets what the pipeline gave it as a test file.
    file = with_extra / "sample_testA.csv"
    assert main(["predict", "lstm", str(file), *words(with_extra, output, *more)]) == 0
    assert main(["submit", "lstm", *words(with_extra, output, *more)]) == 0
    made = (output / "prediction_lstm_sample_testA.csv").read_bytes()
    assert made == (output / "submission_lstm_sample_testA.csv").read_bytes()
    shutil.rmtree(output / "pretrained")
    other = with_extra / "more_extra.csv"
    assert main(["predict", "lstm", str(other), *words(with_extra, output, *more)]) == 2
    assert "Make it with: ./run.sh train --model lstm" in capsys.readouterr().err


def test_soft_labels_are_the_mean_of_the_teachers(done):
    from src.training.classification import Rows
    from src.training.job_specs import Beside

    folder = done / "data/test/sample_testA"
    corpus = Corpus.load(folder)
    rng = np.random.default_rng(0)
    files = []
    for i in range(2):
        files.append(str(done / f"teacher_{i}.npy"))
        array_files.write_npy(Path(files[-1]), rng.normal(size=(len(corpus), 17)).astype(np.float32))
    rows = Rows.beside(Beside(str(folder), None, files, 0.25), Path, ROUND1)
    expected = sigmoid((np.load(files[0]) + np.load(files[1])) / 2)
    np.testing.assert_allclose(rows.labels, expected, atol=1e-6)
    assert set(rows.weights) == {np.float32(0.25)} and len(rows) == len(corpus)
    train = Rows.of(Corpus.load(done / "data/train"), np.array([5, 2]))
    joined = Rows.joined([train, rows])
    np.testing.assert_array_equal(joined.inputs["tokens"][joined.chosen[:2]], train.inputs["tokens"][[5, 2]])
    np.testing.assert_array_equal(joined.inputs["tokens"][joined.chosen[2:]], corpus.tokens)
    np.testing.assert_array_equal(joined.domain, [0, 0, *[1] * len(corpus)])
    np.testing.assert_array_equal(joined.lengths[joined.chosen[2:]], corpus.lengths)
    np.testing.assert_array_equal(joined.ids[2:], corpus.ids)
    np.testing.assert_array_equal(joined.labels[:2], train.labels)


def test_teachers_fill_the_labels_that_a_file_lacks(done, tmp_path):
    from src.training.classification import Rows
    from src.training.job_specs import Beside

    lacking = np.array([[1, 0, np.nan], [np.nan, 1, 0]], np.float32)
    corpus = Corpus.load(done / "data/test/sample_testA")
    inputs = {name: array[:2] for name, array in corpus.inputs.items()}
    Corpus(inputs, corpus.lengths[:2], corpus.ids[:2], lacking, corpus.sources[:2]).save(tmp_path / "extra")
    array_files.write_npy(tmp_path / "logits.npy", np.array([[5, 5, 0], [2, -5, 5]], np.float32))
    rows = Rows.beside(Beside(str(tmp_path / "extra"), None, [str(tmp_path / "logits.npy")], 1.0, True), Path, ROUND1)
    np.testing.assert_allclose(rows.labels, [[1, 0, 0.5], [sigmoid(2.0), 1, 0]], atol=1e-6)


def test_extra_reports_are_trained_on_but_not_those_that_are_validated(done, with_extra, tmp_path):
    from src.training.classification import Rows
    from src.training.job_specs import Beside

    folder = done / "data/extra/more_extra"
    rows = Rows.beside(Beside(str(folder), str(done / "data/extra/more_extra.rows.npy"), [], 0.5), Path, ROUND1)
    assert len(rows) == 30 and set(rows.ids).isdisjoint(np.asarray(Corpus.load(folder).ids)[:10])
    truth = read_reports(with_extra / "more_extra.csv").labels[10:]
    np.testing.assert_array_equal(rows.labels, truth)
    output = Path(shutil.copytree(done, tmp_path / "output", copy_function=shutil.copy2))
    plain, weighted = [], []
    for found, weight in ((plain, 0), (weighted, 1)):
        more = [*PRETRAINED, f"train.extra_weight={weight}"]
        assert main(["train", "--model", "lstm", *words(with_extra, output, *more)]) == 0
        found.append(np.load(output / "runs/lstm/oof.npy"))
    assert plain[0].shape == weighted[0].shape == (300, 17)
    assert not np.array_equal(plain[0], weighted[0])


def test_the_last_epochs_can_go_without_extra_reports(done, with_extra, tmp_path, capsys):
    output = Path(shutil.copytree(done, tmp_path / "output", copy_function=shutil.copy2))
    found = []
    for more in ([], ["train.own_epochs=1"]):
        given = words(with_extra, output, *PRETRAINED, "train.extra_weight=1", *more)
        assert main(["train", "--model", "lstm", *given]) == 0
        told = capsys.readouterr().out
        assert ("the last 1 of 2 epochs of lstm are without these reports (train.own_epochs)" in told) == bool(more)
        found.append(np.load(output / "runs/lstm/oof.npy"))
    assert not np.array_equal(*found)
    assert main(["train", "--model", "lstm", *given]) == 0
    assert "up to date" in capsys.readouterr().out
    taught = [word for word in given if "=" in word] + ["runs.transformer.train.teachers=[lstm]"]
    workspace = Workspace(load_config("sample", taught))
    for job in fold_jobs(workspace, device_cache.recall_or_find(workspace))["transformer"]:
        extra = [one["is_extra"] for one in job.beside]
        assert extra == [True, False, False], "what teachers label, the tests, stays"
    assert forecast.extra_share(workspace) == 40 / 420
    plain, own = (
        forecast.noted(Workspace(load_config("sample", [*taught, f"train.own_epochs={n}"])), {}, {})["learning"]
        for n in (0, 1)
    )
    assert own < plain


def test_reports_like_the_target_count_more(done, with_extra, tmp_path):
    output = Path(shutil.copytree(done, tmp_path / "output", copy_function=shutil.copy2))
    assert main(["train", "--model", "lstm", *words(with_extra, output, *PRETRAINED, "train.target_weight=0.5")]) == 0
    (file, *_) = (output / "runs/lstm").glob("fold_0*/weights.npy")
    found = np.load(output / "shift/sample_testB/weights.npy")[0]
    np.testing.assert_allclose(np.load(file), np.sqrt(found) / np.sqrt(found).mean(), rtol=1e-6)


def test_teachers_must_be_there_and_untaught():
    assert "unknown run 'lstn'" in error_of(load_config, "sample", ["runs.transformer.train.teachers=[lstn]"])
    chain = ["runs.transformer.train.teachers=[lstm]", "runs.lstm.train.teachers=[transformer]"]
    assert "has teachers itself" in error_of(load_config, "sample", chain)


def test_likeness_to_the_target_needs_folds(with_extra, tmp_path, capsys):
    more = ["folds.scheme=holdout", "train.target_weight=1"]
    assert main(["train", "--model", "lstm", *words(with_extra, tmp_path, *more)]) == 2
    assert "train.target_weight is for every folds.scheme but holdout" in capsys.readouterr().err


def test_predicting_labels_that_were_trained_on_is_told(done, with_extra, tmp_path, capsys):
    output = Path(shutil.copytree(done, tmp_path / "output", copy_function=shutil.copy2))
    more = [*PRETRAINED, "train.extra_weight=1"]
    for given, told in ((more, True), (PRETRAINED, False)):
        assert main(["train", "--model", "lstm", *words(with_extra, output, *given)]) == 0
        capsys.readouterr()
        assert main(["predict", "lstm", str(with_extra / "more_extra.csv"), *words(with_extra, output, *given)]) == 0
        shown = capsys.readouterr()
        assert ("was trained on these very reports" in shown.out + shown.err) == told


@pytest.mark.slow
def test_words_for_all_runs_do_not_reach_a_teacher_that_came_along(with_extra, tmp_path):
    more = ["runs.transformer.train.teachers=[lstm]", "train.learning_rate=0.001"]
    assert main(["train", "--model", "transformer", *words(with_extra, tmp_path, *more)]) == 0
    records = {
        name: json.loads((tmp_path / "runs" / name / "run.json").read_text())["overrides"]
        for name in ("lstm", "transformer")
    }
    assert "train.learning_rate=0.001" in records["transformer"]
    assert "train.learning_rate=0.001" not in records["lstm"]
    assert any(word.startswith("runs.lstm.") for word in records["lstm"])


def test_a_fold_and_its_encoder_can_be_loaded_from_any_folder(denoised, tmp_path):
    output, _ = denoised
    folds = (output / "runs/lstm").glob("fold_0.*")
    fold = next(path for path in folds if json.loads((path / "result.json").read_text())["denoiser"])
    encoder = json.loads((fold / "result.json").read_text())["denoiser"]
    moved = Path(shutil.copytree(fold, tmp_path / "bundle/models/fold"))
    error = error_of(TrainedFold.load, moved, CPU)
    assert encoder in error and "./run.sh pretrain" in error
    with_output = TrainedFold.load(moved, CPU, output)
    shutil.copytree(output / encoder, tmp_path / "bundle" / encoder)
    lengths, logits = Corpus.load(output / "data/train").lengths, []
    for trained in (TrainedFold.load(fold, CPU), with_output, TrainedFold.load(moved, CPU)):
        logits.append(mean_logits(trained.model, trained.views(output / "data/train"), lengths, trained.device))
    assert trained.denoiser == tmp_path / "bundle" / encoder and trained.task is ROUND1
    assert np.array_equal(logits[0], logits[1]) and np.array_equal(logits[0], logits[2])
