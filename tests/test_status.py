"""./run.sh status, beside what the stages themselves say."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from src.__main__ import main, parse
from src.core import locks, storage
from src.core.settings import Tune
from src.core.settings_loader import load_config
from src.tuning import study
from tests.conftest import words
from tests.test_architecture import HEAVY
from tests.test_pipeline import imported
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def status(capsys) -> Callable[..., dict[str, dict]]:
    """The stages as ./run.sh status --json tells them, by name."""

    def ask(made: list[str]) -> dict[str, dict]:
        capsys.readouterr()
        assert main(["status", "--json", *made]) == 0
        found = json.loads(capsys.readouterr().out)["stages"]
        return {f"{one['stage']} {one['name']}".strip(): one for one in found}

    return ask


def states(found: dict[str, dict]) -> dict[str, str]:
    return {name: one["state"] for name, one in found.items()}


PARTS = [
    *"prepare folds shift baselines".split(),
    "train lstm",
    "train transformer",
    *"blend submit leaderboard report eda".split(),
]


def test_an_empty_output_folder(tiny_input, tmp_path, status):
    output = tmp_path / "output"
    found = status(words(tiny_input, output))
    assert states(found) == dict.fromkeys(PARTS, "missing")
    assert not output.exists()
    for one in found.values():  # each command is one that is understood, and means the same settings
        verb, parsed, overrides = parse(shlex.split(one["command"]))
        assert load_config(parsed.preset, overrides, parsed.model).paths.output == output


def test_a_finished_pipeline(done, tiny_input, status):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    found = status(words(tiny_input, done))
    assert states(found).items() >= dict.fromkeys(PARTS[:-2], "done").items()
    assert (found["train lstm"]["done"], found["train lstm"]["of"]) == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before, "nothing is written"


def test_it_answers_without_heavy_libraries(done, tiny_input):
    told, libraries = imported("status", *words(tiny_input, done))
    assert "train lstm" in told and not HEAVY & libraries


def test_it_is_a_table_and_commands(done, tiny_input, capsys):
    assert main(["status", *words(tiny_input, done)]) == 0
    shown = capsys.readouterr().out
    assert "train transformer" in shown and "2 of 2 folds; score 0." in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if "/" not in line), "commands and paths are not broken"
    assert "all that a submission needs" not in shown, "it has all"


def test_what_other_settings_would_make_anew(done, tiny_input, status):
    found = status(words(tiny_input, done, "runs.lstm.train.epochs=3"))
    assert found["train lstm"]["state"] == "stale" and found["train lstm"]["note"].startswith("0 of 2 folds")
    assert found["train transformer"]["state"] == "done"
    assert found["blend"]["state"] == "stale" and found["submit"]["state"] == "unsure"
    found = status(words(tiny_input, done, "folds.k=3"))
    assert found["prepare"]["state"] == "done" and found["folds"]["state"] == "stale"
    assert {found[name]["state"] for name in PARTS[2:9]} == {"unsure"}
    found = status(words(tiny_input, done, "runs.lstm.train.seeds=[1,2]"))
    assert found["train lstm"]["note"].startswith("2 of 4 folds")


def test_what_is_gone_is_missing_and_its_command_makes_it(copy, tiny_input, status):
    made = words(tiny_input, copy)
    shutil.rmtree(copy / "runs/blend")
    shutil.rmtree(copy / "baselines/prior")
    (copy / "submission_sample_testA.csv").write_text("")
    found = status(made)
    assert states(found)["blend"] == "missing" and found["baselines"]["note"] == "3 of 4 baselines"
    assert found["submit"]["state"] == "unsure" and found["leaderboard"]["state"] == "unsure"
    for name in ("baselines", "blend", "submit", "leaderboard", "eda"):
        assert main(shlex.split(status(made)[name]["command"])) == 0
    assert states(status(made)) == dict.fromkeys(PARTS, "done") | {"report": "stale"}
    (copy / "data/manifest.json").unlink()
    found = status(made)
    assert found["prepare"]["state"] == "missing" and found["train lstm"]["state"] == "unsure"


def test_a_submission_from_before_the_blend_is_stale(copy, tiny_input, status):
    made = words(tiny_input, copy)
    assert status(made)["submit"]["state"] == "done"
    score = storage.read_json(copy / "runs/blend/score.json")
    storage.write_json(copy / "runs/blend/score.json", {**score, "fingerprint": "another"})
    assert status(made)["submit"]["state"] == "stale"


def test_other_reports_are_seen(copy, tiny_input, tmp_path, status):
    changed = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    lines = (changed / "sample_testB.csv").read_text().splitlines(keepends=True)
    (changed / "sample_testB.csv").write_text("".join(lines[:-1]))
    found = states(status(words(changed, copy)))
    assert found["prepare"] == "stale" and found["train lstm"] == "stale"
    shutil.rmtree(changed)
    found = status(words(changed, copy))
    assert found["prepare"]["state"] == "unsure" and "paths.input" in found["prepare"]["note"]


def begun(command: list[str], folder: Path, state: str) -> subprocess.Popen:
    """The command, as soon as a job of it has such a checkpoint in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    wait_until(lambda: list(folder.rglob(state)), process)
    return process


def test_running_and_interrupted_are_told_apart(copy, tiny_input, status):
    long = words(tiny_input, copy, "runs.lstm.pretrain.epochs=1", "runs.lstm.train.epochs=2000")
    process = begun(["train", "--model", "lstm", *long], copy / "runs/lstm", "state_*.json")
    try:
        found = status(long)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert found["pretrain lstm"]["state"] == "done" and found["pretrain lstm"]["note"] == "1 of 1 epochs"
    assert found["train lstm"]["state"] == "running" and " of 2000" in found["train lstm"]["note"]
    wait_until(lambda: status(long)["train lstm"]["state"] == "interrupted")  # workers end with their parent
    found = status(long)
    assert "0 of 2 folds; fold " in found["train lstm"]["note"]
    assert found["train lstm"]["note"].endswith("of 2000; goes on with the same command")

    (job,) = (copy / "pretrained").iterdir()
    (job / "result.json").unlink()
    assert status(long)["pretrain lstm"]["state"] == "missing"
    (job / "state_0003.json").write_text("{}")
    longer = [word.replace("pretrain.epochs=1", "pretrain.epochs=7") for word in long]
    assert status(longer)["pretrain lstm"]["state"] == "missing", "that is another encoder"
    assert "at epoch 3 of 1; goes on" in status(long)["pretrain lstm"]["note"]
    with locks.lock(job / "job.lock"):
        assert status(long)["pretrain lstm"]["state"] == "running"


def test_a_command_with_other_settings_waits_and_mixes_nothing(copy, tiny_input):
    """Training reads the data: another command may not write it meanwhile, and says for whom it waits."""
    long = words(tiny_input, copy, "runs.lstm.train.epochs=2000")
    trainer = begun(["train", "--model", "lstm", *long], copy / "runs/lstm", "state_*.json")
    before = (copy / "data/manifest.json").read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    other = subprocess.Popen(
        [sys.executable, "-m", "src", "prepare", *words(tiny_input, copy, "data.max_len=9")],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        told = ""
        while "waits for" not in told:
            assert (line := other.stdout.readline()), "it ended without waiting"
            told += line
        assert (copy / "data/manifest.json").read_bytes() == before and other.poll() is None
    finally:
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    other.communicate()
    assert other.returncode == 0 and (copy / "data/manifest.json").read_bytes() != before


def test_a_stage_marks_itself(copy, tiny_input, status, monkeypatch):
    """Returns what status tells while the stage is at work, asked from within it."""
    seen = {}
    made = words(tiny_input, copy)
    (copy / "baselines/prior/score.json").unlink()

    def look(*_: object) -> None:
        seen.update(states(status(made)))
        raise KeyboardInterrupt

    monkeypatch.setattr("src.evaluation.baselines.constant", look)
    assert main(["baselines", *made]) == 130
    assert seen["baselines"] == "running" and seen["folds"] == "done"
    assert status(made)["baselines"]["state"] == "missing"


def test_explanations_rest_on_the_blend(copy, tiny_input, status):
    made = words(tiny_input, copy, "explain.per_label=2")
    assert status(made)["explain"]["state"] == "missing"
    assert main(["explain", *made]) == 0
    assert status(made)["explain"]["state"] == "done"
    assert status([*made, "explain.per_label=3"])["explain"]["state"] == "stale"
    assert status([*made, "folds.k=3"])["explain"]["state"] == "unsure"


def test_studies_are_counted(copy, tiny_input, status):
    folder = copy / "tune/lstm"
    made = words(tiny_input, copy)
    options = study.Options(trials=4)
    with study.opened(folder, Tune(), options, 2, {}) as trials:
        for state in (study.TrialState.COMPLETE, study.TrialState.FAIL, study.TrialState.PRUNED):
            value = 0.5 if state == study.TrialState.COMPLETE else None
            told = {"score": {"value": 0.5, "standard_error": 0.1}, "seconds": 1.0}
            trials.record.add_trial(optuna.trial.create_trial(state=state, value=value, user_attrs=told))
    found = status(made)["tune lstm"]
    assert found["state"] == "done" and found["note"] == "trials: 1 complete, 1 given up, 1 failed"
    with study.opened(folder, Tune(), options, 2, {}) as trials:
        trials.ask()
        assert status(made)["tune lstm"]["state"] == "running"
    found = status(made)["tune lstm"]
    assert found["state"] == "interrupted" and "1 under way" in found["note"] and found["done"] == 3
    database = folder / "study.db"
    before = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    assert status(made)["tune lstm"]["done"] == 3
    assert [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())] == before, "it is only read"
    database.write_bytes(b"x" * 4096)
    assert str(database) in status(made)["tune lstm"]["note"] and states(status(made))["tune lstm"] == "damaged"
