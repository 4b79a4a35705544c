"""Word vectors: factorised positive pointwise mutual information (PPMI) of co-occurring words.

Levy and Goldberg (2014), "Neural word embedding as implicit matrix factorization", with context-distribution
smoothing and singular values to the power one half as in Levy, Goldberg and Dagan (2015). They are made from all
text (train, test and extra) and from no label.
"""

from __future__ import annotations

import numpy as np

from src.data.corpus import BLOCK, N_SPECIAL, PAD

WINDOW = 5
SMOOTHING = 0.75
LARGE = 4000
"""Words past which pairs are counted in a sparse matrix: of 20,000 words a dense one and its factors take 35 GB."""


def ppmi_vectors(texts: list[np.ndarray], vocabulary_size: int, size: int) -> np.ndarray:
    """Padded texts [(N, max_len)] -> vectors (vocabulary_size, size), float32.

    Vectors have a standard deviation of 0.1 over the words, like random embeddings; the reserved indices are zero.
    `size` may exceed the number of words: the columns beyond it are zero.
    """
    if vocabulary_size > LARGE:
        return _scaled(_sparse_factors(texts, vocabulary_size, min(size, vocabulary_size - 1)), size)
    counts = np.zeros((vocabulary_size, vocabulary_size))
    for tokens in texts:
        for distance in range(1, min(WINDOW, tokens.shape[1] - 1) + 1):
            at_distance = np.zeros(counts.size)
            for start in range(0, len(tokens), BLOCK):
                block = tokens[start : start + BLOCK]
                left, right = block[:, :-distance].ravel(), block[:, distance:].ravel()
                # Only to save time: the counts of reserved indices are dropped below.
                pairs = (left != PAD) & (right != PAD)
                # Near neighbours count more: weight 1/distance, as in GloVe.
                np.add.at(at_distance, left[pairs].astype(np.int64) * len(counts) + right[pairs], 1 / distance)
            counts += at_distance.reshape(counts.shape)
    counts += counts.T
    counts[:N_SPECIAL] = counts[:, :N_SPECIAL] = 0
    word = counts.sum(axis=1)
    context = word**SMOOTHING / max((word**SMOOTHING).sum(), 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / word[:, None] / context[None, :])
    information[~np.isfinite(information) | (information < 0)] = 0
    left, values, _ = np.linalg.svd(information)
    kept = min(size, vocabulary_size)
    return _scaled(left[:, :kept] * np.sqrt(values[:kept]), size)


def _sparse_factors(texts: list[np.ndarray], vocabulary_size: int, n_factors: int) -> np.ndarray:
    """Computes the first factors of the same matrix, (vocabulary_size, n_factors), without a dense one."""
    from scipy import sparse
    from scipy.sparse import linalg

    shape = (vocabulary_size, vocabulary_size)
    counts = sparse.csr_array(shape)
    for tokens in texts:
        for distance in range(1, min(WINDOW, tokens.shape[1] - 1) + 1):
            for start in range(0, len(tokens), BLOCK):
                block = tokens[start : start + BLOCK]
                left, right = block[:, :-distance].ravel(), block[:, distance:].ravel()
                is_word = (left >= N_SPECIAL) & (right >= N_SPECIAL)
                pairs = left[is_word].astype(np.int32), right[is_word].astype(np.int32)
                counts = counts + sparse.coo_array((np.full(is_word.sum(), 1 / distance), pairs), shape).tocsr()
    counts = (counts + counts.T).tocoo()
    word = np.bincount(counts.row, counts.data, vocabulary_size)
    context = word**SMOOTHING / max((word**SMOOTHING).sum(), 1e-12)
    information = np.log(counts.data / word[counts.row] / context[counts.col]).clip(min=0)
    matrix = sparse.csr_array((information, (counts.row, counts.col)), shape)
    if not matrix.count_nonzero():
        return np.zeros((vocabulary_size, n_factors))
    # From the same start the solver takes the same steps.
    left, values, _ = linalg.svds(matrix, k=n_factors, v0=np.ones(vocabulary_size))
    order = np.argsort(-values, kind="stable")
    return left[:, order] * np.sqrt(values[order])


def _scaled(factors: np.ndarray, size: int) -> np.ndarray:
    """Returns word vectors (V, size) of the factors (V, up to size), see ppmi_vectors()."""
    vectors = np.zeros((len(factors), size))
    vectors[:, : factors.shape[1]] = factors
    vectors[:N_SPECIAL] = 0
    spread = vectors[N_SPECIAL:].std()
    return (vectors * (0.1 / spread if spread > 0 else 0)).astype(np.float32)
