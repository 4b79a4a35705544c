"""Joining: reports of a pool that are trained on together with another report, as one text with the labels of both.

A joined report has findings of two reports, so a model learns less about which findings go together in one pool.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Pairs(NamedTuple):
    """K reports of a pool of N, each with the report that is joined to it."""

    places: np.ndarray
    """(K,) places in the pool"""
    partners: np.ndarray
    """(K,) train rows that are joined to them"""
    behind: np.ndarray
    """(K,) bool: the partner stands behind the report, not before it"""


def draw_pairs(pool: np.ndarray, lengths: np.ndarray, max_len: int, share: float, rng: np.random.Generator) -> Pairs:
    """Draws for each report of the pool (N,), with probability `share`, a partner from all train rows.

    `lengths` are those of all train rows. A report stays alone where both together have more than max_len tokens, or
    where the draw is the report itself.
    """
    is_joined, behind = rng.random(len(pool)) < share, rng.random(len(pool)) < 0.5
    partners = rng.integers(len(lengths), size=len(pool))
    is_joined &= (partners != pool) & (lengths[pool].astype(np.int64) + lengths[partners] <= max_len)
    places = np.flatnonzero(is_joined)
    return Pairs(places, partners[places], behind[places])


def join(
    first: np.ndarray, first_lengths: np.ndarray, second: np.ndarray, second_lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Puts padded reports `second` (K, max_len, ...) behind `first`, one behind one. Returns both in one, cut at
    max_len, and their lengths (K,)."""
    max_len = first.shape[1]
    shifted = np.arange(max_len) - first_lengths[:, None]  # (K, max_len): places in the second report
    is_second = (shifted >= 0).reshape(*shifted.shape, *[1] * (first.ndim - 2))
    moved = second[np.arange(len(second))[:, None], np.maximum(shifted, 0)]
    lengths = np.minimum(first_lengths + second_lengths, max_len).astype(first_lengths.dtype)
    return np.where(is_second, moved, first), lengths


def join_pairs(tokens: np.ndarray, lengths: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Joins padded reports (N + K, max_len, ...), those of a pool with the partners behind them. Returns the reports of
    the pool (N, max_len, ...) and their lengths (N,)."""
    n = len(tokens) - len(pairs.places)
    partners = n + np.arange(len(pairs.places))
    first = np.where(pairs.behind, pairs.places, partners)
    second = np.where(pairs.behind, partners, pairs.places)
    joined, joined_lengths = join(tokens[first], lengths[first], tokens[second], lengths[second])
    tokens, lengths = tokens[:n].copy(), lengths[:n].copy()
    tokens[pairs.places], lengths[pairs.places] = joined, joined_lengths
    return tokens, lengths


def unite(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the probabilities (K, n_labels) that a finding is in one of two reports: the union of labels that are 0
    or 1, and of soft labels as if both reports were independent. Beside an unknown label, NaN, a union is unknown too
    unless the other is 1."""
    is_found = (labels == 1) | (others == 1)
    return np.where(is_found, np.float32(1), 1 - (1 - labels) * (1 - others))
