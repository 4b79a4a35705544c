"""First section of the report: what score to expect, where the models stand, what to upload and what to know."""

from __future__ import annotations

import math
import os
from pathlib import Path

from src.core import charts
from src.core.language import Message, _, joined, word
from src.data.tasks import Task
from src.evaluation import runs
from src.evaluation.figures import estimate_text, number_text
from src.evaluation.score_estimation import Expectation
from src.evaluation.shift_words import short_names
from src.reporting.html_page import Alert, Chart, Code, Facts, Figures, Link, Part, Section
from src.reporting.sections import Findings
from src.reporting.summary import Data, Standing, Summary

PERFECT = 1e-6
"""Smallest loss on the logarithmic scale."""
ROOM = 0.3
"""Share of the ladder's width for the words beside the best score."""


def section(findings: Findings) -> Section:
    result = Section(_("Summary"))
    summary, page = Summary.of(findings.workspace), findings.dataset.output.report
    standing = summary.blend or summary.best
    if summary.data is not None and summary.data.sample:
        told = _("These are {origin}: the scores say nothing about real {noun}.")
        result.parts.append(Alert(told.format(origin=word(summary.data.sample), noun=word(summary.data.noun))))
    result.parts += map(Alert, summary.warnings)
    if standing is not None:
        result.parts.append(Figures(_figures(findings.dataset.test_files, standing, summary.task)))
        result.parts.append(_ladder(findings, standing))
    result.parts.append(_facts(summary, standing, page))
    return result


def _figures(test_files: list[str], standing: Standing, task: Task) -> list[tuple[str, str, str]]:
    """Names, values and notes: the score that is expected of each test file, then the score out of fold."""
    short, found = short_names(test_files), []
    for test, expected in standing.expected.items():
        name = _("Expected score on {test}").format(test=short.get(test, test))
        found.append((name, number_text(expected.value), _interval(expected)))
    note = _("± {error} (standard error) on {rows:,} train {noun}; {score}").format(
        error=number_text(standing.out_of_fold["standard_error"]),
        rows=standing.rows,
        noun=word(task.noun),
        score=word(task.score_name),
    )
    if standing.is_optimistic:
        note = note + "; " + _("optimistic")
    return [*found, (_("Score out of fold"), number_text(standing.out_of_fold["value"]), note)]


def _interval(expected: Expectation) -> Message | str:
    if math.isnan(expected.low) or math.isnan(expected.high):
        return _("interval unknown")
    low, high = (number_text(end, ".3f") for end in (expected.low, expected.high))
    return _("95% interval {low} to {high}").format(low=low, high=high)


def _ladder(findings: Findings, standing: Standing) -> Chart:
    """Draws the baselines, the best model and the blend from the lowest score to the highest."""
    task, metric = findings.workspace.task, findings.config.metric
    scores = baseline_scores(findings)
    ours = [name for name, run in findings.runs.items() if not run.is_blend][-1:]
    shown = {**scores, **{name: findings.runs[name].score for name in (*ours, standing.run) if name in findings.runs}}
    figures = {name: runs.figure_of(shown[name], metric)["value"] for name in runs.ordered(shown, metric)}
    ordered = [name for name, value in figures.items() if value is not None]
    values = [figures[name] for name in ordered]
    is_log = task.has_classes  # a score of 1 is perfect; an error in days has no best score
    with charts.picture(_("Baselines and your model, out of fold"), 0.9 + 0.3 * len(ordered)) as chart:
        for place, (name, value) in enumerate(zip(ordered, values, strict=True)):
            is_ours = name not in scores
            at = max(1 - value, PERFECT) if is_log else value
            colour, marker = (charts.COLOURS[0], "D") if is_ours else (charts.COLOURS[5], "o")
            chart.axes.plot(at, place, marker, markersize=6, color=colour)
            words: Message | str = f"{value:.4f}"
            if name == standing.run:
                words = _("{score}  your model is here").format(score=words)
            beside = {"textcoords": "offset points", "xytext": (8, 0), "va": "center", "fontsize": 8.5}
            chart.axes.annotate(words, (at, place), fontweight="bold" if name == standing.run else None, **beside)
        if is_log:
            charts.plain_log(chart.axes.xaxis, lambda lost: 1 - lost)
        low, high = chart.axes.get_xlim()
        chart.axes.set_xlim(*((high, low * (low / high) ** ROOM) if is_log else (low, high + (high - low) * ROOM)))
        charts.rows(chart.axes, ordered)
        chart.axes.invert_yaxis()
        chart.axes.set_title(_("Where your model stands, out of fold"))
        chart.axes.set_xlabel(_("{score}, higher is better").format(score=word(task.score_name)))
        chart.axes.set_ylabel(_("run"))
    caption = _("Diamonds are your runs, dots are baselines.")
    if is_log:
        caption = caption + " " + _("The scale is logarithmic in the loss, 1 − score.")
    return Chart(chart.svg, caption)


def baseline_scores(findings: Findings) -> dict[str, dict]:
    """Returns the score.json of each baseline on the folds of the runs, by its name; one that has the name of a run is
    called a baseline."""
    if not findings.runs:
        return {}
    found = findings.workspace.baselines(list(findings.runs.values())[-1].score["folds_table"])
    return {
        _("{name} (baseline)").format(name=name) if name in findings.runs else name: score
        for name, score in found.items()
    }


def _facts(summary: Summary, standing: Standing | None, page: Path) -> Part:
    facts: list[tuple[str, list]] = []
    if standing is not None:
        members = _(" (blend of {members})").format(members=", ".join(standing.members)) if standing.members else ""
        facts.append((_("Your model"), [joined("", [standing.run, members])]))
    if summary.best is not None and standing is not summary.best:
        told = _("{run}, {score} out of fold").format(
            run=summary.best.run, score=estimate_text(summary.best.out_of_fold)
        )
        facts.append((_("Best single model"), [told]))
    if summary.left_out:
        facts.append((_("Not in the blend"), list(summary.left_out)))
    if summary.data is not None:
        facts.append((_("Data"), _files(summary.data)))
    if summary.uploads:
        links = [Link(one.path.name, os.path.relpath(one.path, page.parent)) for one in summary.uploads]
        facts.append((_("Files to upload"), links))
        noted = [
            _("{file} ({id}): {score}").format(file=one.path.name, id=one.id, score=number_text(one.online))
            for one in summary.uploads
            if one.online is not None
        ]
        if noted:
            facts.append((_("Online so far"), noted))
    for step in summary.steps:
        facts.append((_("Next"), [step.why, *([Code(f"./run.sh {step.command}")] if step.command else [])]))
    return Facts(facts)


def _files(data: Data) -> list[Message]:
    named = {_("train: {files}"): data.train, _("test: {files}"): data.test, _("further text: {files}"): data.extra}

    def counted(name: str) -> str:
        if name not in data.rows:
            return name
        return _("{file} ({rows:,} {noun})").format(file=name, rows=data.rows[name], noun=word(data.noun))

    return [text.format(files=joined(", ", map(counted, names))) for text, names in named.items() if names]
