"""Packages that pip installs: a lock file with the hash of every file, and the licence of every package.

    python -m tests.supply_chain lock        # docs/requirements.lock, by uv (pip install uv), which asks the registry
    python -m tests.supply_chain licences    # the tables of docs/supply-chain.md, from what is installed here

tests/test_supply_chain.py keeps both in step with requirements.txt.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements.txt"
OPTIONAL = sorted(ROOT.glob("docs/requirements-*.txt"))
LOCK = ROOT / "docs/requirements.lock"
PAGE = ROOT / "docs/supply-chain.md"
PYTHON = "3.11"
"""The oldest Python that is supported; the lock is for it and for all newer ones."""
HEADER = """\
# Everything that requirements.txt brings, with the sha256 of every file that the registry holds of it.
# Made by: python -m tests.supply_chain lock
# Install: .venv/bin/pip install --require-hashes -r docs/requirements.lock
"""
PIN = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([\w.+!-]+)")
UNKNOWN = "not stated"


class Locked(NamedTuple):
    """One entry of the lock file."""

    name: str
    version: str
    marker: str
    """Environment marker; empty: everywhere."""
    hashes: list[str]
    via: list[str]
    """Requirers: names of packages, or `-r requirements.txt`."""


def normalised(name: str) -> str:
    """Returns the name of a package as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, str]:
    """Returns {package: version} of the lines of a requirements file."""
    found = filter(None, (PIN.match(line) for line in path.read_text(encoding="utf-8").splitlines()))
    return {normalised(match[1]): match[2] for match in found}


def locked() -> list[Locked]:
    """Returns the entries of docs/requirements.lock; a package has several where its version depends on Python's."""
    found = []
    for entry in re.split(r"\n(?=\w)", LOCK.read_text(encoding="utf-8")):
        if not (pin := PIN.match(entry)):
            continue
        head = entry.splitlines()[0].removesuffix("\\").strip()
        comment = entry[entry.index("# via") :].removeprefix("# via") if "# via" in entry else ""
        via = [line.strip(" #") for line in comment.splitlines() if line.strip(" #")]
        hashes = re.findall(r"--hash=(\S+)", entry)
        found.append(Locked(normalised(pin[1]), pin[2], head.partition(" ; ")[2], hashes, via))
    return found


def licence(name: str) -> str:
    """Returns the licence that an installed package states in its metadata: the SPDX expression, or else its words."""
    of = metadata.metadata(name)
    words = (of.get("License") or "").strip()
    is_name = 0 < len(words) < 40 and "\n" not in words and words != "UNKNOWN" and not words.startswith("Copyright")
    classifiers = [line.split(" :: ")[-1] for line in of.get_all("Classifier") or [] if line.startswith("License ::")]
    return of.get("License-Expression") or (words if is_name else " / ".join(classifiers)) or UNKNOWN


def table(packages: dict[str, str]) -> str:
    """Returns the lines of a table of packages {name: versions} and their licences, which must be installed."""
    rows = [f"| {name} | {versions} | {licence(name)} |" for name, versions in sorted(packages.items())]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows])


def installed_lock() -> dict[str, str]:
    """Returns {package: versions} of the lock for Linux on x86-64, the versions of different Pythons side by side."""
    found: dict[str, list[str]] = {}
    for one in locked():
        if not re.search(r"sys_platform == '(darwin|win32)'|implementation_name == 'pypy'", one.marker):
            found.setdefault(one.name, []).append(one.version)
    return {name: ", ".join(versions) for name, versions in found.items()}


def optional() -> dict[str, str]:
    """Returns {package: version} of the pins of docs/requirements-*.txt."""
    return {name: version for path in OPTIONAL for name, version in pins(path).items()}


def write_lock() -> None:
    """Writes docs/requirements.lock; pins that are there stay, unless requirements.txt says otherwise."""
    command = [
        "uv", "pip", "compile", str(REQUIREMENTS.relative_to(ROOT)), "--universal", "--python-version", PYTHON,
        "--generate-hashes", "--no-header", "--no-config", "--quiet", "--output-file", str(LOCK.relative_to(ROOT)),
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True)
    LOCK.write_text(HEADER + LOCK.read_text(encoding="utf-8"), encoding="utf-8")


def write_licences() -> None:
    """Writes the tables of docs/supply-chain.md between their marks."""
    text = PAGE.read_text(encoding="utf-8")
    for mark, packages in (("lock", installed_lock()), ("optional", optional())):
        begin, end = f"<!-- {mark} -->\n", f"\n<!-- end of {mark} -->"
        head, _, rest = text.partition(begin)
        text = head + begin + table(packages) + end + rest.partition(end)[2]
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    {"lock": write_lock, "licences": write_licences}[sys.argv[1]]()
