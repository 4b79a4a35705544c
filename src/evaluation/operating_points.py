"""Thresholds of a binary prediction, and prediction intervals of a regression, both cross-fitted.

What a row is judged by is fitted on rows of the other folds, so that sensitivity, precision and coverage are those of
new rows and not of the rows that a threshold or an interval was chosen on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

NEVER = float(np.nextafter(1.0, 2.0))
"""Threshold above every probability: nothing is flagged."""
PARTS = 5
"""Parts that rows without folds are dealt into."""
COVERAGES = (0.5, 0.8, 0.9)
"""Shares of rows that prediction intervals should cover."""

RANGES = 5
"""Ranges of the prediction that have intervals of their own."""
FEWEST_ROWS = 100
"""Least number of rows that the intervals of a range are fitted on."""

Choose = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""Chooses a threshold for labels, probabilities and weights, (n,) each: rows at or above it are flagged."""


def dealt(n_rows: int, folds: np.ndarray | None = None, reports: np.ndarray | None = None) -> np.ndarray:
    """Folds (N,) to cross-fit over: `folds`, or where there are not two, PARTS random parts of the reports."""
    if folds is not None and len(np.unique(folds)) > 1:
        return np.asarray(folds)
    report = np.arange(n_rows) if reports is None else np.unique(reports, return_inverse=True)[1]
    return (np.random.default_rng(0).permutation(int(report.max()) + 1) % PARTS)[report]


def cross_fitted(
    choose: Choose, labels: np.ndarray, probabilities: np.ndarray, folds: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Returns for each row, (N,), the threshold that `choose` takes on the rows of the other folds."""
    weights = np.ones(len(labels)) if weights is None else weights
    thresholds = np.empty(len(labels))
    for fold in np.unique(folds):
        others = folds != fold
        thresholds[~others] = choose(labels[others], probabilities[others], weights[others])
    return thresholds


def best_min_se_p(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
    """Returns the threshold with the largest min(sensitivity, precision)."""
    thresholds, hits, flagged = _curve(labels, probabilities, weights)
    return float(thresholds[np.argmax(hits / np.maximum(np.maximum(flagged, hits[-1]), 1e-300))])


def for_sensitivity(wished: float) -> Choose:
    """Chooses the highest threshold whose sensitivity is at least `wished`."""

    def choose(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
        thresholds, hits, _ = _curve(labels, probabilities, weights)
        return float(thresholds[np.argmax(hits >= wished * hits[-1] * (1 - 1e-12))])

    return choose


def for_cost(cost_ratio: float) -> Choose:
    """Chooses the threshold of the lowest cost, where a miss costs `cost_ratio` false alarms."""

    def choose(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
        thresholds, hits, flagged = _curve(labels, probabilities, weights)
        return float(thresholds[np.argmin(cost_ratio * (hits[-1] - hits) + flagged - hits)])

    return choose


def _curve(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns descending thresholds, from NEVER through each distinct probability, and the weight of the positives and
    of all rows at or above each: (K,) each."""
    levels, level = np.unique(-np.asarray(probabilities, dtype=np.float64), return_inverse=True)
    hits, flagged = (
        np.append(0.0, np.bincount(level, weights=values, minlength=len(levels)).cumsum())
        for values in (weights * (labels == 1), weights)
    )
    return np.append(NEVER, -levels), hits, flagged


@dataclass(frozen=True)
class Intervals:
    """Prediction intervals: quantiles of log1p(label) - log1p(prediction), in each of some ranges of the prediction.

    Errors are not of one size: predictions of long stays are the least sure.
    """

    edges: np.ndarray
    """Predictions at which a new range begins, (P - 1,) ascending."""
    quantiles: dict[float, np.ndarray]
    """Lower and upper quantile in each range, (P, 2), for each coverage."""

    @classmethod
    def fit(cls, labels: np.ndarray, predictions: np.ndarray) -> Intervals:
        """Fits to labels and predictions, (n,) each; ranges have equal numbers of rows, at least FEWEST_ROWS."""
        n_ranges = int(np.clip(len(labels) // FEWEST_ROWS, 1, RANGES))
        edges = np.quantile(predictions, np.arange(1, n_ranges) / n_ranges)
        ranges, residuals = np.searchsorted(edges, predictions, side="right"), np.log1p(labels) - np.log1p(predictions)
        parts = [residuals[ranges == k] for k in range(n_ranges)]
        parts = [part if len(part) else residuals for part in parts]  # equal predictions may leave a range empty
        sides = {share: [(1 - share) / 2, (1 + share) / 2] for share in COVERAGES}
        return cls(edges, {share: np.array([np.quantile(part, at) for part in parts]) for share, at in sides.items()})

    def limits(self, predictions: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lower and the upper limit, each of the shape and unit of `predictions` and at least zero."""
        low, high = self.quantiles[share][np.searchsorted(self.edges, predictions, side="right")].T
        return tuple(np.maximum(np.expm1(np.log1p(predictions) + quantile), 0.0) for quantile in (low, high))

    def to_json(self) -> dict[str, Any]:
        named = {f"{share:.0%}".rstrip("%"): quantiles.tolist() for share, quantiles in self.quantiles.items()}
        return {"edges": self.edges.tolist(), "quantiles": named}


def cross_fitted_intervals(
    labels: np.ndarray, predictions: np.ndarray, folds: np.ndarray
) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Returns for each coverage the limits (N,) of each row's interval, fitted on the rows of the other folds."""
    limits = {share: (np.empty(len(labels)), np.empty(len(labels))) for share in COVERAGES}
    for fold in np.unique(folds):
        others = folds != fold
        fitted = Intervals.fit(labels[others], predictions[others])
        for share, sides in limits.items():
            for side, values in zip(sides, fitted.limits(predictions[~others], share), strict=True):
                side[~others] = values
    return limits


def cross_fitted_median(labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns for each row, (N,), the median label of the other folds: the constant of the least absolute error."""
    medians = np.empty(len(labels))
    for fold in np.unique(folds):
        medians[folds == fold] = np.median(labels[folds != fold])
    return medians
