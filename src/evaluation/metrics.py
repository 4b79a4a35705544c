"""Official score and other metrics of predicted probabilities, with standard errors.

Arrays are (N, L): N reports, L labels in the task's column order. Labels are 0 or 1; probabilities lie in [0, 1].
Standard errors treat reports as independent draws; as real reports have near-duplicates, standard errors are lower
bounds. Smooth metrics use influence functions (a report's influence is N times the first-order change of the metric
when the report weighs 1/N more); other metrics use a bootstrap over reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.core.errors import UserError
from src.data.tasks import EPS, Task, log_loss_cells
from src.data.tasks import sigmoid as sigmoid  # beside its inverse, logit()

THRESHOLD = 0.5  # a label is predicted when its probability is at or above this
CALIBRATION_BINS = 15  # bins of equal width, the number of Guo et al. 2017
DRAW_CELLS = 8_000_000  # reports x bootstrap draws worked on at once (64 MB), so that a million reports fit in memory

# A metric while it is computed, float (1 + K,): its value, then its noise, one entry a report or a bootstrap draw; the
# standard error is the 2-norm of the noise. Sums of metrics are sums of arrays, which keeps the correlation between
# metrics of the same reports. Undefined metrics are NaN in all entries.
Figure = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """Value and standard error of a metric, both in the metric's unit; NaN if undefined."""

    value: float
    standard_error: float

    def to_json(self) -> dict[str, float | None]:
        """Returns both numbers, with null for NaN, which JSON lacks."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}

    @property
    def as_gain(self) -> str:
        """Text of a difference for a table: +0.0022±3, the standard error in units of the last digit."""
        return f"{self.value:+.4f}±{1e4 * self.standard_error:.0f}"


def logit(probabilities: np.ndarray, eps: float = EPS) -> np.ndarray:
    """Inverts `sigmoid` in float64; probabilities are clipped to [eps, 1 - eps], so that all logits are finite."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), eps, 1 - eps)
    return np.log(clipped) - np.log1p(-clipped)


def effective_size(weights: np.ndarray) -> float:
    """Returns Kish's effective sample size of `weights` (N,): (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / max((weights**2).sum(), 1e-300))


def official_score(
    task: Task,
    labels: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray | None = None,
    reports: np.ndarray | None = None,
) -> Estimate:
    """Returns the competition's score: the sum over label groups of weight * (1 - loss_scale * mlogloss).

    Round 1 is 1 - mlogloss. In round 2 the types' mlogloss covers only reports that truly have an abnormal region.
    `weights` (N,) are sample weights. `reports` (N,) is the number of each row's report, if rows are noisy copies of
    fewer reports: copies are not independent, so the standard error is computed over reports.
    Raises UserError if no report counts for a group, and ValueError like `log_loss_cells`.
    """
    return _estimate(_by_report(_score(task, labels, probabilities, weights=weights)[0], reports))


def paired_difference(
    task: Task,
    labels: np.ndarray,
    p_a: np.ndarray,
    p_b: np.ndarray,
    weights: np.ndarray | None = None,
    reports: np.ndarray | None = None,
) -> Estimate:
    """Returns the official score of `p_a` minus that of `p_b` on the same reports: positive if a is better.

    The standard error is that of the paired differences. Arguments and errors are those of `official_score`.
    """
    scores = (_score(task, labels, p, weights=weights)[0] for p in (p_a, p_b))
    return _estimate(_by_report(next(scores) - next(scores), reports))


def score_report(
    task: Task,
    labels: np.ndarray,
    probabilities: np.ndarray,
    folds: np.ndarray | None = None,
    n_boot: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns all metrics of out-of-fold probabilities as JSON values, overall and for each fold.

    `folds` is int (N,); reports of a negative fold were not predicted and are left out. An undefined metric (such as
    the ROC-AUC of a label without positives) is null; `macro` is the mean over the defined labels and has their number.
    A label's metrics use the reports that count for its group (`rows`): for round 2's types, reports that truly have an
    abnormal region. `exact_match` is the share of reports with all counted cells right; `calibration_error` pools all
    counted cells; the overall `mlogloss` averages the groups by their weights. Calibration errors and `pr_auc` are
    bootstrapped: `n_boot` draws with multinomial weights, fixed by `seed`. Raises the errors of `official_score`.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    folds = np.zeros(len(labels), dtype=int) if (undivided := folds is None) else np.asarray(folds)
    used = folds >= 0
    official_score(task, labels[used], probabilities[used])  # raises its errors before the long computation
    parts = {"overall": used} | {str(fold): folds == fold for fold in np.unique(folds[used]) if not undivided}
    sections = {name: _section(task, labels[rows], probabilities[rows], n_boot, seed) for name, rows in parts.items()}
    settings = {"eps": EPS, "threshold": THRESHOLD, "bins": CALIBRATION_BINS, "n_boot": n_boot, "seed": seed}
    return {"task": task.name, "settings": settings, "overall": sections.pop("overall"), "folds": sections}


def _section(task: Task, labels: np.ndarray, probabilities: np.ndarray, n_boot: int, seed: int) -> dict[str, Any]:
    """Returns the metrics of one set of reports."""
    n, generator = len(labels), np.random.default_rng(seed)
    picks = (np.bincount(generator.integers(0, n, n), minlength=n).astype(np.uint8) for _ in range(n_boot))
    draws = np.stack(list(picks), axis=1)  # (n, D), copies of a report in a draw: about Poisson(1), never near 255
    counted = {group.name: task.counted(group, labels) for group in task.groups}
    cells = np.column_stack([counted[group.name] for group in task.groups for _ in range(group.size)])
    right = ((probabilities >= THRESHOLD) == labels) | ~cells
    score, losses = _score(task, labels, probabilities, strict=False)
    section: dict[str, Any] = {
        "rows": n,
        "score": _estimate(score).to_json(),
        "mlogloss": _estimate(sum(g.weight * loss for g, loss in zip(task.groups, losses, strict=True))).to_json(),
        "exact_match": _estimate(_ratio(right.all(axis=1), np.ones(n))).to_json(),
        "calibration_error": _estimate(_calibration_error(labels, probabilities, cells, draws)).to_json(),
        "macro": {},  # filled below, like `labels` and the groups' macro
        "groups": {
            group.name: {
                "rows": int(counted[group.name].sum()),
                "rows_used": f"with a positive label among the {group.counted_given}" if group.counted_given else "all",
                "mlogloss": _estimate(loss).to_json(),
                "macro": {},
            }
            for group, loss in zip(task.groups, losses, strict=True)
        },
        "labels": {
            name: {"rows": int(cells[:, k].sum()), "positives": int(labels[cells[:, k], k].sum())}
            for k, name in enumerate(task.label_names)
        },
    }
    for name in task.metrics:  # one metric at a time: each holds (L, N) floats
        figures = [FIGURES[name](labels[:, k], probabilities[:, k], cells[:, k], draws) for k in range(task.n_labels)]
        for label, figure in zip(section["labels"].values(), figures, strict=True):
            label[name] = _estimate(figure).to_json()
        section["macro"][name] = _macro(figures)
        for group, columns in task.columns.items():
            section["groups"][group]["macro"][name] = _macro(figures[columns])
    return section


def _estimate(figure: Figure) -> Estimate:
    return Estimate(float(figure[0]), float(np.linalg.norm(figure[1:])))


def _by_report(figure: Figure, reports: np.ndarray | None) -> Figure:
    """Sums the noise of the rows of each report, which are fully dependent."""
    if reports is None:
        return figure
    return np.append(figure[0], np.bincount(np.unique(reports, return_inverse=True)[1], weights=figure[1:]))


def _macro(figures: list[Figure]) -> dict[str, float | int | None]:
    defined = [figure for figure in figures if math.isfinite(figure[0])]
    return _estimate(sum(defined or figures) / max(1, len(defined))).to_json() | {"labels": len(defined)}


def _ratio(top: np.ndarray, bottom: np.ndarray) -> Figure:
    """Returns sum(top) / sum(bottom) of two (n,) arrays; NaN if the sum of `bottom` is 0."""
    top, bottom, n = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64), len(top)
    value = top.sum() / (total := bottom.sum() or math.nan)
    influence = n / total * (top - value * bottom)  # its mean is zero
    return np.append(value, influence / (math.sqrt(n * (n - 1)) or math.nan))


def _score(
    task: Task, labels: np.ndarray, probabilities: np.ndarray, strict: bool = True, weights: np.ndarray | None = None
) -> tuple[Figure, list]:
    """Returns the score and each group's mlogloss.

    If no report counts for a group, raises UserError, or returns NaN if not `strict`.
    """
    cells, labels = task.cells(labels, probabilities), np.asarray(labels)
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    if cells.shape[1] != task.n_labels:
        raise ValueError(f"{task.name} has {task.n_labels} labels, not {cells.shape[1]}")
    losses = []
    for group in task.groups:
        counted = task.counted(group, labels) * weights
        if strict and not counted.any():
            raise UserError(
                f"{task.name}: none of {len(labels)} reports counts in the score of the {group.name}, "
                f"because none has a positive label among the {group.counted_given}"
            )
        losses.append(_ratio(cells[:, task.columns[group.name]].mean(axis=1) * counted, counted))
    names = [group.name for group in task.groups]
    score = task.score(dict(zip(names, losses, strict=True)))
    score[1:] -= task.score(dict.fromkeys(names, 0.0))  # noise is a change of the score, without its constant
    return score, losses


def _roc_auc(labels: np.ndarray, scores: np.ndarray, counted: np.ndarray, draws: np.ndarray) -> Figure:
    """Returns the area under the ROC curve, ties counting half; influences are the placements of DeLong et al. 1988."""
    from scipy.stats import rankdata

    positive, negative = counted & (labels == 1), counted & (labels == 0)
    rank, below, above = np.zeros((3, len(labels)))
    rank[counted] = rankdata(scores[counted])
    # below: share of negatives below each positive; above: share of positives above each negative.
    below[positive] = (rank[positive] - rankdata(scores[positive])) / (negative.sum() or math.nan)
    above[negative] = 1 - (rank[negative] - rankdata(scores[negative])) / (positive.sum() or math.nan)
    area = _ratio(below, positive) + _ratio(above, negative)  # twice the area; its noise is that of the area
    area[0] /= 2
    return area


def _bootstrapped(statistic: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], draws: np.ndarray) -> Figure:
    """Returns a bootstrapped ratio; `statistic` maps weights (n, D) to numerators (D,) and denominators (D,)."""
    (n, n_draws), step = draws.shape, max(1, DRAW_CELLS // len(draws))
    parts = [np.ones((n, 1))] + [draws[:, i : i + step] for i in range(0, n_draws, step)]
    top, bottom = np.hstack([statistic(part.astype(np.float64)) for part in parts])
    value, *values = top / np.where(bottom > 0, bottom, math.nan)
    defined = np.isfinite(values)  # a draw may miss all positives of a rare label
    if defined.sum() < 2:
        return np.append(value, np.full(n_draws, math.nan))
    centred = np.array(values) - np.mean(values, where=defined)
    return np.append(value, np.where(defined, centred / math.sqrt(defined.sum() - 1), 0.0))


def _sums(bins: np.ndarray, n_bins: int, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the weighted sum of `values` (n,) in each bin for each column of `weights` (n, D): (n_bins, D)."""
    from scipy.sparse import csc_array

    return csc_array((values.astype(np.float64), bins, np.arange(len(bins) + 1)), shape=(n_bins, len(bins))) @ weights


def _average_precision(labels: np.ndarray, scores: np.ndarray, counted: np.ndarray, draws: np.ndarray) -> Figure:
    """Returns scikit-learn's average precision, the area under the precision-recall curve summed over steps."""
    # Each distinct score of a positive report ends a step; steps descend, and the last bin holds the remaining scores.
    steps = np.unique(scores[positive := counted & (labels == 1)])
    bins = len(steps) - np.searchsorted(steps, scores, side="right")

    def statistic(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hits, retrieved = (_sums(bins, len(steps) + 1, mask, weights)[:-1] for mask in (positive, counted))
        precision = hits.cumsum(axis=0) / np.maximum(retrieved.cumsum(axis=0), 1)  # weights are whole numbers
        return (hits * precision).sum(axis=0), hits.sum(axis=0)

    return _bootstrapped(statistic, draws)


def _calibration_error(labels: np.ndarray, probabilities: np.ndarray, counted: np.ndarray, draws: np.ndarray) -> Figure:
    """Returns the expected calibration error (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017).

    The error is the mean over counted cells of |mean probability - positive rate| in the cell's bin. Arguments are
    (n,), or (n, L) to pool labels.
    """
    labels, probabilities, counted = (array.reshape(len(array), -1) for array in (labels, probabilities, counted))
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(np.int32), CALIBRATION_BINS - 1)
    excess = (probabilities - labels) * counted

    def statistic(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gap = sum(_sums(bins[:, k], CALIBRATION_BINS, excess[:, k], weights) for k in range(bins.shape[1]))
        return np.abs(gap).sum(axis=0), counted.sum(axis=1) @ weights

    return _bootstrapped(statistic, draws)


# Metrics of a label from its labels, probabilities and counted mask, all (n,), and the bootstrap's draws (n, D).
FIGURES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Figure]] = {
    "positive_rate": lambda y, p, counted, draws: _ratio(counted & (y == 1), counted),
    "log_loss": lambda y, p, counted, draws: _ratio(log_loss_cells(y[:, None], p[:, None])[:, 0] * counted, counted),
    "roc_auc": _roc_auc,
    "pr_auc": _average_precision,
    "sensitivity": lambda y, p, counted, draws: _ratio(counted & (y == 1) & (p >= THRESHOLD), counted & (y == 1)),
    "specificity": lambda y, p, counted, draws: _ratio(counted & (y == 0) & (p < THRESHOLD), counted & (y == 0)),
    "calibration_error": _calibration_error,
}
