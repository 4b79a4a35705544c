"""Studies: a journal that was damaged is mended, trials are taken up again, and restarts draw the same."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from src.core.settings import Tune
from src.tuning import study
from tests.conftest import error_of

SETTINGS = Tune(startup=3)


def opened(folder: Path, settings: Tune = SETTINGS, **made_of) -> optuna.Study:
    storage, _ = study.journal(folder / "journal.log")
    return study.open_study(storage, "one", settings, 5, made_of)


def work(trials: optuna.Study, number: int) -> None:
    for _ in range(number):
        trial = study.ask(trials, SETTINGS, "me")
        x = trial.suggest_float("x", -2, 2)
        trials.tell(trial, -(x**2))


def test_a_restarted_study_draws_as_one_that_ran_through(tmp_path):
    work(through := opened(tmp_path / "a"), 12)
    for _ in range(4):
        work(opened(tmp_path / "b"), 3)
    drawn = [[trial.params["x"] for trial in one.trials] for one in (through, opened(tmp_path / "b"))]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 12
    best = study.best_trials(through, ["score"], 3)
    assert [trial.value for trial in best] == sorted((trial.value for trial in through.trials), reverse=True)[:3]


def test_trials_that_were_running_are_taken_up_with_what_they_had(tmp_path):
    first = opened(tmp_path)
    trial = study.ask(first, SETTINGS, "me")
    x = trial.suggest_float("x", -2, 2)
    trial.report(0.5, 2)
    study.ask(first, SETTINGS, "another")  # or the same, on a machine of another name
    again = opened(tmp_path)
    assert study.left_running(again, "me", is_shared=False) == [0, 1], "nobody else works on a study of one's own"
    assert study.left_running(again, "me", is_shared=True) == [0]
    trial = study.take_up(again, SETTINGS, 0)
    assert trial.suggest_float("x", -2, 2) == x
    again.tell(trial, 1.0)
    assert [one.number for one in study.finished(again)] == [0]
    assert study.release(again, "me") == 1 and study.release(again, "me") == 0
    assert again.trials[1].state == TrialState.FAIL
    assert opened(tmp_path).trials[0].state == TrialState.COMPLETE


def test_a_study_of_something_else_is_refused(tmp_path):
    opened(tmp_path, folds="a", code="b")
    opened(tmp_path, folds="a", code="b")
    assert "made with other code than there are now" in error_of(opened, tmp_path, folds="a", code="c")
    assert "made with other objectives" in error_of(
        opened, tmp_path, Tune(objectives=["score", "seconds"]), folds="a", code="b"
    )


def test_one_process_works_on_a_study(tmp_path):
    with study.alone(tmp_path), pytest.raises(Exception, match="another ./run.sh tune works"), study.alone(tmp_path):
        pass
    with study.alone(tmp_path):
        pass


def damaged(folder: Path, change) -> list[str]:
    """What is dropped of the journal of three trials after `change` of its bytes."""
    work(opened(folder), 3)
    path = folder / "journal.log"
    path.write_bytes(change(path.read_bytes()))
    return study.journal(path)[1]


def test_a_record_that_was_cut_off_is_dropped(tmp_path):
    dropped = damaged(tmp_path, lambda text: text + b'{"op_code":4,"worker_id":"x","stu')
    assert len(dropped) == 1 and '"stu' in dropped[0]
    work(again := opened(tmp_path), 2)
    assert [trial.state for trial in again.trials] == [TrialState.COMPLETE] * 5
    assert opened(tmp_path).trials[4].number == 4
    assert '"stu' in (tmp_path / "journal.damaged").read_text()


def test_a_whole_record_behind_a_torn_one_is_kept(tmp_path):
    def glue(text: bytes) -> bytes:
        lines = text.splitlines()
        at = next(i for i, line in enumerate(lines) if json.loads(line)["op_code"] == 6)  # the end of trial 0
        return b"\n".join([*lines[:at], lines[at][:20] + lines[at], *lines[at + 1 :]]) + b"\n"

    dropped = damaged(tmp_path, glue)
    assert len(dropped) == 1
    assert [trial.state for trial in opened(tmp_path).trials] == [TrialState.COMPLETE] * 3


def test_a_trial_whose_first_record_is_lost_keeps_its_number(tmp_path):
    def spoil(text: bytes) -> bytes:
        lines = text.splitlines()
        at = [i for i, line in enumerate(lines) if json.loads(line)["op_code"] == 4][1]
        return b"\n".join([*lines[:at], b"\x00" * 30, *lines[at + 1 :]]) + b"\n"

    work(whole := opened(tmp_path / "whole"), 3)
    values = [trial.value for trial in whole.trials]
    dropped = damaged(tmp_path / "spoilt", spoil)
    trials = opened(tmp_path / "spoilt").trials
    assert len(dropped) == 1 and len(trials) == 3
    assert trials[1].state == TrialState.FAIL and trials[1].user_attrs["reason"] == "its record was damaged"
    assert [trials[0].value, trials[2].value] == [values[0], values[2]]


def test_a_journal_without_its_head_is_refused(tmp_path):
    work(opened(tmp_path), 1)
    path = tmp_path / "journal.log"
    path.write_bytes(b"garbage\n" + path.read_bytes().split(b"\n", 1)[1])
    assert "damaged where it names its study" in error_of(study.journal, path)


def test_a_sound_journal_is_left_alone(tmp_path):
    assert damaged(tmp_path, lambda text: text) == [] and not (tmp_path / "journal.damaged").exists()


@pytest.mark.parametrize("pruner", ["halving", "hyperband", "median", "none"])
def test_pruners_give_up_what_does_worse(tmp_path, pruner):
    settings = Tune(pruner=pruner, startup=4)
    trials = opened(tmp_path, settings)
    for number in range(12):
        trial = study.ask(trials, settings, "me")
        trial.suggest_float("x", 0, 1)
        for step in range(1, 5 * study.RUNGS):
            trial.report(-number, step)
            if trial.should_prune():
                trials.tell(trial, state=TrialState.PRUNED)
                break
        else:
            trials.tell(trial, -number)
    states = [trial.state for trial in trials.trials]
    assert states[0] == TrialState.COMPLETE
    assert (TrialState.PRUNED in states) == (pruner != "none")
    assert all(trial.last_step >= study.FIRST_RUNG for trial in trials.trials)


def test_marks_of_a_fold():
    assert [study.rung(epoch, 6) for epoch in range(7)] == [0, 0, 1, 2, 2, 3, 4]
    assert [study.rung(epoch, 2) for epoch in range(3)] == [0, 2, 4]


def test_databases_that_are_not_there_are_told():
    assert "shared by postgresql://" in error_of(study.database, "sqlite:///x.db")
    assert "--storage" in error_of(study.database, "postgresql://nobody@127.0.0.1:1/none")


def test_machines_share_a_study_in_a_database(postgres):
    here, there = (study.open_study(study.database(postgres), "shared", SETTINGS, 5, {"folds": "a"}) for _ in range(2))
    mine = study.ask(here, SETTINGS, "here")
    theirs = study.ask(there, SETTINGS, "there")
    assert (mine.number, theirs.number) == (0, 1)
    here.tell(mine, mine.suggest_float("x", -2, 2))
    assert study.left_running(here, "here", is_shared=True) == []
    assert study.left_running(here, "there", is_shared=True) == [1]
    there.tell(theirs, theirs.suggest_float("x", -2, 2))
    assert [len(study.finished(one)) for one in (here, there)] == [2, 2]
    assert "made with other folds" in error_of(
        study.open_study, study.database(postgres), "shared", SETTINGS, 5, {"folds": "b"}
    )
