"""Report section on submissions: online scores compared with validations."""

from __future__ import annotations

import numpy as np

from src.core import charts
from src.core.language import _
from src.ensemble.submission_log import Submission, SubmissionLog
from src.evaluation.validation_sets import VALIDATIONS
from src.reporting.html_page import Chart, Section, Table
from src.reporting.sections import Findings


def section(findings: Findings) -> Section:
    result = Section(_("Leaderboard"))
    dataset = findings.dataset
    submissions = SubmissionLog(dataset.output.submissions).submissions_for(dataset.test_texts)
    boards = sorted({online.board for submission in submissions for online in submission.online})
    rows = []
    for submission in submissions:
        judged = submission.judged
        values = [judged["validations"][name]["value"] for name in VALIDATIONS] if judged else [None] * 4
        expected = judged["expected"]["value"] if judged else None
        figures = map(_figure, [*(submission.score(board) for board in boards), expected, *values])
        rows.append([submission.id, submission.run or "–", *figures, str(submission.made_on), submission.file])
    result.gist = _("submissions with their expected and online scores")
    if rows:
        columns = ["id", _("run"), *boards, _("expected"), *VALIDATIONS, _("made"), _("file")]
        result.parts.append(Table(columns, rows, _("Submissions")))
    for board in boards:
        scored = [each for each in submissions if each.judged and each.score(board) is not None]
        if len(scored) > 1:
            result.parts.append(_against(board, scored))
    return result


def _against(board: str, scored: list[Submission]) -> Chart:
    """Draws the online scores against each validation and the expected score."""
    online = np.array([each.score(board) for each in scored])
    measures = {name: [each.judged["validations"][name]["value"] for each in scored] for name in VALIDATIONS}
    measures["expected"] = [each.judged["expected"]["value"] for each in scored]
    every = [*online, *(value for values in measures.values() for value in values if value is not None)]
    room = 0.05 * (max(every) - min(every)) + 1e-4
    low, high = min(every) - room, max(every) + room
    pictures = []
    for i, (name, values) in enumerate(measures.items()):
        what = _("{validation} against {board}").format(validation=name, board=board)
        with charts.picture(what, 2.2, charts.SMALL) as chart:
            chart.axes.plot([low, high], [low, high], color=charts.FAINT, linewidth=0.8)
            # A run that was imported with its own predictions has no value where these would have to be made anew.
            there = [place for place, value in enumerate(values) if value is not None]
            values, scores = [values[place] for place in there], online[there]
            chart.axes.plot(values, scores, "o", markersize=4, color=charts.COLOURS[i])
            if len(values) > 2 and np.ptp(values) > 0:
                slope, start = np.polyfit(values, scores, 1)
                ends = np.array([min(values), max(values)])
                chart.axes.plot(ends, start + slope * ends, color=charts.COLOURS[i], linewidth=0.8)
            chart.axes.set(xlim=(low, high), ylim=(low, high))
            chart.axes.set_title(name, fontsize=8.5)
            chart.axes.set_xlabel(_("{validation} score").format(validation=name))
            chart.axes.set_ylabel(_("{board} score").format(board=board))
            chart.axes.locator_params(nbins=4)
            chart.axes.tick_params(labelsize=7.5)
        pictures.append(chart.svg)
    caption = _(
        "{n} submissions with a regression line; on the faint line both scores are equal. All pictures have one scale."
    )
    return Chart(pictures, caption.format(n=len(scored)))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
