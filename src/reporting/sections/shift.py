"""Report section on the differences between train and test files."""

from __future__ import annotations

from src.core import charts
from src.core.language import _, joined, word
from src.evaluation import shift_pictures, shift_summary
from src.reporting.html_page import Chart, Points, Section, Table, Text
from src.reporting.sections import Findings


def section(findings: Findings) -> Section:
    result = Section(_("Shift"))
    if findings.shift is None:
        return result
    facts = findings.shift.facts
    advice, *sentences = shift_summary.points(facts)
    result.parts += [Text(advice), *([Points(sentences)] if sentences else [])]
    drawings = shift_pictures.drawings(findings.shift.output, facts, findings.shift.remedy)
    drawn = {title: _drawn(title, draw) for title, draw in drawings.items()}
    if drawn:
        result.parts.append(Chart(list(drawn.values()), _caption(findings, "Time steps with a value" in drawn)))
    tables = shift_summary.tables(facts)
    result.parts += [Table(columns, rows, title, title == "Difference from train") for title, columns, rows in tables]
    return result


def _drawn(title: str, draw: shift_pictures.Drawing) -> str:
    with charts.picture(title, 2.6, charts.PANEL) as chart:
        draw(chart.axes)
    return chart.svg


def _caption(findings: Findings, has_parameters: bool) -> str:
    if findings.dataset.shape.kind == "tokens":
        return _("Noise is estimated from frames of frequent phrases. Reports similar to a train report are easier.")
    same = _("Where the files do not differ, all {noun} have a probability near 0.5.")
    same = same.format(noun=word(findings.shift.facts["noun"]))
    if not has_parameters:
        return same
    told = _("Test minus train, ± one standard error, for the parameters with the most significant differences.")
    return joined(" ", [told, same])
