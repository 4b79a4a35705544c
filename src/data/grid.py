"""Regular grid of stays: one row a step of time, one column a parameter, NaN where nothing was observed.

    for values, statics, ids in grid(read_stays(Path("input/icu/set-a.zip"))):
        print(values.shape, statics.shape)  # (1000, 48, 37), (1000, 1, 8)

A block of n stays takes 4 * n * T * P bytes as values and, while it is made, four times as many: 7 MB and 28 MB for
1,000 stays, 48 hours and 37 parameters. Nothing here is fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from src.core.errors import UserError, unknown
from src.core.language import _
from src.data.plausible import DESCRIPTORS, SERIES
from src.data.series_reader import LAST_MINUTE, StayBlock

PARAMETERS = tuple(parameter.name for parameter in SERIES)
"""Names of the columns of the values."""
KINDS = tuple(parameter.kind for parameter in SERIES)
"""Kind of each column: vital, examination, drug or device."""
ICU_TYPES = (1, 2, 3, 4)
STATICS = ("Age", "Gender", "Height", "Weight", *(f"ICUType_{number}" for number in ICU_TYPES))
"""Names of the columns of the statics. The type of the ICU is one-hot, all NaN where it is unknown."""
HOW = {"vital": "mean", "examination": "last", "drug": "sum", "device": "last"}
"""Default aggregation by kind, where a step has several values: amounts add up, vital signs are averaged."""


class GridBlock(NamedTuple):
    """Some stays on the grid."""

    values: np.ndarray
    """(n, T, P) float32, NaN where nothing was observed in a step."""
    statics: np.ndarray
    """(n, 1, S) float32, NaN where unknown."""
    ids: np.ndarray
    """RecordIDs, (n,) bytes."""


def grid(
    blocks: Iterable[StayBlock], hours: int = 48, step: float = 1.0, how: Mapping[str, str] | None = None
) -> Iterator[GridBlock]:
    """Yields each block of stays on a grid of the first `hours` in steps of `step` hours, T = hours / step.

    `how` names the aggregation of single parameters, last, mean or sum; others have that of their kind in HOW. Minute
    48:00 belongs to the last step of 48 hours, so the first columns of a longer grid equal a shorter grid. Raises
    UserError for steps that do not divide the hours, and for an unknown parameter or aggregation.
    """
    width = round(step * 60)
    if not (0 < hours * 60 <= LAST_MINUTE and width > 0 and width == step * 60 and hours * 60 % width == 0):
        raise UserError(
            _(
                "a grid of {hours} hours in steps of {step:g} hours is impossible; expected at most "
                "48 hours, and a step of whole minutes that divides the hours"
            ).format(hours=hours, step=step)
        )
    chosen = {parameter.name: HOW[parameter.kind] for parameter in SERIES}
    for name, aggregation in (how or {}).items():
        if name not in chosen:
            raise unknown("parameter", name, chosen)
        if aggregation not in ("last", "mean", "sum"):
            raise unknown(f"aggregation of {name}", aggregation, ("last", "mean", "sum"))
        chosen[name] = aggregation
    hows = np.array([chosen[name] for name in PARAMETERS])
    for block in blocks:
        yield GridBlock(_values(block, hours * 60 // width, width, hows), _statics(block), block.ids)


def _values(block: StayBlock, n_steps: int, width: int, hows: np.ndarray) -> np.ndarray:
    """Returns the values of a block, (n, n_steps, P) float32; a step is `width` minutes, `hows` (P,) aggregations."""
    shape = len(block), n_steps, len(PARAMETERS)
    cell = np.minimum(block.minute, LAST_MINUTE - 1) // width
    place = (block.stay.astype(np.int64) * n_steps + cell) * len(PARAMETERS) + block.parameter
    values = np.full(np.prod(shape), np.nan, np.float32)
    is_there = cell < n_steps
    rows = np.flatnonzero(is_there & (hows == "last")[block.parameter])
    values[place[rows]] = block.value[rows]  # of several values at one place, NumPy keeps the last
    rows = np.flatnonzero(is_there & (hows != "last")[block.parameter])
    places, owner = np.unique(place[rows], return_inverse=True)
    sums, counts = np.bincount(owner, block.value[rows], len(places)), np.bincount(owner, minlength=len(places))
    values[places] = np.where((hows == "mean")[places % len(PARAMETERS)], sums / counts, sums)
    return values.reshape(shape)


def _statics(block: StayBlock) -> np.ndarray:
    """Returns the statics of a block, (n, 1, S) float32."""
    columns = {parameter.name: block.descriptors[:, i] for i, parameter in enumerate(DESCRIPTORS)}
    icu = columns["ICUType"]
    one_hot = [np.where(np.isnan(icu), np.nan, icu == number) for number in ICU_TYPES]
    plain = [columns[name] for name in STATICS[: -len(ICU_TYPES)]]
    return np.stack([*plain, *one_hot], axis=1).astype(np.float32)[:, None, :]
