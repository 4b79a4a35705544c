"""Exception for errors that the user can fix, errors of the system among them, and the message for an unknown name."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from src.core.language import _

REMEDY = _("Mend this")
REMEDIES = {
    errno.ENOSPC: _("Make room"),
    errno.EDQUOT: _("Make room in your quota"),
    errno.EFBIG: _("Raise the limit"),
    errno.EACCES: _("Give this user the right to it"),
    errno.EPERM: _("Give this user the right to it"),
    errno.EROFS: _("Choose a folder that can be written, such as paths.output=DIR"),
    errno.ENAMETOOLONG: _("Give it a shorter name"),
    errno.EISDIR: _("Move the folder of this name away"),
    errno.ENOTDIR: _("Move away the file that stands where a folder should"),
    errno.EEXIST: _("Move away what stands there"),
    errno.EMFILE: _("Allow more open files (ulimit -n)"),
    errno.ENFILE: _("Close other programs"),
    errno.ENOMEM: _("Close other programs, or take fewer workers (executor.workers=1)"),
    **dict.fromkeys((errno.EIO, errno.ENOLCK, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH), REMEDY),
    errno.ECONNREFUSED: REMEDY,
}
"""Remedies of errors of the system that the user can mend; other OSErrors are faults of the program."""
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY}
"""Errors of a call that a file system does not have."""
_TORCH_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory")
"""Texts of RuntimeErrors of torch; it has no class for a lack of memory on a CPU."""
_SIZE = re.compile(r"(?:allocate|allocate:) ([\d.]+ (?:bytes|[KMGTPE]i?B))")
KINDS = {
    "verb": _("verb"),
    "run": _("run"),
    "model": _("model"),
    "preset": _("preset"),
    "key": _("key"),
    "label": _("label"),
    "file": _("file"),
    "test file": _("test file"),
}
"""Words for what a name may be unknown of."""
LONGEST = 120
"""Characters of a value in a message."""


class UserError(Exception):
    """Error that the user can fix; the command prints its message without a traceback and exits with status 2."""

    @property
    def message(self) -> str:
        """The text, or the message in every language."""
        return self.args[0]

    def _render_traceback_(self) -> list[str]:
        """Returns what a notebook shows instead of the traceback."""
        return [f"error: {self}"]


class OutOfDate(UserError):
    """A result was made of other inputs or settings than are there now."""


class OutOfTime(UserError):
    """The time of the command was over before what it does was done."""

    def __init__(self) -> None:
        super().__init__(
            _("the time (--time) is over; what is finished is kept, and the same command goes on from there")
        )


def explained(error: Exception) -> str | None:
    """Returns a sentence with the file, the error and the remedy for an error of the system, a lack of memory among
    them, or None for an error that is a fault of ours."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _TORCH_MEMORY.search(str(error))):
        size = _SIZE.search(str(error))
        lack = (
            _("there is not enough memory for {size}").format(size=size[1]) if size else _("there is not enough memory")
        )
        return lack + _(
            ". Take a smaller model, fewer tokens (data.max_len), smaller batches (train.batch_size) or fewer workers "
            "(executor.workers=1)"
        )
    if not isinstance(error, OSError) or error.errno not in REMEDIES:
        return None
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    told = _("{place}{reason}. {remedy}, and run the same command again")
    return told.format(place=place, reason=error.strerror, remedy=REMEDIES[error.errno])


class Damaged(UserError):
    """A file in the output folder is not as it was written."""

    def __init__(self, path: Path, why: str, remedy: str = ""):
        """`why`: what is wrong with it; `remedy`: the command, without ./run.sh, that makes it anew."""
        self.what = _("{path} is damaged: {why}").format(path=path, why=why)
        make = _("Make it anew with: ./run.sh {command}").format(command=remedy)
        again = _("Delete it and run the same command again")
        super().__init__(_("{what}. {make}.").format(what=self.what, make=make if remedy else again))


def shortened(value: object) -> str:
    """Returns repr(value), without the middle of what is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 30]} … {text[-20:]}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Returns a UserError that lists the `known` names of a `kind` and suggests the name most similar to `name`."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = _(" Did you mean {name}?").format(name=repr(nearest[0])) if nearest else ""
    told = _("unknown {kind} {name}.{hint} Known: {known}")
    return UserError(told.format(kind=KINDS.get(kind, kind), name=shortened(name), hint=hint, known=", ".join(known)))
