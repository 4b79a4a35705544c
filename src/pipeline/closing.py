"""Closing summary of the pipeline and of status: data, scores, files to upload, warnings, page and next command."""

from __future__ import annotations

import math

from src.core.language import _, joined, word
from src.core.terminal import result, show_table, wrapped
from src.evaluation.figures import estimate_text, number_text
from src.evaluation.score_estimation import Expectation
from src.evaluation.shift_words import short_names
from src.evaluation.workspace import Workspace
from src.reporting.summary import Data, Standing, Summary


def show(workspace: Workspace, is_complete: bool = True) -> None:
    """Prints the summary. Expected scores come first, for they are what the leaderboard will say.

    `is_complete`: all stages are done; otherwise the next step is left to the caller, who knows what is missing.
    """
    summary = Summary.of(workspace)
    if summary.data is not None:
        _show_data(summary.data)
    if standings := [one for one in (summary.blend, summary.best) if one is not None]:
        _show_standings(summary, standings)
    if summary.blend is not None:
        result(_("blend of {members}").format(members=", ".join(summary.blend.members)))
    lines = [wrapped(_("warning: {text}").format(text=told)) for told in summary.warnings]
    upload = _("submission: {path}") if summary.data and summary.data.sample else _("to upload: {path}")
    lines += [upload.format(path=one.path) + _noted(one.online) for one in summary.uploads]
    lines += [_("page: {path}").format(path=summary.page)] if summary.page else []
    for step in summary.steps if is_complete else ():
        told = _("next: {what}").format(what=step.why)
        lines.append(f"{told}: ./run.sh {step.command}" if step.command else wrapped(told))
    if lines:
        result(joined("\n", lines))


def _show_data(data: Data) -> None:
    """Says whether the data are of people, where they lie, and names the files with their rows."""
    origin = word(data.sample) or _("{noun} of your own").format(noun=word(data.noun))
    result("\n" + _("data: {origin}, in {folder}").format(origin=origin, folder=data.folder))
    roles = {"train": _("train files: {files}"), "test": _("test files: {files}"), "extra": _("extra files: {files}")}
    for role, told in roles.items():
        names = [f"{name} ({data.rows[name]:,})" if name in data.rows else name for name in getattr(data, role)]
        if names:
            result(wrapped("  " + told.format(files=", ".join(names)), indent="    "))


def _show_standings(summary: Summary, standings: list[Standing]) -> None:
    """A row for the blend and the best run, the best first and marked where it is known: expected on each test file
    with its 95% interval, then out of fold."""
    tests = list(dict.fromkeys(test for one in standings for test in one.expected))
    if summary.ranking:
        standings = sorted(standings, key=lambda one: summary.ranking.index(one.run))
    short = short_names(tests)
    rows = [
        [
            one.run,
            *(_expected(one.expected[test]) if test in one.expected else "–" for test in tests),
            estimate_text(one.out_of_fold) + (_(" (optimistic)") if one.is_optimistic else ""),
        ]
        for one in standings
    ]
    title = _("Expected with its 95% interval, and out of fold ({score})").format(score=word(summary.task.score_name))
    expected = [_("expected on {test}").format(test=short[test]) for test in tests]
    show_table(
        title, [_("run"), *expected, _("out of fold")], rows, best=0 if len(rows) > 1 and summary.ranking else None
    )


def _expected(found: Expectation) -> str:
    if math.isnan(found.low) or math.isnan(found.high):
        return number_text(found.value)
    return f"{number_text(found.value)} ({number_text(found.low, '.3f')}–{number_text(found.high, '.3f')})"


def _noted(online: float | None) -> str:
    return "" if online is None else _(" (scored {score})").format(score=number_text(online))
