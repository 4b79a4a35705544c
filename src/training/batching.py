"""Batches of reports of similar length, trimmed to the longest among them and cut from what is on the device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.data.corpus import BLOCK, N_SPECIAL

POOL = 8
"""Training batches that are sorted by length together. 32 would save another tenth of the time, and cost 0.001 to 0.002
of the score: batches of one length each pull in directions of their own. See docs/speed.md."""

WIDTHS = 4
"""Widths of training batches are multiples of this. Generated code is kept for each width: this keeps 300 MB less of it
and costs no more time than it saves."""


class Batch(NamedTuple):
    rows: np.ndarray
    """(B,) places among the reports that were given."""
    tokens: Tensor
    """(B, T) int32, T the longest report of the batch, or a little more; (B, T, K) of mixtures."""
    lengths: Tensor
    """(B,) int64"""


def length_batches(
    tokens: np.ndarray,
    lengths: np.ndarray,
    batch_size: int,
    device: torch.device,
    multiple: int = 1,
    order: np.ndarray | None = None,
) -> list[Batch]:
    """Padded tokens (N, max_len), or mixtures of them, and lengths (N,) as batches from the shortest reports to the
    longest, or in the `order` of another copy of the reports, whose lengths differ a little.

    Every report stands in exactly one batch, the last may be smaller. All of them travel to the device at once, and a
    batch is a slice of what is there: so a GPU waits for no copy of single batches. Widths are rounded up to a
    `multiple`, as far as the padding reaches, for code that is made anew for each width.
    """
    order = np.argsort(lengths, kind="stable") if order is None else order
    sorted_lengths = lengths[order]
    widths = np.minimum(-(-sorted_lengths // multiple) * multiple, tokens.shape[1])
    # int32: torch gathers by no unsigned type, and int64 would be twice as much to move.
    moved = torch.from_numpy(tokens[order, : widths.max()].astype(np.int32)).to(device)
    moved_lengths = torch.from_numpy(sorted_lengths.astype(np.int64)).to(device)
    batches = []
    for start in range(0, len(order), batch_size):
        end = min(start + batch_size, len(order))
        batches.append(Batch(order[start:end], moved[start:end, : widths[start:end].max()], moved_lengths[start:end]))
    return batches


def alphabet_of(tokens: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The words that occur in the `chosen` rows of padded tokens, in order."""
    seen = np.zeros(np.iinfo(tokens.dtype).max + 1, dtype=bool)
    for start in range(0, len(chosen), BLOCK):
        seen[tokens[chosen[start : start + BLOCK]]] = True
    return (N_SPECIAL + np.flatnonzero(seen[N_SPECIAL:])).astype(tokens.dtype)
