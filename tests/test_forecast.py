"""Forecast of a pipeline: what it will make, about how long, how much disk."""

import json
import shutil
import tarfile

import pytest

from src.core.settings_loader import load_config, preset_names
from src.core.storage import write_json
from src.core.terminal import output_mode
from src.data import image_reader, synthetic_stays
from src.evaluation.workspace import Workspace
from src.pipeline import forecast
from tests.conftest import words


def workspace_of(input_folder, output, *more: str, preset="sample") -> Workspace:
    given = [word for word in words(input_folder, output, *more) if word not in ("--preset", "sample")]
    if preset != "sample":
        given = [word for word in given if word.startswith("paths.")]
    return Workspace(load_config(preset, given), read_only=True)


def test_a_finished_pipeline_has_nothing_to_do(done, tiny_input):
    workspace = workspace_of(tiny_input, done)
    assert forecast.shares_left(workspace).keys() <= {"report"}, "the page names the folder that it was made in"
    with output_mode(quiet=False, as_json=False) as transcript:
        forecast.show(workspace, {})
    assert transcript.lines == []


def test_what_rests_on_a_changed_setting_is_to_be_made(done, tiny_input):
    left = forecast.shares_left(workspace_of(tiny_input, done, "runs.lstm.train.epochs=3"))
    assert {"train", "blend", "submit", "leaderboard", "report"} <= left.keys()
    assert not {"prepare", "folds", "shift", "baselines"} & left.keys()
    assert left["train"] == 0.5, "the transformer's folds are there"


def test_a_folder_without_results_is_told_the_stages_time_and_disk(tiny_input, tmp_path):
    workspace = workspace_of(tiny_input, tmp_path / "output")
    with output_mode(quiet=False, as_json=False) as transcript:
        forecast.show(workspace, forecast.shares_left(workspace))
    to_do, time = transcript.lines
    assert to_do.startswith("to do: prepare, folds, shift") and "train (4 models of 2 runs)" in to_do
    assert time.startswith("time: about") and "scaled to 380 rows" in time and "disk: about" in time
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_of_reports_has_a_time(tiny_input, tmp_path, preset):
    found = forecast.forecast(workspace_of(tiny_input, tmp_path, preset=preset), dict.fromkeys(forecast.SHARES, 1.0))
    assert found.seconds > 0


def test_an_earlier_run_is_scaled_by_epochs_and_models(done, tiny_input):
    """Training counts twice as much with twice the epochs; what the settings do not touch stays."""
    seconds = json.loads((done / "pipeline.json").read_text())["made"]["seconds"]
    plain, longer, fewer = (
        forecast.forecast(workspace_of(tiny_input, done, *more), {"shift": 1.0, "train": 1.0})
        for more in ((), ("train.epochs=4",), ("folds.k=4",))
    )
    assert plain.seconds == pytest.approx(seconds["shift"] + seconds["train"])
    assert longer.seconds - plain.seconds == pytest.approx(seconds["train"])
    assert fewer.seconds == pytest.approx(longer.seconds)
    assert "last run in this folder" in plain.basis


def test_epochs_without_extra_rows_count_less():
    plain, own = (
        load_config("sample", ["train.epochs=4", "train.extra_weight=1", f"train.own_epochs={n}"]) for n in (0, 2)
    )
    assert forecast.learning_of(plain, 0.5) == forecast.learning_of(plain)
    assert forecast.learning_of(own, 0.5) == pytest.approx(0.75 * forecast.learning_of(plain))


def test_an_earlier_run_of_another_preset_gives_the_speed_of_the_machine(tiny_input, tmp_path):
    shares = dict.fromkeys(forecast.SHARES, 1.0)
    before = forecast.forecast(workspace_of(tiny_input, tmp_path, preset="quick"), shares)
    workspace = workspace_of(tiny_input, tmp_path)
    usual = forecast._of_table("auto", "sample", 380, forecast.learning_of(workspace.settings))
    seconds = {name: 3 * usual[name] for name in ("shift", "train")}
    write_json(tmp_path / "pipeline.json", {"made": forecast.noted(workspace, seconds, seconds)})
    after = forecast.forecast(workspace_of(tiny_input, tmp_path, preset="quick"), shares)
    table = forecast._of_table("auto", "quick", 380, forecast.learning_of(load_config("quick")))
    assert after.seconds == pytest.approx(3 * sum(table.values())) and after.seconds > before.seconds


def test_the_page_keeps_the_times_that_passed(done, tiny_input, tmp_path):
    """Half a stage tells nothing of the whole; what an earlier command measured of other stages is kept."""
    workspace = workspace_of(tiny_input, tmp_path)
    for seconds, measured in (({"shift": 3.0}, {"shift": 3.0}), ({}, {"train": 1.0}), ({"train": 8.0}, {"train": 6.0})):
        write_json(tmp_path / "pipeline.json", {"made": forecast.noted(workspace, seconds, measured)})
    made = json.loads((tmp_path / "pipeline.json").read_text())["made"]
    assert made["seconds"] == {"shift": 3.0, "train": 8.0} and made["measured"] == {"shift": 3.0, "train": 6.0}
    last = json.loads((done / "pipeline.json").read_text())
    assert last["made"]["measured"] == last["made"]["seconds"] and last["made"]["seconds"]["train"] > 0


def test_too_little_disk_is_told(tiny_input, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda path: forecast.shutil._ntuple_diskusage(1, 1, 1))
    workspace = workspace_of(tiny_input, tmp_path)
    with output_mode(quiet=True, as_json=False) as transcript:
        forecast.show(workspace, {"train": 1.0})
    assert "Make room" in transcript.warnings[0]


def test_rows_of_stays_and_images_are_counted_as_they_lie(tmp_path):
    """Train is counted by its outcomes, test by the names of its files; what only unpacking would tell is said."""
    folder, output = tmp_path / "stays", f"paths.output={tmp_path / 'output'}"
    synthetic_stays.make_sample(folder, rows=23, test_rows=11, seed=0)
    workspace = Workspace(load_config("sample", ["task=icu", f"paths.input={folder}", output]), read_only=True)
    assert forecast.rows_of(workspace) == 34
    outcomes = folder / "Outcomes-a.txt"
    outcomes.write_text("\n".join(outcomes.read_text().splitlines()[:8]))
    workspace.refresh()
    assert forecast.rows_of(workspace) == 7 + 11

    (folder / "set-b.zip").unlink()
    (folder / "set-b").mkdir()
    for name in ("1.txt", "2.txt", "._2.txt", "notes.md"):
        (folder / "set-b" / name).write_text("")
    workspace.refresh()
    assert forecast.rows_of(workspace) == 7 + 2
    with tarfile.open(folder / "set-b.tar.gz", "w:gz") as archive:
        archive.add(folder / "set-b", "set-b")
    shutil.rmtree(folder / "set-b")
    workspace.refresh()
    assert forecast.rows_of(workspace) is None
    with output_mode(quiet=False, as_json=False) as transcript:
        forecast.show(workspace, {"train": 1.0})
    assert "rows cannot be counted" in transcript.lines[-1]

    image_reader.make_sample(tmp_path / "images")
    settings = load_config("sample", ["task=frames", f"paths.input={tmp_path / 'images'}", output])
    assert forecast.rows_of(Workspace(settings, read_only=True)) == image_reader.SAMPLE_DIGITS
    (tmp_path / "images/digits.npz").write_bytes(b"PK no archive")
    assert forecast.rows_of(Workspace(settings, read_only=True)) is None
