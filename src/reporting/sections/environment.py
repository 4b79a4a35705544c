"""What all this was made with, and the commands that make it again."""

from __future__ import annotations

from src.core import storage
from src.reporting.html_page import Code, Section, Table, Text
from src.reporting.sections import Findings


def section(findings: Findings) -> Section:
    found = Section("How it was made")
    seconds = findings.dataset.output.seconds
    last = storage.read_json(seconds) if seconds.exists() else {}
    if "command" in last:
        found.parts.append(Code(last["command"]))
    if findings.runs:
        rows = [[name, run.record["preset"], f"./run.sh {run.remedy}"] for name, run in findings.runs.items()]
        found.parts.append(Table(["run", "preset", "command"], rows, "Each run again", open=False))
    made = {}
    for run in findings.runs.values():
        if not run.is_blend:
            made |= storage.read_json(run.path / "environment.json")
    kinds = {}
    for one in made.values():
        packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
        kinds[f"Python {one['python']}, {one['platform']}, {one['device']}, {one['precision']}; {packages}"] = None
    found.parts += [Text(kind) for kind in kinds]
    if findings.others:
        found.parts.append(
            Text(f"Left out, as made of other reports, folds or noisy copies: {', '.join(findings.others)}.")
        )
    return found
