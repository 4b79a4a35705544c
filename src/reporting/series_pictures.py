"""Pictures of explained series: contributions over steps and parameters, curves with gaps, what counts over many."""

from __future__ import annotations

from typing import Any

import numpy as np

from src.core import charts
from src.core.language import _
from src.data.inputs import InputShape
from src.reporting.series_findings import UNITS, sources, step_size, steps_name

SHOWN = 14
"""Parameters with a row of their own in a heat map, the strongest; the others share one."""
BARS = 15
"""Parameters in the bars of many rows."""
TICK = 6
"""Hours between the marks of the axis."""


def limit_of(contributions: np.ndarray) -> float:
    """Returns the contribution (T + 1, P + S) of the deepest colour; a few larger ones have it too."""
    return max(float(np.quantile(np.abs(contributions[:-1]), 0.999)), 1e-6)


def heat_map(contributions: np.ndarray, shape: InputShape, title: str, limit: float | None = None) -> str:
    """Draws (T + 1, P + S) of a stay: parameters by hours, and a column of what belongs to no hour. `limit` is the
    contribution of the deepest colour, for maps on one scale."""
    names, total = sources(shape), contributions.sum(axis=0)
    order = np.argsort(-np.abs(total), kind="stable")
    shown, others = order[:SHOWN], order[SHOWN:]
    rows = [contributions[:, i] for i in shown]
    labels = [f"{names[i]} {total[i]:+.2f}" for i in shown]
    if len(others):
        rows.append(contributions[:, others].sum(axis=1))
        labels.append(_("{n} others {sum:+.2f}").format(n=len(others), sum=total[others].sum()))
    n_steps = len(contributions) - 1
    wide = max(n_steps // 16, 1)  # steps of the column of what belongs to no hour
    painted = np.stack([[*row[:-1], *[np.nan] * wide, *[row[-1]] * wide] for row in rows])
    limit = limit_of(contributions) if limit is None else limit
    with charts.picture(
        _("{title}: contributions by parameter and hour").format(title=title), 0.9 + 0.19 * len(rows)
    ) as chart:
        axes = chart.axes
        hours = step_size(shape)
        charts.shades(axes, painted, labels, limit, _("contribution"), (0, painted.shape[1] * hours))
        marks = list(range(0, round(n_steps * hours) + 1, TICK))
        axes.set_xticks([*marks, (n_steps + 1.5 * wide) * hours], [*map(str, marks), "all"])
        axes.tick_params(labelsize=8)
        axes.set_xlabel(_("hour since admission (all: of no hour)"))
        axes.set_ylabel(_("parameter, and its sum"))
        axes.set_title(title)
    return chart.svg


def image_maps(
    contributions: np.ndarray, image: np.ndarray | None, shape: InputShape, title: str, deepest: float | None = None
) -> list[str]:
    """Draws (T + 1, P) of an image: the image, if given, and the contributions of its pixels. `deepest` is the
    contribution of the deepest colour, for maps on one scale."""
    pixels = contributions[:-1, : len(shape.parameters)]
    shown = [] if image is None else [("image", np.asarray(image, dtype=float))]
    drawn = []
    for name, values in [*shown, (title, pixels)]:
        own = float(np.abs(values).max(initial=1e-6))
        limit = own if name == "image" or deepest is None else deepest
        what = _("brightness") if name == "image" else _("contribution")
        rows = [str(row) if row % max(len(values) // 8, 1) == 0 else "" for row in range(len(values))]
        with charts.picture(_("{title}: {what} of pixels").format(title=title, what=what), 2.2, 2.4) as chart:
            charts.shades(chart.axes, values, rows, limit, what)
            chart.axes.set_title(name)
            chart.axes.set_xlabel(_("column"))
            chart.axes.set_ylabel(_("row"))
        drawn.append(chart.svg)
    return drawn


def curves(record: dict[str, Any], shape: InputShape, title: str) -> str:
    """Draws the strongest parameters of a stay, what was imputed dashed, and below them the attention if there is."""
    parameters, attention, size = record["curves"], record.get("attention"), step_size(shape)
    panels = [1.0] * len(parameters) + ([0.7] if attention is not None else [])
    with charts.picture(
        _("{title}: curves").format(title=title), 0.55 + 0.72 * len(panels), charts.WIDTH, panels
    ) as chart:
        for place, ((name, curve), axes) in enumerate(zip(parameters.items(), chart.panels, strict=False)):
            seen = _floats(curve["observed"])
            colour, hours = charts.COLOURS[place % len(charts.COLOURS)], (np.arange(len(seen)) + 0.5) * size
            if curve["filled"] is not None:
                filled = np.where(np.isnan(seen), _floats(curve["filled"]), seen)
                axes.plot(hours, filled, linestyle=(0, (2, 2)), linewidth=0.9, color=colour)
            axes.plot(hours, seen, "o-", markersize=2.2, linewidth=1.3, color=colour)
            unit = UNITS.get(name, "")
            axes.set_title(f"{name} ({unit})" if unit else name, fontsize=8, pad=2)
            axes.tick_params(labelsize=7.5)
            axes.set_ylabel(unit or _("value"), fontsize=7.5)
            axes.yaxis.get_major_locator().set_params(nbins=3)
        if attention is not None:
            weights, axes = _floats(attention), chart.panels[-1]
            axes.bar((np.arange(len(weights)) + 0.5) * size, 100 * weights, width=0.9 * size, color=charts.COLOURS[5])
            axes.set_title(_("attention"), fontsize=8, pad=2)
            axes.set_ylabel("%", fontsize=7.5)
            axes.tick_params(labelsize=7.5)
        last = chart.panels[-1]
        n_steps = max(len(curve["observed"]) for curve in parameters.values()) if parameters else len(attention)
        last.set_xlim(0, n_steps * size)
        last.set_xticks(range(0, round(n_steps * size) + 1, TICK))
        last.set_xlabel(_("hour since admission"), fontsize=8)
    return chart.svg


def importance(record: dict[str, Any], shape: InputShape, title: str) -> str:
    """Draws the mean absolute contribution of the strongest parameters."""
    names, size = sources(shape), _floats(record["size"])
    order = np.argsort(-size, kind="stable")[:BARS]
    with charts.picture(
        _("{title}: mean absolute contribution").format(title=title), 0.8 + 0.19 * len(order), charts.PANEL
    ) as chart:
        places = np.arange(len(order))[::-1]
        chart.axes.barh(places, size[order], color=charts.COLOURS[0], height=0.65)
        chart.axes.set_yticks(places, [names[i] for i in order], fontsize=8)
        chart.axes.set_xlabel(_("mean |contribution|"))
        chart.axes.set_ylabel(_("parameter"))
        chart.axes.grid(visible=False, axis="y")
        chart.axes.set_title(title)
    return chart.svg


def by_step(records: dict[str, dict[str, Any]], shape: InputShape) -> str:
    """Draws the mean absolute contribution of each step, for each label."""
    step = steps_name(shape).removesuffix("s")
    series = {label: record["steps"] for label, record in records.items()}
    with charts.picture(_("Mean absolute contribution by {step}").format(step=step), 2.4, charts.PANEL) as chart:
        chart.axes.set_ylim(0, 1.1 * max(max(values) for values in series.values()))
        charts.lines(chart.axes, (np.arange(shape.steps) + 0.5) * step_size(shape), series)
        chart.axes.set_xlabel(step)
        chart.axes.set_ylabel(_("mean |contribution|"))
        chart.axes.set_title(_("Contribution of each {step}").format(step=step))
    return chart.svg


def _floats(values: list) -> np.ndarray:
    """Numbers of JSON, NaN for None."""
    return np.array(values, dtype=np.float64)
