"""What studies found."""

from __future__ import annotations

import csv

import numpy as np

from src import charts
from src.page import Chart, Section, Table, Text
from src.sections import Findings

TOP = 8


def section(findings: Findings) -> Section:
    found = Section("Tuning")
    for path in sorted(findings.prepared.output.tune.glob("*/trials.csv")):
        trials = list(csv.DictReader(path.open()))
        complete = [trial for trial in trials if trial["state"] == "complete"]
        if not complete:
            continue
        name = path.parent.name
        hours = sum(float(trial["seconds"] or 0) for trial in trials) / 3600
        kinds = ", ".join(
            f"{sum(t['state'] == state for t in trials)} {state}" for state in sorted({t["state"] for t in trials})
        )
        found.parts.append(Text(f"{name}: {len(trials)} trials ({kinds}), {hours:.1f} hours of a core."))
        found.parts.append(_history(name, trials, complete))
        settings = [key for key in trials[0] if "." in key]
        best = sorted(complete, key=lambda trial: -float(trial["score"]))[:TOP]
        rows = [
            [trial["trial"], f"{float(trial['score']):.4f}", *(_shown(trial[key]) for key in settings)]
            for trial in best
        ]
        found.parts.append(
            Table(["trial", "score", *(key.split(".", 1)[1] for key in settings)], rows, "The best trials")
        )
        if len(complete) > 3:
            found.parts.append(_settings(name, complete, settings))
    return found


def _history(name: str, trials: list[dict], complete: list[dict]) -> Chart:
    numbers, scores = [int(t["trial"]) for t in complete], [float(t["score"]) for t in complete]
    with charts.picture(f"Search history of {name}", 2.4) as drawn:
        pruned = [t for t in trials if t["state"] == "pruned" and t["score"]]
        drawn.axes.plot(
            [int(t["trial"]) for t in pruned],
            [float(t["score"]) for t in pruned],
            "x",
            color=charts.COLOURS[5],
            markersize=4,
            label="given up",
        )
        drawn.axes.plot(numbers, scores, "o", color=charts.COLOURS[0], markersize=4, label="complete")
        drawn.axes.step(
            numbers, np.maximum.accumulate(scores), where="post", color=charts.COLOURS[1], label="best so far"
        )
        low = min(scores)
        drawn.axes.set_ylim(low - 0.6 * (max(scores) - low) - 1e-3, max(scores) + 0.1 * (max(scores) - low) + 1e-3)
        drawn.axes.set_xlabel("trial")
        drawn.axes.set_ylabel("score")
        drawn.axes.set_title(f"{name}: how the search went")
        drawn.axes.legend(fontsize=8)
    return Chart(drawn.svg, "Trials that were given up stand at the score of the folds that they had.")


def _settings(name: str, complete: list[dict], settings: list[str]) -> Chart:
    """Each setting against the score."""
    columns = min(4, len(settings))
    rows = -(-len(settings) // columns)
    scores = np.array([float(trial["score"]) for trial in complete])
    with charts.picture(
        f"Settings and scores of {name}", 1.9 * rows, rows, columns, squeeze=False, sharey=True
    ) as drawn:
        cells = drawn.axes.ravel()
        for axes, key in zip(cells, settings, strict=False):
            given = [trial[key] for trial in complete]
            try:
                values = np.array([float(value) if value else np.nan for value in given])
            except ValueError:
                kinds = sorted(set(given) - {""})
                values = np.array([kinds.index(value) if value in kinds else np.nan for value in given])
                axes.set_xticks(range(len(kinds)), [_shown(kind) for kind in kinds], fontsize=7)
            axes.plot(values, scores, "o", markersize=3, color=charts.COLOURS[0])
            if key.endswith("learning_rate"):
                axes.set_xscale("log")
            axes.set_title(key.split(".", 1)[1], fontsize=8)
            axes.tick_params(labelsize=7)
        for axes in cells[len(settings) :]:
            axes.set_visible(False)
    return Chart(drawn.svg, "Complete trials alone.")


def _shown(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value.strip('"') or "–"
