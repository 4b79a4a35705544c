"""Locks between processes: one writer of a result at a time, and no writer while others read it.

The kernel releases a lock when its holder dies, however it dies. A lock file names its holder for those that wait.

A file system may have no locks, such as Lustre as it is mounted by default. Lock files then lie in the system's folder
for temporary files, which keeps off other commands of the same machine, and the user is told so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import multiprocessing
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from src.core import temporaries
from src.core.errors import UNSUPPORTED, UserError
from src.core.language import _
from src.core.terminal import info, warn_once

WITHOUT = UNSUPPORTED | {errno.ENOLCK}
"""Errors of a file system that has no locks."""


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds `path` exclusively; waits in silence while another process holds it."""
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone(path: Path, else_told: str) -> Iterator[None]:
    """Holds `path` exclusively. Raises UserError(else_told) if another process holds it, even to read."""
    with _opened(path) as file:
        if not _tried(file, fcntl.LOCK_EX, 0.1):
            raise UserError(else_told)
        yield


def is_held(path: Path) -> bool:
    """Returns True while a process holds `path` exclusively."""
    try:
        if not path.exists():
            return False
        with _opened(path) as file:
            return not _tried(file, fcntl.LOCK_SH, 0.02)
    except UserError:  # one that nobody can write: a read-only folder
        return False


@contextlib.contextmanager
def hold(folder: Path, writes: Iterable[str], reads: Iterable[str], command: str) -> Iterator[None]:
    """Holds the lock files NAME.lock of `folder`: those of `writes` exclusively, those of `reads` shared.

    Waits for other commands and says which one it waits for. All commands take locks in the order of their names, so
    none waits for a command that waits for it.
    """
    writes = set(writes)
    with contextlib.ExitStack() as held:
        for name in sorted(writes | set(reads)):
            file = held.enter_context(_opened(folder / f"{name}.lock"))
            _acquire(file, fcntl.LOCK_EX if name in writes else fcntl.LOCK_SH, name)
            if name in writes:
                file.truncate(0)
                file.write(f"./run.sh {command} (process {os.getpid()})")
                file.flush()
                held.callback(file.truncate, 0)
        yield


@contextlib.contextmanager
def hold_all(folder: Path) -> Iterator[None]:
    """Holds every lock of `folder` exclusively. Raises UserError if another command holds one, even to read."""
    with contextlib.ExitStack() as held:
        for path in sorted(folder.glob("*.lock")):
            told = f"{path.stem}: another command works in {folder.parent}. Wait for it"
            held.enter_context(alone(path, told))
        yield


def _opened(path: Path) -> IO[str]:
    """Opens a lock file, or another one in its stead where its file system has no locks."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8", errors="surrogateescape")  # NFS locks only what is open for writing
    except OSError as error:
        raise UserError(
            _("{folder} cannot be written ({reason}). Choose another output folder: paths.output=DIR").format(
                folder=path.parent, reason=error.strerror
            )
        ) from None
    if reason := _without_locks(file):
        file.close()
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
        file = (temporaries.own_folder("locks") / name).open("a+", encoding="utf-8", errors="surrogateescape")
        if _without_locks(file):
            raise UserError(
                _(
                    "{folder}: the file system has no locks ({reason}), and neither has {system}, so two "
                    "commands could write one file. Choose another output folder: paths.output=DIR"
                ).format(folder=path.parent, reason=reason, system=temporaries.SYSTEM)
            )
        _tell_of_missing_locks(reason)
    return file


def _without_locks(file: IO[str]) -> str | None:
    """Returns the system's words if the file system of a file has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)
    except OSError as error:
        return error.strerror if error.errno in WITHOUT else None
    return None


def _tell_of_missing_locks(reason: str) -> None:
    if multiprocessing.parent_process() is None:  # not each worker
        warn_once(
            _(
                "the file system of the output folder has no locks ({reason}), so locks are kept in "
                "{system}. They keep off other commands of yours on this machine, not those of other "
                "users and machines"
            ).format(reason=reason, system=temporaries.SYSTEM)
        )


def _tried(file: IO[str], kind: int, pause: float) -> bool:
    """Takes a lock, twice if need be: others that ask for its holder hold it for an instant. Returns False if it is
    held."""
    for seconds in (pause, 0.0):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(seconds)
    return False


def _acquire(file: IO[str], kind: int, name: str) -> None:
    if _tried(file, kind, 0.05):
        return
    file.seek(0)
    holder = file.read()
    if not _is_alive(holder):  # held by readers, or a killed writer left its name
        holder = "a command that reads it"
    info(_("{name}: waits for {holder}, which works in the same output folder").format(name=name, holder=holder))
    fcntl.flock(file, kind)


def _is_alive(holder: str) -> bool:
    """Returns True if the process that a lock file names still runs."""
    found = re.search(r"process (\d+)", holder)
    if not found:
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
