"""The one exception that users are meant to see, and the sentence for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can put right. The front desk prints it without a traceback and exits with 2."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error that lists the `known` names of a `kind` and suggests the one nearest to `name`."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}")
