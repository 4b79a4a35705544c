"""Report section on the differences between train and test files."""

from __future__ import annotations

import numpy as np

from src.evaluation import shift_summary
from src.evaluation.shift_summary import RATES, short_names
from src.reporting import charts
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

TOKEN_RATES = RATES[:3]
"""Rates that are shares of tokens."""


def section(findings: Findings) -> Section:
    result = Section("Shift")
    if findings.shift is None:
        return result
    facts = findings.shift.facts
    result.parts.append(Text(shift_summary.paragraph(facts)))
    names = short_names(facts["tests"])
    noise = {"train": facts["train"]["noise"], **{names[name]: test["noise"] for name, test in facts["tests"].items()}}
    known = {name: estimate for name, estimate in noise.items() if estimate is not None}
    pictures = [_noise(known)] if known else []
    if findings.shift.tests:
        pictures.append(_similarity(findings, names))
    if pictures:
        caption = "Noise is estimated from frames of frequent phrases. Reports similar to a train report are easier."
        result.parts.append(Chart(pictures, caption))
    tables = shift_summary.tables(facts)
    result.parts += [Table(columns, rows, title, title == "Difference from train") for title, columns, rows in tables]
    return result


def _noise(known: dict) -> str:
    with charts.picture("Noise rates with 95% intervals", 2.5, charts.PANEL) as chart:
        width = 0.8 / len(known)
        for i, (name, estimate) in enumerate(known.items()):
            values = np.array([100 * estimate["rates"][rate] for rate in TOKEN_RATES])
            spans = 100 * np.array([estimate["intervals"][rate] for rate in TOKEN_RATES]).T
            chart.axes.bar(
                np.arange(len(TOKEN_RATES)) + (i - (len(known) - 1) / 2) * width,
                values,
                width * 0.92,
                color=charts.COLOURS[i % len(charts.COLOURS)],
                label=name,
                yerr=np.maximum([values - spans[0], spans[1] - values], 0),
                ecolor=charts.INK,
            )
        chart.axes.set_xticks(range(len(TOKEN_RATES)), TOKEN_RATES)
        chart.axes.grid(visible=False, axis="x")
        chart.axes.set_ylabel("% of tokens")
        chart.axes.set_title("Noise, with 95% intervals")
        chart.axes.legend()
    return chart.svg


def _similarity(findings: Findings, names: dict[str, str]) -> str:
    edges = np.linspace(0, 1, 41)
    tests = findings.shift.tests
    similarity = {"train, to other folds": tests[0].array("similarity")[0]}
    similarity |= {names[test.name]: test.array("test_similarity") for test in tests}
    with charts.picture("Similarity to the nearest train report", 2.5, charts.PANEL) as chart:
        shares = {
            name: 100 * np.histogram(cosines, edges)[0] / max(len(cosines), 1) for name, cosines in similarity.items()
        }
        charts.steps(chart.axes, edges, shares)
        chart.axes.set_title("Similarity to the nearest train report")
        chart.axes.set_xlabel("TF-IDF cosine")
        chart.axes.set_ylabel("% of reports")
    return chart.svg
