"""Report section on hyperparameter studies."""

from __future__ import annotations

import csv

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.targets import check_files, made_by
from src.core.terminal import duration
from src.reporting import charts
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

TOP = 8


def section(findings: Findings) -> Section:
    result = Section("Tuning")
    for path in sorted(findings.dataset.output.tune.glob("*/trials.csv")):
        importances = path.parent / "importances.json"
        try:
            verb, *words = made_by(path.parent / "study.json") or ["tune", path.parent.name]
            remedy = findings.workspace.command(verb, *words)
            check_files(path.parent / "study.json", remedy)
            shares = storage.read_json(importances, remedy) if importances.exists() else {}
        except UserError as error:
            findings.workspace.leave_out(f"study {path.parent.name}", error)
            continue
        trials = list(csv.DictReader(path.open(encoding="utf-8")))
        complete = [trial for trial in trials if trial["state"] == "complete"]
        if not complete:
            continue
        name = path.parent.name
        spent = duration(sum(float(trial["seconds"] or 0) for trial in trials))
        kinds = ", ".join(
            f"{sum(t['state'] == state for t in trials)} {state}" for state in sorted({t["state"] for t in trials})
        )
        result.parts.append(Text(f"{name}: {len(trials)} trials ({kinds}), {spent} of a core."))
        result.parts.append(_history(name, trials, complete))
        settings = [key for key in trials[0] if "." in key]
        best = sorted(complete, key=lambda trial: -float(trial["score"]))[:TOP]
        rows = [
            [trial["trial"], f"{float(trial['score']):.4f}", *(_shown(trial[key]) for key in settings)]
            for trial in best
        ]
        result.parts.append(Table(["trial", "score", *(key.split(".", 1)[1] for key in settings)], rows, "Best trials"))
        if shares:
            result.parts.append(_importances(name, shares))
            result.parts.append(_settings(name, complete, settings))
            result.parts.append(_parallel(name, complete, settings))
    return result


def _history(name: str, trials: list[dict], complete: list[dict]) -> Chart:
    numbers, scores = [int(t["trial"]) for t in complete], [float(t["score"]) for t in complete]
    pruned = [int(t["trial"]) for t in trials if t["state"] == "pruned"]
    floor = min(scores) - 0.1 * (max(scores) - min(scores)) - 1e-3
    with charts.picture(f"Search history of {name}") as chart:
        if pruned:
            chart.axes.plot(pruned, [floor] * len(pruned), "x", color=charts.COLOURS[5], markersize=4, label="pruned")
        chart.axes.plot(numbers, scores, "o", color=charts.COLOURS[0], markersize=4, label="complete")
        chart.axes.step(
            numbers, np.maximum.accumulate(scores), where="post", color=charts.COLOURS[1], label="best so far"
        )
        chart.axes.set_xlabel("trial")
        chart.axes.set_ylabel("score")
        chart.axes.set_title(f"{name}: search history")
        chart.axes.legend()
    return Chart(chart.svg, "Pruned trials have no score and are at the bottom." if pruned else "")


def _importances(name: str, shares: dict[str, float]) -> Chart:
    with charts.picture(f"Importance of settings of {name}", 0.8 + 0.24 * len(shares)) as chart:
        places = np.arange(len(shares))[::-1]
        chart.axes.barh(places, [100 * share for share in shares.values()], color=charts.COLOURS[0], height=0.65)
        chart.axes.set_yticks(places, list(shares))
        chart.axes.set_xlabel("% of the variance of scores")
        chart.axes.grid(visible=False, axis="y")
        chart.axes.set_title(f"{name}: importance of settings")
    return Chart(
        chart.svg, "Importance by fANOVA of settings that all complete trials have; a rough estimate with few trials."
    )


def _parallel(name: str, complete: list[dict], settings: list[str]) -> Chart:
    """Draws parallel coordinates: a line for each trial through its settings to its score."""
    columns = [_numbers([trial[key] for trial in complete])[0] for key in settings]
    columns.append(np.array([float(trial["score"]) for trial in complete]))
    heights = []
    for values in columns:
        low, span = np.nanmin(values), np.nanmax(values) - np.nanmin(values)
        heights.append((values - low) / span if span else np.full(len(values), 0.5))
    ranks = np.argsort(np.argsort(columns[-1])) / max(len(complete) - 1, 1)
    with charts.picture(f"Parallel coordinates of {name}", 3.0) as chart:
        for i, rank in enumerate(ranks):
            line = [height[i] for height in heights]
            chart.axes.plot(line, color=charts.COLOURS[0], alpha=0.1 + 0.85 * rank**2, linewidth=0.6 + 1.4 * rank**3)
        chart.axes.set_xticks(
            range(len(columns)), [*(key.split(".", 1)[1] for key in settings), "score"], rotation=30, ha="right"
        )
        chart.axes.set_yticks([0, 1], ["lowest", "highest"])
        chart.axes.grid(visible=True, axis="x")
        chart.axes.set_title(f"{name}: complete trials, the best boldest")
    return Chart(chart.svg, "Settings from lowest to highest value; choices in alphabetical order.")


def _numbers(given: list[str]) -> tuple[np.ndarray, list[str]]:
    """Returns values as numbers (NaN if missing), or as indices of the returned list of choices."""
    try:
        return np.array([float(value) if value else np.nan for value in given]), []
    except ValueError:
        kinds = sorted(set(given) - {""})
        return np.array([kinds.index(value) if value in kinds else np.nan for value in given]), kinds


def _settings(name: str, complete: list[dict], settings: list[str]) -> Chart:
    """Draws the score against each setting."""
    scores, pictures = np.array([float(trial["score"]) for trial in complete]), []
    for key in settings:
        values, kinds = _numbers([trial[key] for trial in complete])
        with charts.picture(f"{key} against the score of {name}", 1.8, charts.SMALL) as chart:
            chart.axes.plot(values, scores, "o", markersize=3, color=charts.COLOURS[0])
            if kinds:
                chart.axes.set_xticks(range(len(kinds)), [_shown(kind) for kind in kinds], rotation=30, ha="right")
                chart.axes.set_xlim(-0.5, len(kinds) - 0.5)
            elif key.endswith("learning_rate"):
                charts.plain_log(chart.axes.xaxis)
            else:
                chart.axes.xaxis.get_major_locator().set_params(nbins=4)
            chart.axes.set_title(key.split(".", 1)[1], fontsize=8.5)
            chart.axes.tick_params(labelsize=7.5)
        pictures.append(chart.svg)
    return Chart(pictures, "Score of complete trials against each setting.")


def _shown(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value.strip('"') or "–"
