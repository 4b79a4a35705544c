"""Summary features of series: a fixed number of named columns for a series of any length.

Tabular models, the wide part of networks, baselines and the comparison of files read them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

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
    if _is_image(shape):
        return [f"{name} at {step}" for step in range(shape.steps) for name in shape.parameters] + list(shape.statics)
    names = [f"{name} {one}" for one in STATISTICS for name in shape.parameters] + list(shape.statics)
    return names + list(clinical_scores.NAMES) if _has_scores(shape) else names


def summarise(inputs: Mapping[str, Tensor], shape: InputShape, lengths: Tensor | None = None) -> Tensor:
    """Inputs {"values": (B, T, P), "statics": (B, 1, S)} with NaN -> float32 (B, F), NaN where nothing was observed.

    `lengths` (B,) hides what lies beyond them. T may be less than shape.steps. Images, which have no missing values,
    are summarised by all their pixels. ICU stays have clinical scores beside the statistics.
    """
    values = inputs["values"]
    if lengths is not None:
        values = values.masked_fill(~valid_positions(lengths, values.shape[1])[:, :, None], torch.nan)
    if _is_image(shape):
        parts = [functional.pad(values, (0, 0, 0, shape.steps - values.shape[1]), value=torch.nan).flatten(1)]
    else:
        parts = _statistics(values, shape.steps)
    if shape.statics:
        parts.append(inputs["statics"][:, 0])
    table = torch.cat(parts, dim=1).float()
    if not _has_scores(shape):
        return table
    columns = dict(zip(summary_names(shape), table.unbind(1), strict=False))  # the scores' own names come last
    return torch.cat([table, torch.stack(clinical_scores.clinical_features(columns.__getitem__), dim=1)], dim=1)


def summary_table(
    inputs: Mapping[str, np.ndarray], lengths: np.ndarray, shape: InputShape, rows: np.ndarray | None = None
) -> np.ndarray:
    """Summarises inputs {name: (N, ...)}, which may be memory maps, chunk by chunk: float32 (N, F), or the `rows` (M,)
    alone, in their order: (M, F)."""
    rows = np.arange(len(lengths)) if rows is None else rows
    table = np.empty((len(rows), len(summary_names(shape))), np.float32)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        part = {name: torch.from_numpy(np.asarray(array[chunk])) for name, array in inputs.items()}
        table[start : start + CHUNK] = summarise(part, shape, torch.from_numpy(np.asarray(lengths[chunk]))).numpy()
    return table


def _is_image(shape: InputShape) -> bool:
    return set(shape.kinds) == {"pixel"}


def _has_scores(shape: InputShape) -> bool:
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
