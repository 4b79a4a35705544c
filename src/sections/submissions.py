"""What was submitted, and the leaderboard beside the validations."""

from __future__ import annotations

import numpy as np

from src import charts
from src.page import Chart, Section, Table
from src.register import Register
from src.sections import Findings
from src.shifted import VALIDATIONS


def section(findings: Findings) -> Section:
    found = Section("Leaderboard")
    submissions = Register(findings.prepared.output.submissions).submissions()
    boards = sorted({entry.board for one in submissions for entry in one.online})
    rows = []
    for one in submissions:
        values = [one.judged["validations"][name]["value"] for name in VALIDATIONS] if one.judged else [None] * 4
        values.append(one.judged["expected"]["value"] if one.judged else None)
        scores = [one.score(board) for board in boards]
        rows.append([one.id, one.file, one.run or "–", one.at.strftime("%Y-%m-%d"), *map(_figure, [*values, *scores])])
    if rows:
        found.parts.append(Table(["id", "file", "run", "made", *VALIDATIONS, "expected", *boards], rows))
    for board in boards:
        known = [one for one in submissions if one.judged and one.score(board) is not None]
        if len(known) > 1:
            found.parts.append(_against(findings, board, known))
    return found


def _against(findings: Findings, board: str, known: list) -> Chart:
    online = np.array([one.score(board) for one in known])
    measures = {name: [one.judged["validations"][name]["value"] for one in known] for name in VALIDATIONS}
    measures["expected"] = [one.judged["expected"]["value"] for one in known]
    with charts.picture("Validation against the leaderboard", 3.2) as drawn:
        for i, (name, values) in enumerate(measures.items()):
            drawn.axes.plot(values, online, "o", markersize=4, color=charts.COLOURS[i], label=name)
            if len(known) > 2 and np.ptp(values) > 0:
                slope, start = np.polyfit(values, online, 1)
                ends = np.array([min(values), max(values)])
                drawn.axes.plot(ends, start + slope * ends, color=charts.COLOURS[i], linewidth=0.8)
        low, high = online.min(), online.max()
        drawn.axes.plot([low, high], [low, high], color=charts.FAINT, linewidth=0.8)
        drawn.axes.set_xlabel("by validation")
        drawn.axes.set_ylabel(f"on {board}")
        drawn.axes.set_title(f"Validation against {board}")
        drawn.axes.legend(fontsize=8)
    return Chart(drawn.svg, f"From {len(known)} submissions; the faint line is where both agree.")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
