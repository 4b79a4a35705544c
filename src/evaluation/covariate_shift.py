"""How a test file differs from the train files, by text alone: words, unseen n-grams, what gives a report away, and
weights that make train reports count as often as the test has their like.
"""

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
"""No report weighs more than so many times the average of all: a few reports would otherwise decide a score."""
SIMILARITY_BINS = 20
LONG_NGRAM = 10
"""Tokens that two reports hardly share by chance."""
ADVERSARIAL_FOLDS = 5
TELLING = 8


@dataclass(frozen=True)
class Adversarial:
    """How well a classifier tells train from test, each report judged by one that did not see it."""

    auc: float
    standard_error: float
    """Hanley and McNeil 1982: of the reports alone. That other reports would make another classifier is not in it; near
    0.5 the true one is 1.4 times as large."""
    train_logits: np.ndarray
    """(N,) log odds of being a test report, with both files counted alike."""
    test_logits: np.ndarray
    telling: list[dict[str, Any]]
    """The n-grams that give a file away: tokens, the share of each file's reports that hold them, z of the difference;
    first those of the test, then those of train."""


def profile(reference: Text, text: Text) -> dict[str, Any]:
    """Size, lengths and words of `text`; what of it `reference` does not have; bits per token it costs.

    `bigram_bits` is the cross-entropy under the Witten-Bell interpolated bigram model of `reference` (Witten and Bell
    1991), `unigram_bits` under its word frequencies with one added to each. N-grams are counted by occurrence.
    """
    tokens, offsets = text
    lengths = np.diff(offsets)
    unseen = {}
    for n, name in enumerate(("unigrams", "bigrams", "trigrams"), start=1):
        hashes = ngram_hashes(text, n)
        new = ~np.isin(hashes, ngram_hashes(reference, n))
        unseen[name] = float(new.mean()) if len(new) else 0.0  # reports may be too short to hold any
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
    """Share of reports that have an n-gram in common with a report of `reference`; without a `text`, share of the
    reports of `reference` that have one in common with another of them."""
    if text is None:
        text = reference
        report, hashes = _distinct(reference, n)
        values, count = np.unique(hashes, return_counts=True)
        found = report[np.isin(hashes, values[count > 1])]
    else:
        report, hashes = _distinct(text, n)
        found = report[np.isin(hashes, ngram_hashes(reference, n))]
    return len(np.unique(found)) / max(len(text[1]) - 1, 1)


def adversarial(train: Text, test: Text, seed: int = 0) -> Adversarial:
    """Cross-validated logistic regression on TF-IDF 1-2-grams, both files counted alike.

    Raises ValueError where a file has fewer reports than there are folds.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    sizes = len(train[1]) - 1, len(test[1]) - 1
    if min(sizes) < ADVERSARIAL_FOLDS:
        raise ValueError(f"want {ADVERSARIAL_FOLDS} reports of each file or more, not {sizes}")
    text = join([train, test])
    counts, places = ngram_counts(*text, 2)
    frequent = np.bincount(counts.indices, minlength=counts.shape[1]) >= 2
    counts, places = counts[:, frequent], places[frequent]
    features = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    is_test = np.repeat([0, 1], sizes)
    logits = np.empty(len(is_test))
    for fit, judged in StratifiedKFold(ADVERSARIAL_FOLDS, shuffle=True, random_state=seed).split(features, is_test):
        logits[judged] = _classifier(features[fit], is_test[fit], seed).decision_function(features[judged])
    auc = float(roc_auc_score(is_test, logits))
    telling = _telling(counts, places, text[0], is_test)
    return Adversarial(auc, _auc_error(auc, *sizes), logits[is_test == 0], logits[is_test == 1], telling)


def odds_weights(logits: np.ndarray, clip: float = CLIP) -> np.ndarray:
    """(N,) of mean one, of train_logits: odds of being a test report, which are the ratio of two densities; clipped.

    The classifier counted both files alike, so the odds need no prior.
    """
    return _normalised(np.exp(np.clip(logits, -30, 30)), clip)


def similarity_weights(train: np.ndarray, test: np.ndarray, clip: float = CLIP) -> np.ndarray:
    """(N,) of mean one, that give the cosines `train` (N,) the histogram of the cosines `test` (M,); clipped.

    Bins hold equal shares of the test, the ends are open.
    """
    edges = np.unique(np.quantile(test, np.linspace(0, 1, SIMILARITY_BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, train), np.searchsorted(edges, test)
    have, want = (np.bincount(which, minlength=len(edges) + 1) / len(which) for which in bins)
    return _normalised((want / np.maximum(have, 0.5 / len(train)))[bins[0]], clip)


def _normalised(weights: np.ndarray, clip: float) -> np.ndarray:
    for _ in range(100):  # what is cut lowers the average, and with it the limit; it settles in a few rounds
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
    """The n-grams whose shares of reports differ most surely, by the z of a difference of two proportions."""
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


def _auc_error(auc: float, n_train: int, n_test: int) -> float:
    above, below = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n_test - 1) * (above - auc**2) + (n_train - 1) * (below - auc**2)
    return math.sqrt(variance / (n_train * n_test))


def _distinct(text: Text, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Report and hash of every n-gram, each once a report."""
    hashes = ngram_hashes(text, n)
    report = np.repeat(np.arange(len(text[1]) - 1), np.maximum(np.diff(text[1]) - n + 1, 0))
    order = np.lexsort((hashes, report))
    report, hashes = report[order], hashes[order]
    first = np.append(True, (np.diff(report) != 0) | (hashes[1:] != hashes[:-1])) if len(hashes) else order == 0
    return report[first], hashes[first]


def _bits(reference: Text, text: Text) -> tuple[float, float]:
    """Cross-entropy of `text` in bits a token: by words alone, and by bigrams inside reports."""
    size = int(max(reference[0].max(), text[0].max())) + 1
    counts = np.bincount(reference[0], minlength=size).astype(np.float64)
    word = (counts + 1) / (counts.sum() + size)
    pairs, pair_count = np.unique(_pairs(reference, size), return_counts=True)
    before = np.bincount(pairs // size, weights=pair_count, minlength=size)
    followers = np.bincount(pairs // size, minlength=size)
    asked = _pairs(text, size)
    if not len(pairs) or not len(asked):  # reports of one token
        return float(-np.log2(word[text[0]]).mean()), float(-np.log2(word[text[0]]).mean())
    where = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    seen = np.where(pairs[where] == asked, pair_count[where], 0)
    first, second = asked // size, asked % size
    mixed = (seen + followers[first] * word[second]) / np.maximum(before[first] + followers[first], 1e-12)
    likelihood = np.where(before[first] > 0, mixed, word[second])
    return float(-np.log2(word[text[0]]).mean()), float(-np.log2(likelihood).mean())


def _pairs(text: Text, size: int) -> np.ndarray:
    """Neighbouring tokens inside reports, as first * size + second."""
    tokens, offsets = np.asarray(text[0], dtype=np.int64), text[1]
    inside = np.ones(max(len(tokens) - 1, 0), dtype=bool)
    ends = offsets[1:-1] - 1
    inside[ends[(ends >= 0) & (ends < len(inside))]] = False
    return tokens[:-1][inside] * size + tokens[1:][inside]
