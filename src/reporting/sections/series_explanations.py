"""Parts of the section on explanations for series: parameters that count, hardest and typical rows with their maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from src.core.language import _, joined, word
from src.data.inputs import InputShape
from src.data.tasks import Task
from src.reporting import series_pictures as pictures
from src.reporting.html_page import Chart, Part, Table, Text
from src.reporting.series_findings import quantity, sources, steps_name

KINDS = {"hardest": _("Hardest"), "typical": _("Typical"), "usual": _("Usual")}
"""Reasons why a row is shown."""
LISTED = 12
"""Parameters in the table of a label."""
DIRECTION = _("A direction near +1: the higher the value, the higher the prediction; near -1 the other way round.")


def parts(record: dict[str, Any], task: Task, shape: InputShape, name: str) -> list[Part]:
    """Returns what the section shows of `record`, which ./run.sh explain wrote for the run `name`."""
    found: list[Part] = [Text(joined(" ", [method(task, shape), _("Out of fold, by {run}.").format(run=name)]))]
    labels, is_image = record["parameters"], steps_name(shape) == "rows"
    if is_image:
        drawn = {
            label: np.array([*one["map"], [0.0] * len(shape.parameters)]) for label, one in labels.items() if one["map"]
        }
        limit = max((float(np.abs(values).max()) for values in drawn.values()), default=None)
        maps = [pictures.image_maps(values, None, shape, label, limit)[0] for label, values in drawn.items()]
        found.append(Chart(maps, _("Mean contribution of each pixel to the class, over images of it")))
    else:
        found += [_weights(label, one, shape, task) for label, one in labels.items()]
    steps = pictures.by_step(labels, shape) if len(labels) <= 1 else None
    bars = [pictures.importance(one, shape, label) for label, one in labels.items()] if not is_image else []
    if drawn := [*bars, *([steps] if steps else [])]:
        n = next(iter(labels.values()))["rows"]
        found.append(Chart(drawn, _("{n} {noun}, out of fold").format(n=n, noun=word(task.noun))))
    found.append(Text(legend(task, shape)))
    anchored: set[str] = set()  # a row may be explained twice, as a hard and as a usual one
    # Maps are compared, so they have one scale.
    limit = max((pictures.limit_of(np.array(one["contributions"])) for one in record["reports"]), default=None)
    for one in record["reports"]:
        anchor = "" if one["report"] in anchored else f"explained-{one['report']}"
        anchored.add(one["report"])
        first, *others = row_parts(f"{task.one} {one['report']}", title_of(one, task), one, shape, limit)
        found += [replace(first, anchor=anchor), *others]
    return found


def method(task: Task, shape: InputShape) -> str:
    """Says what contributions are of."""
    return _(
        "Contributions to the {quantity}, by integrated gradients from the average training {one}: a parameter's "
        "value, whether it was observed, the time since and its transforms together. Boosted trees and kernel machines "
        "get theirs by leaving out a parameter."
    ).format(quantity=quantity(task), one=word(task.one))


def legend(task: Task, shape: InputShape) -> str:
    """Says what the colours and the numbers of the maps are."""
    step = steps_name(shape).removesuffix("s")
    said = _(
        "Blue raises the prediction, orange lowers it, against the average training {one} at the same {step}; the "
        "deeper, the more."
    ).format(one=word(task.one), step=step)
    if step == "row":
        return said
    return joined(
        " ",
        [
            said,
            _("The numbers are sums over the hours; statics, and what was never observed, belong to no hour (all)."),
        ],
    )


def title_of(one: dict[str, Any], task: Task) -> str:
    """Returns what a row is, in truth and by prediction; the class that is explained is the true one."""
    named = {"kind": KINDS[one["kind"]], "one": word(task.one), "id": one["report"], "probability": one["probability"]}
    if task.unit:
        told = _("{kind} {one} {id}: {there:g} {unit}, predicted {probability:.1f}")
        return told.format(there=one["there"], unit=word(task.unit), **named)
    if task.kind == "multiclass":
        told = _("{kind} {one} {id}: {label}, probability {probability:.3f}")
    elif one["there"]:
        told = _("{kind} {one} {id}: {label} positive, probability {probability:.3f}")
    else:
        told = _("{kind} {one} {id}: {label} negative, probability {probability:.3f}")
    return told.format(label=one["label"], **named)


def row_parts(name: str, title: str, one: dict[str, Any], shape: InputShape, limit: float | None = None) -> list[Part]:
    """Returns the pictures of the row called `name`: its map, and beside it the image or the curves. `limit` is the
    contribution of the deepest colour of the map."""
    contributions = np.array(one["contributions"])
    if "image" in one:
        drawn = pictures.image_maps(contributions, np.array(one["image"]), shape, "contributions", limit)
        return [Chart(drawn, title)]
    drawn = [
        pictures.heat_map(
            contributions, shape, _("{name}: contributions").format(name=f"{name[0].upper()}{name[1:]}"), limit
        )
    ]
    if one["curves"] or "attention" in one:
        drawn.append(pictures.curves(one, shape, name))
    has_gaps = any(curve["filled"] is not None for curve in one["curves"].values())
    return [Chart(drawn, title + (_("; dashed: imputed, as the model reads it") if has_gaps else ""))]


def _weights(label: str, one: dict[str, Any], shape: InputShape, task: Task) -> Table:
    names, size = sources(shape), np.array(one["size"])
    total = max(float(size.sum()), 1e-12)
    rows = [
        [
            names[i],
            f"{size[i]:.3f}",
            f"{size[i] / total:.0%}",
            "–" if one["direction"][i] is None else f"{one['direction'][i]:+.2f}",
        ]
        for i in np.argsort(-size, kind="stable")[:LISTED]
    ]
    columns = [_("parameter"), _("mean |contribution|"), _("share"), _("direction")]
    return Table(
        columns,
        rows,
        _("{label}: what counts in {n} {noun}. {direction}").format(
            label=label, n=one["rows"], noun=word(task.noun), direction=DIRECTION
        ),
    )
