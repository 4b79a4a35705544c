"""Figures of predictions domain by domain: their mean over domains and that of the worst domain, with intervals.

Intervals are percentiles of a bootstrap over the rows of each domain; domains themselves are not drawn. All predictions
are judged by the same draws, so that differences are paired. The worst domain is looked for anew in each draw, so its
interval reaches further down than up: the lowest of several noisy figures is lower than each of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.data.tasks import Task
from src.evaluation.figures import area_statistic, calibration_curve, drawn, make_draws, precision_statistic

N_BOOT = 500
"""Number of bootstrap draws."""
LEVEL = 0.95
"""Coverage of the intervals."""
NAMES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "score": "score"}
"""Headings of the figures; score is the task's own."""
ByDomain = dict[str, np.ndarray]
"""Figures by their names: (D, 1 + N_BOOT) each, the value of each domain and then its values in the draws."""


class DomainFigures:
    """Labels of rows, by domain, and the bootstrap draws by which every prediction of them is judged."""

    def __init__(self, task: Task, labels: np.ndarray, of_row: np.ndarray, n_domains: int):
        """`labels` (N, L) and `of_row` (N,), the number of each row's domain. A domain may have no row."""
        self.task, self.labels, self.n_domains = task, np.asarray(labels), n_domains
        self.rows = [np.flatnonzero(of_row == domain) for domain in range(n_domains)]
        self._draws = [
            make_draws(len(rows), N_BOOT, seed) if len(rows) else np.zeros((0, N_BOOT), np.uint8)
            for seed, rows in enumerate(self.rows)
        ]

    @property
    def names(self) -> list[str]:
        """Names of the figures of this kind of task."""
        return list(NAMES) if self.task.has_classes else ["score"]

    def n_labels(self) -> list[int]:
        """Labels of each domain that have both classes there, over which AUCs are averaged."""
        return [len(self._columns(self.labels[rows])) for rows in self.rows]

    def of(self, predictions: np.ndarray) -> ByDomain:
        """Figures of predictions (N, L) of all rows."""
        found = [self._of_domain(predictions, domain) for domain in range(self.n_domains)]
        return {name: np.stack([one[name] for one in found]) for name in self.names}

    def reliability(self, predictions: np.ndarray, figures: ByDomain, names: Sequence[str]) -> dict[str, Any]:
        """Calibration curve, as JSON values, of the domain with the lowest score, over all labels that count."""
        domain = int(np.nanargmin(figures["score"][:, 0]))
        labels, probabilities = self.labels[self.rows[domain]], predictions[self.rows[domain]]
        cells = self.task.counted_cells(labels)
        return {"domain": names[domain], "curve": calibration_curve(labels[cells], probabilities[cells])}

    def _of_domain(self, predictions: np.ndarray, domain: int) -> dict[str, np.ndarray]:
        rows, draws = self.rows[domain], self._draws[domain]
        if not len(rows):
            return dict.fromkeys(self.names, np.full(1 + N_BOOT, np.nan))
        labels, predictions = self.labels[rows], np.asarray(predictions, dtype=np.float64)[rows]
        found = {"score": self._score(labels, predictions, draws)}
        if self.task.has_classes:
            columns = self._columns(labels)
            for name, statistic in (("roc_auc", area_statistic), ("pr_auc", precision_statistic)):
                given = [(labels[:, k], predictions[:, k], counted) for k, counted in columns]
                found[name] = _mean([drawn(statistic(*one), draws) for one in given])
        return found

    def _columns(self, labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Columns of labels that have both classes in the rows that count, with these rows, bool."""
        return [
            (k, counted)
            for _group, columns, counted in self.task.parts(labels)
            for k in range(columns.start, columns.stop)
            if len(np.unique(labels[counted, k])) > 1
        ]

    def _score(self, labels: np.ndarray, predictions: np.ndarray, draws: np.ndarray) -> np.ndarray:
        cells, losses = self.task.cells(labels, predictions), {}
        for group, columns, counted in self.task.parts(labels):
            loss, weight = cells[:, columns].mean(axis=1) * counted, counted.astype(np.float64)
            losses[group.name] = drawn(lambda w, loss=loss, weight=weight: (loss @ w, weight @ w), draws)
        return self.task.score(losses)


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the domains (D, K) that have the figure: (K,)."""
    return _mean(list(values[np.isfinite(values[:, 0])]))


def worst(values: np.ndarray) -> np.ndarray:
    """Lowest of the domains (D, K) that have the figure: (K,). Every figure is the higher the better."""
    kept = values[np.isfinite(values[:, 0])]
    if not len(kept):
        return np.full(values.shape[1], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw without a positive row in any domain
        return np.nanmin(kept, axis=0)


AGGREGATES = {"mean": mean, "worst": worst}
"""Summaries of the figures of all domains."""


def with_interval(values: np.ndarray) -> dict[str, float | None]:
    """Returns, as JSON values, the first of `values` (1 + K,) and the interval of the others; None where undefined."""
    value, draws = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value) or len(draws) < 2:
        return {"value": value if np.isfinite(value) else None, "low": None, "high": None}
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def summary(figures: ByDomain, domains: Sequence[str]) -> dict[str, Any]:
    """Returns, as JSON values, each figure of each domain, their mean, and the worst with its name."""
    found = {}
    for name, values in figures.items():
        lowest = worst(values)
        place = int(np.nanargmin(values[:, 0])) if np.isfinite(lowest[0]) else None
        found[name] = {
            "domains": {domain: with_interval(one) for domain, one in zip(domains, values, strict=True)},
            "mean": with_interval(mean(values)),
            "worst": {**with_interval(lowest), "domain": None if place is None else domains[place]},
        }
    return found


def pooled_draws(figures: Sequence[ByDomain]) -> ByDomain:
    """Joins the figures of several draws of training rows: their mean, then the bootstrap values of all of them. An
    interval of that is one of a single draw, of training rows and of judged rows."""
    return {
        name: np.hstack(
            [np.mean([one[name][:, :1] for one in figures], axis=0), *(one[name][:, 1:] for one in figures)]
        )
        for name in figures[0]
    }


def gains(figures: ByDomain, against: ByDomain) -> dict[str, Any]:
    """Returns, as JSON values, the differences of the mean and of the worst domain, paired by their draws."""
    return {
        name: {key: with_interval(of(values) - of(against[name])) for key, of in AGGREGATES.items()}
        for name, values in figures.items()
    }


def spread(figures: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Returns, as JSON values, the mean and the standard deviation over several models' figures."""
    found: dict[str, Any] = {}
    for name in figures[0]:
        for key, of in AGGREGATES.items():
            values = [float(of(one[name])[0]) for one in figures]
            found.setdefault(name, {})[key] = {
                "value": float(np.mean(values)),
                "deviation": float(np.std(values, ddof=1)),
            }
    return found


def interval_text(found: Mapping[str, Any], sign: str = "") -> str:
    """Words a value with its interval for a table: 0.812 (0.79 to 0.83)."""
    if found["value"] is None:
        return "–"
    text = f"{found['value']:{sign}.3f}"
    return text if found["low"] is None else f"{text} ({found['low']:{sign}.3f}, {found['high']:{sign}.3f})"


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of several (K,) where they are defined; NaN without any."""
    if not values:
        return np.full(1 + N_BOOT, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=0)
