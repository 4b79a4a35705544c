"""Figures: metrics while they are computed, each with the noise that gives its standard error.

A figure of n rows is float (1 + K,): its value, then its noise, one entry a row or a bootstrap draw; the standard error
is the 2-norm of the noise. Sums of figures are sums of arrays, which keeps the correlation between figures of the same
rows, so the difference of two models' figures has a paired standard error. Undefined figures are NaN in all entries.

Smooth figures use influence functions (a row's influence is n times the first-order change of the figure when the row
weighs 1/n more); other figures use a bootstrap over rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.data.tasks import log_loss_cells

THRESHOLD = 0.5  # a label is predicted when its probability is at or above this
CALIBRATION_BINS = 15  # bins of equal width, the number of Guo et al. 2017
DRAW_CELLS = 8_000_000  # rows x bootstrap draws worked on at once (64 MB), so that a million rows fit in memory
TOP_SHARE = 0.1
"""Share of rows with the highest predictions whose lift is measured."""

Figure = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """Value and standard error of a metric, both in the metric's unit; NaN if undefined."""

    value: float
    standard_error: float

    def to_json(self) -> dict[str, float | None]:
        """Returns both numbers, with null for NaN, which JSON lacks."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}


def number_text(value: float | None, form: str = ".4f") -> str:
    """Words a number for people; a dash for an undefined one, NaN or null."""
    return "–" if value is None or math.isnan(value) else f"{value:{form}}"


def estimate_text(found: Estimate | Mapping[str, Any]) -> str:
    """Words an Estimate, or its JSON values: 0.6856 ± 0.0107."""
    found = found.to_json() if isinstance(found, Estimate) else found
    return f"{number_text(found['value'])} ± {number_text(found['standard_error'])}"


def short_text(found: Estimate | Mapping[str, Any], has_classes: bool = True, sign: str = "") -> str:
    """Words an Estimate, or its JSON values, for a table: 0.6856±107, the standard error in units of the last digit; of
    a regression 2.051±0.023, both in its unit. `sign` + keeps that of a gain."""
    found = found.to_json() if isinstance(found, Estimate) else found
    value, error = found["value"], found["standard_error"]
    if value is None:
        return number_text(value)
    if not has_classes:
        return f"{number_text(value, f'{sign}.3f')}±{number_text(error, '.3f')}"
    return f"{number_text(value, f'{sign}.4f')}±{number_text(None if error is None else 1e4 * error, '.0f')}"


def estimate(figure: Figure) -> Estimate:
    return Estimate(float(figure[0]), float(np.linalg.norm(figure[1:])))


def by_report(figure: Figure, reports: np.ndarray | None) -> Figure:
    """Sums the noise of the rows of each report, which are fully dependent."""
    if reports is None:
        return figure
    return np.append(figure[0], np.bincount(np.unique(reports, return_inverse=True)[1], weights=figure[1:]))


def make_draws(n: int, n_boot: int, seed: int, reports: np.ndarray | None = None) -> np.ndarray:
    """Returns how often each row is in each bootstrap draw, (n, n_boot) uint8; rows of a report are drawn together."""
    generator, report = np.random.default_rng(seed), None
    if reports is not None:
        report = np.unique(reports, return_inverse=True)[1]
        n = int(report.max()) + 1
    picks = (np.bincount(generator.integers(0, n, n), minlength=n).astype(np.uint8) for _ in range(n_boot))
    draws = np.stack(list(picks), axis=1)  # copies of a row in a draw: about Poisson(1), never near 255
    return draws if report is None else draws[report]


def macro(figures: list[Figure]) -> dict[str, float | int | None]:
    """Mean of the defined figures, and their number."""
    defined = [figure for figure in figures if math.isfinite(figure[0])]
    return estimate(sum(defined or figures) / max(1, len(defined))).to_json() | {"labels": len(defined)}


def ratio(top: np.ndarray, bottom: np.ndarray) -> Figure:
    """Returns sum(top) / sum(bottom) of two (n,) arrays; NaN if the sum of `bottom` is 0."""
    top, bottom, n = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64), len(top)
    value = top.sum() / (total := bottom.sum() or math.nan)
    influence = n / total * (top - value * bottom)  # its mean is zero
    return np.append(value, influence / (math.sqrt(n * (n - 1)) or math.nan))


def root(figure: Figure) -> Figure:
    """Returns the square root of a figure; its noise by the delta method."""
    value = math.sqrt(figure[0])
    return np.append(value, figure[1:] / (2 * value) if value else figure[1:])  # without errors there is no noise


def roc_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Figure:
    """Returns the area under the ROC curve, ties counting half; influences are the placements of DeLong et al. 1988.

    `weights` (n,) are sample weights, or a mask of the rows that count.
    """
    weights = np.asarray(weights, dtype=np.float64)
    positive, negative = weights * (labels == 1), weights * (labels == 0)
    levels, level = np.unique(scores, return_inverse=True)

    def share_below(others: np.ndarray) -> np.ndarray:
        """Weighted share of `others` with a lower score than each row, those with an equal score counting half."""
        at = np.bincount(level, weights=others, minlength=len(levels))
        return (at.cumsum() - at / 2)[level] / (others.sum() or math.nan)

    area = ratio(share_below(negative) * positive, positive)
    area += ratio((1 - share_below(positive)) * negative, negative)  # twice the area; its noise is that of the area
    area[0] /= 2
    return area


Statistic = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps weights of rows (n, D) to the numerators (D,) and denominators (D,) of a ratio."""


def drawn(statistic: Statistic, draws: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns a ratio of all rows, then of each bootstrap draw, (1 + D,); NaN where the denominator is zero.

    `weights` (n,) are sample weights, which multiply those of the draws.
    """
    (n, n_draws), step = draws.shape, max(1, DRAW_CELLS // len(draws))
    parts = [np.ones((n, 1))] + [draws[:, i : i + step] for i in range(0, n_draws, step)]
    weigh = 1.0 if weights is None else np.asarray(weights, dtype=np.float64)[:, None]
    top, bottom = np.hstack([statistic(part.astype(np.float64) * weigh) for part in parts])
    return top / np.where(bottom > 0, bottom, math.nan)


def bootstrapped(statistic: Statistic, draws: np.ndarray, weights: np.ndarray | None = None) -> Figure:
    """Returns a bootstrapped ratio; arguments are those of drawn()."""
    value, *values = drawn(statistic, draws, weights)
    defined = np.isfinite(values)  # a draw may miss all positives of a rare label
    if defined.sum() < 2:
        return np.append(value, np.full(draws.shape[1], math.nan))
    centred = np.array(values) - np.mean(values, where=defined)
    return np.append(value, np.where(defined, centred / math.sqrt(defined.sum() - 1), 0.0))


def _sums(bins: np.ndarray, n_bins: int, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the weighted sum of `values` (n,) in each bin for each column of `weights` (n, D): (n_bins, D)."""
    from scipy.sparse import csc_array

    return csc_array((values.astype(np.float64), bins, np.arange(len(bins) + 1)), shape=(n_bins, len(bins))) @ weights


def average_precision(
    labels: np.ndarray, scores: np.ndarray, counted: np.ndarray, draws: np.ndarray, weights: np.ndarray | None = None
) -> Figure:
    """Returns scikit-learn's average precision, the area under the precision-recall curve summed over steps."""
    return bootstrapped(precision_statistic(labels, scores, counted), draws, weights)


def precision_statistic(labels: np.ndarray, scores: np.ndarray, counted: np.ndarray) -> Statistic:
    """Statistic of average_precision(), of (n,) arrays."""
    # Each distinct score of a positive report ends a step; steps descend, and the last bin holds the remaining scores.
    steps = np.unique(scores[positive := counted & (labels == 1)])
    bins = len(steps) - np.searchsorted(steps, scores, side="right")

    def statistic(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hits, retrieved = (_sums(bins, len(steps) + 1, mask, weights)[:-1] for mask in (positive, counted))
        retrieved = retrieved.cumsum(axis=0)
        precision = hits.cumsum(axis=0) / np.where(retrieved > 0, retrieved, 1)
        return (hits * precision).sum(axis=0), hits.sum(axis=0)

    return statistic


def area_statistic(labels: np.ndarray, scores: np.ndarray, counted: np.ndarray) -> Statistic:
    """Statistic of the area under the ROC curve, of (n,) arrays: the share of pairs of a positive and a negative row
    in which the positive one has the higher score, ties counting half."""
    positive, negative = counted & (labels == 1), counted & (labels == 0)
    steps = np.unique(scores[positive])
    # Bin 2k: below step k and above the step before; bin 2k + 1: at step k.
    place = np.searchsorted(steps, scores)
    is_at = place < np.searchsorted(steps, scores, side="right")
    bins = 2 * place + is_at

    def statistic(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hits, others = (_sums(bins, 2 * len(steps) + 1, mask, weights) for mask in (positive, negative))
        at = others[1::2]
        below = others.cumsum(axis=0)[1::2] - at / 2
        return (hits[1::2] * below).sum(axis=0), hits.sum(axis=0) * others.sum(axis=0)

    return statistic


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, counted: np.ndarray, draws: np.ndarray) -> Figure:
    """Returns the expected calibration error (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017).

    The error is the mean over counted cells of |mean probability - positive rate| in the cell's bin. Arguments are
    (n,), or (n, L) to pool labels.
    """
    labels, probabilities, counted = (array.reshape(len(array), -1) for array in (labels, probabilities, counted))
    bins = calibration_bin(probabilities)
    excess = (probabilities - labels) * counted

    def statistic(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gap = sum(_sums(bins[:, k], CALIBRATION_BINS, excess[:, k], weights) for k in range(bins.shape[1]))
        return np.abs(gap).sum(axis=0), counted.sum(axis=1) @ weights

    return bootstrapped(statistic, draws)


def calibration_bin(probabilities: np.ndarray) -> np.ndarray:
    """Number of the bin of each probability, int32 of the same shape."""
    return np.minimum((probabilities * CALIBRATION_BINS).astype(np.int32), CALIBRATION_BINS - 1)


def calibration_curve(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float | int | None]]:
    """Returns the bins of calibration_error() that hold rows, of (n,) arrays, as JSON values.

    `observed` is the positive rate and has a standard error.
    """
    bins, curve = calibration_bin(probabilities), []
    for k in np.unique(bins):
        inside = bins == k
        observed = estimate(ratio(labels[inside] == 1, np.ones(int(inside.sum()))))
        curve.append(
            {
                "low": float(k / CALIBRATION_BINS),
                "high": float((k + 1) / CALIBRATION_BINS),
                "rows": int(inside.sum()),
                "predicted": float(probabilities[inside].mean()),
                "observed": observed.to_json(),
            }
        )
    return curve


def lift(labels: np.ndarray, scores: np.ndarray, draws: np.ndarray) -> Figure:
    """Returns the positive rate of the TOP_SHARE of rows with the highest scores, over the positive rate of all rows.

    Rows of equal score share the places that are left for them.
    """
    levels, level = np.unique(-scores, return_inverse=True)

    def statistic(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, hits = (_sums(level, len(levels), values, weights) for values in (np.ones(len(labels)), labels == 1))
        places = TOP_SHARE * rows.sum(axis=0)
        taken = np.clip(places - (rows.cumsum(axis=0) - rows), 0, rows) / np.where(rows > 0, rows, 1)
        return (taken * hits).sum(axis=0), TOP_SHARE * hits.sum(axis=0)

    return bootstrapped(statistic, draws)


def min_se_p(labels: np.ndarray, flagged: np.ndarray, draws: np.ndarray, weights: np.ndarray | None = None) -> Figure:
    """Returns the smaller one of sensitivity and precision (event 1 of the PhysioNet challenge of 2012).

    `flagged` (n,) bool: rows predicted positive. The smaller one is hits / max(positives, flagged).
    """
    hits, positives = (flagged & (labels == 1)).astype(np.float64), (labels == 1).astype(np.float64)

    def statistic(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positive = positives @ weights
        return hits @ weights, np.where(positive > 0, np.maximum(positive, flagged.astype(np.float64) @ weights), 0)

    return bootstrapped(statistic, draws, weights)


# Figures of a label from its labels, probabilities and counted mask, all (n,), and the bootstrap's draws (n, D).
FIGURES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Figure]] = {
    "positive_rate": lambda y, p, counted, draws: ratio(counted & (y == 1), counted),
    "log_loss": lambda y, p, counted, draws: ratio(log_loss_cells(y[:, None], p[:, None])[:, 0] * counted, counted),
    "roc_auc": lambda y, p, counted, draws: roc_auc(y, p, counted),
    "pr_auc": average_precision,
    "sensitivity": lambda y, p, counted, draws: ratio(counted & (y == 1) & (p >= THRESHOLD), counted & (y == 1)),
    "specificity": lambda y, p, counted, draws: ratio(counted & (y == 0) & (p < THRESHOLD), counted & (y == 0)),
    "calibration_error": calibration_error,
}
