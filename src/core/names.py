"""Rule for names of runs, blends, studies and boards, which become names of files and folders."""

from __future__ import annotations

import re

from src.core.errors import UserError, shortened
from src.core.language import _

MOST_BYTES = 80
"""Bytes of a name. File systems allow 255 for a file, whose name also holds a test file's."""
BLEND = "blend"
"""Name of the pipeline's blend, which is a run in every other respect."""
_NAME = re.compile(r"\w[\w.-]*")


def check_name(kind: str, name: object) -> str:
    """Returns the name of a `kind` such as run. Raises UserError unless it is letters, digits, '_', '-' and '.', begins
    with none of '-' and '.', and is no longer than MOST_BYTES: then it is one part of a path, on any file system."""
    told = f"{shortened(name)} cannot be the name of a {kind}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(_("{told}: want letters, digits, '_', '-' and '.' alone").format(told=told))
    if len(name.encode()) > MOST_BYTES:
        raise UserError(_("{told}: it has more than {most} bytes").format(told=told, most=MOST_BYTES))
    return name


def check_model(name: object) -> str:
    """Returns the name of a run that is trained, which cannot be that of the blend. Raises UserError."""
    if name == BLEND:
        raise UserError(
            _("{blend} cannot be the name of a run of a preset: the blend of its runs is called so").format(
                blend=repr(BLEND)
            )
        )
    return check_name("run", name)
