"""A run that is replaced: told with its score and date, what is stale by it, and how it comes back."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from src.__main__ import main
from src.core import storage
from src.core.settings_loader import load_config
from src.evaluation import metrics
from src.evaluation.workspace import Workspace
from src.pipeline import replaced
from tests.conftest import words


def test_a_worse_run_never_takes_the_place_of_a_better_one_without_a_word(copy, tiny_input, capsys):
    made = words(tiny_input, copy)
    before = storage.read_json(copy / "runs/lstm/score.json")["overall"]["score"]
    old, labels = np.load(copy / "runs/lstm/oof.npy"), Workspace(settings(tiny_input, copy)).labels
    at = replaced.date_text(replaced.made_at(Workspace(settings(tiny_input, copy)).run("lstm")))
    capsys.readouterr()
    assert main(["train", "--model", "lstm", *made, "runs.lstm.train.epochs=1"]) == 0
    shown = capsys.readouterr()
    was = f"{before['value']:.4f} ± {before['standard_error']:.4f} (made {at})"
    assert f"warning: this replaces run lstm, {was}. To keep both, name the new one: --name NAME" in shown.err
    after = storage.read_json(copy / "runs/lstm/score.json")["overall"]["score"]
    assert after["value"] < before["value"]
    task = Workspace(settings(tiny_input, copy)).task
    gain = metrics.paired_difference(task, labels, *map(task.decode, (np.load(copy / "runs/lstm/oof.npy"), old)))
    assert gain.value == pytest.approx(after["value"] - before["value"])
    told = f"lstm was {was}; it is {after['value']:.4f} ± {after['standard_error']:.4f}, "
    assert f"{told}{metrics.gain_text(task, gain)} on the same rows" in shown.out
    (stale,) = (line for line in shown.out.splitlines() if line.startswith("stale now"))
    assert "run blend (0." in stale and "submission_sample_testA.csv" in stale and "sample_testB.csv" in stale

    # It comes back without training; the blend that was made of it is its blend again.
    (back,) = (line for line in shown.out.splitlines() if "comes back with: ./run.sh" in line)
    assert main(shlex.split(back.partition("./run.sh ")[2])) == 0
    shown = capsys.readouterr()
    assert "train: all 2 folds are up to date" in shown.out and "stale now" not in shown.out
    np.testing.assert_array_equal(np.load(copy / "runs/lstm/oof.npy"), old)
    assert main(["submit", *made]) == 0
    assert "submit: up to date" in capsys.readouterr().out


def test_a_worse_blend_is_told(copy, tiny_input, capsys):
    made = words(tiny_input, copy)
    before = storage.read_json(copy / "runs/blend/score.json")["overall"]["score"]
    capsys.readouterr()
    assert main(["blend", "lstm", "transformer", "blend.method=mean", *made]) == 0
    told = capsys.readouterr().out
    assert f"blend was {before['value']:.4f} ± {before['standard_error']:.4f} (made 2" in told
    assert "stale now, made of blend as it was: submission_sample_testA.csv, submission_sample_testB.csv" in told
    assert "blend as it was comes back with: ./run.sh blend lstm transformer --name blend" in told
    assert main(["blend", "lstm", "transformer", "blend.method=mean", *made]) == 0
    assert "blend was" not in capsys.readouterr().out, "the same again replaces nothing"


def test_what_is_the_same_or_damaged_is_not_told_as_replaced(copy, tiny_input, capsys):
    made = words(tiny_input, copy)
    (copy / "runs/lstm/oof.npy").unlink()
    assert main(["train", *made]) == 0
    shown = capsys.readouterr()
    assert "replaces run" not in shown.err and " was 0." not in shown.out


def settings(tiny_input, output):
    made = words(tiny_input, output)
    return load_config("sample", [word for word in made if "=" in word])
