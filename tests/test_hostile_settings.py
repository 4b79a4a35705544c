"""Hostile settings, words and YAML files end in a sentence: no traceback, no hang, nothing written elsewhere."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from src.__main__ import main
from src.core.executors import LocalProcesses
from tests.chaos.hostile_settings import Case, cases, write_files
from tests.conftest import words

RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
LIMIT = 10.0
"""Seconds of this process for a case."""


class Reached(BaseException):
    """The settings were accepted, and jobs would start now."""


def link_or_copy(path: str, to: str) -> None:
    """Links what commands replace, and copies what they write to."""
    (shutil.copy2 if Path(path).suffix in (".lock", ".jsonl", ".db", ".log") else os.link)(path, to)


def outside(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if folder / "output" not in (p, *p.parents)}


def fault_of(case: Case, done: Path, tiny_input: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a case in `folder` on a copy of a finished output; returns what is wrong, empty where nothing is."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(done, folder / "output", copy_function=link_or_copy)
    verb, *arguments = write_files(case, folder, folder / "output")
    before, started = outside(folder), time.process_time()
    usual = words(tiny_input, folder / "output")
    if "--preset" in arguments:
        at = usual.index("--preset")
        del usual[at : at + 2]
    try:
        status = main([verb, *usual, *arguments])
    except Reached:
        status = 0
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"
    seconds, shown = time.process_time() - started, "".join(capsys.readouterr())
    faults = {
        f"exit status {status}": status not in (0, 2),
        f"{seconds:.0f} s": seconds > LIMIT,
        "a traceback": "Traceback (most recent call last)" in shown,
        "control characters": RAW.search(shown),
        "no reason": status == 2 and "error: " not in shown,
        "files outside": outside(folder) != before and "paths" not in str(case),
    }
    return ", ".join(fault for fault, is_so in faults.items() if is_so)


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 20), *(pytest.param(seed, 500, marks=pytest.mark.chaos) for seed in (1, 2, 3))]
)
def test_hostile_settings(seed, count, done, tiny_input, tmp_path, monkeypatch, capsys):
    def reached(*_):
        raise Reached

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LocalProcesses, "run_as_they_come", reached)
    found = {}
    for number, case in enumerate(itertools.islice(cases(seed), count)):
        if fault := fault_of(case, done, tiny_input, tmp_path / "case", capsys):
            found[number] = (fault, [word[:200] for word in case.arguments])
    assert not found
