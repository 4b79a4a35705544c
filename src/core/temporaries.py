"""Temporary files, which no kill leaves behind for good: their writer holds a lock on them as long as it lives.

Whoever can take that lock knows that the writer is dead, on whichever machine it ran, and removes the file. Libraries
put theirs into one folder of the process, which is locked like a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import process, util
from pathlib import Path

from src.core.errors import UserError
from src.core.language import _

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a write that less data or more room would mend."""
LONGEST = 40
"""Characters of a file's name in that of its temporary file; file systems end names at 255 bytes."""
SYSTEM, PREFIX = "/tmp", "run.sh."
LONGEST_OF_SOCKETS = 76
"""Bytes of a folder's path in which multiprocessing can make a socket, whose path has 107 at most."""


class TemporaryFile(io.FileIO):
    """New file beside `path`, open for writing and reading, that is removed when it is closed unless replace() gave it
    a name.

    A full disk does not end the writing: what follows is counted instead of written, so that the user can be told how
    much room the whole file needs. `full` then holds the error, and the file is of no use.
    """

    def __init__(self, path: Path):
        start = f".{path.name[:LONGEST]}."
        sweep(path.parent, start)
        while True:
            super().__init__(path.with_name(f"{start}{secrets.token_hex(4)}.tmp"), "x+")
            with contextlib.suppress(OSError):  # a file system without locks: nobody sweeps there
                fcntl.flock(self, fcntl.LOCK_EX)
            if os.fstat(self.fileno()).st_nlink:
                break
            super().close()  # swept between the two calls above
        self.path = Path(os.fsdecode(self.name))
        self.full: OSError | None = None
        self.needed = 0
        """Bytes of the whole file, where `full` is set."""

    def write(self, data) -> int:
        if self.full is None:
            try:
                return super().write(data)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self.full = error
        size = memoryview(data).nbytes
        self.needed = max(self.needed, self.seek(size, os.SEEK_CUR))
        return size

    def replace(self, path: Path) -> None:
        """Renames the file to `path`, which may exist."""
        try:
            os.replace(self.path, path)
        except FileExistsError:  # shared folders of some virtual machines rename to new names only
            path.unlink()
            os.replace(self.path, path)

    def close(self) -> None:
        if not self.closed:
            self.path.unlink(missing_ok=True)  # there only if it did not get its name
        super().close()


def sweep(folder: Path, start: str = ".") -> None:
    """Removes temporary files of dead writers whose names begin with `start` from a folder."""
    for path in abandoned(folder, start):
        with contextlib.suppress(OSError):
            path.unlink()


def abandoned(folder: Path, start: str = ".") -> Iterator[Path]:
    """Yields the temporary files of dead writers in a folder, each while its lock is held."""
    for path in folder.glob(f"{glob.escape(start)}*.tmp"):
        with contextlib.suppress(OSError), path.open("r+b") as file:  # held by its writer, or somebody else's
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path


def sweep_tree(folder: Path) -> None:
    """Removes temporary files of dead writers from a folder and all folders below it."""
    for place, _folders, names in os.walk(folder):
        if any(name.startswith(".") and name.endswith(".tmp") for name in names):
            sweep(Path(place))


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """Lets libraries, and processes that are started within the context, put temporary files into one folder, which is
    removed when this process ends, or by the next one if it was killed."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    if folder := _folder_of_process():
        tempfile.tempdir = os.environ["TMPDIR"] = folder
    try:
        yield
    finally:
        tempfile.tempdir = before[0]
        os.environ.pop("TMPDIR", None)
        if before[1] is not None:
            os.environ["TMPDIR"] = before[1]


@functools.cache
def _folder_of_process() -> str | None:
    """Makes the folder of collected(). Returns None where there is no room or no right to make one."""
    with contextlib.suppress(OSError):
        folder = _made(tempfile.gettempdir())
        if len(os.fsencode(folder)) > LONGEST_OF_SOCKETS:
            process.current_process()._config["tempdir"] = _made(SYSTEM)
        return folder
    return None


def _made(place: str) -> str:
    """Makes and locks a folder in `place`, after sweeping those of dead processes, and removes it at exit."""
    for path in Path(place).glob(f"{PREFIX}*"):
        if path.is_dir() and not path.is_symlink() and _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)
    while True:
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        descriptor = os.open(folder, os.O_RDONLY)  # closed by the end of the process
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.isdir(folder):
            # After multiprocessing, which removes its own folder in there at -100.
            util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)
            return folder
        os.close(descriptor)  # swept between the calls above


def _is_abandoned(folder: Path) -> bool:
    """Returns True if no process holds the lock of a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """Makes a folder in `place` that is removed at the end of the context, or by the next call if this process was
    killed."""
    place.mkdir(parents=True, exist_ok=True)
    for path in place.iterdir():
        if _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)
    while True:
        folder = Path(tempfile.mkdtemp(dir=place))
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: nobody sweeps there
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not folder.exists():
                continue  # swept between the calls above
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
        finally:
            os.close(descriptor)


def own_folder(name: str, place: str | None = None) -> Path:
    """Makes a folder of this user in `place`, by default SYSTEM, that stays. Raises UserError where it is another
    user's, who could change what is in it."""
    folder = Path(place or SYSTEM) / f"run.sh-{os.getuid()}-{name}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(
            _("{folder} cannot be made: {strerror}").format(folder=folder, strerror=error.strerror)
        ) from None
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(_("{folder} belongs to another user. Ask the administrator to remove it").format(folder=folder))
    return folder
