"""Optional packages of the commands that serve: what is missing is one error before anything is started."""

from __future__ import annotations

import importlib.util

from src.core.errors import UserError

INSTALL = ".venv/bin/pip install -r docs/requirements-serve.txt"


def require_packages(what: str, *modules: str) -> None:
    """Raises UserError, with the command that installs them, if one of the top-level `modules` is not installed.

    `what` is the command, or the setting, that needs them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs docs/requirements-serve.txt ({', '.join(missing)} is not installed): {INSTALL}")
