"""Locks where the file system has none, and folders for temporary files."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from src.core import locks, temporaries
from tests.conftest import error_of

ROOT = Path(__file__).resolve().parents[1]


def refuse_locks(monkeypatch, below: Path, number: int) -> None:
    """Lets flock() fail for files below a folder."""
    real = fcntl.flock

    def flock(file, kind):
        descriptor = file if isinstance(file, int) else file.fileno()
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(below):
            raise OSError(number, os.strerror(number))
        real(file, kind)

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.fixture
def system(tmp_path, monkeypatch) -> Path:
    """A folder in the place of /tmp."""
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(temporaries, "SYSTEM", str(tmp_path / "system"))
    return tmp_path / "system"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_locks_commands_of_this_machine_are_kept_off_and_the_user_is_told(
    tmp_path, system, monkeypatch, capsys, number
):
    refuse_locks(monkeypatch, tmp_path / "output", number)
    path = tmp_path / "output/locks/train.lock"
    with locks.lock(path):
        assert locks.is_held(path)
        assert error_of(locks.alone(path, "it is held").__enter__) == "it is held"
    with locks.alone(path, "it is held"), locks.lock(path.with_name("other.lock")):
        assert error_of(locks.hold_all(path.parent).__enter__).startswith("other: another command works in")
    with locks.hold(path.parent, ["train"], ["other"], "train"):
        assert locks.is_held(path) and not locks.is_held(path.with_name("other.lock"))
    assert not locks.is_held(path)
    told = capsys.readouterr().err
    assert told.count("warning") == 1 and f"has no locks ({os.strerror(number)})" in told
    assert "not those of other users and machines" in told


def test_where_no_file_system_has_locks_nothing_is_claimed_and_nothing_written(tmp_path, system, monkeypatch):
    refuse_locks(monkeypatch, tmp_path, errno.ENOSYS)
    path = tmp_path / "output/locks/train.lock"
    ways = [
        locks.lock(path),
        locks.alone(path, "another command is at work"),
        locks.hold(path.parent, ["train"], [], "train"),
    ]
    for way in ways:
        told = error_of(way.__enter__)
        assert "no locks (Function not implemented)" in told and "paths.output=DIR" in told
        assert "another command" not in told
    assert not locks.is_held(path)


def test_the_locks_folder_of_another_user_is_refused(tmp_path, system):
    (tmp_path / "elsewhere").mkdir()
    (system / f"run.sh-{os.getuid()}-locks").symlink_to(tmp_path / "elsewhere")
    assert "belongs to another user" in error_of(temporaries.own_folder, "locks")


USES_TEMPORARIES = """
import multiprocessing, os, signal, sys, tempfile
from multiprocessing import util
from src.core import temporaries
with temporaries.collected():
    tempfile.mkdtemp()
    print(tempfile.gettempdir(), util.get_temp_dir(), os.environ["TMPDIR"], flush=True)
    multiprocessing.get_context("forkserver").Process(target=print).start()
    if len(sys.argv) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_holder_with_a_path_that_is_not_utf8_is_named(tmp_path):
    """The command's words stand in the lock file."""
    command = "train paths.input=" + os.fsdecode(b"caf\xe9")
    with locks.hold(tmp_path, ["train"], [], command):
        assert os.fsencode(command) in (tmp_path / "train.lock").read_bytes()


@pytest.mark.parametrize("deep", [False, True], ids=["short", "beyond the length of sockets"])
def test_temporary_files_of_libraries_are_gone_when_their_process_is(tmp_path, deep, monkeypatch):
    """A killed one leaves them to the next. A path of more than 107 bytes is none for a socket."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:
        place = Path(short, *["deep"] * 20) if deep else Path(short)
        place.mkdir(parents=True, exist_ok=True)

        def used(*more: str) -> list[str]:
            done = subprocess.run(
                [sys.executable, "-c", USES_TEMPORARIES, *more],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(place)},
                capture_output=True,
                text=True,
            )
            assert done.returncode == (-9 if more else 0), done.stderr
            return done.stdout.split()[:3]

        of_files, of_sockets, of_children = used("killed")
        assert of_files == of_children and Path(of_files).parent == place and any(Path(of_files).iterdir())
        assert len(of_sockets) <= 90 and Path(of_sockets).exists()
        used()
        assert not Path(of_files).exists() and not Path(of_sockets).exists()
        assert [path for path in place.iterdir() if path.name != "deep"] == []


def test_a_holder_that_belongs_to_another_user_is_alive(monkeypatch):
    def refuse(process: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(locks.os, "kill", refuse)
    assert locks._is_alive("train, process 12 on elsewhere")
