"""Random reports with the lengths and label rates of the real files, for speed measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.data.corpus import pad, to_indices
from src.data.report_reader import Reports
from src.data.tasks import ROUND1

VOCABULARY = 858
MAX_LEN = 104


def synthetic(rows: int, seed: int = 0) -> Reports:
    """Draws `rows` reports with uniform words (mean length 42, 0 to a few regions)."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.gamma(5, 42 / 5, rows).round().astype(np.int64), 4, MAX_LEN)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    tokens = rng.integers(0, VOCABULARY, offsets[-1], dtype=np.uint16)
    labels = (rng.integers(0, 100, (rows, ROUND1.n_labels), dtype=np.uint8) < 8).astype(np.uint8)
    return Reports(Path("synthetic"), np.arange(rows).astype(np.bytes_), tokens, offsets, labels, ROUND1)


def encoded(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws encoded reports: tokens (rows, 104) uint16, lengths (rows,) int32, labels (rows, 17) uint8."""
    reports = synthetic(rows, seed)
    tokens, lengths = pad(to_indices(reports.tokens), reports.offsets, MAX_LEN)
    return tokens, lengths, reports.labels
