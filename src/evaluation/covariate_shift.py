"""Covariate shift between train and a test file: profiles, adversarial validation, density-ratio weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from src.data.ngrams import Text, join, ngram_counts, ngram_hashes

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sklearn.linear_model import LogisticRegression

CLIP = 10.0
"""Maximum weight of a report relative to the mean weight, so that a few reports do not decide a score."""
SIMILARITY_BINS = 20
LONG_NGRAM = 10
"""Length in tokens of n-grams that two reports rarely share by chance."""
ADVERSARIAL_FOLDS = 5
TELLING = 8
"""Number of most indicative n-grams that are listed for each file."""


@dataclass(frozen=True)
class Adversarial:
    """Adversarial validation: cross-validated classifier of train against test rows."""

    auc: float
    standard_error: float
    """Standard error of the AUC (Hanley and McNeil 1982) for a fixed classifier; near 0.5 the true error, with refitted
    classifiers, is 1.4 times as large."""
    train_logits: np.ndarray
    """Out-of-fold log odds of being a test row, (N,), with both files weighted equally."""
    test_logits: np.ndarray
    """Out-of-fold log odds of being a test row, (M,)."""
    telling: list[dict[str, Any]]
    """Reports: most indicative n-grams: tokens, share of reports of each file with the n-gram, z of the difference;
    first n-grams of the test file, then of train. Series: see series_shift.telling_features()."""


def profile(reference: Text, text: Text) -> dict[str, Any]:
    """Returns size, lengths and words of `text`, its share of n-grams absent from `reference`, and its bits per token.

    `bigram_bits` is the cross-entropy under the Witten-Bell interpolated bigram model of `reference` (Witten and Bell
    1991), `unigram_bits` under its word frequencies plus one. N-grams are counted by occurrence.
    """
    tokens, offsets = text
    lengths = np.diff(offsets)
    unseen = {}
    for n, name in enumerate(("unigrams", "bigrams", "trigrams"), start=1):
        hashes = ngram_hashes(text, n)
        new = ~np.isin(hashes, ngram_hashes(reference, n))
        unseen[name] = float(new.mean()) if len(new) else 0.0  # reports may be shorter than n
    unigram, bigram = _bits(reference, text)
    low, middle, high = np.quantile(lengths, [0.05, 0.5, 0.95])
    return {
        "reports": len(lengths),
        "length": {
            "mean": float(lengths.mean()),
            "min": int(lengths.min()),
            "p05": float(low),
            "median": float(middle),
            "p95": float(high),
            "max": int(lengths.max()),
        },
        "words": len(np.unique(tokens)),
        "unseen": unseen,
        "unigram_bits": unigram,
        "bigram_bits": bigram,
    }


def shared_ngrams(reference: Text, text: Text | None = None, n: int = LONG_NGRAM) -> float:
    """Returns the share of reports of `text` with an n-gram of `reference`; without `text`, the share of reports of
    `reference` with an n-gram of another report of `reference`."""
    if text is None:
        text = reference
        report, hashes = _distinct(reference, n)
        values, count = np.unique(hashes, return_counts=True)
        sharing = report[np.isin(hashes, values[count > 1])]
    else:
        report, hashes = _distinct(text, n)
        sharing = report[np.isin(hashes, ngram_hashes(reference, n))]
    return len(np.unique(sharing)) / max(len(text[1]) - 1, 1)


def adversarial(train: Text, test: Text, seed: int = 0) -> Adversarial:
    """Cross-validates a logistic regression of the file on TF-IDF 1-2-grams, with both files weighted equally.

    Raises ValueError if a file has fewer reports than ADVERSARIAL_FOLDS.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    sizes = len(train[1]) - 1, len(test[1]) - 1
    if min(sizes) < ADVERSARIAL_FOLDS:
        raise ValueError(f"adversarial validation needs {ADVERSARIAL_FOLDS} reports of each file, not {sizes}")
    text = join([train, test])
    counts, places = ngram_counts(*text, 2)
    frequent = np.bincount(counts.indices, minlength=counts.shape[1]) >= 2
    if not frequent.any():  # files of a few words
        frequent[:] = True
    counts, places = counts[:, frequent], places[frequent]
    features = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    is_test = np.repeat([0, 1], sizes)
    logits = np.empty(len(is_test))
    for fit, judged in StratifiedKFold(ADVERSARIAL_FOLDS, shuffle=True, random_state=seed).split(features, is_test):
        logits[judged] = _classifier(features[fit], is_test[fit], seed).decision_function(features[judged])
    auc = float(roc_auc_score(is_test, logits))
    telling = _telling(counts, places, text[0], is_test)
    return Adversarial(auc, auc_error(auc, *sizes), logits[is_test == 0], logits[is_test == 1], telling)


def odds_weights(logits: np.ndarray, clip: float = CLIP) -> np.ndarray:
    """Returns density-ratio weights (N,) with mean 1 from `train_logits`: the odds of being a test report, clipped.

    The classifier weights both files equally, so the odds need no prior.
    """
    return _normalised(np.exp(np.clip(logits, -30, 30)), clip)


def similarity_weights(train: np.ndarray, test: np.ndarray, clip: float = CLIP) -> np.ndarray:
    """Returns weights (N,) with mean 1 that give the cosines `train` (N,) the histogram of the cosines `test` (M,).

    Weights are clipped, and above zero: a bin without a test report counts half of one. Bins hold equal shares of
    `test`; the outer bins are unbounded.
    """
    edges = np.unique(np.quantile(test, np.linspace(0, 1, SIMILARITY_BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, train), np.searchsorted(edges, test)
    have, want = (np.bincount(which, minlength=len(edges) + 1) / len(which) for which in bins)
    want, have = np.maximum(want, 0.5 / len(test)), np.maximum(have, 0.5 / len(train))
    return _normalised((want / have)[bins[0]], clip)


def _normalised(weights: np.ndarray, clip: float) -> np.ndarray:
    for _ in range(100):  # clipping lowers the mean and so the limit; a few rounds converge
        limit = clip * weights.mean()
        if weights.max() <= limit * (1 + 1e-9):
            break
        weights = np.minimum(weights, limit)
    return weights / weights.mean()


def _classifier(features: csr_array, is_test: np.ndarray, seed: int) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(solver="liblinear", dual=True, class_weight="balanced", max_iter=1000, random_state=seed)
    return model.fit(features, is_test)


def _telling(counts: csr_array, places: np.ndarray, tokens: np.ndarray, is_test: np.ndarray) -> list[dict[str, Any]]:
    """Returns the n-grams with the most significant difference of their shares of reports (z of two proportions)."""
    sizes = np.array([(is_test == side).sum() for side in (0, 1)])
    held = np.stack([np.bincount(counts[is_test == side].indices, minlength=counts.shape[1]) for side in (0, 1)])
    shares, pooled = held / sizes[:, None], held.sum(axis=0) / sizes.sum()
    z = (shares[1] - shares[0]) / np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / sizes).sum())
    order = np.argsort(z, kind="stable")
    return [
        {
            "tokens": tokens[places[i, 1] : places[i, 1] + places[i, 0]].tolist(),
            "z": float(z[i]),
            "train": float(shares[0, i]),
            "test": float(shares[1, i]),
        }
        for i in (*order[::-1][:TELLING], *order[:TELLING])
    ]


def auc_error(auc: float, n_train: int, n_test: int) -> float:
    """Returns the standard error of an AUC (Hanley and McNeil 1982)."""
    above, below = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n_test - 1) * (above - auc**2) + (n_train - 1) * (below - auc**2)
    return math.sqrt(variance / (n_train * n_test))


def _distinct(text: Text, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns report number and hash of the distinct n-grams of each report."""
    hashes = ngram_hashes(text, n)
    report = np.repeat(np.arange(len(text[1]) - 1), np.maximum(np.diff(text[1]) - n + 1, 0))
    order = np.lexsort((hashes, report))
    report, hashes = report[order], hashes[order]
    first = np.append(True, (np.diff(report) != 0) | (hashes[1:] != hashes[:-1])) if len(hashes) else order == 0
    return report[first], hashes[first]


def _bits(reference: Text, text: Text) -> tuple[float, float]:
    """Returns the cross-entropy of `text` in bits a token under a unigram and under a bigram model."""
    size = int(max(reference[0].max(), text[0].max())) + 1
    counts = np.bincount(reference[0], minlength=size).astype(np.float64)
    word = (counts + 1) / (counts.sum() + size)
    pairs, pair_count = np.unique(_pairs(reference, size), return_counts=True)
    before = np.bincount(pairs // size, weights=pair_count, minlength=size)
    followers = np.bincount(pairs // size, minlength=size)
    queries = _pairs(text, size)
    if not len(pairs) or not len(queries):  # reports of one token
        return float(-np.log2(word[text[0]]).mean()), float(-np.log2(word[text[0]]).mean())
    where = np.minimum(np.searchsorted(pairs, queries), len(pairs) - 1)
    seen = np.where(pairs[where] == queries, pair_count[where], 0)
    first, second = queries // size, queries % size
    mixed = (seen + followers[first] * word[second]) / np.maximum(before[first] + followers[first], 1e-12)
    likelihood = np.where(before[first] > 0, mixed, word[second])
    return float(-np.log2(word[text[0]]).mean()), float(-np.log2(likelihood).mean())


def _pairs(text: Text, size: int) -> np.ndarray:
    """Returns the pairs of neighbouring tokens inside reports, as first * size + second."""
    tokens, offsets = np.asarray(text[0], dtype=np.int64), text[1]
    inside = np.ones(max(len(tokens) - 1, 0), dtype=bool)
    ends = offsets[1:-1] - 1
    inside[ends[(ends >= 0) & (ends < len(inside))]] = False
    return tokens[:-1][inside] * size + tokens[1:][inside]
