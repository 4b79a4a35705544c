"""Report section on the pipeline: its stages as a diagram, with the time that each took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from src.core import charts, storage
from src.core.language import _, joined
from src.core.terminal import duration
from src.reporting.html_page import Chart, Code, Section
from src.reporting.sections import Findings

WIDTH, HEIGHT = 1.18, 0.62
"""Inches from a box to the next."""


def section(findings: Findings, needs: Mapping[str, Sequence[str]]) -> Section:
    """Returns the section; `needs` are the stages that each stage needs, in the order in which they are made."""
    result, path = Section(_("Pipeline")), findings.dataset.output.seconds
    last = storage.read_json(path, findings.workspace.command("pipeline")) if path.exists() else {}
    if "command" not in last:
        return result
    seconds = last.get("made", {}).get("measured", last["seconds"])
    result.parts.append(Chart(_diagram(needs, seconds), _caption(seconds), wide=True))
    result.gist = duration(sum(seconds.values()))
    result.parts.append(Code(last["command"]))
    return result


def _caption(seconds: Mapping[str, float]) -> str:
    told = _(
        "An arrow leads to a stage that reads the other's results. Times were measured in the last command that "
        "made something of a stage; together {all}."
    )
    return told.format(all=duration(sum(seconds.values())))


def _diagram(needs: Mapping[str, Sequence[str]], seconds: Mapping[str, float]) -> str:
    """Draws a box for each stage, in the column behind the stages that it needs; deeper where it took longer."""
    places = _places(needs)
    columns, rows = (1 + max(place[axis] for place in places.values()) for axis in (0, 1))
    longest = max(max(seconds.values(), default=0.0), 1e-9)
    with charts.picture(_("Stages of the pipeline with their times"), 0.5 + HEIGHT * rows, WIDTH * columns) as chart:
        boxes = {}
        for name, (column, row) in places.items():
            taken = seconds.get(name)
            label = name if taken is None else joined("\n", [name, duration(taken)])
            shade = charts.DEEPEST * (taken or 0.0) / longest
            box = {"boxstyle": "round,pad=0.35", "edgecolor": charts.FAINT}
            box["facecolor"] = (*charts.parts_of(charts.COLOURS[0]), shade)
            drawn = {"ha": "center", "va": "center", "fontsize": 8, "linespacing": 1.3}
            boxes[name] = chart.axes.text(column, -row, label, bbox=box, **drawn).get_bbox_patch()
        for name, wanted in _direct(needs).items():
            for need in wanted:
                (x, y), (to_x, to_y) = places[need], places[name]
                arrow = {"arrowstyle": "-|>", "color": charts.FAINT, "shrinkA": 1, "shrinkB": 1, "linewidth": 0.8}
                arrow |= {"patchA": boxes[need], "patchB": boxes[name]}  # which get their size when they are drawn
                chart.axes.annotate("", (to_x, -to_y), (x, -y), arrowprops=arrow, zorder=4)
        chart.axes.set(xlim=(-0.55, columns - 0.45), ylim=(0.6 - rows, 0.6))
        chart.axes.set_axis_off()
        chart.axes.set_title(_("Stages of the pipeline and what each took"))
    return chart.svg


def _direct(needs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Returns for each stage the stages that it needs and no other stage that it needs rests on."""
    above: dict[str, set[str]] = {}
    for name, wanted in needs.items():
        above[name] = set(wanted).union(*(above[need] for need in wanted))
    return {
        name: [need for need in wanted if not any(need in above[other] for other in wanted)]
        for name, wanted in needs.items()
    }


def _places(needs: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Returns column and row of each stage."""
    columns: dict[str, int] = {}
    for name, wanted in needs.items():
        columns[name] = 1 + max((columns[need] for need in wanted), default=-1)
    filled: dict[int, int] = {}
    places = {}
    for name, column in columns.items():
        row = filled[column] = filled.get(column, -1) + 1
        places[name] = (column, row)
    return places
