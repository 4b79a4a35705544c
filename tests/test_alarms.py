"""./run.sh alarms on synthetic stays, whose crises are known."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.core.settings_loader import load_config
from src.core.storage import read_json
from src.data.synthetic_stays import make_sample
from src.ensemble.blend_data import blend_out_of_fold, judging_folds
from src.evaluation import early_warning
from src.evaluation.workspace import Workspace
from src.pipeline.stages.alarms import readings
from src.training.early_reading import MOST, early_prediction, watched
from tests.conftest import run_command
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
HOURS = [4, 8, 12, 18, 24, 30, 36, 42, 48]
ROWS = 500


def words(folder: Path, task: str = "icu") -> list[str]:
    return [
        "--task", task, "--preset", "sample", "--model", "linear", "--model", "boosting", "folds.k=2",
        "executor.threads=1", "runs.boosting.model.max_iter=20", f"alarms.hours={HOURS}".replace(" ", ""),
        f"paths.input={folder / 'input'}", f"paths.output={folder / task}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(made_once) -> Path:
    """input/: stays; icu/: two runs, their blend, and its alarms."""

    def make(folder: Path) -> None:
        make_sample(folder / "input", rows=ROWS, test_rows=20, seed=4)
        for verb in ("train", "blend", "alarms"):
            run_command([verb, *words(folder)])

    return made_once("alarms", make)


@pytest.fixture(scope="module")
def record(made) -> dict:
    return read_json(made / "icu/runs/blend/alarms.json")


def workspace_of(made: Path) -> Workspace:
    given = ["task=icu", *(word for word in words(made) if "=" in word)]
    return Workspace(load_config("sample", given, ["linear", "boosting"]))


def contents(folder: Path) -> dict[str, bytes]:
    kept = [*folder.glob("runs/*/alarms.json"), *folder.glob("runs/*/fold_*/early.*"), *folder.glob("alarms/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def read_early(workspace: Workspace, folds: np.ndarray) -> np.ndarray:
    """Logits (N, H, 1) of the blend from what its folds kept, by the weights of `folds` (N,)."""

    def logits_of(model):
        parts = [model.path / fold for fold in model.record["fold_folders"]]
        return early_prediction(parts, workspace.dataset.train_folder, readings(workspace)[1], ROWS, 1)

    return blend_out_of_fold(workspace.run("blend"), folds, logits_of)


def alarms_of(workspace: Workspace, record: dict, on: float | None = None) -> early_warning.Alarms:
    """Alarms of the blend, computed anew, by its thresholds or at the risk `on`."""
    fitted = early_warning.cross_fit(
        lambda fold: read_early(workspace, np.full(ROWS, fold))[..., 0],
        workspace.labels[:, 0] == 1,
        workspace.splits.first,
        early_warning.for_deaths(0.8),
    )
    assert {str(fold): on for fold, on in fitted.thresholds.items()} == record["thresholds"]
    rule, hours = early_warning.Rule(**record["rule"]), np.array(HOURS, dtype=float)
    return early_warning.raise_alarms(fitted.risk, fitted.on if on is None else on, rule, hours, 48.0)


def test_all_hours_read_are_the_run_itself(made):
    workspace = workspace_of(made)
    early = read_early(workspace, judging_folds(workspace.splits))
    assert early.shape == (ROWS, len(HOURS), 1)
    np.testing.assert_allclose(early[:, -1], workspace.run("blend").oof(), atol=1e-5)


def test_scores_rise_with_the_hours(made, record):
    assert [one["hour"] for one in record["scores"]] == HOURS
    first, last = record["scores"][0], record["scores"][-1]
    whole = read_json(made / "icu/runs/blend/score.json")["overall"]
    assert last["roc_auc"]["value"] == pytest.approx(whole["figures"]["roc_auc"]["value"], abs=1e-6)
    assert last["log_loss"]["value"] == pytest.approx(1 - whole["score"]["value"], abs=1e-6)
    assert first["roc_auc"]["value"] + 2 * first["roc_auc"]["standard_error"] < last["roc_auc"]["value"]
    for one in record["scores"]:
        assert one["log_loss_levelled"]["value"] < one["log_loss"]["value"] + 0.01
    assert [one["hour"] for one in record["reference"]] == [6, 12, 24]
    for one in record["reference"]:
        cell = one["roc_auc"]
        assert cell["early"]["value"] - cell["whole"]["value"] == pytest.approx(cell["gain"]["value"])


def test_alarms_come_after_the_crisis_begins(made, record):
    """A crisis is what most deaths of synthetic stays come from: a surer threshold has hardly another reason."""
    with (made / "input/truth.csv").open() as file:
        truth = {row["RecordID"]: row["from_hour"] for row in csv.DictReader(file) if row["set"] == "set-a"}
    workspace = workspace_of(made)
    begins = np.array([float(truth[one.decode()] or np.nan) for one in workspace.dataset.train.ids])
    alarms, has_crisis = alarms_of(workspace, record, on=0.3), ~np.isnan(begins)
    alarmed = alarms.counts > 0
    assert alarmed[~has_crisis].mean() < 0.1 < 0.4 < alarmed[has_crisis].mean()
    assert (alarms.first > begins)[alarmed & has_crisis].mean() > 0.85


def test_hysteresis_makes_alarms_fewer_and_longer(record):
    held, bare = record["alarms"]["hysteresis"], record["alarms"]["bare"]
    assert held["false_alarms_per_day"]["value"] < bare["false_alarms_per_day"]["value"]
    assert held["hours_of_an_alarm"]["value"] > bare["hours_of_an_alarm"]["value"]
    assert held["sensitivity"] == bare["sensitivity"]
    assert held["sensitivity"]["value"] == pytest.approx(0.8, abs=3 * held["sensitivity"]["standard_error"] + 0.02)
    assert all(cell["standard_error"] > 0 for cell in held.values())


def test_lead_time_ends_at_the_day_of_death(made, record):
    workspace = workspace_of(made)
    alarms, outcomes = alarms_of(workspace, record), workspace.dataset.outcomes
    caught = (workspace.labels[:, 0] == 1) & (alarms.counts > 0)
    lead = np.sort(np.maximum(24 * outcomes["Survival"], 48)[caught] - alarms.first[caught])
    assert record["alarms"]["hysteresis"]["lead_time"]["value"] == lead[(len(lead) - 1) // 2]


@pytest.mark.slow
def test_killed_it_ends_in_the_same_bytes(made, tmp_path):
    folder = Path(shutil.copytree(made, tmp_path / "copy", copy_function=shutil.copy2))
    before = contents(folder / "icu")
    for path in before:
        (folder / "icu" / path).unlink()
    assert len(before) == 1 + 4 + 4
    command = [sys.executable, "-m", "src", "alarms", *words(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    wait_until(lambda: [*folder.glob("icu/runs/*/fold_*/early.*.npy")], process)
    process.kill()
    process.communicate()
    assert not (folder / "icu/runs/blend/alarms.json").exists()
    assert main(["alarms", *words(folder)]) == 0
    assert contents(folder / "icu") == before


def test_it_is_made_once_and_anew_when_settings_change(made, capsys):
    assert main(["alarms", *words(made), "grid.step=1"]) == 0
    assert "up to date" in capsys.readouterr().out, "the hours are those of the stays as they were prepared"
    kept = {path: at for path in (made / "icu/runs").rglob("early.*") for at in [path.stat().st_mtime_ns]}
    assert main(["alarms", "linear", *words(made), "alarms.false_alarms=0.1"]) == 0
    found = read_json(made / "icu/runs/linear/alarms.json")["alarms"]["hysteresis"]["false_alarms_per_day"]
    assert found["value"] == pytest.approx(0.1, abs=0.06), "chosen on other stays"
    assert main(["alarms", "linear", *words(made), "alarms.on=0.3"]) == 0
    assert set(read_json(made / "icu/runs/linear/alarms.json")["thresholds"].values()) == {0.3}
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items()), "the stays were not read again"


@pytest.mark.slow
def test_length_of_stay_has_an_error_against_hours_and_no_alarms(made):
    given = [word for word in words(made, "los") if "boosting." not in word]
    at = given.index("boosting")
    del given[at - 1 : at + 1]
    given += ["grid.step=4", "alarms.hours=[4,48]"]
    for verb in ("train", "alarms"):
        assert main([verb, *given]) == 0
    found = read_json(made / "los/runs/linear/alarms.json")
    assert "alarms" not in found
    assert [one["hour"] for one in found["scores"]] == [4, 48]
    assert found["scores"][-1]["mae"]["value"] < found["scores"][0]["mae"]["value"]


@pytest.mark.slow  # trains a pipeline of its own
def test_the_few_stays_of_a_holdout_are_read(tmp_path):
    make_sample(tmp_path / "input", rows=60, test_rows=5, seed=1)
    given = [word for word in words(tmp_path) if "boosting." not in word]
    at = given.index("boosting")
    del given[at - 1 : at + 1]
    given += ["folds.scheme=holdout", "grid.step=4", "alarms.hours=[3,7,8,48]"]
    for verb in ("train", "alarms"):
        assert main([verb, *given]) == 0
    found = read_json(tmp_path / "icu/runs/linear/alarms.json")
    assert [one["hour"] for one in found["scores"]] == [4, 8, 48], "hours whose steps are over"
    assert found["stays"] == 6
    assert main(["alarms", *given, "alarms.hours=[]"]) == 0


def test_a_sample_of_many_stays_is_read():
    marks = watched(MOST + 1000)
    assert marks.sum() == MOST
    assert not marks[:MOST].all()
    assert watched(MOST).all()


def test_reports_have_no_hours(done, tiny_input, capsys):
    assert main(["alarms", f"paths.input={tiny_input}", f"paths.output={done}"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 1
    assert not [*done.rglob("alarms.json")]
    assert main(["alarms", "nobody", f"paths.input={tiny_input}", f"paths.output={done}"]) == 2
    assert "unknown run 'nobody'" in capsys.readouterr().err


def test_nothing_superseded_is_left_and_nothing_used_removed(made, tmp_path, capsys):
    folder = Path(shutil.copytree(made, tmp_path / "copy", copy_function=shutil.copy2))
    before = contents(folder / "icu")
    fold = next(folder.glob("icu/runs/linear/fold_*"))
    for path in (fold / "early.0123.npy", folder / "icu/alarms/fold_0.0123.npy"):
        path.write_bytes(b"")
    assert main(["clean", "--superseded", *words(folder)]) == 0
    assert contents(folder / "icu") == before
