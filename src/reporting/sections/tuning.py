"""Report section on hyperparameter studies."""

from __future__ import annotations

import csv

from src.core import charts, storage
from src.core.errors import UserError
from src.core.language import Message, _
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
        result.parts += [
            Text(_counts(name, trials)),
            *_verdict(name, complete),
            _history(name, trials),
            _best(complete),
        ]
        if shares:
            result.parts.append(_importances(name, shares))
            result.parts.append(_settings(name, trials))
            result.parts.append(_parallel(name, trials))
    result.gist = _("searches for better settings")
    return result


def _counts(name: str, trials: list[Trial]) -> Message:
    kinds = ", ".join(
        f"{sum(t['state'] == state for t in trials)} {state}" for state in sorted({t["state"] for t in trials})
    )
    spent = duration(sum(float(trial["seconds"] or 0) for trial in trials))
    told = _("{study}: {n} trials ({kinds}), {spent} of a core.")
    return told.format(study=name, n=len(trials), kinds=kinds, spent=spent)


def _verdict(name: str, complete: list[Trial]) -> list[Text]:
    """Says whether the best trial is better than the settings in use by more than one standard error."""
    best = max(complete, key=lambda trial: float(trial["score"]))
    if not any(map(study_pictures.is_in_use, complete)) or not best.get("gain"):
        return []
    if study_pictures.is_in_use(best):
        return [Text(_("{study}: keep what you have: no trial scores higher.").format(study=name))]
    gain, error = float(best["gain"]), float(best["gain_standard_error"])
    if gain > error:
        told = _("{study}: trial {trial} gains {gain:+.4f} ± {error:.4f} over the settings in use.")
    else:
        told = _(
            "{study}: keep what you have: trial {trial} gains {gain:+.4f} ± {error:.4f} over the settings in use, no "
            "more than one standard error."
        )
    return [Text(told.format(study=name, trial=best["trial"], gain=gain, error=error))]


def _best(complete: list[Trial]) -> Table:
    """Returns the best trials behind the one that has the settings in use."""
    settings = study_pictures.settings_of(complete)
    ranked = sorted(complete, key=lambda trial: -float(trial["score"]))
    now = [trial for trial in ranked if study_pictures.is_in_use(trial)]
    rows = []
    for trial in [*now, *(one for one in ranked if one not in now)][:TOP]:
        number = _("{trial} (in use)").format(trial=trial["trial"]) if trial in now else trial["trial"]
        has_gain = trial.get("gain") and trial not in now
        gain = f"{float(trial['gain']):+.4f} ± {float(trial['gain_standard_error']):.4f}" if has_gain else "–"
        rows.append(
            [number, f"{float(trial['score']):.4f}", gain, *(study_pictures.shown(trial[key]) for key in settings)]
        )
    columns = [_("trial"), _("score"), _("gain"), *map(study_pictures.short, settings)]
    return Table(columns, rows, _("Settings in use and best trials"))


def _history(name: str, trials: list[Trial]) -> Chart:
    with charts.picture(_("Search history of {study}").format(study=name)) as chart:
        study_pictures.history(chart.axes, name, trials)
    return Chart(chart.svg)


def _importances(name: str, shares: dict[str, float]) -> Chart:
    with charts.picture(_("Importance of settings of {study}").format(study=name), 0.8 + 0.24 * len(shares)) as chart:
        study_pictures.importances(chart.axes, name, shares)
    caption = _("Importance by fANOVA of settings that all complete trials have; a rough estimate with few trials.")
    return Chart(chart.svg, caption)


def _parallel(name: str, trials: list[Trial]) -> Chart:
    with charts.picture(_("Parallel coordinates of {study}").format(study=name), 3.0) as chart:
        study_pictures.parallel(chart.axes, name, trials)
    return Chart(chart.svg, _("Settings from lowest to highest value; choices in alphabetical order."))


def _settings(name: str, trials: list[Trial]) -> Chart:
    """Draws the score against each setting, on one scale of scores."""
    pictures, scores = [], [float(trial["score"]) for trial in study_pictures.complete(trials)]
    room = 0.05 * (max(scores) - min(scores)) + 1e-4
    for key in study_pictures.settings_of(trials):
        with charts.picture(
            _("{setting} against the score of {study}").format(setting=key, study=name), 1.9, charts.SMALL
        ) as chart:
            study_pictures.against(chart.axes, key, trials)
            chart.axes.set_title(study_pictures.short(key), fontsize=8.5)
            chart.axes.set(xlabel=_("value"), ylabel=_("score"), ylim=(min(scores) - room, max(scores) + room))
            chart.axes.tick_params(labelsize=7.5)
        pictures.append(chart.svg)
    return Chart(pictures, _("Score of complete trials against each setting, all on one scale of scores."))
