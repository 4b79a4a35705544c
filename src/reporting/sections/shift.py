"""Report section on the differences between train and test files."""

from __future__ import annotations

from typing import Any

import numpy as np

from src.evaluation import shift_summary
from src.evaluation.series_shift_summary import LISTED, most_different
from src.evaluation.shift_words import short_names
from src.evaluation.text_shift_summary import RATES
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
    chart = _of_reports(findings) if findings.dataset.shape.kind == "tokens" else _of_series(findings)
    if chart.panels:
        result.parts.append(chart)
    tables = shift_summary.tables(facts)
    result.parts += [Table(columns, rows, title, title == "Difference from train") for title, columns, rows in tables]
    return result


def _of_reports(findings: Findings) -> Chart:
    facts, names = findings.shift.facts, short_names(findings.shift.facts["tests"])
    noise = {"train": facts["train"]["noise"], **{names[name]: test["noise"] for name, test in facts["tests"].items()}}
    known = {name: estimate for name, estimate in noise.items() if estimate is not None}
    pictures = [_noise(known)] if known else []
    if tests := findings.shift.tests:
        similarity = {"train, to other folds": tests[0].array("similarity")[0]}
        similarity |= {names[test.name]: test.array("test_similarity") for test in tests}
        pictures.append(_similarity(similarity, "Similarity to the nearest train report", "TF-IDF cosine", "reports"))
    caption = "Noise is estimated from frames of frequent phrases. Reports similar to a train report are easier."
    return Chart(pictures, caption)


def _of_series(findings: Findings) -> Chart:
    tests, noun = findings.shift.tests, findings.shift.facts["noun"]
    names = short_names([test.name for test in tests])
    pictures = []
    if parameters := most_different([test.facts for test in tests])[:LISTED]:
        missing = {
            names[test.name]: {one["parameter"]: one["steps"] for one in test.facts["missingness"]} for test in tests
        }
        pictures.append(_missingness(parameters, missing))
    for test in tests:
        similarity = {"train": test.array("similarity")[0], names[test.name]: test.array("test_similarity")}
        title = f"Similarity to train, against {names[test.name]}"
        pictures.append(_similarity(similarity, title, "probability of being a train row, out of fold", noun))
    caption = (
        "Test minus train, ± one standard error, for the parameters with the most significant differences. Where the "
        f"files do not differ, all {noun} have a probability near 0.5."
    )
    return Chart(pictures, caption if parameters else caption.partition(". ")[2])


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


def _missingness(parameters: list[str], tests: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Draws differences of observed time steps by test file and parameter."""
    with charts.picture("Differences of the share of time steps with a value", 3.2, charts.PANEL) as chart:
        width = 0.8 / len(tests)
        for i, (name, found) in enumerate(tests.items()):
            chart.axes.barh(
                np.arange(len(parameters)) + (i - (len(tests) - 1) / 2) * width,
                [100 * found[one]["difference"] for one in parameters],
                width * 0.92,
                color=charts.COLOURS[i % len(charts.COLOURS)],
                label=name,
                xerr=[100 * found[one]["standard_error"] for one in parameters],
                ecolor=charts.INK,
            )
        chart.axes.set_yticks(range(len(parameters)), parameters)
        chart.axes.invert_yaxis()
        chart.axes.grid(visible=False, axis="y")
        chart.axes.set_xlabel("difference from train, % of time steps")
        chart.axes.set_title("Time steps with a value")
        chart.axes.legend()
    return chart.svg


def _similarity(similarity: dict[str, np.ndarray], title: str, measure: str, noun: str) -> str:
    edges = np.linspace(0, 1, 41)
    with charts.picture(title.partition(",")[0], 2.5, charts.PANEL) as chart:
        shares = {
            name: 100 * np.histogram(values, edges)[0] / max(len(values), 1) for name, values in similarity.items()
        }
        charts.steps(chart.axes, edges, shares)
        chart.axes.set_title(title)
        chart.axes.set_xlabel(measure)
        chart.axes.set_ylabel(f"% of {noun}")
    return chart.svg
