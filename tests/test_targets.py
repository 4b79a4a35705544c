"""Targets and locks: what is current, and who may write."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from src.core import locks, storage
from src.core.targets import Target
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def target(tmp_path) -> Target:
    storage.write_json(tmp_path / "score.json", {"fingerprint": "x"})
    storage.write_text(tmp_path / "array", "1")
    return Target("one", tmp_path / "score.json", "x", (tmp_path / "array",))


def test_a_target_is_current_with_all_its_files_and_its_fingerprint(target, tmp_path):
    assert target.is_current() and target.state() == "done"
    other = Target("one", target.result, "y", target.files)
    assert not other.is_current() and other.state() == "stale"
    assert other.state(is_begun=True) == "interrupted" and other.state(is_running=True) == "running"
    assert not Target("one", target.result, "x", target.files, is_whole=lambda: False).is_current()
    assert Target("one", target.result, None).state() == "unsure"
    (tmp_path / "array").unlink()
    assert not target.is_current() and target.state() == "stale"
    target.result.unlink()
    assert target.state() == "missing" and Target("one", target.result, None).state() == "missing"


HOLDER = """
import sys
from pathlib import Path
from src.core import locks
with locks.hold(Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split(), "train --model lstm"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holding(tmp_path):
    """Starts a process that holds locks of tmp_path until it is told to end."""
    started = []

    def start(writes: str, reads: str = "") -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), writes, reads],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_writer_waits_for_a_writer_and_says_for_whom(tmp_path, holding, capsys):
    holder = holding("train.lstm", "prepare shift")
    assert locks.is_held(tmp_path / "train.lstm.lock") and not locks.is_held(tmp_path / "shift.lock")
    entered = threading.Event()

    def wait() -> None:
        with locks.hold(tmp_path, ["prepare"], [], "prepare"):
            entered.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(lambda: "waits for" in capsys.readouterr().out)
    assert not entered.is_set(), "prepare is read by the other command"
    holder.kill()  # the kernel releases the locks of the dead
    waiter.join()
    assert entered.is_set()


def test_the_holder_is_named(tmp_path, holding, capsys):
    holder = holding("prepare")
    waiter = threading.Thread(target=lambda: locks.hold(tmp_path, ["prepare"], [], "folds").__enter__())
    waiter.start()
    told = []
    wait_until(lambda: told.append(capsys.readouterr().out) or "waits for" in "".join(told))
    assert "train --model lstm" in "".join(told) and str(holder.pid) in "".join(told)
    holder.kill()
    waiter.join()


def test_readers_do_not_wait_for_readers(tmp_path, holding):
    holding("train.lstm", "prepare")
    holding("train.gru", "prepare")
    with locks.hold(tmp_path, ["baselines"], ["prepare"], "baselines"):
        assert locks.is_held(tmp_path / "baselines.lock")
    assert not locks.is_held(tmp_path / "baselines.lock")
    assert (tmp_path / "baselines.lock").read_text() == "", "a lock names its holder only while it is held"
    assert str(os.getpid()) not in (tmp_path / "prepare.lock").read_text()
