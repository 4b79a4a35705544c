"""Label shift: label rates of a test file, and predictions adapted to these rates.

Rates are estimated by expectation maximisation on the test predictions (Saerens, Latinne and Decaestecker 2002, Neural
Computation 14, 21-41). The method needs calibrated probabilities: logits are calibrated out of fold by bias-corrected
temperature scaling (Alexandari, Kundaje and Shrikumar 2020, ICML). Each label is a binary problem; classes, of which a
row has one, are one problem. The method assumes that inputs of a label have one distribution in train and test; if they
differ, it may lower the score. A regression has no label rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.core.errors import UserError
from src.core.language import _
from src.data.tasks import KINDS, Task
from src.evaluation.metrics import sigmoid

ITERATIONS = 1000
TOLERANCE = 1e-7


@dataclass(frozen=True)
class Calibration:
    """Calibration of each label: calibrated logit = slope * logit + bias."""

    slope: np.ndarray
    """Inverse temperature of each label, (L,)."""
    bias: np.ndarray
    """Bias of each label, (L,)."""

    def apply(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits, dtype=np.float64) * self.slope + self.bias


def calibrate(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Calibration:
    """Fits slope and bias of each label to out-of-fold logits and labels (N, L); a constant label keeps its logits.

    A slope is never negative: logits with a negative correlation are ignored rather than reversed, and
    the label has its rate everywhere.
    """
    from sklearn.linear_model import LogisticRegression

    slope, bias = np.ones(labels.shape[1]), np.zeros(labels.shape[1])
    for k, (column, truth) in enumerate(zip(np.asarray(logits, dtype=np.float64).T, labels.T, strict=True)):
        if truth.min() < truth.max():
            fitted = LogisticRegression(C=1e6, max_iter=1000).fit(column[:, None], truth, sample_weight=weights)
            slope[k], bias[k] = fitted.coef_[0, 0], fitted.intercept_[0]
            if slope[k] < 0:  # the constant that is left is the rate, not the intercept beside the slope
                rate = np.clip(np.average(truth, weights=weights), 1e-6, 1 - 1e-6)
                slope[k], bias[k] = 0.0, np.log(rate / (1 - rate))
    return Calibration(slope, bias)


def estimate_rates(logits: np.ndarray, train_rates: np.ndarray, chances: np.ndarray | None = None) -> np.ndarray:
    """Estimates label rates (L,) of the test file from its calibrated `logits` (N, L) and the `train_rates` (L,), over
    all rows or, with `chances` (N,), over rows that count with that probability."""
    probabilities = sigmoid(logits)
    train = np.clip(train_rates, 1e-6, 1 - 1e-6)
    rates = train.copy()
    for _iteration in range(ITERATIONS):
        adapted = _adapted(probabilities, train, rates)
        mean = adapted.mean(axis=0) if chances is None else np.average(adapted, axis=0, weights=chances)
        before, rates = rates, np.clip(mean, 1e-6, 1 - 1e-6)
        if np.abs(rates - before).max() < TOLERANCE:
            break
    return rates


def correct(logits: np.ndarray, train_rates: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Adapts calibrated logits (N, L) from the label rates of train to those of the test file."""
    old, new = (np.clip(value, 1e-6, 1 - 1e-6) for value in (train_rates, rates))
    return logits + np.log(new / (1 - new)) - np.log(old / (1 - old))


def calibrate_classes(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Calibration:
    """Fits one slope and a bias of each class to out-of-fold logits and one-hot labels (N, C)."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logits = np.asarray(logits, dtype=np.float64)
    share = np.full(len(labels), 1 / len(labels)) if weights is None else weights / weights.sum()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        chances = log_softmax(parameters[0] * logits + parameters[1:], axis=1)
        pull = share[:, None] * (np.exp(chances) - labels)
        return -float(share @ (labels * chances).sum(axis=1)), np.append((pull * logits).sum(), pull.sum(axis=0))

    n_classes = labels.shape[1]
    bounds = [(0, None), *[(-20, 20)] * n_classes]  # an absent class would have a bias of minus infinity
    start = np.append(1.0, np.zeros(n_classes))
    solution = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000})
    return Calibration(np.full(n_classes, solution.x[0]), solution.x[1:] - solution.x[1:].mean())


def estimate_class_rates(logits: np.ndarray, train_rates: np.ndarray) -> np.ndarray:
    """Estimates class rates (C,) of the test file from its calibrated `logits` (N, C) and the `train_rates` (C,)."""
    probabilities = KINDS["multiclass"].decode(logits)
    train = np.clip(train_rates, 1e-6, 1)
    rates = train / train.sum()
    for _iteration in range(ITERATIONS):
        adapted = probabilities * rates / train
        before, rates = rates, (adapted / adapted.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(rates - before).max() < TOLERANCE:
            break
    return rates


def log_odds(task: Task, rates: np.ndarray) -> np.ndarray:
    """Returns what a logit of each label gains when its rate comes to be one of `rates` (L,), up to a constant."""
    clipped = np.clip(rates, 1e-6, 1 - 1e-6)
    return np.log(clipped) if task.kind == "multiclass" else np.log(clipped / (1 - clipped))


def check_task(task: Task) -> None:
    """Raises UserError for a task without label rates."""
    if not task.has_classes:
        raise UserError(
            _(
                "label shift has no meaning for the task {name}: it is a change of label rates, and "
                "this task predicts {unit}"
            ).format(name=task.name, unit=task.unit)
        )


def adapt(
    task: Task, oof: np.ndarray, labels: np.ndarray, weights: np.ndarray, logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the test `logits` (M, L) calibrated and adapted, the weighted train rates (L,) and the test rates (L,).

    The calibration is fitted to out-of-fold logits and labels (N, L) with weights (N,), so the adaptation starts from
    the weighted label rates. Labels are calibrated on the rows that count in the score of their group, and rates are
    over such rows. Raises UserError for a regression.
    """
    check_task(task)
    if task.kind == "multiclass":
        calibrated = calibrate_classes(oof, labels, weights).apply(logits)
        train_rates = np.average(labels, axis=0, weights=weights)
        rates = estimate_class_rates(calibrated, train_rates)
        return calibrated + log_odds(task, rates) - log_odds(task, train_rates), train_rates, rates
    parts = []
    for group, columns, rows in task.parts(labels):
        calibrated = calibrate(oof[rows, columns], labels[rows, columns], weights[rows]).apply(logits[:, columns])
        train_rates = np.average(labels[rows, columns], axis=0, weights=weights[rows])
        rates = estimate_rates(calibrated, train_rates, task.chance_to_count(group, task.decode(logits)))
        parts.append((correct(calibrated, train_rates, rates), train_rates, rates))
    return tuple(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))


def _adapted(probabilities: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Applies Bayes' rule for new class rates to probabilities (N, L)."""
    positive, negative = probabilities * new / old, (1 - probabilities) * (1 - new) / (1 - old)
    return positive / (positive + negative)
