"""Curves and scores are written once, however often they are told. TensorBoard and MLflow where they are installed."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.__main__ import main
from src.core.executors import Job
from src.core.settings_loader import load_config, preset_names
from src.training.tracking import INSTALL, PACKAGES, Tracking, flat, tracking_of
from tests.conftest import error_of, words

TRACKERS = sorted(PACKAGES)
RUNS = ("lstm", "transformer")


class Kept:
    """A tracker that keeps what it is told, from one command to the next."""

    def __init__(self):
        self.points, self.settings, self.finished = [], {}, []

    def start(self, name, settings):
        self.settings[name] = settings
        return {(what, step) for known, what, step, _ in self.points if known == name}

    def log(self, name, step, values):
        self.points += [(name, what, step, value) for what, value in values.items()]

    def finish(self, name):
        self.finished.append(name)


def folds(output: Path) -> dict[str, list[dict[str, float]]]:
    """Every epoch of every fold, by the name that it is tracked by."""
    return {
        f"{path.parent.parent.name}/{path.parent.name}": [
            {key: float(value) for key, value in row.items()} for row in csv.DictReader(path.open())
        ]
        for path in sorted(output.glob("runs/*/fold_*/history.csv"))
    }


def scores(output: Path, *runs: str) -> dict[str, dict[str, float]]:
    found = {}
    for run in runs:
        score = json.loads((output / f"runs/{run}/score.json").read_text())
        found[f"{run}/score.{score['fingerprint'][:8]}"] = score["overall"]
    return found


def test_each_point_is_written_once_however_often_a_command_is_killed(done):
    name, epochs = next(iter(folds(done).items()))
    folder, kept = str(done / "runs" / name), Kept()
    killed = Tracking(kept)
    killed.step(Job("lstm", "", {"folder": folder, "run": {"model": 1}}), {**epochs[0], "epoch": 1, "epochs": 2})
    assert len(kept.points) == 3 and not kept.finished
    job = SimpleNamespace(folder=folder, path=Path(folder), run={"model": 1})
    again = Tracking(kept)
    for tracking in (again, again, Tracking(kept)):
        tracking.history(job)
    wanted = [
        (name, what, step, epoch[what])
        for step, epoch in enumerate(epochs, 1)
        for what in ("learning_rate", "train_loss", "valid_loss")
    ]
    assert kept.points == wanted and len(epochs) == 2
    assert kept.settings == {name: {"model": 1}} and set(kept.finished) == {name}


def test_scores_of_models_and_blends(done):
    kept = Kept()
    for run in ("lstm", "blend", "lstm"):
        Tracking(kept).score(done / "runs" / run)
    wanted = scores(done, "lstm", "blend")
    assert set(kept.settings) == set(wanted) == set(kept.finished)
    assert len(kept.points) == len({point[:3] for point in kept.points}), "each once"
    found = {(name, what): value for name, what, _, value in kept.points}
    for name, overall in wanted.items():
        assert found[name, "score"] == overall["score"]["value"]
        assert found[name, "roc_auc"] == overall["macro"]["roc_auc"]["value"]
        assert kept.settings[name]["members"] == (list(RUNS) if name.startswith("blend") else [])


def test_training_goes_on_without_a_tracker_that_fails(done, capsys):
    class Full(Kept):
        def log(self, name, step, values):
            super().log(name, step, values)
            raise OSError("the disk is full")

    full = Full()
    tracking = Tracking(full)
    for run in ("lstm", "blend"):
        tracking.score(done / "runs" / run)
    told = capsys.readouterr().err
    assert told.count("the disk is full") == 1 and "writes what is missing" in told
    assert {name.split("/")[0] for name, *_ in full.points} == {"lstm"}


@pytest.mark.parametrize("track", TRACKERS)
def test_a_missing_package_is_told_before_any_work(track, tiny_input, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, track, None)  # as if it were not installed
    output = tmp_path / "output"
    assert main(words(tiny_input, output, f"track={track}")) == 2
    told = capsys.readouterr()
    assert f"track={track} needs {PACKAGES[track]}" in told.err and INSTALL in told.err
    assert not told.out and not output.exists()
    requirements = Path(__file__).resolve().parents[1] / INSTALL.split()[-1]
    assert f"\n{PACKAGES[track]}==" in requirements.read_text()


def test_tracking_is_no_part_of_what_a_run_is_made_with():
    with_it = load_config("quick", ["train.epochs=3", "track=mlflow", "track_uri=sqlite:////tmp/a.db"])
    assert with_it.track_uri == "sqlite:////tmp/a.db"
    untracked = load_config("quick", ["train.epochs=3"])
    assert with_it.model_copy(update={"track": "none", "track_uri": None}) == untracked
    assert tracking_of(untracked)._tracker is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["track=wandb"], "want one of none, tensorboard, mlflow"),
        (["track_uri=sqlite:///a.db"], "track_uri is for track=mlflow"),
        (["track=mlflow", "track_uri=mlruns"], "track_uri"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, told):
    assert told in error_of(load_config, "quick", given)


def test_settings_of_every_run_fit_mlflow():
    """It takes a hundred at a time."""
    for preset in preset_names():
        for run in load_config(preset).runs.values():
            keys = flat(run.model_dump(mode="json"))
            assert "train.noise.replacement" in keys and len(keys) <= 99


def trained(track: str, copy: Path, tiny_input: Path) -> list[str]:
    """Command line that trains the one fold that is missing, after it was run twice."""
    pytest.importorskip(track, reason=f"{PACKAGES[track]} is not installed ({INSTALL}): {track} is not tried")
    shutil.rmtree(next((copy / "runs/lstm").glob("fold_0.*")))
    command = words(tiny_input, copy, f"track={track}")
    for verb in ("train", "score", "train", "score"):
        assert main([verb, *command]) == 0
    return command


def events(folder: Path) -> list[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return [(tag, event.step, event.value) for tag in found.Tags()["scalars"] for event in found.Scalars(tag)]


def test_tensorboard_reads_what_was_trained(copy, done, tiny_input):
    command = trained("tensorboard", copy, tiny_input)
    names = {path.parent.relative_to(copy / "tensorboard").as_posix() for path in copy.glob("tensorboard/*/*/events*")}
    assert names == {*folds(copy), *scores(copy, *RUNS, "blend")}

    def check() -> None:
        for name, epochs in folds(copy).items():
            wanted = {(what, step): epoch[what] for step, epoch in enumerate(epochs, 1) for what in epoch}
            found = events(copy / "tensorboard" / name)
            assert len(found) == 6 and len({point[:2] for point in found}) == 6
            assert all(value == pytest.approx(wanted[what, step]) for what, step, value in found)

    check()
    for name, overall in scores(copy, *RUNS, "blend").items():
        found = events(copy / "tensorboard" / name)
        assert [value for what, *_, value in found if what == "score"] == [pytest.approx(overall["score"]["value"])]
    assert (copy / "runs/blend/score.json").read_bytes() == (done / "runs/blend/score.json").read_bytes()

    files = list((copy / "tensorboard" / next(iter(folds(copy)))).iterdir())
    assert len(files) == 1, "a repeated command leaves no file"
    files[0].write_bytes(files[0].read_bytes()[:-3])  # cut off as by a kill
    assert main(["train", *command]) == 0
    assert len(list(files[0].parent.iterdir())) == 2
    check()


def test_mlflow_reads_what_was_trained(copy, done, tiny_input):
    command = trained("mlflow", copy, tiny_input)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{copy}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {*folds(copy), *scores(copy, *RUNS, "blend")}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name, epochs in folds(copy).items():
        for what in ("learning_rate", "train_loss", "valid_loss"):
            history = client.get_metric_history(runs[name].info.run_id, what)
            assert [(point.step, point.value) for point in history] == [
                (step, epoch[what]) for step, epoch in enumerate(epochs, 1)
            ]
        assert runs[name].data.params["train.batch_size"] == "32"
    for name, overall in scores(copy, *RUNS, "blend").items():
        assert runs[name].data.metrics["score"] == overall["score"]["value"]
    assert (copy / "runs/blend/score.json").read_bytes() == (done / "runs/blend/score.json").read_bytes()
    assert not (copy.parent / "mlruns").exists() and not Path("mlruns").exists()
    assert main(["train", *command, "track_uri=nosuch://x"]) == 2


def test_each_clinical_task_has_an_experiment_of_its_own(tmp_path):
    """Runs of one name, such as boosting, lie in one database where track_uri names one."""
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/all.db"
    for task in ("icu", "los"):
        words = [f"task={task}", f"paths.output={tmp_path / task}", "track=mlflow", f"track_uri={uri}"]
        tracking_of(load_config("sample", words))
    found = {one.name for one in mlflow.MlflowClient(tracking_uri=uri).search_experiments()}
    assert found - {"Default"} == {"icu", "los"}
