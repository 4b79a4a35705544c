"""./run.sh import: predictions that were made elsewhere become a run, with or without out-of-fold predictions."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.core import storage
from src.core.settings_loader import load_config
from src.data.submission_files import read_submission, write_submission
from src.data.tasks import TASKS, get_task
from src.ensemble.submission_log import SubmissionLog
from src.evaluation.workspace import Workspace
from src.reporting.summary import Summary
from tests.conftest import words


@pytest.fixture
def foreign(copy, tiny_input, tmp_path) -> dict[str, Path]:
    return exported(words(tiny_input, copy), tmp_path / "foreign")


def exported(made: list[str], folder: Path) -> dict[str, Path]:
    """Files of predictions in the form of submissions, those of the run lstm in another order: oof, A and B."""
    workspace = Workspace(load_config("sample", [word for word in made if "=" in word]))
    run, task = workspace.run("lstm"), workspace.task
    folder.mkdir()
    generator, found = np.random.default_rng(0), {}
    tests = {test[-5]: (test, run.test_logits(test)) for test in workspace.dataset.test_files}
    for name, (test, outputs) in {**tests, "oof": ("", run.oof())}.items():
        ids = np.asarray(workspace.dataset.train.ids)
        predictions = task.decode(outputs)
        if test:
            ids, predictions = workspace.whole_test_file(test, predictions)
        order = generator.permutation(len(ids))
        found[name] = folder / f"{name}.csv"
        write_submission(found[name], ids[order], predictions[order], 1e-9, task)
    return found


def imported(foreign: dict[str, Path], name: str, *, oof: bool = True) -> list[str]:
    tests = ["--test", f"sample_testA={foreign['A']}", "--test", f"sample_testB.csv={foreign['B']}"]
    return ["import", name, *tests, *(["--oof", str(foreign["oof"])] if oof else [])]


def test_what_was_predicted_here_scores_the_same_when_it_is_imported(copy, tiny_input, foreign, capsys):
    made = words(tiny_input, copy)
    assert main([*imported(foreign, "theirs"), *made]) == 0
    own, other = (storage.read_json(copy / f"runs/{name}/score.json") for name in ("lstm", "theirs"))
    assert other["overall"]["score"] == pytest.approx(own["overall"]["score"], abs=1e-7)
    assert "imported; out of fold as whoever made it says" in capsys.readouterr().out
    tests = [f"sample_testA={foreign['A']}", f"sample_testB={foreign['B']}"]
    assert main(["import", "theirs", "--test", *tests, *made, "--oof", str(foreign["oof"])]) == 0
    assert "import: theirs is up to date" in capsys.readouterr().out
    assert main(["blend", "theirs", "transformer", "--name", "mixed", *made]) == 0
    assert main(["blend", "lstm", "transformer", "--name", "plain", *made]) == 0
    mixed, plain = (storage.read_json(copy / f"runs/{name}/score.json")["overall"] for name in ("mixed", "plain"))
    assert mixed["score"] == pytest.approx(plain["score"], abs=1e-6)
    assert main(["submit", "theirs", *made]) == 0
    assert main(["submit", "lstm", *made]) == 0
    for test in "AB":
        files = (copy / f"submission_{name}_sample_test{test}.csv" for name in ("theirs", "lstm"))
        (ids, theirs), (own_ids, own) = map(read_submission, files)
        assert (ids == own_ids).all() and np.abs(theirs - own).max() < 1e-6
    assert main(["leaderboard", *made]) == 0
    boards = storage.read_json(copy / "runs/theirs/leaderboard.json")["tests"]["sample_testB.csv"]
    assert boards["expected"]["value"] is not None
    capsys.readouterr()
    assert main(["leaderboard", "add", str(foreign["B"]), "0.61", *made]) == 0
    shown = capsys.readouterr()
    (line,) = (line for line in shown.out.splitlines() if "0.6100/1" in line)
    assert line.split()[1] == "theirs" and "not made here" not in shown.err
    for arguments in (["explain", "theirs"], ["bundle", "mixed"], ["predict", "mixed", str(foreign["A"])]):
        assert main([*arguments, *made, "explain.per_label=1"]) == 2
        assert arguments[0] == "predict" or "predictions that were imported (theirs)" in capsys.readouterr().err
    assert main(["runs", "show", "theirs", "lstm", *made]) == 0
    assert "theirs is imported, lstm is a trained model" in capsys.readouterr().out


def test_without_out_of_fold_predictions_it_has_fixed_weights_and_scores_say_so(copy, tiny_input, foreign, capsys):
    made = words(tiny_input, copy)
    assert main([*imported(foreign, "blind", oof=False), *made]) == 0
    told = capsys.readouterr().out
    assert "no out-of-fold predictions (--oof), and so no score" in told
    assert not (copy / "runs/blind/score.json").exists()
    assert main(["blend", "transformer", "blind", "--name", "both", *made]) == 2
    assert "Average with fixed weights: blend.method=mean, or blend.fixed.transformer=1" in capsys.readouterr().err
    fixed = ["blend.fixed.transformer=3", "blend.fixed.blind=1"]
    assert main(["blend", "transformer", "blind", "--name", "both", *made, *fixed]) == 0
    assert "of transformer alone, without blind, which has no out-of-fold predictions" in capsys.readouterr().out
    score, own = (storage.read_json(copy / f"runs/{name}/score.json") for name in ("both", "transformer"))
    assert score["overall"]["score"] == own["overall"]["score"] and "without blind" in score["how"]
    logits = [np.load(copy / f"runs/{name}/test_sample_testA.npy") for name in ("transformer", "blind", "both")]
    np.testing.assert_allclose(0.75 * logits[0] + 0.25 * logits[1], logits[2], atol=1e-5)
    assert main(["submit", "both", *made]) == 0
    assert main(["submit", "blind", *made]) == 0
    capsys.readouterr()
    assert main(["runs", *made]) == 0
    assert "blind: imported without out-of-fold predictions" in capsys.readouterr().out
    assert main(["leaderboard", *made]) == 0
    assert "both: all its scores are without blind" in capsys.readouterr().out
    for settings, message in (
        (["blend.fixed.lstm=1"], "want a weight for each member"),
        (["blend.fixed.transformer=0", "blend.fixed.blind=1"], "want a weight above 0"),
    ):
        assert main(["blend", "transformer", "blind", "--name", "other", *made, *settings]) == 2
        assert message in capsys.readouterr().err
    assert main(["blend", "blind", "--name", "other", *made, "blend.method=mean"]) == 2
    assert "a blend needs a member with out-of-fold predictions" in capsys.readouterr().err
    assert main(["blend", "transformer", "blind", *made, "blend.method=mean"]) == 0
    told = Summary.of(Workspace(load_config("sample", [word for word in made if "=" in word]))).warnings
    assert "all scores of blend are without blind, imported without out-of-fold predictions" in map(str, told)
    assert main(["leaderboard", "blind", *made]) == 2
    assert "it has no score" in capsys.readouterr().err
    # With out-of-fold predictions it has a score, and the command that makes it is noted.
    assert main([*imported(foreign, "blind"), *made]) == 0
    assert not (copy / "runs/blind/imported.json").exists()
    remedy = Workspace(load_config("sample", [word for word in made if "=" in word])).run("blind").remedy
    assert main(shlex.split(remedy)) == 0
    assert "is up to date" in capsys.readouterr().out


def test_predictions_of_other_rows_are_refused(copy, tiny_input, foreign, tmp_path, capsys):
    made = words(tiny_input, copy)
    short, wide = tmp_path / "short.csv", tmp_path / "wide.csv"
    short.write_text("".join(foreign["oof"].read_text().splitlines(keepends=True)[:-2]))
    wide.write_text("".join(line + " 0.5\n" for line in foreign["B"].read_text().splitlines()))
    both = ["--test", f"sample_testA={foreign['A']}", "--test", f"sample_testB={foreign['B']}"]
    before = sorted((copy / "runs").iterdir())
    for arguments, message in (
        (["theirs"], "wants --test FILE=SUBMISSION"),
        (["theirs", "--test", "sample_testA"], "want FILE=SUBMISSION"),
        (["theirs", *both[:2]], "sample_testB.csv has no submission"),
        (["theirs", *both[:2], "--test", f"sample_testC={foreign['B']}"], "unknown test file 'sample_testC'"),
        (["theirs", *both[:2], "--test", f"sample_testB={wide}"], "has 18 numbers a row"),
        (["theirs", *both[:2], "--test", f"sample_testB={foreign['oof']}"], "ids that sample_testB.csv has not"),
        (["theirs", *both, "--oof", str(short)], "lacks 2 of the 300 reports of the train files"),
        (["theirs", *both, "--oof", str(tmp_path / "none.csv")], "there is no file"),
        (["lstm", *both], "is the name of a model, of a blend or of a trained run"),
        (["blend", *both], "is the name of a model, of a blend or of a trained run"),
        (["../x", *both], "cannot be the name of a run"),
    ):
        assert main(["import", *arguments, *made]) == 2
        assert message in capsys.readouterr().err
    assert sorted((copy / "runs").iterdir()) == before
    assert not [one for one in SubmissionLog(copy / "submissions.jsonl").submissions() if one.run == "theirs"]
    assert main([*imported(foreign, "theirs"), *made]) == 0
    for arguments in (
        ["train", "--model", "lstm", "--name", "theirs"],
        ["blend", "lstm", "theirs", "--name", "theirs"],
    ):
        assert main([*arguments, *made]) == 2


@pytest.mark.parametrize("name", sorted(TASKS))
def test_outputs_are_those_of_which_predictions_are_made(name):
    task = get_task(name)
    outputs = np.random.default_rng(0).normal(size=(50, task.n_labels))
    predictions = task.decode(outputs)
    np.testing.assert_allclose(task.decode(task.encode(predictions)), predictions, atol=1e-6)
