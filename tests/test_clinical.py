"""The command line of the clinical tasks from end to end, on synthetic stays and small images."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from src.__main__ import main
from src.core import array_files, storage
from src.core.settings import CLINICAL
from src.core.settings_loader import load_config
from src.data.corpus import Corpus
from src.data.series_dataset import labels_of
from src.data.submission_files import read_submission
from src.data.synthetic_stays import ANSWERS, make_sample
from src.data.tasks import Task, get_task
from src.evaluation import metrics
from src.evaluation.workspace import Workspace
from src.serving.predictor import Predictor
from src.training.classification import train_fold
from src.training.device_cache import recall_or_find
from src.training.job_specs import FoldJob
from src.training.planning import fold_jobs
from tests.conftest import CLINICAL_PRESET, clinical_words, drawn_unplaced, error_of, run_command
from tests.test_pipeline import contents
from tests.test_status import begun

STAYS, TEST_STAYS = 150, 60
CLASSES, IMAGES, TEST_IMAGES = 3, 120, 30


@dataclass(frozen=True)
class Made:
    """A finished pipeline of a clinical task, in a folder of its own."""

    task: str
    input: Path
    output: Path

    @property
    def runs(self) -> tuple[str, ...]:
        return ("gru", "boosting", "linear") if self.task == "icu" else ("gru", "linear")

    def words(self, *more: str) -> list[str]:
        chosen = [word for run in self.runs for word in ("--model", run)] if self.task != "icu" else []
        return [*clinical_words(self.task, self.input, self.output), *chosen, *more]

    @property
    def test(self) -> str:
        """Name of the test file."""
        return {"frames": "shapes_test"}.get(self.task, "set-b")

    @property
    def test_path(self) -> Path:
        return self.input / {"frames": "shapes.npz"}.get(self.task, "set-b.zip")

    @property
    def submission(self) -> Path:
        return self.output / f"submission_{self.test}.csv"


def make_images(path: Path, height: int = 6, width: int = 5, seed: int = 0) -> None:
    """Writes images in MedMNIST's layout: the row of the bright line tells the class."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, n in (("train", IMAGES - 20), ("val", 20), ("test", TEST_IMAGES)):
        labels = np.arange(n) % CLASSES
        images = rng.integers(0, 80, (n, height, width), dtype=np.uint8)
        images[np.arange(n), labels + 1] += 100
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None]}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


DEFAULT = ["icu", pytest.param("los", marks=pytest.mark.slow), "frames"]
"""Tasks, for tests of whose code los and icu share all but the unit of a prediction."""


def stamps(folder: Path) -> dict[Path, int]:
    """Time of the last change of each file, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def finished(made_once) -> Callable[[str], Made]:
    """Finished pipelines by the name of the task; tests that change one work on a copy."""
    found: dict[str, Made] = {}

    def make(folder: Path, task: str) -> None:
        if task == "frames":
            make_images(folder / "input" / "shapes.npz")
        else:
            make_sample(folder / "input", rows=STAYS, test_rows=TEST_STAYS, seed=7)
        made = Made(task, folder / "input", folder / "output")
        # tests/test_series_attribution.py has the other tasks' pages as they are.
        with contextlib.nullcontext() if task == "icu" else drawn_unplaced():
            run_command(made.words())
            before = stamps(made.output)
            run_command(made.words())  # here, because the report names its folder and is made anew in a copy
        after = stamps(made.output)
        again = sorted(path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        (folder / "made_again.json").write_text(json.dumps(again))

    def one(task: str) -> Made:
        if task not in found:
            folder = made_once(f"clinical_{task}", lambda folder: make(folder, task))
            found[task] = Made(task, folder / "input", folder / "output")
        return found[task]

    return one


@pytest.fixture
def copied(finished, tmp_path) -> Callable[[str], Made]:
    """Copy of a finished pipeline, input and output, by the name of the task."""

    def one(task: str) -> Made:
        folder = shutil.copytree(finished(task).input.parent, tmp_path / task, copy_function=shutil.copy2)
        return Made(task, folder / "input", folder / "output")

    return one


def task_of(made: Made) -> Task:
    return get_task(json.loads((made.output / "data/manifest.json").read_text())["task"])


@pytest.fixture
def refused(capsys) -> Callable[[list[str]], str]:
    """Returns what a command tells that must end with exit status 2."""

    def ask(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and "Traceback" not in told
        return told.removeprefix("error: ").strip()

    return ask


@pytest.fixture
def states(capsys) -> Callable[[Made], dict[str, str]]:
    """States of the stages as ./run.sh status --json tells them, by name."""

    def ask(made: Made) -> dict[str, str]:
        capsys.readouterr()
        assert main(["status", "--json", *made.words()]) == 0
        found = json.loads(capsys.readouterr().out)["stages"]
        return {f"{one['stage']} {one['name']}".strip(): one["state"] for one in found}

    return ask


@pytest.mark.slow  # tests/test_changed_input.py tries the verbs on reports
@pytest.mark.parametrize("task", CLINICAL)
def test_files_that_changed_under_their_name_are_not_gone_on_with(task, copied, refused):
    """A set of stays, its outcomes, and a file of images."""
    made = copied(task)
    for path in [made.test_path, *made.input.glob("Outcomes-a*")]:
        before = path.read_bytes()
        if task == "frames":
            make_images(path, seed=1)
        else:
            path.write_bytes(before[:-1] + b" ")
        for verb in (["submit"], ["score"], ["report"], ["leaderboard"], ["bundle", "linear"]):
            assert f"of another content: {path.name}" in refused([*verb, *made.words()])
        path.write_bytes(before)


@pytest.mark.parametrize("task", ["icu", *(pytest.param(task, marks=pytest.mark.slow) for task in ("los", "frames"))])
def test_every_verb_works(task, copied, states, capsys):
    made = copied(task)
    assert set(states(made).items()) >= {("prepare", "done"), ("train gru", "done"), ("submit", "done")}
    for verb in (
        ["prepare"],
        ["folds"],
        ["shift"],
        ["baselines"],
        ["pretrain"],
        ["train"],
        ["blend"],
        ["submit"],
        ["explain"],
    ):
        assert main([*verb, *made.words()]) == 0
        assert " up to date" in (told := capsys.readouterr()).out or verb == ["pretrain"]
        assert not told.err, f"{verb[0]} warns on a finished pipeline"
    for verb in (["eda"], ["leaderboard"], ["leaderboard", "gru"], ["score"], ["score", "gru"], ["alarms"], ["config"]):
        assert main([*verb, *made.words()]) == 0
    assert (made.output / "eda.html").exists() and (made.output / "report.html").exists()
    assert json.loads((made.output / "runs/blend/explained.json").read_text())["parameters"]
    assert main(["clean", *made.words()]) == 0
    assert states(made)["train linear"] == "done", "what is needed is kept"


@pytest.mark.parametrize("task", CLINICAL)
def test_a_second_run_makes_nothing(task, finished):
    made = finished(task)
    again = json.loads((made.input.parent / "made_again.json").read_text())
    assert set(again) <= {made.submission.name, "job.lock", "pipeline.json"}


@pytest.mark.parametrize("task", DEFAULT)
def test_predictions_for_the_test_file_are_those_submitted(task, copied, capsys):
    made = copied(task)
    assert main(["predict", "blend", str(made.test_path), *made.words()]) == 0
    (predicted,) = made.output.glob("prediction_blend_*.csv")
    assert predicted.read_bytes() == made.submission.read_bytes()
    assert not capsys.readouterr().err, "nothing to warn of: no model was trained on it"
    ids, values = read_submission(made.submission, target := task_of(made))
    corpus = Corpus.load(made.output / "data/test" / made.test)
    np.testing.assert_array_equal(ids, corpus.ids)
    assert values.shape == (len(corpus), target.n_labels) and values.std(axis=0).min() > 0
    if made.task == "frames":
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("task", DEFAULT)
def test_a_bundle_predicts_the_bytes_of_its_run(task, finished, tmp_path):
    """From an empty output folder; in memory it predicts the same, and says which parameters of a stay matter."""
    made = finished(task)
    bundle, to = tmp_path / "blend.bundle", tmp_path / "out" / "predicted.csv"
    run_command(["bundle", "blend", "--to", str(bundle), *made.words()])
    run_command(["predict", "--bundle", str(bundle), str(made.test_path), "--to", str(to), "executor.threads=1"])
    assert to.read_bytes() == made.submission.read_bytes() and not list(to.parent.glob("[!p]*"))
    predictor = Predictor.load(bundle)
    assert predictor.reference is not None and predictor.explains == (task != "frames")
    ids, expected = read_submission(made.submission, predictor.task)
    if task == "frames":
        assert "reads images, no stays" in error_of(predictor.encode_stay, ["Time,Parameter,Value"])
        return
    with zipfile.ZipFile(made.test_path) as archive:
        texts = {
            name.rpartition("/")[2].removesuffix(".txt"): archive.read(name).decode() for name in archive.namelist()
        }
    rows = predictor.encode_stay([texts[name.decode()] for name in ids])
    np.testing.assert_allclose(predictor.predict(rows).values, expected, rtol=1e-4)
    one = predictor.encode_stay([texts[ids[0].decode()]])
    falls = predictor.explain(one, 0)
    assert falls.shape == (len(predictor.parameters),) == (42,) and np.isfinite(falls).all() and falls.any()
    age = predictor.parameters.index("Age at admission")
    one.inputs["statics"][0, 0, 0] = np.nan
    assert falls[age] != 0 and predictor.explain(one, 0)[age] == 0
    assert "stay 2, line 3: " in error_of(predictor.encode_stay, [texts[ids[0].decode()], BAD_STAY])
    assert "no line 00:00,RecordID,N" in error_of(predictor.encode_stay, ["Time,Parameter,Value\n"])


BAD_STAY = "Time,Parameter,Value\n00:00,RecordID,132539\n00:07,HR,fast\n"


@pytest.mark.parametrize("task", ["icu", "los"])
def test_submissions_are_scored_against_outcomes(task, finished, tmp_path, capsys, refused):
    made, target = finished(task), get_task(task)
    header, first, *rest = (made.input / ANSWERS).read_text().splitlines()
    ids, values = read_submission(made.submission, target)

    def without_outcome(line: str) -> str:
        return ",".join([*line.split(",")[:3], "-1", "-1", "-1"])

    def command(*lines: str) -> list[str]:
        (tmp_path / "Outcomes-b.txt").write_text("\n".join([header, *lines]) + "\n")
        return ["score", "--labels", str(tmp_path / "Outcomes-b.txt"), str(made.submission), *made.words()]

    assert main(command(without_outcome(first), *rest)) == 0
    rows, labels = labels_of(tmp_path / "Outcomes-b.txt", ids, target)
    assert list(rows) == list(range(1, TEST_STAYS)), "what is unknown is not scored"
    expected = metrics.official_score(target, labels, values[rows])
    assert f"score: {expected.value:.6f}" in capsys.readouterr().out
    assert "Outcomes-b.txt" in refused(command(*map(without_outcome, [first, *rest])))
    assert "Outcomes-b.txt" in refused(command(*rest)), "a stay without a line"


@pytest.mark.parametrize("task", CLINICAL)
def test_scores_are_those_of_the_oof_files(task, finished):
    made, target = finished(task), task_of(finished(task))
    labels = np.load(made.output / "data/train/labels.npy")
    for name in (*made.runs, "blend"):
        oof = np.load(made.output / f"runs/{name}/oof.npy")
        assert oof.shape == labels.shape and np.isfinite(oof).all()
        score = json.loads((made.output / f"runs/{name}/score.json").read_text())["overall"]["score"]
        expected = metrics.official_score(target, labels, target.decode(oof))
        assert score["value"] == pytest.approx(expected.value, abs=1e-7)
        assert score["standard_error"] == pytest.approx(expected.standard_error, abs=1e-7)


def test_predicting_what_was_trained_on_is_told(copied, tmp_path, capsys):
    made = copied("icu")
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(made.input / "set-a.zip") as archive:
        archive.extractall(folder)
    shutil.copy(made.input / "Outcomes-a.txt", folder)
    for stays in (made.input / "set-a.zip", folder / "set-a"):
        assert main(["predict", "gru", str(stays), *made.words()]) == 0
        assert "trained on these very stays" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["icu", "frames"])
def test_grid_and_size_of_predicted_rows_are_the_runs(task, copied, tmp_path, refused):
    made = copied(task)
    if task == "icu":
        assert main(["predict", "gru", str(made.test_path), *made.words("grid.step=8")]) == 0
        assert main(["submit", "gru", *made.words()]) == 0
        (predicted,) = made.output.glob("prediction_gru_*.csv")
        assert predicted.read_bytes() == (made.output / "submission_gru_set-b.csv").read_bytes()
        return
    make_images(tmp_path / "wide.npz", width=7)
    told = refused(["predict", "gru", str(tmp_path / "wide.npz"), *made.words()])
    assert "6 x 5" in told and "wide.npz" in told and "7 columns" in told


def trained_again(job: FoldJob, made: Made, change: Callable[[np.ndarray], None] | None) -> dict[str, np.ndarray]:
    """Tensors of a fold job that is trained again, on values (N, T, P) that `change` has changed."""
    path = made.output / "data/train/values.npy"
    before = path.read_bytes()
    if change:
        values = np.load(path)
        change(values)
        array_files.write_npy(path, values)
    again = replace(job, folder=f"again/{storage.array_hash(np.load(path))}/{job.folder}")
    try:
        train_fold(asdict(again), lambda news: None)
    finally:
        path.write_bytes(before)
    return load_file(again.path / "last.safetensors")


def differing(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> set[str]:
    assert left.keys() == right.keys()
    return {name for name in left if left[name].tobytes() != right[name].tobytes()}


@pytest.mark.parametrize("name", ["gru", "boosting", "linear"])
def test_validation_stays_move_nothing_that_is_fitted(name, copied):
    made = copied("icu")
    more = ["runs.gru.features.summary=true", "runs.gru.features.imputer=knn", "runs.gru.train.epochs=1"]
    words = [word for word in made.words(*more) if "=" in word]
    workspace = Workspace(load_config(str(CLINICAL_PRESET), [*words, "task=icu"]))
    job = fold_jobs(workspace, recall_or_find(workspace))[name][0]
    with np.load(job.locate(job.split)) as split:
        train, valid = split["train_rows"], split["valid_rows"]
    assert not set(train) & set(valid)

    def of(rows: np.ndarray) -> Callable[[np.ndarray], None]:
        def change(values: np.ndarray) -> None:
            values[rows] = values[rows] * 7 + 1000
            values[rows[0], 0] = 5  # and what was missing is there

        return change

    plain = trained_again(job, made, None)
    assert plain and not differing(trained_again(job, made, of(valid)), plain)
    assert differing(trained_again(job, made, of(train[:1])), plain), "a training stay does move them"


def killed_and_resumed(made: Made, words: list[str], kills: int) -> None:
    for number in range(1, kills + 1):
        process = begun(["train", *words], made.output / "runs/gru", f"state_*{number}.json")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (made.output / "runs/gru/score.json").exists(), "it was killed before its end"
    assert main(["train", *words]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 6])
def test_killed_in_training_it_ends_in_the_same_bytes(copied, kills):
    made = copied("icu")
    words = ["--model", "gru", "runs.gru.train.epochs=60"]
    shutil.rmtree(made.output / "runs")
    whole = Made("icu", made.input, Path(shutil.copytree(made.output, made.output.with_name("whole"))))
    killed_and_resumed(made, made.words(*words), kills)
    assert main(["train", *whole.words(*words)]) == 0
    assert contents(made.output) == contents(whole.output)


def test_tasks_with_one_input_folder_do_not_touch_each_other(copied, states, tmp_path):
    icu = copied("icu")
    before = stamps(icu.input.parent)
    los = Made("los", icu.input, tmp_path / "los")
    assert main(["folds", *los.words()]) == 0
    assert main(["submit", "gru", *los.words()]) == 2  # nothing of the other task is taken
    assert stamps(icu.input.parent) == before
    assert states(icu)["submit"] == "done"
    settings = [load_config("standard", [f"task={task}"]).paths for task in CLINICAL]
    assert settings[0].input == settings[1].input and len({paths.output for paths in settings}) == len(CLINICAL)


def test_another_task_in_the_same_output_folder_takes_no_run(copied, states, refused):
    made = copied("icu")
    los = Made("los", made.input, made.output)
    assert states(los)["prepare"] == "stale"
    assert main(["prepare", *los.words()]) == 0
    for verb in (["blend"], ["submit"]):
        assert "./run.sh " in refused([*verb, *los.words()])
    for other in (los.words(), clinical_words("frames", made.input, made.output), made.words()[2:]):
        assert "--task icu" in refused(["predict", "gru", str(made.test_path), *other])


def change_test_set(made: Made) -> None:
    old = made.test_path.with_name("old.zip")
    made.test_path.rename(old)
    with zipfile.ZipFile(old) as whole, zipfile.ZipFile(made.test_path, "w") as archive:
        for name in whole.namelist()[1:]:
            archive.writestr(name, whole.read(name))
    old.unlink()


def change_outcomes(made: Made) -> None:
    path = made.input / "Outcomes-a.txt"
    header, first, *rest = path.read_text().splitlines()
    first = first[:-1] + str(1 - int(first[-1]))
    path.write_text("\n".join([header, first, *rest]) + "\n")


@pytest.mark.parametrize("change", [change_test_set, change_outcomes])
def test_a_changed_file_of_the_same_name_is_prepared_anew(change, copied, states, refused):
    made = copied("icu")
    assert states(made)["prepare"] == "done"
    change(made)
    assert states(made)["prepare"] == "stale"
    assert main(["prepare", *made.words()]) == 0
    found = states(made)
    assert found["prepare"] == "done"
    still = {name for name, state in found.items() if state == "done"} - {"prepare", "folds"}
    assert still == ({"baselines"} if change is change_test_set else set()), "these need the train files alone"
    assert "./run.sh " in refused(["submit", *made.words()])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "train.noise.replacement=0.1"], "noise"),
        (["train", "runs.gru.denoise.by=linear"], "denoise.by"),
        (["train", "pretrain.epochs=2"], "pretrain.epochs"),
        (["train", "runs.gru.pretrain.epochs=2"], "pretrain.epochs"),
        (["folds", "folds.scheme=families"], "families"),
        (["standin", "SET", "--to", "standin"], "standin"),
        (["predict", "gru", "SET", "--shifted"], "--shifted"),
        (["train", "metric=mae"], "mae"),
        (["train", "runs.boosting.model.pooling=mean"], "runs.boosting.model.pooling"),
        (["train", "runs.gru.train.forecast_weight=1", "runs.gru.model.bidirectional=true"], "forecast_weight"),
    ],
)
def test_what_has_no_meaning_is_one_sentence(arguments, named, finished, tmp_path, monkeypatch, refused):
    made = finished("icu")
    monkeypatch.chdir(tmp_path)
    arguments = [str(made.test_path) if word == "SET" else word for word in arguments]
    told = refused([*arguments, *made.words()])
    assert named in told and "\n" not in told.strip()
    assert not list(tmp_path.iterdir())


def test_balanced_weights_are_for_classes(finished, refused):
    assert "pos_weight" in refused(["train", "train.pos_weight=balanced", *finished("los").words()])


def break_archive(folder: Path) -> None:
    path = folder / "set-a.zip"
    path.write_bytes(path.read_bytes()[:-500])


def drop_outcome(folder: Path) -> None:
    path = folder / "Outcomes-a.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def add_second_form(folder: Path) -> None:
    with zipfile.ZipFile(folder / "set-a.zip") as archive:
        archive.extractall(folder)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (break_archive, ["set-a.zip"]),
        (drop_outcome, ["Outcomes-a.txt", str(10_000_000 + STAYS)]),
        (add_second_form, ["set-a", "set-a.zip"]),
        (lambda folder: (folder / "set-a.zip").unlink(), ["set-a"]),
        (lambda folder: (folder / "Outcomes-a.txt").unlink(), ["Outcomes-a.txt"]),
        (lambda folder: [path.unlink() for path in folder.glob("*.*")], ["set-a"]),
    ],
)
def test_bad_input_is_one_error(damage, named, finished, tmp_path, refused):
    made = finished("icu")
    folder = Path(shutil.copytree(made.input, tmp_path / "input"))
    damage(folder)
    told = refused(clinical_words("icu", folder, tmp_path / "output"))
    assert all(word in told for word in named)
    assert not (tmp_path / "output/data/manifest.json").exists()


@pytest.mark.parametrize("task", CLINICAL)
def test_sample_data(task, tmp_path):
    words = ["sample", "--task", task, f"paths.input={tmp_path}", "sample.rows=30", "sample.test_rows=10"]
    assert main(words) == 0
    (tmp_path / "sample" / ("digits.npz" if task == "frames" else "set-a.zip")).stat()


def test_trials_of_a_study(copied, tmp_path):
    made = copied("icu")
    assert main(["tune", "gru", "--trials", "2", "--jobs", "1", *made.words("tune.startup=1")]) == 0
    assert len((made.output / "tune/gru/trials.csv").read_text().splitlines()) == 3
    assert main(["config", *made.words("tune.use=true")]) == 0
