"""Studies: kills and damage lose no finished trial, running trials are continued, and restarts draw the same."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState

from src.core.errors import UserError
from src.core.settings import Tune
from src.tuning import drivers, study
from src.tuning.study import Options, Study
from tests.conftest import error_of
from tests.waiting import wait_until

SETTINGS = Tune(startup=3)


@contextmanager
def opened(folder: Path, settings: Tune = SETTINGS, trials: int = 100, url: str | None = None, **made_of):
    with study.opened(folder, settings, Options(trials, storage=url), 5, made_of) as found:
        yield found


def work(trials: Study, number: int) -> None:
    for _ in range(number):
        trial = trials.ask()
        x = trial.suggest_float("x", -2, 2)
        trials.complete(trial, np.array([-(x**2), 0.1]), 1.0)


def test_a_restarted_study_draws_as_one_that_ran_through(tmp_path):
    with opened(tmp_path / "a") as through:
        work(through, 12)
        drawn = [trial.params["x"] for trial in through.trials()]
        best = through.best(3)
        assert [trial.value for trial in best] == sorted((one.value for one in through.trials()), reverse=True)[:3]
    for _ in range(4):
        with opened(tmp_path / "b") as again:
            work(again, 3)
            assert [trial.params["x"] for trial in again.trials()] == drawn[: len(again.trials())]
    assert len(set(drawn)) == 12


def test_trials_that_were_running_are_continued_with_what_they_had(tmp_path):
    with opened(tmp_path, trials=1) as first:
        trial = first.next_trial()
        x = trial.suggest_float("x", -2, 2)
        trial.report(0.5, 2)
        assert first.next_trial() is None
    with opened(tmp_path, trials=1) as again:
        assert again.interrupted == [0] and again.left == 1
        trial = again.next_trial()
        assert trial.number == 0 and trial.suggest_float("x", -2, 2) == x
        assert again.trials()[0].intermediate_values == {2: 0.5}
        again.complete(trial, np.array([1.0, 0.1]), 1.0)
        assert again.next_trial() is None and again.left == 0
    with opened(tmp_path) as later:
        assert later.trials()[0].state == TrialState.COMPLETE and later.interrupted == []


def test_no_trial_starts_after_the_time_limit(tmp_path):
    with opened(tmp_path) as found:
        found.ask()
    with study.opened(tmp_path, SETTINGS, Options(100, deadline=time.monotonic()), 5, {}) as late:
        assert late.next_trial() is None and late.interrupted == [0], "kept for the next command"


def test_a_study_of_something_else_is_refused(tmp_path):
    def again(**made_of):
        with opened(tmp_path, **made_of):
            pass

    again(folds="a", code="b")
    again(folds="a", code="b")
    told = error_of(again, folds="a", code="c")
    assert "code" in told and "folds" not in told
    assert "objectives" in error_of(again, settings=Tune(objectives=["score", "seconds"]), folds="a", code="b")


def test_one_process_works_on_a_study(tmp_path):
    with opened(tmp_path):
        told = error_of(opened(tmp_path).__enter__)
    assert "another ./run.sh tune works" in told
    with opened(tmp_path):
        pass


KILLED = """
import sys
from pathlib import Path
import numpy as np
from src.core.errors import UserError
from src.core.settings import Tune
from src.tuning import study

with study.opened(Path(sys.argv[1]), Tune(startup=3), study.Options(1000), 5, {}) as trials:
    while trial := trials.next_trial():
        trials.complete(trial, np.array([-trial.suggest_float("x", -2, 2) ** 2, 0.1]), 1.0)
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
        assert sorted(told) == list(range(told[0], told[0] + len(told))) and told[0] > finished
        finished = told[-1]
        counts, running = study.counted(tmp_path)
        assert counts["complete"] > finished - 3 and running <= 3
        with opened(tmp_path) as trials:
            assert all(trials.trials()[number].state == TrialState.COMPLETE for number in told)
            assert len(trials.interrupted) == running
    assert finished >= 14
    wanted = finished + 10
    with opened(tmp_path, trials=wanted) as last:
        while trial := last.next_trial():
            last.complete(trial, np.array([-(trial.suggest_float("x", -2, 2) ** 2), 0.1]), 1.0)
        assert [one.state for one in last.trials()] == [TrialState.COMPLETE] * wanted, "exactly, and none runs"


def changed(statement: str) -> Callable[[Path], None]:
    """Damages a study's database by SQL."""

    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)

    return change


DAMAGES: dict[str, Callable[[Path], object]] = {
    "another file": lambda path: path.write_bytes(b"x" * 4096),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a few bytes": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "zeros at the end": lambda path: path.write_bytes(path.read_bytes()[:-8192] + bytes(8192)),
    "another program's": lambda path: (path.unlink(), changed("CREATE TABLE experiments (id INTEGER)")(path)),
    "another study's": changed("UPDATE studies SET study_name = 'other'"),
    "no trials": changed("DROP TABLE trials"),
    "state": changed("UPDATE trials SET state = 'DONE'"),
    "number": changed("UPDATE trials SET number = 7 WHERE number = 1"),
    "value": changed("UPDATE trial_values SET value = value + 0.001 WHERE trial_id = 2"),
    "no value": changed("DELETE FROM trial_values WHERE trial_id = 2"),
    "parameter": changed("UPDATE trial_params SET param_value = param_value / 2 WHERE trial_id = 2"),
    "score": changed("UPDATE trial_user_attributes SET value_json = '{\"value\": 0.9, \"standard_error\": 0.1}' "
                     "WHERE key = 'score' AND trial_id = 2"),
    "attributes": changed("UPDATE trial_user_attributes SET value_json = '['"),
    "attribute of another type": changed("UPDATE trial_user_attributes SET value_json = '7' WHERE key = 'score'"),
    "no score": changed("DELETE FROM trial_user_attributes WHERE key = 'score'"),
    "distribution": changed("UPDATE trial_params SET distribution_json = '{}'"),
    "what it was made of": changed("UPDATE study_user_attributes SET value_json = '7' WHERE key = 'made_of'"),
    "not what it was made of": changed("DELETE FROM study_user_attributes WHERE key = 'made_of'"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_named(damage, tmp_path):
    with opened(tmp_path / "one") as trials:
        work(trials, 3)
    path = tmp_path / "one/study.db"
    DAMAGES[damage](path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=re.escape(str(path))), opened(tmp_path / "one"):
        pass
    assert path.read_bytes() == before
    try:
        study.counted(tmp_path / "one")
    except UserError as error:
        assert str(path) in str(error)


def test_an_empty_database_of_a_study_that_had_trials_is_damaged(tmp_path):
    (tmp_path / "study.db").touch()
    with opened(tmp_path):
        pass
    (tmp_path / "study.db").write_bytes(b"")
    (tmp_path / "trials.csv").touch()
    with pytest.raises(UserError, match="it is empty"), opened(tmp_path):
        pass


def test_trials_of_an_older_version_have_no_checksum(tmp_path):
    with opened(tmp_path) as trials:
        work(trials, 3)
    changed("DELETE FROM trial_user_attributes WHERE key = 'checksum'")(tmp_path / "study.db")
    with opened(tmp_path) as trials:
        assert len(trials.finished()) == 3


def test_a_full_disk_is_an_error_and_loses_no_trial(tmp_path):
    with pytest.raises(UserError, match="full"), opened(tmp_path) as trials:
        work(trials, 2)
        with trials.record._storage._backend.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        work(trials, 1000)
    assert study.counted(tmp_path)[0]["complete"] >= 2


def test_a_journal_of_an_older_version_is_told_and_kept(tmp_path, capsys):
    (tmp_path / "journal.log").write_text("older\n")
    with opened(tmp_path):
        assert str(tmp_path / "journal.log") in capsys.readouterr().err
    with opened(tmp_path):
        assert not capsys.readouterr().err
    assert (tmp_path / "journal.log").read_text() == "older\n"


@pytest.mark.parametrize("pruner", ["halving", "hyperband", "median", "none"])
def test_pruners_give_up_what_does_worse(tmp_path, pruner):
    with opened(tmp_path, Tune(pruner=pruner, startup=4)) as trials:
        for number in range(12):
            trial = trials.ask()
            trial.suggest_float("x", 0, 1)
            for step in range(1, 5 * study.RUNGS):
                trial.report(-number, step)
                if trial.should_prune():
                    trials.record.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                trials.complete(trial, np.array([-number, 0.1]), 1.0)
        states = [trial.state for trial in trials.trials()]
        assert states[0] == TrialState.COMPLETE
        assert (TrialState.PRUNED in states) == (pruner != "none")
        assert all(trial.last_step >= study.FIRST_RUNG for trial in trials.trials())


def test_marks_of_a_fold():
    assert [study.rung(epoch, 6) for epoch in range(7)] == [0, 0, 1, 2, 2, 3, 4]
    assert [study.rung(epoch, 2) for epoch in range(3)] == [0, 2, 4]


def test_databases_that_are_not_there_are_told(tmp_path):
    for url in ("sqlite:///x.db", "postgresql://nobody@127.0.0.1:1/none"):
        with pytest.raises(UserError, match="--storage"), opened(tmp_path, url=url):
            pass


@pytest.fixture
def shared(postgres, request) -> str:
    """URL of a new database."""
    psycopg = pytest.importorskip("psycopg")
    name = f"t{abs(hash(request.node.name))}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgres.rpartition('/')[0]}/{name}"


def test_machines_share_a_study_in_a_database(shared, tmp_path):
    """Two folders of one machine are two owners."""
    here, there = tmp_path / "here/shared", tmp_path / "there/shared"
    with opened(here, url=shared, folds="a") as mine, opened(there, url=shared, folds="a") as theirs:
        trials = mine.ask(), theirs.ask(), theirs.ask()
        assert [trial.number for trial in trials] == [0, 1, 2]
        for one, trial in ((mine, trials[0]), (theirs, trials[1])):
            one.complete(trial, np.array([trial.suggest_float("x", -2, 2), 0.1]), 1.0)
        assert [len(one.finished()) for one in (mine, theirs)] == [2, 2]
    with opened(there, url=shared, folds="a") as again:
        assert again.interrupted == [2] and again.others() == []
    with opened(here, url=shared, folds="a", trials=3) as again:
        assert again.interrupted == [] and again.next_trial() is None, "trials of other machines count"
        assert [one.number for one in again.others()] == [2] and again.left == 1
    with pytest.raises(UserError, match="folds"), opened(here, url=shared, folds="b"):
        pass


DRIVER = """
import sys
from pathlib import Path
from tests.test_study import *

folder, url, trials, lease, slow = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:]
study.LEASE = lease
with opened(folder, Tune(sampler="random"), trials, url) as found:
    while (trial := found.next_trial()) or (found.wait_for_others() and (trial := found.next_trial())):
        x = trial.suggest_float("x", -2, 2)
        print(trial.number, x, flush=True)
        if slow:  # until it is told to go on
            sys.stdin.readline()
        found.complete(trial, np.array([-(x**2), 0.1]), 1.0)
"""


class Driver(subprocess.Popen):
    """Process that makes trials of a shared study, in a folder of its own, and tells of each that it begins."""

    def __init__(self, folder: Path, url: str, trials: int, lease: float, slow: bool = False):
        words = [sys.executable, "-c", DRIVER, str(folder), url, str(trials), str(lease), *["slow"] * slow]
        super().__init__(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def told(self) -> tuple[int, float]:
        """Number and x of the trial that it begins next."""
        while (line := self.stdout.readline()).startswith("tune:"):
            pass
        number, x = line.split()
        return int(number), float(x)


def check_made(folder: Path, url: str, wanted: int) -> list[FrozenTrial]:
    """The trials of a study of which exactly the wanted number is made, each with the score of what it drew."""
    with opened(folder, Tune(sampler="random"), wanted, url) as found:
        trials = found.trials()
        assert [one.number for one in trials] == list(range(wanted))
        assert {one.state for one in trials} == {TrialState.COMPLETE}
        assert all(one.value == -(one.params["x"] ** 2) for one in trials)
        found.check()
    return trials


def test_trials_of_a_driver_that_was_killed_are_taken_over(shared, tmp_path):
    victim = Driver(tmp_path / "gone/one", shared, 20, lease=1, slow=True)
    number, x = victim.told()
    other = Driver(tmp_path / "here/one", shared, 20, lease=1)
    for _ in range(19):
        assert other.told()[0] != number, "while its driver lives a trial is its own"
    victim.kill()
    victim.wait()
    assert other.told() == (number, x)
    assert other.wait() == 0
    trials = check_made(tmp_path / "here/one", shared, 20)
    assert trials[number].params["x"] == x and trials[number].user_attrs[study.LOST] == 1
    assert {trial.user_attrs[study.OWNER].split("/")[-2] for trial in trials} == {"here"}


@pytest.mark.slow  # by default another driver takes the trial over
def test_a_driver_that_comes_back_goes_on_with_its_trial(shared, tmp_path):
    victim = Driver(tmp_path / "back/one", shared, 6, lease=600, slow=True)
    begun = victim.told()
    other = Driver(tmp_path / "here/one", shared, 6, lease=600)
    assert sorted(other.told()[0] for _ in range(5)) == [one for one in range(6) if one != begun[0]]
    victim.kill()
    victim.wait()
    back = Driver(tmp_path / "back/one", shared, 6, lease=600)
    assert back.told() == begun
    assert (back.wait(), other.wait()) == (0, 0)
    trials = check_made(tmp_path / "here/one", shared, 6)
    assert trials[begun[0]].user_attrs[study.OWNER].split("/")[-2] == "back"
    assert study.LOST not in trials[begun[0]].user_attrs


@pytest.mark.slow  # by default a driver is killed
def test_a_driver_that_stands_still_keeps_its_trial(shared, tmp_path):
    stopped = Driver(tmp_path / "stopped/one", shared, 5, lease=0.5, slow=True)
    begun = stopped.told()
    stopped.send_signal(signal.SIGSTOP)
    other = Driver(tmp_path / "here/one", shared, 5, lease=0.5)
    assert begun[0] not in [other.told()[0] for _ in range(4)]
    time.sleep(3)
    assert other.poll() is None, "it waits"
    stopped.send_signal(signal.SIGCONT)
    stopped.communicate("go\n")
    assert (stopped.returncode, other.wait()) == (0, 0)
    trials = check_made(tmp_path / "here/one", shared, 5)
    assert trials[begun[0]].user_attrs[study.OWNER].split("/")[-2] == "stopped"


def end_presence(driver: Study) -> None:
    """Ends the connection that holds a driver's lock, as a network that breaks does."""
    held = driver.drivers._presence.connection.dbapi_connection.info.backend_pid
    with driver.drivers._engine.begin() as connection:
        assert connection.exec_driver_sql(f"SELECT pg_terminate_backend({held})").scalar()


def takes_over(driver: Study) -> bool:
    with driver._alone():
        return driver._take_over()


def test_a_trial_that_was_taken_over_has_one_result(shared, tmp_path, monkeypatch):
    """Its driver lives, and was cut off from the database for long."""
    monkeypatch.setattr(drivers, "BEAT", 3600.0)
    monkeypatch.setattr(study, "LEASE", 0.2)
    with opened(tmp_path / "a/one", url=shared, trials=1) as cut, opened(tmp_path / "b/one", url=shared) as other:
        trial = cut.next_trial()
        assert not takes_over(other) and trial.number == 0
        end_presence(cut)
        wait_until(lambda: takes_over(other))
        taken = other.next_trial()
        assert taken.number == 0 and other.trials()[0].user_attrs["seconds"] == 0
        assert cut.complete(trial, np.array([9.0, 0.1]), 1.0) is False
        assert cut.prune(trial) is None
        cut.fail(trial, "late")
        with cut.ours(trial) as is_ours:
            assert not is_ours
        assert other.complete(taken, np.array([0.5, 0.1]), 1.0) is True
        assert cut.complete(trial, np.array([9.0, 0.1]), 1.0) is False
        assert [one.value for one in cut.trials()] == [0.5] and cut.next_trial() is None
        cut.check()


def test_a_driver_is_back_after_its_connection_was_lost(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(drivers, "BEAT", 0.1)
    with opened(tmp_path / "a/one", url=shared) as cut, opened(tmp_path / "b/one", url=shared) as other:

        def is_gone() -> bool:
            with other.drivers.alone():
                return bool(other.drivers.gone([cut.owner]))

        assert not is_gone()
        before = cut.drivers._presence
        end_presence(cut)
        wait_until(lambda: cut.drivers._presence not in (before, None) and not is_gone())
    with opened(tmp_path / "b/one", url=shared) as other:
        assert is_gone(), "a driver that has ended does not live"


def test_two_drivers_of_one_name_are_refused(shared, tmp_path, monkeypatch):
    """As with machines that have one name and one path: each would take the other's trials for its own."""
    monkeypatch.setattr(drivers, "PATIENCE", 1)
    monkeypatch.setattr(study, "owner_of", lambda folder: "alike:/srv/output")
    with opened(tmp_path / "a/one", url=shared):
        told = error_of(opened(tmp_path / "b/one", url=shared).__enter__)
    assert "another ./run.sh tune of alike:/srv/output works on it" in told and "paths.output" in told


def test_a_trial_that_ends_its_drivers_fails(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "LEASE", 0.0)
    for i in range(study.MOST_LOST):
        with opened(tmp_path / f"{i}/one", url=shared, trials=1) as lost:
            assert lost.next_trial().number == 0
    with opened(tmp_path / "last/one", url=shared, trials=1) as last:
        assert last.next_trial() is None and not last.wait_for_others()
        assert last.trials()[0].state == TrialState.FAIL
        assert last.trials()[0].user_attrs["reason"] == "3 machines were gone amid it"


def test_a_machine_that_is_gone_is_found_out_in_half_a_minute(shared, tmp_path):
    """Settings of the session make the server notice it on connections of a network."""
    with opened(tmp_path / "one", url=shared) as found:
        shown = {name: int(found.drivers._presence.exec_driver_sql(f"SHOW {name}").scalar()) for name in drivers.PROBES}
    assert shown == drivers.PROBES
    assert drivers.IDLE + drivers.INTERVAL * drivers.COUNT <= 30 < drivers.PATIENCE


@pytest.mark.slow
def test_eight_drivers_make_a_thousand_trials_and_no_other(shared, tmp_path):
    """One is killed and comes back; another is killed for good, and its trial is taken over."""
    wanted, began = 1000, time.monotonic()
    made = [Driver(tmp_path / f"{i}/shared", shared, wanted, lease=2) for i in range(8)]
    with ThreadPoolExecutor(16) as pool:
        read = [pool.submit(one.stdout.read) for one in made]  # what they tell would fill the pipes
        with opened(tmp_path / "watcher/shared", Tune(sampler="random"), wanted, shared) as watcher:
            wait_until(lambda: len(watcher.finished()) > 100)
        for victim in made[:2]:
            victim.kill()
            victim.wait()
        back = Driver(tmp_path / "0/shared", shared, wanted, lease=2)
        read.append(pool.submit(back.stdout.read))
        assert [one.wait() for one in (back, *made[2:])] == [0] * 7
    seconds = time.monotonic() - began
    trials = check_made(tmp_path / "watcher/shared", shared, wanted)
    assert len({trial.user_attrs[study.OWNER] for trial in trials}) == 8
    begun = [int(line.split()[0]) for one in read for line in one.result().splitlines() if line[0].isdigit()]
    again = len(begun) - len(set(begun))
    assert set(begun) <= set(range(wanted)) and again <= 2, "of those that were killed alone"
    print(f"{wanted} trials by 8 drivers in {seconds:.0f} s, {again} of them continued")


def test_machines_that_start_together_share_a_new_database(shared):
    with ThreadPoolExecutor(4) as pool:
        for storage in pool.map(study.shared_storage, [shared] * 4):
            storage.engine.dispose()


def judged(trials: Study, score: float, noise: np.ndarray) -> int:
    trial = trials.ask()
    trials.complete(trial, np.append(score, noise), 1.0)
    return trial.number


def test_gains_are_over_the_settings_in_use_on_the_same_rows(tmp_path):
    noise = np.array([0.03, -0.04])
    with opened(tmp_path / "a") as trials:
        assert trials.recommended() is None
        trials.begin_in_use({}, {})
        assert trials.has_settings_in_use and trials.in_use is None
        first = trials.next_trial()
        trials.complete(first, np.append(0.8, noise), 1.0)
        assert trials.in_use.number == first.number == 0 and trials.recommended().number == 0
        judged(trials, 0.805, noise + [0.006, 0.0])
        gain = trials.gain(trials.trials()[1])
        assert (gain.value, gain.standard_error) == (pytest.approx(0.005), pytest.approx(0.006, rel=1e-5))
        assert trials.recommended().number == 0, "less than a standard error"
        judged(trials, 0.80501, noise + [0.004, 0.0])
        assert trials.recommended().number == 2
    with opened(tmp_path / "b") as trials:
        trials.begin_in_use({}, {})
        trials.complete(trials.next_trial(), np.append(0.8, noise), 1.0)
        judged(trials, 0.80001, noise)
        assert trials.recommended().number == 0, "all but the same"


def test_a_trial_without_noise_is_compared_as_if_it_was_of_other_rows(tmp_path):
    """Such as those of older versions, in whose studies the settings in use are a later trial."""
    with opened(tmp_path) as trials:
        judged(trials, 0.81, np.array([0.03]))
        trials.begin_in_use({}, {})
        trials.complete(trials.next_trial(), np.array([0.8, 0.04]), 1.0)
        assert trials.in_use.number == 1
        old = trials.trials()[0]
        del old.user_attrs[study.NOISE]
        assert trials.gain(old).standard_error == pytest.approx(0.05)


def test_two_machines_begin_the_settings_in_use_once(shared, tmp_path):
    """Both have looked for them before either began."""
    with opened(tmp_path / "here/one", url=shared) as here, opened(tmp_path / "there/one", url=shared) as there:
        assert not here.has_settings_in_use and not there.has_settings_in_use
        here.begin_in_use({}, {})
        there.begin_in_use({}, {})
        assert (here.in_use_to_do, there.in_use_to_do) == (0, None) and there.interrupted == []
        assert [one.state for one in here.trials()] == [TrialState.RUNNING]
        assert there.has_settings_in_use, "it is the other machine's"


def test_settings_in_use_that_failed_are_tried_again(tmp_path):
    with opened(tmp_path) as trials:
        trials.begin_in_use({}, {})
        trials.fail(trials.next_trial(), "too slow")
        assert not trials.has_settings_in_use and trials.in_use is None
        number = judged(trials, 0.7, np.array([0.1]))
        assert trials.recommended().number == number and trials.gain(trials.trials()[number]) is None
