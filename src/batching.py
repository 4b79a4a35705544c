"""Batches of reports of similar length, trimmed to the longest among them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

POOL = 32
"""Batches that are sorted by length together: large enough to save most padding, small enough to mix lengths."""


def shuffled_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row indices of each batch of one epoch; every row stands in exactly one batch, the last may be smaller."""
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def sorted_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Row indices of each batch for prediction: the whole file sorted by length."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def collate(tokens: np.ndarray, lengths: np.ndarray, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """The `rows` of padded tokens (N, max_len) -> tensors (B, T) and (B,), T the longest report among them."""
    row_lengths = lengths[rows]
    trimmed = tokens[rows, : row_lengths.max()].astype(np.int64)
    return (
        torch.from_numpy(trimmed).to(device, non_blocking=True),
        torch.from_numpy(row_lengths.astype(np.int64)).to(device, non_blocking=True),
    )
