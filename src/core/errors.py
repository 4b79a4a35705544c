"""Exception for errors that the user can fix, errors of the system among them, and the message for an unknown name."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

REMEDY = "Mend this"
REMEDIES = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room in your quota",
    errno.EFBIG: "Raise the limit",
    errno.EACCES: "Give this user the right to it",
    errno.EPERM: "Give this user the right to it",
    errno.EROFS: "Choose a folder that can be written, such as paths.output=DIR",
    errno.ENAMETOOLONG: "Give it a shorter name",
    errno.EISDIR: "Move the folder of this name away",
    errno.ENOTDIR: "Move away the file that stands where a folder should",
    errno.EEXIST: "Move away what stands there",
    errno.EMFILE: "Allow more open files (ulimit -n)",
    errno.ENFILE: "Close other programs",
    errno.ENOMEM: "Close other programs, or take fewer workers (executor.workers=1)",
    **dict.fromkeys((errno.EIO, errno.ENOLCK, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH), REMEDY),
    errno.ECONNREFUSED: REMEDY,
}
"""Remedies of errors of the system that the user can mend; other OSErrors are faults of the program."""
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY}
"""Errors of a call that a file system does not have."""
_TORCH_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory")
"""Texts of RuntimeErrors of torch; it has no class for a lack of memory on a CPU."""
_SIZE = re.compile(r"(?:allocate|allocate:) ([\d.]+ (?:bytes|[KMGTPE]i?B))")
LONGEST = 120
"""Characters of a value in a message."""


class UserError(Exception):
    """Error that the user can fix; the command prints its message without a traceback and exits with status 2."""

    def _render_traceback_(self) -> list[str]:
        """Returns what a notebook shows instead of the traceback."""
        return [f"error: {self}"]


class OutOfDate(UserError):
    """A result was made of other inputs or settings than are there now."""


def explained(error: Exception) -> str | None:
    """Returns a sentence with the file, the error and the remedy for an error of the system, a lack of memory among
    them, or None for an error that is a fault of ours."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _TORCH_MEMORY.search(str(error))):
        size = _SIZE.search(str(error))
        return (
            f"there is not enough memory{f' for {size[1]}' if size else ''}. Take a smaller model, fewer tokens "
            "(data.max_len), smaller batches (train.batch_size) or fewer workers (executor.workers=1)"
        )
    if not isinstance(error, OSError) or error.errno not in REMEDIES:
        return None
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{place}{error.strerror}. {REMEDIES[error.errno]}, and run the same command again"


class Damaged(UserError):
    """A file in the output folder is not as it was written."""

    def __init__(self, path: Path, why: str, remedy: str = ""):
        """`why`: what is wrong with it; `remedy`: the command, without ./run.sh, that makes it anew."""
        self.what = f"{path} is damaged: {why}"
        make = f"Make it anew with: ./run.sh {remedy}" if remedy else "Delete it and run the same command again"
        super().__init__(f"{self.what}. {make}.")


def shortened(value: object) -> str:
    """Returns repr(value), without the middle of what is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 30]} … {text[-20:]}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Returns a UserError that lists the `known` names of a `kind` and suggests the name most similar to `name`."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {shortened(name)}.{hint} Known: {', '.join(known)}")
