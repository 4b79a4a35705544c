"""Studies: kills and damage lose no finished trial, running trials are continued, and restarts draw the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from src.core.errors import UserError
from src.core.settings import Tune
from src.tuning import study
from tests.conftest import error_of

SETTINGS = Tune(startup=3)


def opened(folder: Path, settings: Tune = SETTINGS, **made_of) -> optuna.Study:
    folder.mkdir(exist_ok=True)
    return study.open_study(study.local(folder), "one", settings, 5, made_of)


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


KILLED = """
import sys
from pathlib import Path
from src.core.errors import UserError
from src.core.settings import Tune
from src.tuning import study

with study.opened(Path(sys.argv[1]), None) as backend:
    trials = study.open_study(backend, "one", Tune(startup=3), 5, {})
    for _ in range(1000):
        trial = study.ask(trials, Tune(startup=3), "me")
        trials.tell(trial, -trial.suggest_float("x", -2, 2) ** 2)
        print(trial.number, flush=True)
"""


def test_a_killed_study_has_all_that_was_told(tmp_path):
    finished = -1
    for _ in range(3):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            told = [int(process.stdout.readline()) for _ in range(5)]
            process.kill()
            told += map(int, process.stdout.read().split())
        assert told == list(range(told[0], told[0] + len(told))) and told[0] > finished
        finished = told[-1]
        counts, running = study.counted(tmp_path)
        assert counts["complete"] > finished - 3 and running <= 3
        with study.opened(tmp_path, None) as backend:
            trials = study.open_study(backend, "one", SETTINGS, 5, {})
            assert all(trials.trials[number].state == TrialState.COMPLETE for number in told)
            for number in study.left_running(trials, "me", is_shared=False):
                trial = study.take_up(trials, SETTINGS, number)
                trials.tell(trial, -(trial.suggest_float("x", -2, 2) ** 2))


def test_a_file_that_is_no_database_is_an_error_that_names_it(tmp_path):
    (tmp_path / "study.db").write_bytes(b"x" * 4096)
    with pytest.raises(UserError, match=str(tmp_path / "study.db")), study.opened(tmp_path, None):
        pass
    assert str(tmp_path / "study.db") in error_of(study.counted, tmp_path)


def test_a_full_disk_is_an_error_and_loses_no_trial(tmp_path):
    with pytest.raises(UserError, match="full"), study.opened(tmp_path, None) as backend:
        trials = study.open_study(backend, "one", SETTINGS, 5, {})
        work(trials, 2)
        with backend.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        for _ in range(1000):
            work(trials, 1)
    assert study.counted(tmp_path)[0]["complete"] >= 2


def test_a_journal_of_an_older_version_is_told_and_kept(tmp_path, capsys):
    (tmp_path / "journal.log").write_text("older\n")
    with study.opened(tmp_path, None):
        assert str(tmp_path / "journal.log") in capsys.readouterr().err
    with study.opened(tmp_path, None):
        assert not capsys.readouterr().err
    assert (tmp_path / "journal.log").read_text() == "older\n"


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


def test_databases_that_are_not_there_are_told(tmp_path):
    assert "shared by postgresql://" in error_of(study.database, "sqlite:///x.db")
    url = "postgresql://nobody@127.0.0.1:1/none"
    with pytest.raises(UserError, match="--storage"), study.opened(tmp_path, url):
        pass


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
