"""How alike reports are: cosines of TF-IDF n-grams, the nearest neighbour of each, and families of near-duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from src.ngrams import Text, join, ngram_counts

if TYPE_CHECKING:
    from scipy.sparse import csr_array

THRESHOLDS = np.array([0.9999, *np.round(np.arange(0.90, 0.29, -0.02), 2)])
"""Cosines above which two reports may count as near-duplicates, from the strictest, which only equal ones pass."""
LARGEST_FAMILY = 0.01
"""A threshold percolates if a family at it holds more than this share of all reports."""
_CHUNK = 512


def tfidf(texts: Sequence[Text], max_n: int, min_df: int = 1) -> list[csr_array]:
    """TF-IDF of 1- to max_n-grams with rows of length one: float32 (N, features) for each text.

    Weights come from all texts together, and what only one report holds lengthens that report's vector in every text
    alike, so that cosines within one text and between two can be compared. `min_df` leaves n-grams out that fewer
    reports hold.
    """
    from sklearn.feature_extraction.text import TfidfTransformer

    counts, _ = ngram_counts(*join(texts), max_n)
    counts = counts[:, np.bincount(counts.indices, minlength=counts.shape[1]) >= min_df]
    if counts.shape[1]:  # scikit-learn refuses reports without features
        counts = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    vectors = counts.astype(np.float32)
    ends = np.cumsum([len(offsets) - 1 for _, offsets in texts])
    return [vectors[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def nearest(queries: csr_array, references: csr_array, groups: np.ndarray) -> np.ndarray:
    """Largest cosine of each query to the references of each group: float32 (Q, groups.max() + 1).

    `groups` (R,) are whole numbers from 0; a reference of a negative group does not count, a group without references
    gives 0. So the largest cosine to what the model of fold f has seen is that over all groups but f.
    """
    order = np.argsort(groups, kind="stable")
    order = order[groups[order] >= 0]
    sizes = np.bincount(groups[order])
    filled = np.flatnonzero(sizes)
    starts = (np.cumsum(sizes) - sizes)[filled]
    best = np.zeros((queries.shape[0], len(sizes)), dtype=np.float32)
    for start, cosines in _cosines(queries, references[order]):
        best[start : start + len(cosines), filled] = np.maximum.reduceat(cosines, starts, axis=1)
    return best


def families(vectors: csr_array, threshold: float | None = None) -> tuple[np.ndarray, float]:
    """Family number of each report (N,), and the threshold: reports joined by a chain of cosines above it are a family.

    Without a `threshold` it is the lowest of THRESHOLDS at which no family percolates, that is, holds more than
    LARGEST_FAMILY of all reports: below it chains of chance likeness join everything to everything.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    lowest = THRESHOLDS[-1] if threshold is None else threshold
    left, right, cosine = [], [], []
    for start, cosines in _cosines(vectors, vectors):
        rows, columns = np.nonzero(cosines > lowest)
        upper = columns > rows + start
        left.append(rows[upper] + start)
        right.append(columns[upper])
        cosine.append(cosines[rows[upper], columns[upper]])
    left, right, cosine = map(np.concatenate, (left, right, cosine))

    def joined(above: float) -> np.ndarray:
        kept = cosine > above
        graph = coo_array((kept[kept], (left[kept], right[kept])), shape=(vectors.shape[0],) * 2)
        return connected_components(graph, directed=False)[1]

    if threshold is not None:
        return joined(threshold), threshold
    found = (joined(THRESHOLDS[0]), float(THRESHOLDS[0]))
    for candidate in THRESHOLDS[1:]:
        family = joined(candidate)
        if np.bincount(family).max() > max(2, LARGEST_FAMILY * len(family)):
            break
        found = family, float(candidate)
    return found


def _cosines(queries: csr_array, references: csr_array) -> Iterator[tuple[int, np.ndarray]]:
    """First row and cosines (rows, R) of a chunk of queries at a time."""
    transposed = references.T.tocsc()
    for start in range(0, queries.shape[0], _CHUNK):
        yield start, (queries[start : start + _CHUNK] @ transposed).toarray()
