"""Baselines: constant zeros, random numbers, the label prior, TF-IDF with logistic regression.

Functions return logits in the task's column order: (N, L), or (reports to predict, L).
"""

from __future__ import annotations

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
    """Returns logits (L,) of each label's rate in `labels` (n, L), with half a positive and half a negative added.

    The addition (Jeffreys prior) keeps the logit of a constant label finite.
    """
    return logit((labels.sum(axis=0) + 0.5) / (len(labels) + 1))


def prior(labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns logits (N, L) of the label rates in the other folds; `folds` is int (N,).

    Rows of a negative fold are training rows of every fold and are not predicted (NaN). Raises ValueError if a fold
    holds all rows.
    """
    predicted = np.full(labels.shape, np.nan)
    for fold in np.unique(folds[folds >= 0]):
        if (folds == fold).all():
            raise ValueError(f"fold {fold} holds all reports: there are no training rows")
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
