"""Baselines: constants, random numbers, a severity score, TF-IDF with logistic regression.

Functions return logits in the task's column order: (N, L), or (reports to predict, L).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from src.data.ngrams import ngram_counts, take
from src.evaluation.metrics import logit

ZERO_LOGIT = float(logit(np.array(0.0)))  # logit of a probability of EPS: a positive cell has the loss -ln(EPS) = 16.1


def zeros(shape: tuple[int, int]) -> np.ndarray:
    """Returns logits (N, L) of the probability EPS, to which the score clips a zero."""
    return np.full(shape, ZERO_LOGIT)


def random(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Returns logits (N, L) of probabilities drawn uniformly from [0, 1), fixed by `seed`."""
    return logit(np.random.default_rng(seed).random(shape))


def prior_logits(labels: np.ndarray) -> np.ndarray:
    """Returns logits (L,) of each label's rate in `labels` (n, L), with half a positive and half a negative added. NaN,
    a label that does not count, is in neither.

    The addition (Jeffreys prior) keeps the logit of a constant label finite.
    """
    return logit((np.nansum(labels, axis=0) + 0.5) / (np.count_nonzero(~np.isnan(labels), axis=0) + 1))


def class_logits(labels: np.ndarray) -> np.ndarray:
    """Returns logits (C,) of exclusive classes: the logarithm of each one's rate in one-hot `labels` (n, C), smoothed
    like prior_logits()."""
    return np.log((labels.sum(axis=0) + 0.5) / (len(labels) + 0.5 * labels.shape[1]))


CONSTANTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "multilabel": prior_logits,
    "binary": prior_logits,
    "multiclass": class_logits,
    "regression": lambda labels: np.log1p(labels.mean(axis=0)),
}
"""Outputs (L,) of the best constant prediction for the labels (n, L) of each kind of task."""


def constant(
    labels: np.ndarray, folds: np.ndarray, of: Callable[[np.ndarray], np.ndarray] = prior_logits
) -> np.ndarray:
    """Returns outputs (N, L), in each fold those `of` the labels of the other folds; `folds` is int (N,).

    Rows of a negative fold are training rows of every fold and are not predicted (NaN). Raises ValueError if a fold
    holds all rows.
    """
    predicted = np.full(labels.shape, np.nan)
    for fold, fitted in _folds(folds):
        predicted[folds == fold] = of(labels[fitted])
    return predicted


def median(labels: np.ndarray) -> np.ndarray:
    """Returns the output (L,) of a regression: log1p of the median."""
    return np.log1p(np.median(labels, axis=0))


def severity(score: np.ndarray, labels: np.ndarray, folds: np.ndarray, kind: str) -> np.ndarray:
    """Returns outputs (N, L) of a regression on one severity score (N,), NaN where unknown, fitted to the other folds.

    Logistic for labels of 0 and 1, linear on log1p of the labels of a regression. An unknown score counts as the mean
    and has a column of its own. Rows of a negative fold are not predicted (NaN).
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression

    predicted = np.full(labels.shape, np.nan)
    for fold, fitted in _folds(folds):
        is_unknown = np.isnan(score)
        known = score[fitted & ~is_unknown]
        table = np.column_stack([np.where(is_unknown, known.mean() if len(known) else 0.0, score), is_unknown])
        held = folds == fold
        for k in range(labels.shape[1]):
            if kind == "regression":
                model = LinearRegression().fit(table[fitted], np.log1p(labels[fitted, k]))
                predicted[held, k] = model.predict(table[held])
            elif np.ptp(labels[fitted, k]) == 0:  # there is nothing to tell apart
                predicted[held, k] = prior_logits(labels[fitted])[k]
            else:
                model = LogisticRegression().fit(table[fitted], labels[fitted, k])
                predicted[held, k] = model.decision_function(table[held])
    return predicted


def _folds(folds: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each fold that is predicted with the mask (N,) of the rows of all others."""
    for fold in np.unique(folds[folds >= 0]):
        if (folds == fold).all():
            raise ValueError(f"fold {fold} holds all rows: there are no training rows")
        yield fold, folds != fold


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
    """Returns logits (len(predict_rows), L) of a fold: TF-IDF of word 1- to max_n-grams, a logistic regression a label.

    Report i is tokens[offsets[i]:offsets[i + 1]], whole numbers. `labels` (N, L) needs rows for `train_rows` only, so
    reports without labels may follow. The vocabulary (n-grams in at least `min_df` training reports) and its weights
    are fitted to the training rows. `inverse_penalty` is scikit-learn's C; values above 10 raise the score in
    cross-validation but lower it on reports from another source. A label that is constant in the training rows gets
    its smoothed prior (`prior_logits`); so do all labels if no n-gram recurs. Deterministic.
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
            # The dual solver is the fastest: 8,000 reports, 33,000 n-grams, 17 labels in 1 s on one core.
            model = LogisticRegression(
                C=inverse_penalty, solver="liblinear", dual=True, max_iter=1000, random_state=seed
            )
            logits[:, k] = model.fit(features, targets[:, k]).decision_function(unseen)
    return logits
