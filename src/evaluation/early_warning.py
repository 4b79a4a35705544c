"""Early warning: alarms that a risk read hour by hour raises, and what they are worth.

Arrays are (N, H): N stays, H readings. The risk of a reading is what a model says of the data up to its hour, and
stands until the next reading. A stay is watched from its first hour to the last hour of its data. Nothing that a stay
is judged by is fitted on its fold: neither the levels of the hours nor the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.data.tasks import sigmoid
from src.evaluation.figures import Estimate, bootstrapped, estimate
from src.evaluation.operating_points import NEVER, for_sensitivity

DAY = 24.0
"""Hours of a patient-day."""
LEVELS = 200
"""Thresholds that are tried for a budget of false alarms."""
QUARTILES = {"lead_time_lower": 0.25, "lead_time": 0.5, "lead_time_upper": 0.75}


@dataclass(frozen=True)
class Rule:
    """Hysteresis: what ends an alarm, and when the next one may begin."""

    off: float
    """Share of the threshold that the risk must fall below for the alarm to end."""
    duration: float
    """Hours that an alarm lasts at least."""
    refractory: float
    """Hours after an alarm in which none begins."""


BARE = Rule(off=1.0, duration=0.0, refractory=0.0)
"""A bare threshold: an alarm is there while the risk is at or above it."""


@dataclass(frozen=True, eq=False)
class Alarms:
    """Alarms of N stays."""

    hours: np.ndarray
    """Hours of data at each reading, (H,), ascending."""
    end: float
    """Last hour that a stay is watched."""
    begins: np.ndarray
    """An alarm begins at the reading, (N, H) bool."""
    is_on: np.ndarray
    """There is an alarm from the reading to the next, (N, H) bool."""

    @property
    def counts(self) -> np.ndarray:
        """Alarms of each stay, (N,)."""
        return self.begins.sum(axis=1)

    @property
    def first(self) -> np.ndarray:
        """Hour of the first alarm of each stay, (N,), NaN without one."""
        return np.where(self.begins.any(axis=1), self.hours[self.begins.argmax(axis=1)], np.nan)

    @property
    def time(self) -> np.ndarray:
        """Hours of each stay with an alarm, (N,)."""
        return self.is_on @ np.diff(self.hours, append=self.end)

    def periods(self, row: int) -> list[tuple[float, float]]:
        """Begin and end of the alarms of a stay, in hours."""
        found = []
        for i in np.flatnonzero(self.begins[row]):
            over = np.flatnonzero(~self.is_on[row, i:])
            found.append((float(self.hours[i]), float(self.hours[i + over[0]] if len(over) else self.end)))
        return found


@dataclass(eq=False)
class Watch:
    """Alarms of n risks that are read one after the other, each from its own first reading on."""

    rule: Rule
    is_on: np.ndarray
    """There is an alarm, (n,) bool."""
    since: np.ndarray
    """Hour at which the last alarm began, (n,), -inf without one."""
    ended: np.ndarray
    """Hour at which the last alarm ended, (n,), -inf without one."""

    @classmethod
    def fresh(cls, n: int, rule: Rule) -> Watch:
        return cls(rule, np.zeros(n, dtype=bool), np.full(n, -np.inf), np.full(n, -np.inf))

    def read(self, risk: np.ndarray, on: np.ndarray | float, hour: float) -> tuple[np.ndarray, np.ndarray]:
        """Reads the risks (n,) of an hour against thresholds, (n,) or one for all; returns which alarms begin and which
        end, (n,) bool each."""
        stops = self.is_on & (risk < self.rule.off * on) & (hour - self.since >= self.rule.duration)
        starts = ~self.is_on & (risk >= on) & (hour - self.ended >= self.rule.refractory)
        self.ended[stops], self.since[starts] = hour, hour
        self.is_on = (self.is_on & ~stops) | starts
        return starts, stops


def raise_alarms(risk: np.ndarray, on: np.ndarray | float, rule: Rule, hours: np.ndarray, end: float) -> Alarms:
    """Raises alarms where `risk` (N, H) reaches the threshold `on`, (N,) or one for all, by a rule of hysteresis."""
    watch = Watch.fresh(len(risk), rule)
    begins, is_on = np.zeros(risk.shape, dtype=bool), np.zeros(risk.shape, dtype=bool)
    for i, hour in enumerate(hours):
        begins[:, i], _ = watch.read(risk[:, i], on, hour)
        is_on[:, i] = watch.is_on
    return Alarms(hours, end, begins, is_on)


def worth(alarms: Alarms, died: np.ndarray, death_hour: np.ndarray, draws: np.ndarray) -> dict[str, Estimate]:
    """Computes what alarms are worth, with standard errors by a bootstrap over stays.

    `died` (N,) bool: the stay ended in death; all its alarms are right, and all alarms of the others false.
    `death_hour` (N,): hours from admission to death, NaN where unknown. `draws` (N, D): how often each stay is in each
    draw. Lead times are those of the first alarm of each death that had one.
    """
    counts, time = alarms.counts.astype(np.float64), alarms.time
    has_alarm, lived, days = counts > 0, ~died, np.full(len(died), alarms.end / DAY)
    ratios = {
        "sensitivity": (died & has_alarm, died),
        "survivors_alarmed": (lived & has_alarm, lived),
        "false_alarms_per_day": (lived * counts, lived * days),
        "alarms_per_day": (counts, days),
        "precision": (died * counts, counts),
        "precision_of_stays": (died & has_alarm, has_alarm),
        "time_in_alarm_survivors": (lived * time / DAY, lived * days),
        "time_in_alarm_deaths": (died * time / DAY, died * days),
        "hours_of_an_alarm": (time, counts),
    }
    found = {name: _ratio(top, bottom, draws) for name, (top, bottom) in ratios.items()}
    lead = death_hour - alarms.first
    known = died & has_alarm & ~np.isnan(lead)
    for name, share in QUARTILES.items():
        found[name] = _quantile(lead[known], share, draws[known])
    return found


def _ratio(top: np.ndarray, bottom: np.ndarray, draws: np.ndarray) -> Estimate:
    top, bottom = top.astype(np.float64), bottom.astype(np.float64)
    return estimate(bootstrapped(lambda weights: (top @ weights, bottom @ weights), draws))


def _quantile(values: np.ndarray, share: float, draws: np.ndarray) -> Estimate:
    """Lower quantile of values (n,); NaN of none."""
    if not len(values):
        return Estimate(np.nan, np.nan)
    order = np.argsort(values, kind="stable")
    weights = np.column_stack([np.ones(len(values)), draws[order]]).cumsum(axis=0)
    places = (weights < share * weights[-1]).sum(axis=0)
    found = values[order][np.minimum(places, len(values) - 1)]
    drawn = found[1:][weights[-1, 1:] > 0]
    return Estimate(float(found[0]), float(drawn.std(ddof=1)) if len(drawn) > 1 else np.nan)


Choose = Callable[[np.ndarray, np.ndarray], float]
"""Chooses a threshold for risks (n, H) and deaths (n,) bool."""


def for_deaths(sensitivity: float) -> Choose:
    """Chooses the highest threshold at which that share of the deaths has an alarm, under whatever rule."""
    choose = for_sensitivity(sensitivity)
    return lambda risk, died: choose(died, risk.max(axis=1), np.ones(len(died)))


def for_budget(budget: float, rule: Rule, hours: np.ndarray, end: float) -> Choose:
    """Chooses the lowest threshold down to which survivors have at most `budget` false alarms a patient-day."""

    def choose(risk: np.ndarray, died: np.ndarray) -> float:
        survivors, on = risk[~died], NEVER
        if not len(survivors):  # none has a false alarm
            return float(risk.min())
        peaks = survivors.max(axis=1)
        for level in np.unique(np.quantile(peaks, np.linspace(0, 1, LEVELS)))[::-1]:
            alarms = raise_alarms(survivors, level, rule, hours, end)
            if alarms.counts.mean() * DAY / end > budget:
                break
            on = float(level)
        return on

    return choose


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Risks and thresholds, neither fitted on the fold of the stay."""

    risk: np.ndarray
    """(N, H)"""
    on: np.ndarray
    """Threshold of each stay, (N,)."""
    thresholds: dict[int, float]
    """Threshold of each fold, chosen on the others."""


def cross_fit(
    logits_of: Callable[[int], np.ndarray], died: np.ndarray, folds: np.ndarray, choose: Choose
) -> CrossFitted:
    """Fits the level of each hour and chooses the threshold on the other folds.

    `logits_of` gives the logits (N, H) of all stays by the blend that the stays of a fold are judged by: the blends of
    other folds have other levels. `died` (N,) bool, `folds` (N,).
    """
    risks, thresholds = [], {}
    for fold in np.unique(folds).tolist():
        logits, others = logits_of(fold), folds != fold
        lines = level_lines(logits[others], died[others])
        thresholds[fold] = choose(levelled(logits[others], lines), died[others])
        risks.append(levelled(logits[~others], lines))
    risk = np.empty((len(folds), risks[0].shape[1]))
    risk[np.argsort(folds, kind="stable")] = np.concatenate(risks)
    return CrossFitted(risk, np.array([thresholds[fold] for fold in folds.tolist()]), thresholds)


def level_lines(logits: np.ndarray, died: np.ndarray) -> np.ndarray:
    """Fits a line to the logits (n, H) of each hour whose sigmoid is the rate of death (Platt scaling): (2, H), slopes
    and offsets.

    A model that was trained on whole stays takes an early hour for a stay with few measurements: its levels drift from
    hour to hour, and a threshold would mean another risk at each.
    """
    from sklearn.linear_model import LogisticRegression

    lines = np.empty((2, logits.shape[1]))
    if died.all() or not died.any():
        lines[:] = [[1.0], [0.0]]  # no rate to fit
        return lines
    for i, column in enumerate(logits.T.astype(np.float64)):
        fitted = LogisticRegression(C=1e3).fit(column[:, None], died)
        lines[:, i] = fitted.coef_[0, 0], fitted.intercept_[0]
    return lines


def levelled(logits: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Risks of logits (n, H), by the line of each hour."""
    return sigmoid(lines[0] * logits + lines[1])


def curve(
    risk: np.ndarray, died: np.ndarray, rule: Rule, hours: np.ndarray, end: float, draws: np.ndarray, points: int
) -> list[dict[str, Any]]:
    """Computes sensitivity and false alarms a patient-day at `points` thresholds, from the highest, as JSON values."""
    peaks, found = risk.max(axis=1), []
    for level in np.unique(np.quantile(peaks, np.linspace(0, 1, points)))[::-1]:
        alarms = raise_alarms(risk, level, rule, hours, end)
        alarmed, lived = alarms.counts > 0, ~died
        sensitivity = _ratio(died & alarmed, died, draws)
        false = _ratio(lived * alarms.counts, lived * (end / DAY), draws)
        found.append(
            {"on": float(level), "sensitivity": sensitivity.to_json(), "false_alarms_per_day": false.to_json()}
        )
    return found
