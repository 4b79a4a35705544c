"""What the blend is made of."""

from __future__ import annotations

import numpy as np

from src.reporting import charts
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

MANY = 12
"""Members whose correlations a phone cannot show at once."""


def section(findings: Findings) -> Section:
    found = Section("Blend")
    for name, run in findings.runs.items():
        if not run.is_blend:
            continue
        record, members = run.record, list(run.record["members"])
        groups = record["weights"]["groups"]
        found.parts.append(Text(f"{name}: {run.score['how']}."))
        rows = [
            [f"labels {group['start']} to {group['stop'] - 1}", f"{group['temperature']:.3f}",
             *(f"{weight:.3f}" for weight in group["weights"])]
            for group in groups
        ]  # fmt: skip
        found.parts.append(Table(["weights of", "temperature", *members], rows))
        worth = record.get("contributions")
        if worth:
            rows = [
                [
                    member,
                    f"{worth['members'][member]['score']['value']:.4f}",
                    _gain(worth["members"][member]["lost_without"]),
                ]
                for member in members
            ]
            found.parts.append(
                Table(["member", "alone", "the blend loses without it"], rows, f"Cross-fitted, on {worth['on']}")
            )
            rows = [
                [
                    step["member"],
                    f"{step['score']['value']:.4f}",
                    _gain(step["gain"]),
                    f"{step['agree']} of {step['folds']}",
                ]
                for step in worth["greedy"]
            ]
            found.parts.append(
                Table(["added", "score", "gain", "folds agree"], rows, "Added one at a time, the best first")
            )
        correlation = np.array(
            [[np.nan if value is None else value for value in line] for line in record["diversity"]["correlation"]]
        )
        if len(members) > 1:
            np.fill_diagonal(correlation, np.nan)
            heat = charts.heat(correlation, members, f"Correlation of the errors of {name}'s members", "{:.2f}".format)
            told = f"{name}: correlation of the members' errors. The less alike they are, the more a blend gains."
            found.parts.append(Chart(heat, told, wide=len(members) > MANY))
    return found


def _gain(estimate: dict | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    return f"{estimate['value']:+.4f} ± {estimate['standard_error'] or 0:.4f}"
