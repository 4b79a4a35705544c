"""Findings of explanations of series: strongest parameters and hours of one row, and what counts over many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from src.data.inputs import InputShape
from src.data.plausible import DESCRIPTORS, SERIES
from src.data.series_dataset import HOURS
from src.data.tasks import Task

if TYPE_CHECKING:
    from src.reporting.explanations import Explanation

UNITS = {parameter.name: parameter.unit for parameter in (*SERIES, *DESCRIPTORS)}
WINDOWS = 8
"""Windows of occlusion in a series; those of a stay are 6 hours."""
CURVES = 5
"""Parameters of one stay whose curves are drawn."""
LEAST = 10
"""Rows that must have a parameter for a rank correlation."""


def window_size(steps: int) -> int:
    """Steps of a window of occlusion."""
    return -(-steps // WINDOWS)


def sources(shape: InputShape) -> list[str]:
    """Names of what contributes: parameters, then statics. A weight is both: measured, and told on admission."""
    statics = [f"{name} on admission" if name in shape.parameters else name for name in shape.statics]
    return [*shape.parameters, *statics]


def quantity(task: Task) -> str:
    """Sum that contributions add up to."""
    if task.kind == "regression":
        return f"log of {task.unit} + 1"
    return "logit above the mean of all classes" if task.kind == "multiclass" else "logit"


def steps_name(shape: InputShape) -> str:
    """Noun of the steps of a series."""
    return "rows" if set(shape.kinds) == {"pixel"} else "hours"


def step_size(shape: InputShape) -> float:
    """Hours of a step of a stay; a step of an image is one row."""
    return 1.0 if steps_name(shape) == "rows" else HOURS / shape.steps


def by_window(contributions: np.ndarray, shape: InputShape) -> np.ndarray:
    """Contributions (T + 1, P + S) summed over the windows of occlusion: (windows + 1, P + S)."""
    starts = np.arange(0, len(contributions) - 1, window_size(shape.steps))
    return np.concatenate([np.add.reduceat(contributions[:-1], starts, axis=0), contributions[-1:]])


def window_name(window: int, shape: InputShape, n_steps: int) -> str:
    """First and last step of a window, such as 12-18 h."""
    size, hours = window_size(shape.steps), step_size(shape)
    first, last = window * size, min((window + 1) * size, n_steps)
    if steps_name(shape) == "hours":
        return f"{first * hours:g}-{last * hours:g} h"
    return f"row {first}" if last == first + 1 else f"rows {first}-{last - 1}"


def strongest(one: Explanation, values: np.ndarray, statics: np.ndarray | None, shape: InputShape, most: int) -> list:
    """Rows of a table of the strongest parameters and statics: name, contribution, strongest steps, contribution and
    observed values there, and the fall without the parameter where occlusion has found it.

    `values` (T, P), `statics` (S,).
    """
    windows, total = by_window(one.contributions, shape), one.contributions.sum(axis=0)
    names, n_parameters, found = sources(shape), len(shape.parameters), []
    for i in np.argsort(-np.abs(total), kind="stable")[:most]:
        window = int(np.abs(windows[:, i]).argmax())
        if window == len(windows) - 1:
            where, there = "all", f"{statics[i - n_parameters]:.4g}" if i >= n_parameters else _range(values[:, i])
        else:
            size = window_size(shape.steps)
            where = window_name(window, shape, len(values))
            there = _range(values[window * size : (window + 1) * size, i])
        fall = "" if one.falls is None else f"{one.falls[-1, i]:+.2f}"
        found.append([names[i], f"{total[i]:+.2f}", where, f"{windows[window, i]:+.2f}", there, fall])
    return found


def strongest_steps(one: Explanation, shape: InputShape, most: int) -> list:
    """Rows of a table of the strongest windows: steps, contribution, the parameters that make most of it."""
    windows = by_window(one.contributions, shape)[:-1]
    names, total = sources(shape), windows.sum(axis=1)
    found = []
    for window in np.argsort(-np.abs(total), kind="stable")[:most]:
        leading = np.argsort(-np.abs(windows[window]), kind="stable")[:3]
        words = ", ".join(f"{names[i]} {windows[window, i]:+.2f}" for i in leading)
        found.append([window_name(int(window), shape, len(one.contributions) - 1), f"{total[window]:+.2f}", words])
    return found


def agreement(one: Explanation, values: np.ndarray, statics: np.ndarray | None, shape: InputShape) -> str:
    """Sum of the contributions, and agreement with occlusion where there was one, in words."""
    from scipy.stats import rankdata

    parts = [f"of the difference the parameters make {one.contributions.sum():+.2f}"]
    if one.falls is None:
        return parts[0]
    seen = occludable(values, statics, shape)
    found = {"integrated gradients": one.contributions, "input times gradient": one.gradients}
    for name, contributions in found.items():
        if contributions is None:
            continue
        total = _correlation(contributions.sum(axis=0)[seen[-1]], one.falls[-1][seen[-1]])
        inside = seen[:-1]
        windows = _correlation(by_window(contributions, shape)[:-1][inside], one.falls[:-1][inside])
        parts.append(f"{name}: {total} for parameters, {windows} for {_window_words(shape)}")
    parts[1] = f"rank correlations with the falls of the logit without a parameter, by {parts[1]}"
    most = int(np.where(seen[-1], one.falls[-1], -np.inf).argmax())
    place = int(rankdata(-one.contributions.sum(axis=0), "ordinal")[most])
    return "; ".join([*parts, f"{sources(shape)[most]}, which is missed most, is number {place} here"])


def occludable(values: np.ndarray, statics: np.ndarray | None, shape: InputShape) -> np.ndarray:
    """Which windows of parameters have an observation, and, last, which parameters at all and which statics are known:
    bool (windows + 1, P + S)."""
    starts = np.arange(0, len(values), window_size(shape.steps))
    windows = np.logical_or.reduceat(~np.isnan(values), starts, axis=0)
    seen = np.concatenate([windows, windows.any(axis=0)[None]])
    known = np.zeros((len(seen), len(shape.statics)), dtype=bool)
    if statics is not None:
        known[-1] = ~np.isnan(statics)
    return np.concatenate([seen, known], axis=1)


def _correlation(left: np.ndarray, right: np.ndarray) -> str:
    """Rank correlation, or a dash where there is none."""
    from scipy.stats import spearmanr

    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return "–"
    return f"{spearmanr(left, right).statistic:.2f}"


def _window_words(shape: InputShape) -> str:
    size, name = window_size(shape.steps) * step_size(shape), steps_name(shape)
    return f"{size:g} {name} of one" if size > 1 else f"one {name.removesuffix('s')} of one"


def row_record(one: Explanation, values: np.ndarray, shape: InputShape) -> dict[str, Any]:
    """Content of the pictures of one row, as JSON: contributions, attention, curves of the strongest parameters."""
    record: dict[str, Any] = {"contributions": _rounded(one.contributions)}
    if one.attention is not None:
        record["attention"] = _rounded(one.attention)
    if steps_name(shape) == "rows":
        return record | {"image": _rounded(values)}
    total = np.abs(one.contributions[:-1]).sum(axis=0)
    seen = (~np.isnan(values)).sum(axis=0) >= 2
    total = total[: len(shape.parameters)]
    order = [int(i) for i in np.argsort(-total, kind="stable") if seen[i]]
    record["curves"] = {
        shape.parameters[i]: {
            "observed": _rounded(values[:, i]),
            "filled": None if one.filled is None else _rounded(one.filled[:, i]),
        }
        for i in order[:CURVES]
    }
    return record


def over_many(
    found: Sequence[Explanation], values: Sequence[np.ndarray], statics: Sequence[np.ndarray | None], shape: InputShape
) -> dict[str, Any]:
    """Mean absolute contributions of many rows, as JSON: of each source, of each step, and the rank correlation of each
    source's contribution with its mean value, None where few rows have it. Series of images: the mean map."""
    total = np.stack([one.contributions.sum(axis=0) for one in found])  # (rows, P + S)
    measured = np.full(total.shape, np.nan)
    for i, (seen, known) in enumerate(zip(values, statics, strict=True)):
        counts = (~np.isnan(seen)).sum(axis=0)
        mean = np.where(counts > 0, np.nansum(seen, axis=0) / np.maximum(counts, 1), np.nan)
        measured[i] = mean if known is None else np.concatenate([mean, known])
    steps = np.zeros(shape.steps)
    for one in found:
        steps[: len(one.contributions) - 1] += np.abs(one.contributions[:-1]).sum(axis=1)
    record = {
        "rows": len(found),
        "size": _rounded(np.abs(total).mean(axis=0)),
        "direction": [_direction(measured[:, i], total[:, i]) for i in range(total.shape[1])],
        "steps": _rounded(steps / len(found)),
    }
    if steps_name(shape) == "rows":
        whole = [one.contributions[:-1] for one in found if len(one.contributions) == shape.steps + 1]
        record["map"] = _rounded(np.mean(whole, axis=0)) if whole else None
    return record


def _direction(measured: np.ndarray, contributions: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    both = ~np.isnan(measured)
    if both.sum() < LEAST or np.ptp(measured[both]) == 0 or np.ptp(contributions[both]) == 0:
        return None
    return round(float(spearmanr(measured[both], contributions[both]).statistic), 2)


def _range(values: np.ndarray) -> str:
    """Smallest and largest observation."""
    seen = values[~np.isnan(values)]
    if not len(seen):
        return "unobserved"
    low, high = (f"{value:.4g}" for value in (seen.min(), seen.max()))
    return low if low == high else f"{low} to {high}"


def _rounded(values: np.ndarray) -> list:
    """Numbers with four decimals, None for NaN."""
    rounded = np.round(np.asarray(values, dtype=np.float64), 4)
    return np.where(np.isnan(rounded), None, rounded).tolist()
