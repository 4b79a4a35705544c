"""The first rungs of the ladder, which every model must beat: zeros, random numbers, the prior, TF-IDF with regression.

All return logits in the task's column order: (N, L), or (reports to predict, L).
"""

from __future__ import annotations

import numpy as np

from src.data.ngrams import ngram_counts, take
from src.evaluation.metrics import logit

ZERO_LOGIT = float(logit(np.array(0.0)))  # of a probability clipped to EPS: each positive cell costs -ln(EPS) = 16.1


def zeros(shape: tuple[int, int]) -> np.ndarray:
    """Logits (N, L) of "no label ever": probability EPS, because the score clips a zero to that."""
    return np.full(shape, ZERO_LOGIT)


def random(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Logits (N, L) of probabilities drawn uniformly from [0, 1), fixed by `seed`."""
    return logit(np.random.default_rng(seed).random(shape))


def prior_logits(labels: np.ndarray) -> np.ndarray:
    """Logits (L,) of each label's rate in `labels` (n, L), with half a positive and half a negative report added.

    The addition (the Jeffreys prior) keeps a label without positives, or without negatives, finite.
    """
    return logit((labels.sum(axis=0) + 0.5) / (len(labels) + 1))


def prior(labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Logits (N, L) of the label rates in the other folds; folds are int (N,).

    Rows of a negative fold were set aside for training: they count in every rate and are not predicted (NaN). Raises
    ValueError when a fold leaves no rows to learn from.
    """
    predicted = np.full(labels.shape, np.nan)
    for fold in np.unique(folds[folds >= 0]):
        if (folds == fold).all():
            raise ValueError(f"fold {fold} holds every report: none is left to learn the rates from")
        predicted[folds == fold] = prior_logits(labels[folds != fold])
    return predicted


def tfidf_logistic(
    tokens: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    train_rows: np.ndarray,
    predict_rows: np.ndarray,
    *,
    max_n: int = 3,
    min_df: int = 2,
    inverse_penalty: float = 10.0,
    seed: int = 0,
) -> np.ndarray:
    """Logits (len(predict_rows), L) of one fold: TF-IDF of word 1- to max_n-grams, a logistic regression a label.

    Report i is tokens[offsets[i]:offsets[i + 1]], whole numbers. `labels` (N, L) needs rows for `train_rows` only, so
    reports without labels may follow. The vocabulary (n-grams in at least `min_df` training reports) and its weights
    come from the training rows. `inverse_penalty` is scikit-learn's C: 10 was chosen because more raises the score in
    cross-validation but lowers it on reports from another source. A label that is the same in all training rows gets
    its smoothed prior (`prior_logits`), since there is nothing to separate; so do all labels when no n-gram recurs.
    Deterministic.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    train_rows, predict_rows = np.asarray(train_rows), np.asarray(predict_rows)
    rows = np.concatenate([train_rows, predict_rows])
    counts, _ = ngram_counts(*take(tokens, offsets, rows), max_n)
    is_train = np.arange(len(rows)) < len(train_rows)
    frequency = np.bincount(counts[is_train].indices, minlength=counts.shape[1])
    counts = counts[:, frequency >= min_df]
    targets = labels[train_rows]
    logits = np.tile(prior_logits(targets), (len(predict_rows), 1))
    if counts.shape[1] == 0:  # too few reports for any n-gram to recur
        return logits
    weighting = TfidfTransformer(sublinear_tf=True).fit(counts[is_train])
    features, unseen = weighting.transform(counts[is_train]), weighting.transform(counts[~is_train])
    for k in range(targets.shape[1]):
        if 0 < targets[:, k].sum() < len(targets):
            # The dual solver is the quickest here: 8,000 reports, 33,000 n-grams, 17 labels in 1 s on one core.
            model = LogisticRegression(
                C=inverse_penalty, solver="liblinear", dual=True, max_iter=1000, random_state=seed
            )
            logits[:, k] = model.fit(features, targets[:, k]).decision_function(unseen)
    return logits
