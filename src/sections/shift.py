"""How the test files differ from train."""

from __future__ import annotations

import numpy as np

from src import charts, shift_report
from src.page import Chart, Section, Table, Text
from src.sections import Findings
from src.shift_report import RATES, short_names


def section(findings: Findings) -> Section:
    found = Section("Shift")
    if findings.shift is None:
        return found
    facts = findings.shift.facts
    found.parts.append(Text(shift_report.paragraph(facts)))
    names = short_names(facts["tests"])
    noise = {"train": facts["train"]["noise"], **{names[name]: one["noise"] for name, one in facts["tests"].items()}}
    known = {name: one for name, one in noise.items() if one is not None}
    if known:
        found.parts.append(_noise(known))
    if findings.shift.tests:
        found.parts += _likeness(findings, names)
    return found


def _noise(known: dict) -> Chart:
    with charts.picture("Noise rates with 95% intervals", 2.8) as drawn:
        width = 0.8 / len(known)
        for i, (name, one) in enumerate(known.items()):
            places = np.arange(len(RATES)) + (i - (len(known) - 1) / 2) * width
            values = [100 * one["rates"][rate] for rate in RATES]
            spans = [one["intervals"].get(rate) or (one["rates"][rate],) * 2 for rate in RATES]
            below = [max(value - 100 * low, 0) for value, (low, _) in zip(values, spans, strict=True)]
            above = [max(100 * high - value, 0) for value, (_, high) in zip(values, spans, strict=True)]
            drawn.axes.bar(
                places,
                values,
                width * 0.92,
                color=charts.COLOURS[i % len(charts.COLOURS)],
                label=name,
                yerr=[below, above],
                ecolor=charts.INK,
            )
        drawn.axes.set_xticks(range(len(RATES)), RATES)
        drawn.axes.set_ylabel("% of tokens")
        drawn.axes.set_title("Noise: tokens replaced, put in, left out, and how it varies between reports")
        drawn.axes.legend(fontsize=8)
    return Chart(drawn.svg, "Estimated from frames of frequent phrases, with 95% intervals.")


def _likeness(findings: Findings, names: dict[str, str]) -> list[Chart | Table]:
    edges = np.linspace(0, 1, 41)
    tests = findings.shift.tests
    with charts.picture("Likeness to the nearest train report", 2.6) as drawn:
        series = {
            "train, to other folds": np.histogram(tests[0].array("similarity")[0], edges)[0] / len(findings.shift.rows)
        }
        for test in tests:
            like = test.array("test_similarity")
            series[names[test.name]] = np.histogram(like, edges)[0] / max(len(like), 1)
        charts.steps(drawn.axes, edges, series)
        drawn.axes.set_title("Cosine of each report to the train report nearest to it")
        drawn.axes.set_xlabel("TF-IDF cosine")
        drawn.axes.set_ylabel("share of reports")
    rows = []
    for test in tests:
        told = test.facts["adversarial"]
        matched = told["auc_noise_matched"]
        like = np.median(test.array("test_similarity"))
        cells = [told["auc"], matched]
        rows.append([names[test.name], *("–" if cell is None else f"{cell:.3f}" for cell in cells), f"{like:.2f}"])
    columns = ["test file", "AUC train against test", "with noise made equal", "median cosine to train"]
    return [Chart(drawn.svg, "Reports with a near relative in train are easier."), Table(columns, rows)]
