"""Report section on hyperparameter studies."""

from __future__ import annotations

import csv

from src.core import charts, storage
from src.core.errors import UserError
from src.core.language import _
from src.core.targets import check_files, made_by
from src.core.terminal import duration
from src.evaluation import study_pictures
from src.evaluation.study_pictures import Trial
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

TOP = 8


def section(findings: Findings) -> Section:
    result = Section(_("Tuning"))
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
        complete = study_pictures.complete(trials)
        if not complete:
            continue
        name = path.parent.name
        spent = duration(sum(float(trial["seconds"] or 0) for trial in trials))
        kinds = ", ".join(
            f"{sum(t['state'] == state for t in trials)} {state}" for state in sorted({t["state"] for t in trials})
        )
        result.parts.append(Text(f"{name}: {len(trials)} trials ({kinds}), {spent} of a core."))
        result.parts.append(_history(name, trials))
        settings = study_pictures.settings_of(trials)
        best = sorted(complete, key=lambda trial: -float(trial["score"]))[:TOP]
        rows = [
            [trial["trial"], f"{float(trial['score']):.4f}", *(study_pictures.shown(trial[key]) for key in settings)]
            for trial in best
        ]
        result.parts.append(
            Table(["trial", "score", *(study_pictures.short(key) for key in settings)], rows, "Best trials")
        )
        if shares:
            result.parts.append(_importances(name, shares))
            result.parts.append(_settings(name, trials))
            result.parts.append(_parallel(name, trials))
    return result


def _history(name: str, trials: list[Trial]) -> Chart:
    with charts.picture(f"Search history of {name}") as chart:
        study_pictures.history(chart.axes, name, trials)
    return Chart(chart.svg)


def _importances(name: str, shares: dict[str, float]) -> Chart:
    with charts.picture(f"Importance of settings of {name}", 0.8 + 0.24 * len(shares)) as chart:
        study_pictures.importances(chart.axes, name, shares)
    return Chart(
        chart.svg, "Importance by fANOVA of settings that all complete trials have; a rough estimate with few trials."
    )


def _parallel(name: str, trials: list[Trial]) -> Chart:
    with charts.picture(f"Parallel coordinates of {name}", 3.0) as chart:
        study_pictures.parallel(chart.axes, name, trials)
    return Chart(chart.svg, "Settings from lowest to highest value; choices in alphabetical order.")


def _settings(name: str, trials: list[Trial]) -> Chart:
    """Draws the score against each setting, on one scale of scores."""
    pictures = []
    for key in study_pictures.settings_of(trials):
        with charts.picture(f"{key} against the score of {name}", 1.9, charts.SMALL) as chart:
            study_pictures.against(chart.axes, key, trials)
            chart.axes.set_title(study_pictures.short(key), fontsize=8.5)
            chart.axes.set(xlabel="value", ylabel="score")
            chart.axes.tick_params(labelsize=7.5)
        pictures.append(chart.svg)
    return Chart(pictures, "Score of complete trials against each setting, all on the same scale of scores.")
