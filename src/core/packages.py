"""Packages of requirements.txt beside those that are installed, for notebooks on machines that have their own.

Imports nothing but the standard library, so that it can tell what is missing.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from src.core.errors import UserError
from src.core.language import _

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
TESTS = "# ./run.sh test"
"""Line of requirements.txt behind which packages are for the tests alone."""
OPTIONAL = {"psycopg"}
"""Packages that one option needs; it says so itself."""
PIN = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([\w.+!-]+)", re.MULTILINE)


class Package(NamedTuple):
    """Package that the pipeline imports."""

    name: str
    wanted: str
    """Version of requirements.txt, with which everything was tried."""
    found: str
    """Version that is installed; empty if there is none."""


def packages() -> list[Package]:
    """Returns the packages of requirements.txt, without those of the tests."""
    wanted, _, _ = REQUIREMENTS.read_text(encoding="utf-8").partition(TESTS)
    return [Package(name, version, _installed(name)) for name, version in PIN.findall(wanted)]


def check() -> None:
    """Raises UserError, with the command, if a package is missing; another version is no error."""
    missing = [f"{one.name}=={one.wanted}" for one in packages() if not one.found and one.name not in OPTIONAL]
    if missing:
        raise UserError(
            _("{n_missing} packages are not installed here. Install them: pip install {missing}").format(
                n_missing=len(missing), missing=" ".join(missing)
            )
        )


def _installed(name: str) -> str:
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""
