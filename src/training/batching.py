"""Batches of reports of similar length, trimmed to the longest among them and cut from what is on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.data.corpus import BLOCK, N_SPECIAL, to_indices

POOL = 8
"""Training batches that are sorted by length together. 32 would save another tenth of the time, and cost 0.001 to 0.002
of the score: batches of one length each pull in directions of their own. See docs/speed.md."""

WIDTHS = 4
"""Widths of training batches are multiples of this. Generated code is kept for each width: this keeps 300 MB less of it
and costs no more time than it saves."""

GRAPH_WIDTHS = 16
"""Number of which widths are multiples on a GPU, where each has a CUDA graph, and padding costs little: seven serve an
epoch."""


def widths_on(device: torch.device) -> int:
    """Returns the number of which the widths of training batches are multiples. It is the same with graphs and without,
    so that both compute the same."""
    return GRAPH_WIDTHS if device.type == "cuda" else WIDTHS


class Batch(NamedTuple):
    inputs: dict[str, Tensor]
    """{name: (B, T, ...)} for the model's input layer, T the longest report of the batch, or a little more. Reports of
    tokens have {"tokens": (B, T) int32}, or (B, T, K) where they are mixtures."""
    lengths: Tensor
    """(B,) int64"""
    rows: np.ndarray
    """(B,) places among the reports that were given."""
    domain: Tensor | None = None
    """(B,) int64: number of the domain that a report is from: by FoldJob.domains, else of its file. Train files come
    first, numbered as in Corpus.sources (0, 1, …); every further corpus of the job continues with the next free number.
    None where the caller gave none, as in prediction: a model does not see it."""


def length_batches(
    inputs: Mapping[str, np.ndarray],
    lengths: np.ndarray,
    batch_size: int,
    device: torch.device,
    multiple: int = 1,
    order: np.ndarray | None = None,
    domain: np.ndarray | None = None,
) -> list[Batch]:
    """Cuts padded inputs {name: (N, max_len, ...)} with lengths (N,) and domain (N,) into batches, from the shortest
    reports to the longest, or in the `order` of another copy of the reports, whose lengths differ a little.

    Every report stands in exactly one batch, the last may be smaller. All of them travel to the device at once, and a
    batch is a slice of what is there: so a GPU waits for no copy of single batches. Widths are rounded up to a
    `multiple`, as far as the padding reaches, for code that is made anew for each width.
    """
    order = np.argsort(lengths, kind="stable") if order is None else order
    sorted_lengths = lengths[order]
    max_len = next(iter(inputs.values())).shape[1]
    widths = np.minimum(-(-sorted_lengths // multiple) * multiple, max_len)

    def moved(array: np.ndarray) -> Tensor:
        if array.dtype == np.uint16:  # torch gathers by no unsigned type, and int64 would be twice as much to move
            array = array.astype(np.int32)
        return torch.from_numpy(array).to(device)

    on_device = {name: moved(array[order, : widths.max()]) for name, array in inputs.items()}
    moved_lengths = moved(sorted_lengths.astype(np.int64))
    moved_domain = None if domain is None else moved(domain[order].astype(np.int64))
    batches = []
    for start in range(0, len(order), batch_size):
        part = slice(start, start + batch_size)
        width = widths[part].max()
        cut = {name: tensor[part, :width] for name, tensor in on_device.items()}
        batches.append(
            Batch(cut, moved_lengths[part], order[part], None if moved_domain is None else moved_domain[part])
        )
    return batches


def alphabet_of(tokens: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns the words that occur in the `chosen` rows of padded tokens, in ascending order."""
    seen = np.zeros(np.iinfo(tokens.dtype).max + 1, dtype=bool)
    for start in range(0, len(chosen), BLOCK):
        seen[tokens[chosen[start : start + BLOCK]]] = True
    return to_indices(np.flatnonzero(seen[N_SPECIAL:])).astype(tokens.dtype)
