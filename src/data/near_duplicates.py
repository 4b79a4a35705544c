"""Similarity of reports: cosines of TF-IDF n-grams, nearest neighbours, families of near-duplicates, and clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from src.core.threads import one_thread
from src.data.ngrams import Text, join, ngram_counts

if TYPE_CHECKING:
    from scipy.sparse import csr_array, csr_matrix

THRESHOLDS = np.array([0.9999, *np.round(np.arange(0.90, 0.29, -0.02), 2)])
"""Candidate cosine thresholds for near-duplicates, from the strictest, which only equal reports exceed."""
LARGEST_FAMILY = 0.01
"""Share of all reports; a threshold at which a family is larger percolates."""
_CHUNK = 512
_BLOCK_SIZE = 64
"""Size of a block of reports with a common n-gram; likely_pairs looks for pairs inside blocks."""
_COMMON = 0.1
"""Share of all reports; n-grams in more reports than that make no blocks."""
_ORDERS = 8
_SEEN = 0.1
"""Share of the minimum cosine that the common blocks of two reports must show before the full cosine is computed."""
_BEST = 64
"""Maximum number of other reports for which the full cosine of a report is computed."""


def tfidf(texts: Sequence[Text], max_n: int, min_df: int = 1) -> list[csr_array]:
    """Returns TF-IDF vectors of 1- to max_n-grams, rows of unit length: float32 (N, features) for each text.

    Weights are fitted on all texts together, and n-grams of a single report count in its length, so that cosines within
    a text and between texts are comparable. N-grams in fewer than `min_df` reports are left out.
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
    """Returns the largest cosine of each query to the references of each group: float32 (Q, groups.max() + 1).

    `groups` (R,) are whole numbers; references of a negative group are ignored, a group without references gives 0.
    If groups are folds, the largest cosine to the training data of fold f's model is the maximum over the other groups.
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
    """Returns the family number of each report (N,), and the threshold.

    A family is a connected component of the pairs of reports with a cosine above the threshold. The default threshold
    is the lowest of THRESHOLDS at which no family percolates, that is, exceeds LARGEST_FAMILY of all reports; at lower
    thresholds chance similarities connect most reports. `copies` (N,): number of reports with the text of each row. All
    pairs are compared, or, if `approximate`, likely_pairs.
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
    result = (joined(THRESHOLDS[0]), float(THRESHOLDS[0]))
    for candidate in THRESHOLDS[1:]:
        family = joined(candidate)
        if np.bincount(family, copies).max() > max(2, LARGEST_FAMILY * copies.sum()):
            break
        result = family, float(candidate)
    return result


def clusters(vectors: csr_array, family: np.ndarray, n: int) -> np.ndarray:
    """Returns the cluster number of each report, (N,): at most n clusters of whole families, numbered without gaps.
    Where no two reports have an n-gram in common, each family is a cluster.

    Bisecting k-means (Steinbach, Karypis and Kumar 2000) of the families' mean directions, by scikit-learn: the cluster
    of most families is halved until there are n. `family` (N,): family number of each report, as families() returns it.
    """
    import warnings

    from sklearn.cluster import BisectingKMeans
    from sklearn.exceptions import ConvergenceWarning

    size = np.bincount(family)
    n = min(n, len(size))
    if n < 2 or not vectors.shape[1]:  # reports without a common n-gram: nothing tells which are similar
        return family
    mean = _directions(vectors, family)
    halved = BisectingKMeans(n, random_state=0, bisecting_strategy="largest_cluster")
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal directions, which no cluster can be halved by
        found = halved.fit_predict(mean, sample_weight=size.astype(np.float32))
    return np.unique(found, return_inverse=True)[1][family]


def equal_clusters(vectors: csr_array, family: np.ndarray, n: int) -> np.ndarray:
    """Returns the cluster number of each report, (N,): n clusters of whole families with about equally many reports.

    Reports are cut in two again and again: the families stand in the order of how much nearer their mean direction is
    to one of two centres (2-means, by scikit-learn) than to the other, and are cut where each side has its share of the
    reports. `family` (N,): family number of each report; there are at least n families.
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    size, mean = np.bincount(family), _directions(vectors, family)
    cluster = np.zeros(len(size), dtype=np.int64)

    def cut(members: np.ndarray, first: int, parts: int) -> None:
        if parts == 1:
            cluster[members] = first
            return
        found = KMeans(2, n_init=1, random_state=0).fit(mean[members], sample_weight=size[members].astype(np.float32))
        nearer = mean[members] @ (found.cluster_centers_[0] - found.cluster_centers_[1])
        order = members[np.lexsort((members, nearer))]
        half = parts // 2
        place = int(np.searchsorted(np.cumsum(size[order]), size[order].sum() * half / parts)) + 1
        place = min(max(place, half), len(order) - (parts - half))  # each part gets a family at least
        cut(order[:place], first, half)
        cut(order[place:], first + half, parts - half)

    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal directions
        cut(np.arange(len(size)), 0, n)
    return cluster[family]


def _directions(vectors: csr_array, family: np.ndarray) -> csr_matrix:
    """Returns the mean direction of each family, rows of unit length: (families, features)."""
    from scipy.sparse import csr_array, csr_matrix
    from sklearn.preprocessing import normalize

    of_family = csr_array((np.ones(len(family), np.float32), (family, np.arange(len(family)))))
    mean = normalize(of_family @ vectors)
    # scikit-learn asks for 32-bit indices.
    return csr_matrix((mean.data, mean.indices, mean.indptr), shape=mean.shape)


def pairs_between(left: Text, right: Text, threshold: float, approximate: bool = False) -> np.ndarray:
    """Returns the pairs of a report of `left` and one of `right` with a cosine above the threshold: their rows, (P, 2)
    int32 in ascending order. All pairs are compared, or, if `approximate`, likely_pairs."""
    from scipy.sparse import vstack

    one, other = tfidf([left, right], max_n=3, min_df=2)
    if approximate:
        n = one.shape[0]
        sides = np.arange(n + other.shape[0]) >= n
        rows, others, _ = likely_pairs(vstack([one, other], format="csr"), threshold, sides)
        pairs = np.column_stack([np.minimum(rows, others), np.maximum(rows, others) - n])
    else:
        found = [np.argwhere(cosines > threshold) + [start, 0] for start, cosines in _cosines(one, other)]
        pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *found])
    return np.unique(pairs, axis=0).astype(np.int32)


def likely_pairs(
    vectors: csr_array, lowest: float, sides: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns most pairs with a cosine above `lowest`: rows (P,), rows (P,) and cosines (P,). `sides` (N,) bool: only
    pairs of a report of one side and one of the other.

    Time and memory are linear in the number of reports. Nearly all of the most similar pairs are found; the order of
    the rows influences which other pairs are. The reports with an n-gram are sorted so that similar reports are
    neighbours (_places) and cut into blocks of _BLOCK_SIZE. The full cosine is computed for each report and the _BEST
    reports with the largest cosine inside common blocks. Members of a large family may be joined only by a chain.
    """
    from scipy.sparse import csr_array

    vectors, n = csr_array(vectors), vectors.shape[0]
    columns = vectors.tocsc()
    held = np.diff(columns.indptr)
    columns = columns[:, (held > 1) & (held <= max(_BLOCK_SIZE, _COMMON * n))]
    held = np.diff(columns.indptr)
    column = np.repeat(np.arange(len(held)), held)
    order = np.lexsort((_places(vectors)[column % _ORDERS, columns.indices], column))
    n_blocks = -(-held // _BLOCK_SIZE)  # blocks of each n-gram, of nearly equal size
    block = np.arange(n_blocks.sum()) - np.repeat(np.cumsum(n_blocks) - n_blocks, n_blocks)
    starts = np.repeat(columns.indptr[:-1], n_blocks) + np.repeat(held, n_blocks) * block // np.repeat(
        n_blocks, n_blocks
    )
    by_block = csr_array(
        (columns.data[order], columns.indices[order], np.append(starts, columns.nnz)), shape=(len(starts), n)
    )
    members, pairs = by_block.T.tocsr(), []
    for start in range(0, n, _CHUNK):
        shared = (members[start : start + _CHUNK] @ by_block).tocoo()
        left, right = shared.coords
        likely = (shared.data > _SEEN * lowest) & (right != left + start)
        if sides is not None:  # before the best are taken: a report may have more than _BEST neighbours on its own side
            likely &= sides[left + start] != sides[right]
        left, right, value = left[likely] + start, right[likely], shared.data[likely]
        order = np.lexsort((-value, left))
        left, right = left[order], right[order]
        best = np.arange(len(left)) - np.searchsorted(left, left) < _BEST
        left, right = left[best], right[best]
        cosine = vectors[left].multiply(vectors[right]).sum(axis=1)
        above = cosine > lowest
        pairs.append((left[above], right[above], cosine[above]))
    return tuple(map(np.concatenate, zip(*pairs, strict=True)))


def _places(vectors: csr_array) -> np.ndarray:
    """Returns the rank of each report in several orders, (_ORDERS, N), in which similar reports are often neighbours.

    The sketch of a report is the n-gram with the smallest (random number of the n-gram) / (squared weight); the more
    similar two reports are, the more often their sketches agree (Moulton and Jiang 2018, "Maximally consistent
    sampling and the Jaccard index of probability distributions"). An order sorts by three such sketches.
    """
    rng = np.random.default_rng(0)
    held = np.diff(vectors.indptr)
    row = np.repeat(np.arange(len(held)), held)
    starts, weight = vectors.indptr[:-1][held > 0], vectors.data**2
    sketches = np.zeros((_ORDERS, len(held)), dtype=np.int32)
    for sketch in sketches:
        drawn = rng.exponential(size=vectors.shape[1]).astype(np.float32)[vectors.indices] / weight
        smallest = np.minimum.reduceat(drawn, starts) if len(starts) else drawn
        minimal = np.flatnonzero(drawn == np.repeat(smallest, held[held > 0]))
        sketch[row[minimal]] = vectors.indices[minimal]
    places = np.empty_like(sketches)
    for i in range(_ORDERS):
        places[i, np.lexsort((sketches[i - 2], sketches[i - 1], sketches[i]))] = np.arange(len(held))
    return places


def _pairs(vectors: csr_array, lowest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns all pairs with a cosine above `lowest`: rows (P,), rows (P,) and cosines (P,)."""
    left, right, cosine = [], [], []
    for start, cosines in _cosines(vectors, vectors):
        rows, columns = np.nonzero(cosines > lowest)
        upper = columns > rows + start
        left.append(rows[upper] + start)
        right.append(columns[upper])
        cosine.append(cosines[rows[upper], columns[upper]])
    return tuple(map(np.concatenate, (left, right, cosine)))


def _cosines(queries: csr_array, references: csr_array) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the first row and the cosines (rows, R) of each chunk of queries."""
    transposed = references.T.tocsc()
    for start in range(0, queries.shape[0], _CHUNK):
        yield start, (queries[start : start + _CHUNK] @ transposed).toarray()
