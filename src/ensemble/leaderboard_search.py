"""Bayesian optimisation of submissions on a leaderboard: variations of predictions, and proposals of the next one.

A variation weights the runs, divides their logits by a temperature, moves the logits towards the test file's estimated
label rates, and mixes the probabilities with the label rates of train. As a leaderboard accepts few submissions a day,
a Gaussian process models the difference between the online score and the local score of the same variation (on train
rows distributed like the test file), and the variation with the largest expected improvement is proposed.

The local score is the prior mean (Rasmussen and Williams 2006, section 2.7): without online scores it decides alone,
and each online score changes the expectation near its variation. Expected improvement: Jones, Schonlau and Welch 1998.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from src.data.tasks import Task
from src.evaluation import metrics

TEMPERATURES = (0.7, 1.8)
SHRINKAGE = (0.0, 0.15)
CANDIDATES = 256
"""Number of random candidates for a proposal, and of further candidates near the best variation so far."""
NEAR = 0.08
"""Standard deviation of the near candidates from the best variation, relative to the range of each setting."""
LABEL_SHIFT_COST = 0.003
"""Prior cost in score of label_shift=1, as measured on labelled proxy tests. Local rows cannot measure the cost, and
without it the first proposals would have an arbitrary label_shift."""
DIFFERENCE = 0.004
"""Prior standard deviation of the difference between online and local scores across variations."""
SCALE = 0.5
"""Length scale of the difference, relative to the range of each setting."""
ROUNDING = 1e-4
"""Standard deviation of the rounding of an online score to four digits."""


@dataclass(frozen=True)
class Proposal:
    """Proposed variation with its local and expected online score."""

    settings: dict[str, float]
    local: float
    """Score on the validation rows."""
    expected: float
    """Expected online score."""
    spread: float
    """Standard deviation of the expected online score."""


@dataclass(frozen=True, eq=False)
class Base:
    """Predictions of runs on validation rows and on the test file, from which variations are made."""

    task: Task
    runs: list[str]
    local: list[np.ndarray]
    """Logits of each run on the validation rows, (R, L) each."""
    labels: np.ndarray
    """Labels of the validation rows, (R, L)."""
    weights: np.ndarray
    """Sample weights of the validation rows, (R,)."""
    test: list[np.ndarray]
    """Logits of each run on the test file, (N, L) each."""
    rates: np.ndarray
    """Rate of each label in train, (L,)."""
    odds: np.ndarray
    """Log odds of the test file's label rates minus those of train, (L,)."""

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """Search space of the settings of a variation; a single run has no weight."""
        weights = {f"weight_{run}": FloatDistribution(0.0, 1.0) for run in self.runs if len(self.runs) > 1}
        return {
            "temperature": FloatDistribution(*TEMPERATURES, log=True),
            "shrinkage": FloatDistribution(*SHRINKAGE),
            "label_shift": FloatDistribution(0.0, 1.0),
            **weights,
        }

    def ask(self, tried: list[tuple[dict[str, float], float | None]], seed: int) -> Proposal:
        """Proposes a variation after the `tried` variations with their online scores (None for an unknown score)."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise it logs the new study
        sampler = DifferenceSampler(self.space, self._prior, self.plain, seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for settings, score in tried:
            state = TrialState.RUNNING if score is None else TrialState.COMPLETE
            study.add_trial(optuna.create_trial(state=state, params=settings, distributions=self.space, value=score))
        settings = study.ask(self.space).params
        return Proposal(settings, self.score(settings), *sampler.expected)

    def _prior(self, variation: dict[str, float]) -> float:
        return self.score(variation) - LABEL_SHIFT_COST * variation["label_shift"]

    @property
    def plain(self) -> dict[str, float]:
        """Variation that changes nothing: the run, or the mean of the runs."""
        return {"temperature": 1.0, "shrinkage": 0.0, "label_shift": 0.0} | {
            name: 0.5 for name in self.space if name.startswith("weight_")
        }

    def score(self, variation: dict[str, float]) -> float:
        """Returns the official score on the validation rows. These rows have the label rates of train, so label_shift
        is ignored: only online scores can measure it."""
        probabilities = self._vary(self.local, {**variation, "label_shift": 0.0})
        return metrics.official_score(self.task, self.labels, probabilities, self.weights).value

    def predict(self, variation: dict[str, float]) -> np.ndarray:
        """Returns the probabilities for the test file, (N, L)."""
        return self._vary(self.test, variation)

    def _vary(self, members: Sequence[np.ndarray], variation: dict[str, float]) -> np.ndarray:
        weights = np.array([variation.get(f"weight_{run}", 1.0) for run in self.runs])
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1 / len(weights))
        logits = sum(weight * np.asarray(run, dtype=np.float64) for weight, run in zip(weights, members, strict=True))
        probabilities = self.task.decode(logits / variation["temperature"] + variation["label_shift"] * self.odds)
        return (1 - variation["shrinkage"]) * probabilities + variation["shrinkage"] * self.rates


class DifferenceSampler(optuna.samplers.BaseSampler):
    """Optuna sampler that proposes the largest expected improvement upon the best online score.

    A Gaussian process models the difference between online scores and `prior`; without online scores the largest
    `prior` is proposed. A variation without its online score is treated as having the expected score.
    """

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        prior: Callable[[dict[str, float]], float],
        start: dict[str, float],
        seed: int,
    ):
        self._space, self._prior, self._start = space, prior, start
        self._rng = np.random.default_rng(seed)
        self.expected = (math.nan, math.nan)
        """Mean and standard deviation of the last proposal's online score."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, kind: BaseDistribution) -> Any:
        raise ValueError(f"{name} is no setting of a variation")

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, float]:
        space, trials = self._space, study.get_trials(deepcopy=False)
        scored = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        waiting = [trial for trial in trials if trial.state == TrialState.RUNNING and trial.params]
        best = max(scored, key=lambda trial: trial.value).params if scored else self._start
        places = self._candidates(space, best)
        settings = [_from_unit(space, place) for place in places]
        local = np.array([self._prior(variation) for variation in settings])
        if not scored and not waiting:
            chosen = int(local.argmax())
            self.expected = (float(local[chosen]), DIFFERENCE)
            return settings[chosen]
        process = _Difference()
        seen = np.array([_to_unit(space, trial.params) for trial in scored]).reshape(len(scored), len(space))
        process.fit(seen, np.array([trial.value - self._prior(trial.params) for trial in scored]))
        for pending in waiting:
            place = _to_unit(space, pending.params)[None]
            process.add(place, process.expect(place)[0])
        mean, spread = process.expect(places)
        mean = mean + local
        reached = max((trial.value for trial in scored), default=float(local.max()))
        chosen = int(_improvement(mean, spread, reached).argmax())
        self.expected = (float(mean[chosen]), float(spread[chosen]))
        return settings[chosen]

    def _candidates(self, space: dict[str, BaseDistribution], best: dict[str, float]) -> np.ndarray:
        """Draws candidates in the unit cube: (2 * CANDIDATES + 2, D)."""
        anywhere = self._rng.random((CANDIDATES, len(space)))
        fixed = np.array([_to_unit(space, best), _to_unit(space, self._start)])
        near = fixed[0] + NEAR * self._rng.standard_normal((CANDIDATES, len(space)))
        return np.clip(np.concatenate([fixed, anywhere, near]), 0, 1)


class _Difference:
    """Gaussian process with the average of the values as constant mean, and a Matérn kernel (5/2)."""

    def __init__(self) -> None:
        self._places, self._values = np.empty((0, 0)), np.empty(0)

    def fit(self, places: np.ndarray, values: np.ndarray) -> None:
        self._places, self._values = places, values

    def add(self, place: np.ndarray, value: np.ndarray) -> None:
        self._places = np.concatenate([self._places, place]) if len(self._places) else place
        self._values = np.append(self._values, value)

    def expect(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and standard deviation, (M,) each, at `places` (M, D)."""
        if not len(self._values):
            return np.zeros(len(places)), np.full(len(places), DIFFERENCE)
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern

        # With a handful of values only the mean is fitted.
        kernel = ConstantKernel(DIFFERENCE**2, "fixed") * Matern(SCALE, "fixed", nu=2.5)
        process = GaussianProcessRegressor(kernel, alpha=ROUNDING**2, optimizer=None)
        centre = self._values.mean()
        process.fit(self._places, self._values - centre)
        mean, spread = process.predict(places, return_std=True)
        return mean + centre, spread


def _improvement(mean: np.ndarray, spread: np.ndarray, reached: float) -> np.ndarray:
    """Returns the expected improvement of normal variables upon `reached`."""
    from scipy.stats import norm

    z = (mean - reached) / np.maximum(spread, 1e-12)
    return (mean - reached) * norm.cdf(z) + spread * norm.pdf(z)


def _to_unit(space: dict[str, BaseDistribution], settings: dict[str, float]) -> np.ndarray:
    """Maps settings to a point of the unit cube, (D,)."""
    point = []
    for name, kind in space.items():
        low, high, value = (math.log(x) if kind.log else x for x in (kind.low, kind.high, settings[name]))
        point.append((value - low) / (high - low))
    return np.array(point)


def _from_unit(space: dict[str, BaseDistribution], place: np.ndarray) -> dict[str, float]:
    """Maps a point of the unit cube to settings of four digits."""
    settings = {}
    for (name, kind), x in zip(space.items(), place, strict=True):
        low, high = (math.log(v) if kind.log else v for v in (kind.low, kind.high))
        value = low + float(x) * (high - low)
        settings[name] = min(max(round(math.exp(value) if kind.log else value, 4), kind.low), kind.high)
    return settings
