"""Report section on blends: weights, contributions and diversity of members."""

from __future__ import annotations

import numpy as np

from src.core import charts
from src.data.tasks import Task
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

MANY = 12
"""Number of members above which the correlation table scrolls on a phone."""


def section(findings: Findings) -> Section:
    result = Section("Blend")
    for name, run in findings.runs.items():
        if not run.is_blend:
            continue
        record, members = run.record, list(run.record["members"])
        groups = record["weights"]["groups"]
        result.parts.append(Text(f"{name}: {run.score['how']}."))
        rows = [
            [_labels(run.task, group['start'], group['stop']), f"{group['temperature']:.3f}",
             *(f"{weight:.3f}" for weight in group["weights"])]
            for group in groups
        ]  # fmt: skip
        result.parts.append(Table(["weights of", "temperature", *members], rows))
        contributions = record.get("contributions")
        if contributions:
            rows = [
                [
                    member,
                    f"{contributions['members'][member]['score']['value']:.4f}",
                    _gain(contributions["members"][member]["lost_without"]),
                ]
                for member in members
            ]
            result.parts.append(
                Table(
                    ["member", "score alone", "loss without the member"],
                    rows,
                    f"Contributions, cross-fitted on {contributions['on']}",
                )
            )
            rows = [
                [
                    step["member"],
                    f"{step['score']['value']:.4f}",
                    _gain(step["gain"]),
                    f"{step['agree']} of {step['folds']}",
                ]
                for step in contributions["greedy"]
            ]
            result.parts.append(Table(["added", "score", "gain", "folds agree"], rows, "Greedy selection"))
        correlation = np.array(
            [[np.nan if value is None else value for value in line] for line in record["diversity"]["correlation"]]
        )
        if len(members) > 1:
            np.fill_diagonal(correlation, np.nan)
            heat = charts.heat(correlation, members, f"Correlation of the errors of {name}'s members", "{:.2f}".format)
            caption = f"{name}: correlation of the members' errors. The lower, the more a blend gains."
            result.parts.append(Chart(heat, caption, wide=len(members) > MANY))
    return result


def _labels(task: Task, start: int, stop: int) -> str:
    if task.kind == "multilabel":
        return f"labels {start} to {stop - 1}"
    return task.label_names[start] if stop == start + 1 else "all classes"


def _gain(estimate: dict | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    return f"{estimate['value']:+.4f} ± {estimate['standard_error'] or 0:.4f}"
