"""Signals that end a command, and what its workers keep."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.__main__ import main
from src.core import interrupts, temporaries
from src.core.executors import Job, LocalProcesses
from tests.waiting import PATIENCE, wait_until

HERE, ROOT = "tests.test_interrupts", Path(__file__).resolve().parents[1]
BY_NAME = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP}

pytestmark = pytest.mark.usefixtures("heard_signals")


# What the jobs below call, in worker processes.


def keep_at_the_end(payload, progress):
    """Works until it is told to stop, then keeps what it has."""
    with interrupts.waiting():
        Path(payload["begun"]).write_text(str(os.getpid()), encoding="utf-8")
        while not interrupts.is_asked():
            time.sleep(0.01)
        Path(payload["kept"]).write_text("state", encoding="utf-8")


def go_on_for_ever(payload, progress):
    Path(payload["begun"]).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(2 * PATIENCE)


def begin(folder: Path, jobs: list[str]) -> None:
    """Runs jobs by a command that does nothing else."""
    interrupts_of = [
        Job(name, f"{HERE}:{name}", {"begun": str(folder / name), "kept": str(folder / "kept")}) for name in jobs
    ]

    class Watcher:
        def step(self, job, news):
            pass

        def finish(self, job, failure):
            pass

    with interrupts.raised():
        try:
            LocalProcesses(len(jobs), 1).run(interrupts_of, Watcher())
        except interrupts.Terminated as end:
            sys.exit(128 + end.number)


@pytest.mark.parametrize(
    "name", ["TERM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("INT", "group TERM"))]
)
def test_a_signal_lets_jobs_keep_their_state_and_leaves_no_process(tmp_path, name):
    """A job that keeps nothing ends too. `group`: all processes get the signal, as from a terminal or systemd."""
    jobs = ["keep_at_the_end", "go_on_for_ever"]
    code = f"from pathlib import Path; import {HERE} as t; t.begin(Path({str(tmp_path)!r}), {jobs!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    wait_until(lambda: all((tmp_path / job).exists() and (tmp_path / job).read_text() for job in jobs), process)
    workers = [int((tmp_path / job).read_text()) for job in jobs]
    number = BY_NAME[name.split()[-1]]
    started = time.monotonic()
    if name.startswith("group"):
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number
    assert time.monotonic() - started < 60
    assert (tmp_path / "kept").read_text() == "state"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_command_says_by_what_it_was_ended(name, tmp_path, monkeypatch, capsys):
    number = BY_NAME[name]
    before = signal.getsignal(number)
    monkeypatch.setattr("src.__main__.run", lambda arguments: os.kill(os.getpid(), number) or time.sleep(PATIENCE))
    assert main(["train"]) == 128 + number
    assert capsys.readouterr().err == (
        f"ended by SIG{name}: what is finished is kept, and the same command goes on from there\n"
    )
    assert main(["train", "--json"]) == 128 + number
    assert json.loads(capsys.readouterr().out)["exit_status"] == 128 + number
    assert signal.getsignal(number) == before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_signal_before_the_command_begins_is_told_alike(name, monkeypatch, capsys):
    number = BY_NAME[name]
    monkeypatch.setattr(
        "src.core.temporaries._made", lambda place: os.kill(os.getpid(), number) or time.sleep(PATIENCE)
    )
    temporaries._folder_of_process.cache_clear()
    try:
        assert main(["train"]) == 128 + number
    finally:
        temporaries._folder_of_process.cache_clear()
    assert capsys.readouterr().err.startswith(f"ended by SIG{name}: what is finished is kept")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.raised():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_end_that_a_library_catches_comes_again(monkeypatch):
    monkeypatch.setattr(interrupts, "AGAIN", 0.5)
    with interrupts.raised():
        with pytest.raises(interrupts.Terminated):
            try:
                with contextlib.suppress(interrupts.Terminated):
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(PATIENCE)
                time.sleep(PATIENCE)
            finally:
                interrupts.received()
        time.sleep(0.6)


def test_an_end_waits_for_an_import(tmp_path, monkeypatch):
    """A library that tries an import would take the exception for a missing module, and C++ would abort."""
    (tmp_path / "imported_amid_an_end.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.3)\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with interrupts.raised(), pytest.raises(interrupts.Terminated):
        module = importlib.import_module("imported_amid_an_end")
        assert module.time is time, "it was imported to its end"
        time.sleep(PATIENCE)


def test_what_is_limited_ends_in_time_and_what_follows_does_not():
    with interrupts.raised():
        with pytest.raises(interrupts.TimedOut), interrupts.limited(0.05):
            time.sleep(PATIENCE)
        with interrupts.limited(0.2):
            pass
        time.sleep(0.3)
        with interrupts.limited(PATIENCE), pytest.raises(interrupts.Terminated):
            signal.raise_signal(signal.SIGTERM)
        interrupts.received()


class Slow:
    """Object whose end takes longer than the limit of the test."""

    def __del__(self):
        time.sleep(0.3)


def test_a_limit_that_meets_what_the_garbage_collector_calls_comes_after_it():
    """Python drops what is raised there."""

    def slow(phase, info):
        time.sleep(0.15)

    gc.callbacks.append(slow)
    try:
        with pytest.raises(interrupts.TimedOut), interrupts.limited(0.1):
            gc.collect()
            time.sleep(PATIENCE)
    finally:
        gc.callbacks.remove(slow)
    with pytest.raises(interrupts.TimedOut), interrupts.limited(0.1):
        Slow()
        time.sleep(PATIENCE)


def test_a_limit_that_a_library_catches_comes_again(monkeypatch):
    monkeypatch.setattr(interrupts, "LATE", 0.1)
    with pytest.raises(interrupts.TimedOut), interrupts.limited(0.1):
        with contextlib.suppress(BaseException):
            time.sleep(PATIENCE)
        time.sleep(PATIENCE)
