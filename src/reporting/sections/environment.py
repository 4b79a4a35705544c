"""Report section on software versions and the commands to reproduce the runs."""

from __future__ import annotations

from src.core import storage
from src.core.language import _
from src.reporting.html_page import Section, Table, Text
from src.reporting.sections import Findings


def section(findings: Findings) -> Section:
    result = Section(_("Environment"))
    if findings.runs:
        rows = [[name, run.record["preset"], f"./run.sh {run.remedy}"] for name, run in findings.runs.items()]
        result.parts.append(
            Table([_("run"), _("preset"), _("command")], rows, _("Commands to train each run"), open=False)
        )
    result.gist = _("commands, versions and the machine")
    made = {}
    for run in findings.runs.values():
        if run.is_model:
            made |= storage.read_json(run.path / "environment.json", run.remedy)
    kinds = {}
    for each in made.values():
        packages = ", ".join(f"{name} {version}" for name, version in each["packages"].items())
        kinds[f"Python {each['python']}, {each['platform']}, {each['device']}, {each['precision']}; {packages}"] = None
    result.parts += [Text(kind) for kind in kinds]
    if findings.others:
        result.parts.append(
            Text(
                _("Not in this report, since made of other reports, folds or noise: {runs}.").format(
                    runs=", ".join(findings.others)
                )
            )
        )
    return result
