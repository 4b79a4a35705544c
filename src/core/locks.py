"""Locks between processes: one writer of a result at a time, and no writer while others read it.

The kernel releases a lock when its holder dies, however it dies. A lock file names its holder for those that wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from src.core.errors import UserError
from src.core.terminal import info


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds `path` exclusively; waits in silence while another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Returns True while a process holds `path` exclusively."""
    for pause in (0.0, 0.02):  # another process that asks the same holds the lock for an instant
        time.sleep(pause)
        try:
            with path.open("r+", encoding="utf-8") as file:  # NFS locks only what is open for writing
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            continue
        except OSError:  # no such lock, or one that nobody can write: a read-only folder
            return False
    return True


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
            file = held.enter_context(path.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{path.stem}: another command works in {folder.parent}. Wait for it") from None
        yield


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error.strerror}). Choose another output folder: paths.output=DIR"
        ) from None


def _acquire(file: IO[str], kind: int, name: str) -> None:
    for pause in (0.05, None):  # ./run.sh status holds a lock for an instant
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if pause:
                time.sleep(pause)
    file.seek(0)
    holder = file.read()
    if not _is_alive(holder):  # held by readers, or a killed writer left its name
        holder = "a command that reads it"
    info(f"{name}: waits for {holder}, which works in the same output folder")
    fcntl.flock(file, kind)


def _is_alive(holder: str) -> bool:
    """Returns True if the process that a lock file names still runs."""
    found = re.search(r"process (\d+)", holder)
    if not found:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(found[1]), 0)
        return True
    return False
