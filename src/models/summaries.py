"""Summary features of series: a fixed number of named columns for a series of any length.

Tabular models, the wide part of networks, baselines and the comparison of files read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from src.core import storage
from src.data.inputs import InputShape
from src.models import clinical_scores
from src.models.layers import valid_positions

STATISTICS = (
    "first",
    "last",
    "min",
    "max",
    "mean",
    "deviation",
    "slope",
    "early mean",
    "late mean",
    "last hour",
    "count",
)
"""Statistics of each parameter. slope: of the least-squares line, a step; early and late mean: of the first and second
half of the steps; last hour: step of the last observation; count: steps with an observation."""

CHUNK = 4096
"""Series that summary_table() holds in memory at a time."""


def summary_names(shape: InputShape) -> list[str]:
    """Names of the columns of summarise()."""
    if is_image(shape):
        return [f"{name} at {step}" for step in range(shape.steps) for name in shape.parameters] + list(shape.statics)
    names = [f"{name} {one}" for one in STATISTICS for name in shape.parameters] + list(shape.statics)
    return names + list(clinical_scores.NAMES) if has_scores(shape) else names


def summarise(inputs: Mapping[str, Tensor], shape: InputShape, lengths: Tensor | None = None) -> Tensor:
    """Inputs {"values": (B, T, P), "statics": (B, 1, S)} with NaN -> float32 (B, F), NaN where nothing was observed.

    `lengths` (B,) hides what lies beyond them. T may be less than shape.steps. Images, which have no missing values,
    are summarised by all their pixels. ICU stays have clinical scores beside the statistics.
    """
    values = inputs["values"]
    if lengths is not None:
        values = values.masked_fill(~valid_positions(lengths, values.shape[1])[:, :, None], torch.nan)
    if is_image(shape):
        parts = [functional.pad(values, (0, 0, 0, shape.steps - values.shape[1]), value=torch.nan).flatten(1)]
    else:
        parts = _statistics(values, shape.steps)
    if shape.statics:
        parts.append(inputs["statics"][:, 0])
    table = torch.cat(parts, dim=1).float()
    if not has_scores(shape):
        return table
    columns = dict(zip(summary_names(shape), table.unbind(1), strict=False))  # the scores' own names come last
    return torch.cat([table, torch.stack(clinical_scores.clinical_features(columns.__getitem__), dim=1)], dim=1)


def hidden_statics(shape: InputShape, names: Sequence[str]) -> list[int]:
    """Places among shape.statics of what features.hidden names: a descriptor, or all columns of one."""
    return [
        i for i, one in enumerate(shape.statics) if any(one == name or one.startswith(f"{name}_") for name in names)
    ]


def without_statics(inputs: dict[str, Tensor], hidden: Sequence[int]) -> dict[str, Tensor]:
    """Returns the inputs without the descriptors at these places, which are unknown then."""
    if not hidden:
        return inputs
    statics = inputs["statics"].clone()
    statics[:, :, hidden] = torch.nan
    return {**inputs, "statics": statics}


def summary_table(
    inputs: Mapping[str, np.ndarray],
    lengths: np.ndarray,
    shape: InputShape,
    rows: np.ndarray | None = None,
    hidden: Sequence[int] = (),
) -> np.ndarray:
    """Summarises inputs {name: (N, ...)}, which may be memory maps, chunk by chunk: float32 (N, F), or the `rows` (M,)
    alone, in their order: (M, F). `hidden`: places of descriptors that are left out."""
    rows = np.arange(len(lengths)) if rows is None else rows
    table = np.empty((len(rows), len(summary_names(shape))), np.float32)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        part = {name: torch.from_numpy(np.asarray(array[chunk])) for name, array in inputs.items()}
        part = without_statics(part, hidden)
        table[start : start + CHUNK] = summarise(part, shape, torch.from_numpy(np.asarray(lengths[chunk]))).numpy()
        for array in inputs.values():
            storage.release_pages(array)
    return table


def is_image(shape: InputShape) -> bool:
    return set(shape.kinds) == {"pixel"}


def has_scores(shape: InputShape) -> bool:
    return clinical_scores.NEEDED <= set(shape.parameters) and clinical_scores.NEEDED_STATICS <= set(shape.statics)


def _statistics(values: Tensor, steps: int) -> list[Tensor]:
    """STATISTICS of (B, T, P): each (B, P)."""
    observed = ~values.isnan()
    zeroed = values.nan_to_num(0)
    time = torch.arange(values.shape[1], device=values.device)[None, :, None]
    count = observed.sum(dim=1)

    def mean(x: Tensor, chosen: Tensor) -> Tensor:
        """Mean of x where `chosen`; NaN where nothing is."""
        return (x * chosen).sum(dim=1) / chosen.sum(dim=1)

    earliest = torch.where(observed, time, values.shape[1]).amin(dim=1)
    latest = torch.where(observed, time, -1).amax(dim=1)
    first = values.gather(1, earliest.clamp_max(values.shape[1] - 1)[:, None])[:, 0]
    last = values.gather(1, latest.clamp_min(0)[:, None])[:, 0]
    never = count == 0
    centre = mean(zeroed, observed)
    centred = (zeroed - centre[:, None]).nan_to_num(0) * observed
    moments = (time - mean(time.float(), observed)[:, None]).nan_to_num(0) * observed
    late = time >= steps // 2
    return [
        first,
        last,
        values.nan_to_num(torch.inf).amin(dim=1).masked_fill(never, torch.nan),
        values.nan_to_num(-torch.inf).amax(dim=1).masked_fill(never, torch.nan),
        centre,
        mean(centred.square(), observed).sqrt(),
        # Two observations make a line of any slope.
        ((moments * centred).sum(dim=1) / moments.square().sum(dim=1)).masked_fill(count < 3, torch.nan),
        mean(zeroed, observed & ~late),
        mean(zeroed, observed & late),
        latest.float().masked_fill(never, torch.nan),
        count.float(),
    ]


def statistic_shares(values: Tensor, steps: int) -> Tensor:
    """Shares of the steps in each of STATISTICS of one series (T, P) with NaN: float32 (STATISTICS, T, P).

    The shares of a statistic sum to one: an extreme lies in its step, a mean in all observations alike, a deviation
    and a slope where they come from. They are 0 for what was never observed.
    """
    observed = (~values.isnan()).float()
    steps_seen, n_parameters = values.shape
    time = torch.arange(steps_seen)[:, None]
    zeroed, count = values.nan_to_num(0), observed.sum(dim=0).clamp_min(1)

    def at(place: Tensor) -> Tensor:
        """One step a parameter (P,), where anything was observed."""
        return (time == place).float() * observed

    def in_proportion(weights: Tensor) -> Tensor:
        weights = weights * observed
        total = weights.sum(dim=0)
        return torch.where(total > 0, weights / total.clamp_min(1e-12), observed / count)

    centred = (zeroed - (zeroed * observed).sum(dim=0) / count).abs() * observed
    moment = (time - (time * observed).sum(dim=0) / count).abs()
    late = (time >= steps // 2).float().expand(-1, n_parameters)
    first = at(torch.where(observed > 0, time, steps_seen).amin(dim=0))
    last = at(torch.where(observed > 0, time, -1).amax(dim=0))
    found = {
        "first": first,
        "last": last,
        "min": at(values.nan_to_num(torch.inf).argmin(dim=0)),
        "max": at(values.nan_to_num(-torch.inf).argmax(dim=0)),
        "mean": in_proportion(observed),
        "deviation": in_proportion(centred.square()),
        "slope": in_proportion(centred * moment),
        "early mean": in_proportion(1 - late),
        "late mean": in_proportion(late),
        "last hour": last,
        "count": in_proportion(observed),
    }
    return torch.stack([found[name] for name in STATISTICS])


def score_weights(inputs: Mapping[str, Tensor], shape: InputShape) -> Tensor:
    """Change of each clinical score when a parameter or static counts as unknown, in the score's unit; an unknown score
    counts as 0: float32 (B, scores, P + S)."""
    sources = [("values", i) for i in range(len(shape.parameters))] + [
        ("statics", i) for i in range(len(shape.statics))
    ]
    # Behind the rows themselves, one copy of them for each source, without it.
    copies = {name: array.repeat(1 + len(sources), 1, 1) for name, array in inputs.items()}
    n_rows = len(inputs["values"])
    for number, (name, place) in enumerate(sources, start=1):
        copies[name][number * n_rows : (number + 1) * n_rows, :, place] = torch.nan
    scores = summarise(copies, shape)[:, -len(clinical_scores.NAMES) :].nan_to_num(0)
    whole, *without = scores.split(n_rows)
    return torch.stack([(whole - one).abs() for one in without], dim=2)
