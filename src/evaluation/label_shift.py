"""Label shift: what the rate of each label may be in a test file, and probabilities that suit it.

Saerens, Latinne and Decaestecker (2002), Neural Computation 14, 21-41: expectation maximisation on the probabilities of
the test. It wants calibrated probabilities; bias-corrected temperature scaling, fitted out of fold, makes them so
(Alexandari, Kundaje and Shrikumar 2020, ICML). Each label is a problem of two classes of its own. The method takes for
granted that reports of one label look alike in train and test; where the texts differ too, it may do harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.evaluation.metrics import sigmoid

ITERATIONS = 1000
TOLERANCE = 1e-7


@dataclass(frozen=True)
class Calibration:
    """calibrated logit = slope * logit + bias, label by label."""

    slope: np.ndarray
    """(L,) the inverse temperature."""
    bias: np.ndarray
    """(L,)"""

    def apply(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits, dtype=np.float64) * self.slope + self.bias


def calibrate(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Calibration:
    """Slope and bias of each label from out-of-fold logits and labels (N, L); a label that is constant keeps its own.

    A slope is never negative: logits that point the wrong way are ignored rather than reversed.
    """
    from sklearn.linear_model import LogisticRegression

    slope, bias = np.ones(labels.shape[1]), np.zeros(labels.shape[1])
    for k, (column, truth) in enumerate(zip(np.asarray(logits, dtype=np.float64).T, labels.T, strict=True)):
        if truth.min() < truth.max():
            fitted = LogisticRegression(C=1e6, max_iter=1000).fit(column[:, None], truth, sample_weight=weights)
            slope[k], bias[k] = max(fitted.coef_[0, 0], 0.0), fitted.intercept_[0]
    return Calibration(slope, bias)


def estimate_rates(logits: np.ndarray, train_rates: np.ndarray) -> np.ndarray:
    """Rates (L,) in the test file that calibrated `logits` (N, L) speak for, where train had `train_rates` (L,)."""
    probabilities = sigmoid(logits)
    train = np.clip(train_rates, 1e-6, 1 - 1e-6)
    rates = train.copy()
    for _ in range(ITERATIONS):
        before, rates = rates, np.clip(_adapted(probabilities, train, rates).mean(axis=0), 1e-6, 1 - 1e-6)
        if np.abs(rates - before).max() < TOLERANCE:
            break
    return rates


def correct(logits: np.ndarray, train_rates: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Calibrated logits (N, L), moved from the rates of train to the test's."""
    old, new = (np.clip(value, 1e-6, 1 - 1e-6) for value in (train_rates, rates))
    return logits + np.log(new / (1 - new)) - np.log(old / (1 - old))


def adapt(
    oof: np.ndarray, labels: np.ndarray, weights: np.ndarray, logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test `logits` (M, L) calibrated and moved to the test's own rates; the rates (L,) that the calibration stands on,
    and those of the test.

    Calibrated on out-of-fold logits and labels (N, L), weighted (N,): what is calibrated on weighted rows speaks of
    weighted rates, so these are where the move begins.
    """
    calibrated = calibrate(oof, labels, weights).apply(logits)
    known = np.average(labels, axis=0, weights=weights)
    rates = estimate_rates(calibrated, known)
    return correct(calibrated, known, rates), known, rates


def _adapted(probabilities: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Bayes' rule for other rates of the two classes."""
    positive, negative = probabilities * new / old, (1 - probabilities) * (1 - new) / (1 - old)
    return positive / (positive + negative)
