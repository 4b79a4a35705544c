"""How the test files differ from train."""

from __future__ import annotations

import numpy as np

from src.evaluation import shift_summary
from src.evaluation.shift_summary import RATES, short_names
from src.reporting import charts
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

HITS = RATES[:3]
"""Rates that are shares of tokens."""


def section(findings: Findings) -> Section:
    found = Section("Shift")
    if findings.shift is None:
        return found
    facts = findings.shift.facts
    found.parts.append(Text(shift_summary.paragraph(facts)))
    names = short_names(facts["tests"])
    noise = {"train": facts["train"]["noise"], **{names[name]: one["noise"] for name, one in facts["tests"].items()}}
    known = {name: one for name, one in noise.items() if one is not None}
    pictures = [_noise(known)] if known else []
    if findings.shift.tests:
        pictures.append(_likeness(findings, names))
    if pictures:
        told = "Noise is estimated from frames of frequent phrases. Reports with a near relative in train are easier."
        found.parts.append(Chart(pictures, told))
    tables = shift_summary.tables(facts)
    found.parts += [Table(columns, rows, title, title == "Difference from train") for title, columns, rows in tables]
    return found


def _noise(known: dict) -> str:
    with charts.picture("Noise rates with 95% intervals", 2.5, charts.PANEL) as drawn:
        width = 0.8 / len(known)
        for i, (name, one) in enumerate(known.items()):
            values = np.array([100 * one["rates"][rate] for rate in HITS])
            spans = 100 * np.array([one["intervals"][rate] for rate in HITS]).T
            drawn.axes.bar(
                np.arange(len(HITS)) + (i - (len(known) - 1) / 2) * width,
                values,
                width * 0.92,
                color=charts.COLOURS[i % len(charts.COLOURS)],
                label=name,
                yerr=np.maximum([values - spans[0], spans[1] - values], 0),
                ecolor=charts.INK,
            )
        drawn.axes.set_xticks(range(len(HITS)), HITS)
        drawn.axes.grid(visible=False, axis="x")
        drawn.axes.set_ylabel("% of tokens")
        drawn.axes.set_title("Noise, with 95% intervals")
        drawn.axes.legend()
    return drawn.svg


def _likeness(findings: Findings, names: dict[str, str]) -> str:
    edges = np.linspace(0, 1, 41)
    tests = findings.shift.tests
    like = {"train, to other folds": tests[0].array("similarity")[0]}
    like |= {names[test.name]: test.array("test_similarity") for test in tests}
    with charts.picture("Likeness to the nearest train report", 2.5, charts.PANEL) as drawn:
        shares = {name: 100 * np.histogram(one, edges)[0] / max(len(one), 1) for name, one in like.items()}
        charts.steps(drawn.axes, edges, shares)
        drawn.axes.set_title("Likeness to the nearest train report")
        drawn.axes.set_xlabel("TF-IDF cosine")
        drawn.axes.set_ylabel("% of reports")
    return drawn.svg
