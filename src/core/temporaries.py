"""Temporary files, which no kill leaves behind for good: their writer holds a lock on them as long as it lives.

Whoever can take that lock knows that the writer is dead, on whichever machine it ran, and removes the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import io
import os
import secrets
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a write that less data or more room would mend."""
LONGEST = 40
"""Characters of a file's name in that of its temporary file; file systems end names at 255 bytes."""


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
    for path in folder.glob(f"{glob.escape(start)}*.tmp"):
        with contextlib.suppress(OSError), path.open("r+b") as file:  # held by its writer, or somebody else's
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
