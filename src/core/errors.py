"""Exception for errors that the user can fix, and the message for an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Error that the user can fix; the command prints its message without a traceback and exits with status 2."""


class OutOfDate(UserError):
    """A result was made of other inputs or settings than are there now."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Returns a UserError that lists the `known` names of a `kind` and suggests the name most similar to `name`."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}")
