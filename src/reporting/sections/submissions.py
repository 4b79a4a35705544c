"""What was submitted, and the leaderboard beside the validations."""

from __future__ import annotations

import numpy as np

from src.ensemble.submission_log import SubmissionLog
from src.evaluation.validation_sets import VALIDATIONS
from src.reporting import charts
from src.reporting.html_page import Chart, Section, Table
from src.reporting.sections import Findings


def section(findings: Findings) -> Section:
    found = Section("Leaderboard")
    submissions = SubmissionLog(findings.dataset.output.submissions).submissions()
    boards = sorted({entry.board for one in submissions for entry in one.online})
    rows = []
    for one in submissions:
        values = [one.judged["validations"][name]["value"] for name in VALIDATIONS] if one.judged else [None] * 4
        expected = one.judged["expected"]["value"] if one.judged else None
        figures = map(_figure, [*(one.score(board) for board in boards), expected, *values])
        rows.append([one.id, one.run or "–", *figures, one.at.strftime("%Y-%m-%d"), one.file])
    if rows:
        found.parts.append(Table(["id", "run", *boards, "expected", *VALIDATIONS, "made", "file"], rows))
    for board in boards:
        known = [one for one in submissions if one.judged and one.score(board) is not None]
        if len(known) > 1:
            found.parts.append(_against(findings, board, known))
    return found


def _against(findings: Findings, board: str, known: list) -> Chart:
    online = np.array([one.score(board) for one in known])
    measures = {name: [one.judged["validations"][name]["value"] for one in known] for name in VALIDATIONS}
    measures["expected"] = [one.judged["expected"]["value"] for one in known]
    low, high = online.min(), online.max()
    pictures = []
    for i, (name, values) in enumerate(measures.items()):
        with charts.picture(f"{name} against {board}", 2.0, charts.SMALL) as drawn:
            drawn.axes.plot([low, high], [low, high], color=charts.FAINT, linewidth=0.8)
            drawn.axes.plot(values, online, "o", markersize=4, color=charts.COLOURS[i])
            if len(known) > 2 and np.ptp(values) > 0:
                slope, start = np.polyfit(values, online, 1)
                ends = np.array([min(values), max(values)])
                drawn.axes.plot(ends, start + slope * ends, color=charts.COLOURS[i], linewidth=0.8)
            drawn.axes.set_xlabel(f"by {name}" if name in VALIDATIONS else name)
            drawn.axes.set_ylabel(f"on {board}")
            drawn.axes.locator_params(nbins=4)
            drawn.axes.tick_params(labelsize=7.5)
        pictures.append(drawn.svg)
    told = f"From {len(known)} submissions, with the line that fits them best; the faint line is where both agree."
    return Chart(pictures, told)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
