"""Reports without a description: no model reads them, and each is predicted the label rates of the train reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHOWN = 5
"""Number of lines that a message names."""


@dataclass(frozen=True, eq=False)
class EmptyReports:
    """The K reports of a file that have no description, in file order."""

    rows: np.ndarray
    """Places in the file, (K,) int64 from 0."""
    ids: np.ndarray
    """Report ids, (K,) bytes."""
    labels: np.ndarray | None = None
    """Labels, (K, n_labels) uint8; None for a file without labels."""

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self) -> str:
        """Returns their number and the first lines in words."""
        return described(len(self), self.rows[:SHOWN].tolist())

    def complete(self, ids: np.ndarray, values: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids (N + K,) and values (N + K, L) of the whole file, from those of the N reports with a description.

        `own`: values of the reports without, (L,) for each of them or (K, L).
        """
        if not len(self):
            return ids, values
        read = np.ones(len(ids) + len(self), dtype=bool)
        read[self.rows] = False
        all_ids = np.empty(len(read), dtype=np.result_type(ids.dtype, self.ids.dtype))
        all_values = np.empty((len(read), values.shape[1]), dtype=np.result_type(values.dtype, own.dtype))
        all_ids[read], all_values[read] = ids, values
        all_ids[self.rows], all_values[self.rows] = self.ids, own
        return all_ids, all_values

    def to_json(self) -> list[list[Any]]:
        """Returns [row, id] of each, as the manifest notes them."""
        return [[row, name.decode()] for row, name in zip(self.rows.tolist(), self.ids.tolist(), strict=True)]

    @classmethod
    def from_json(cls, noted: Sequence[Sequence[Any]]) -> EmptyReports:
        rows, ids = ([entry[column] for entry in noted] for column in (0, 1))
        return cls(np.array(rows, dtype=np.int64), np.array(ids, dtype=np.bytes_))


NONE = EmptyReports.from_json([])


def described(n: int, first: Sequence[int]) -> str:
    """Returns in words that `n` reports have no description, and the lines of the `first` SHOWN of them, from 0."""
    lines = ", ".join(str(row + 1) for row in first) + ", …" * (n > SHOWN)
    return f"{n:,} report{'s have' if n > 1 else ' has'} no description (line {lines})"
