"""The lock file and the table of licences are in step with requirements.txt, and name no host."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests import supply_chain
from tests.supply_chain import LOCK, PAGE, REQUIREMENTS, Locked, locked, normalised, pins

ENTRIES = locked()
NAMES = {one.name for one in ENTRIES}


def test_every_requirement_is_locked_at_its_version():
    assert pins(REQUIREMENTS).items() <= {(one.name, one.version) for one in ENTRIES}


def test_every_requirement_is_pinned():
    lines = [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(pins(REQUIREMENTS)) == len(lines)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.name}-{entry.version}")
def test_an_entry_has_hashes_and_a_reason(entry):
    assert entry.hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in entry.hashes)
    assert len(set(entry.hashes)) == len(entry.hashes)
    reasons = {normalised(name.partition("[")[0]) for name in entry.via if not name.startswith("-r ")}
    assert entry.via and reasons <= NAMES
    assert "-r requirements.txt" in entry.via or entry.name not in pins(REQUIREMENTS)


def test_the_lock_names_no_host_and_changes_no_option_of_pip():
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("-")]


def test_what_an_installed_package_needs_is_locked():
    """The lock is whole: --require-hashes refuses a package that is not in it."""
    lacking = []
    for entry in ENTRIES:
        for need in needs(entry):
            fitting = [
                one for one in ENTRIES if one.name == normalised(need.name) and need.specifier.contains(one.version)
            ]
            lacking += [] if fitting else [f"{entry.name} needs {need}"]
    assert lacking == []


def needs(entry: Locked) -> list[Requirement]:
    """Returns what a package needs on this machine; nothing if it is not installed in the version of the lock."""
    try:
        found = metadata.distribution(entry.name)
    except metadata.PackageNotFoundError:
        return []
    if found.version.partition("+")[0] != entry.version:
        return []
    asked = [Requirement(line) for line in found.requires or ()]
    return [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]


@pytest.mark.parametrize("mark", ["lock", "optional"])
def test_the_licences_are_those_of_the_packages(mark):
    packages = {"lock": supply_chain.installed_lock, "optional": supply_chain.optional}[mark]()
    part = PAGE.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")[2].partition(f"\n<!-- end of {mark} -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()[2:]]
    assert {name: version for name, version, _ in rows} == packages
    for name, version, licence in rows:
        assert licence
        try:
            here = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if here == version:
            assert licence == supply_chain.licence(name), name
