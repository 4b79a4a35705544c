"""Batches of reports of similar length, trimmed to the longest among them and cut from what is on the device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

POOL = 32
"""Training batches that are sorted by length together: enough to save most padding, few enough to mix lengths."""


class Batch(NamedTuple):
    rows: np.ndarray
    """(B,) places among the reports that were given."""
    tokens: Tensor
    """(B, T) int32, T the longest report of the batch."""
    lengths: Tensor
    """(B,) int64"""


def length_batches(tokens: np.ndarray, lengths: np.ndarray, batch_size: int, device: torch.device) -> list[Batch]:
    """Padded tokens (N, max_len) and lengths (N,) as batches from the shortest reports to the longest.

    Every report stands in exactly one batch, the last may be smaller. All of them travel to the device at once, and a
    batch is a slice of what is there: so a GPU waits for no copy of single batches.
    """
    order = np.argsort(lengths, kind="stable")
    widths = lengths[order]
    # int32: torch gathers by no unsigned type, and int64 would be twice as much to move.
    moved = torch.from_numpy(tokens[order, : widths[-1]].astype(np.int32)).to(device)
    moved_lengths = torch.from_numpy(widths.astype(np.int64)).to(device)
    batches = []
    for start in range(0, len(order), batch_size):
        end = min(start + batch_size, len(order))
        batches.append(Batch(order[start:end], moved[start:end, : widths[end - 1]], moved_lengths[start:end]))
    return batches
