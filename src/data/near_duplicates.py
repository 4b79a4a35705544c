"""How alike reports are: cosines of TF-IDF n-grams, the nearest neighbour of each, and families of near-duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from src.data.ngrams import Text, join, ngram_counts

if TYPE_CHECKING:
    from scipy.sparse import csr_array

THRESHOLDS = np.array([0.9999, *np.round(np.arange(0.90, 0.29, -0.02), 2)])
"""Cosines above which two reports may count as near-duplicates, from the strictest, which only equal ones pass."""
LARGEST_FAMILY = 0.01
"""A threshold percolates if a family at it holds more than this share of all reports."""
_CHUNK = 512
_MET = 64
"""Reports that are compared for sharing one n-gram, where each cannot be compared with each."""
_COMMON = 0.1
"""They do not meet for an n-gram that more than this share of all reports hold."""
_ORDERS = 8
_SEEN = 0.1
"""Share of the cosine asked for that two reports must be seen to have where they meet, to be compared in full …"""
_BEST = 64
"""… and that only with so many that share most."""


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


def families(
    vectors: csr_array, threshold: float | None = None, copies: np.ndarray | None = None, approximate: bool = False
) -> tuple[np.ndarray, float]:
    """Family number of each report (N,), and the threshold: reports joined by a chain of cosines above it are a family.

    Without a `threshold` it is the lowest of THRESHOLDS at which no family percolates, that is, holds more than
    LARGEST_FAMILY of all reports: below it chains of chance likeness join everything to everything. `copies` (N,): how
    many reports each row stands for. Each report is compared with each, or, if `approximate`, with the likely_pairs.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    lowest = THRESHOLDS[-1] if threshold is None else threshold
    left, right, cosine = (likely_pairs if approximate else _pairs)(vectors, lowest)
    copies = np.ones(vectors.shape[0], dtype=np.int64) if copies is None else copies

    def joined(above: float) -> np.ndarray:
        kept = cosine > above
        graph = coo_array((kept[kept], (left[kept], right[kept])), shape=(vectors.shape[0],) * 2)
        return connected_components(graph, directed=False)[1]

    if threshold is not None:
        return joined(threshold), threshold
    found = (joined(THRESHOLDS[0]), float(THRESHOLDS[0]))
    for candidate in THRESHOLDS[1:]:
        family = joined(candidate)
        if np.bincount(family, copies).max() > max(2, LARGEST_FAMILY * copies.sum()):
            break
        found = family, float(candidate)
    return found


def likely_pairs(vectors: csr_array, lowest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (P,), rows (P,) and cosines (P,) of pairs above `lowest`: most of them, and nearly all of the closest ones,
    in time and memory linear in the number of reports. The order of the rows has a say in which.

    Reports meet in circles: _MET of those that share an n-gram, neighbours in an order that brings like reports
    together; another order for another n-gram. The _BEST others of each report that share most with it in its circles
    are compared with it in full. Of a larger family not all meet, but chains join them.
    """
    from scipy.sparse import csr_array

    vectors, n = csr_array(vectors), vectors.shape[0]
    columns = vectors.tocsc()
    held = np.diff(columns.indptr)
    columns = columns[:, (held > 1) & (held <= max(_MET, _COMMON * n))]
    held = np.diff(columns.indptr)
    column = np.repeat(np.arange(len(held)), held)
    order = np.lexsort((_places(vectors)[column % _ORDERS, columns.indices], column))
    circles = -(-held // _MET)  # of each n-gram, of nearly the same size
    circle = np.arange(circles.sum()) - np.repeat(np.cumsum(circles) - circles, circles)
    starts = np.repeat(columns.indptr[:-1], circles) + np.repeat(held, circles) * circle // np.repeat(circles, circles)
    by_circle = csr_array(
        (columns.data[order], columns.indices[order], np.append(starts, columns.nnz)), shape=(len(starts), n)
    )
    members, found = by_circle.T.tocsr(), []
    for start in range(0, n, _CHUNK):
        shared = (members[start : start + _CHUNK] @ by_circle).tocoo()
        left, right = shared.coords
        likely = (shared.data > _SEEN * lowest) & (right != left + start)
        left, right, value = left[likely] + start, right[likely], shared.data[likely]
        order = np.lexsort((-value, left))
        left, right = left[order], right[order]
        best = np.arange(len(left)) - np.searchsorted(left, left) < _BEST
        left, right = left[best], right[best]
        cosine = vectors[left].multiply(vectors[right]).sum(axis=1)
        above = cosine > lowest
        found.append((left[above], right[above], cosine[above]))
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def _places(vectors: csr_array) -> np.ndarray:
    """Place of each report in several orders, (_ORDERS, N), in which reports are often neighbours of those like them.

    A report is known by the n-gram with the smallest of (number drawn for the n-gram) / (square of its weight), which
    two reports share the more often the more alike they are (Moulton and Jiang 2018, "Maximally consistent sampling and
    the Jaccard index of probability distributions"). An order goes by three such n-grams.
    """
    rng = np.random.default_rng(0)
    held = np.diff(vectors.indptr)
    row = np.repeat(np.arange(len(held)), held)
    starts, weight = vectors.indptr[:-1][held > 0], vectors.data**2
    known = np.zeros((_ORDERS, len(held)), dtype=np.int32)
    for sketch in known:
        drawn = rng.exponential(size=vectors.shape[1]).astype(np.float32)[vectors.indices] / weight
        smallest = np.minimum.reduceat(drawn, starts) if len(starts) else drawn
        found = np.flatnonzero(drawn == np.repeat(smallest, held[held > 0]))
        sketch[row[found]] = vectors.indices[found]
    places = np.empty_like(known)
    for i in range(_ORDERS):
        places[i, np.lexsort((known[i - 2], known[i - 1], known[i]))] = np.arange(len(held))
    return places


def _pairs(vectors: csr_array, lowest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (P,), rows (P,) and cosines (P,) of all pairs above `lowest`."""
    left, right, cosine = [], [], []
    for start, cosines in _cosines(vectors, vectors):
        rows, columns = np.nonzero(cosines > lowest)
        upper = columns > rows + start
        left.append(rows[upper] + start)
        right.append(columns[upper])
        cosine.append(cosines[rows[upper], columns[upper]])
    return tuple(map(np.concatenate, (left, right, cosine)))


def _cosines(queries: csr_array, references: csr_array) -> Iterator[tuple[int, np.ndarray]]:
    """First row and cosines (rows, R) of a chunk of queries at a time."""
    transposed = references.T.tocsc()
    for start in range(0, queries.shape[0], _CHUNK):
        yield start, (queries[start : start + _CHUNK] @ transposed).toarray()
