"""Variations of what runs predict, few enough in their kinds to be tried on a leaderboard, and what to try next.

A variation weighs the runs, divides their logits by a temperature, moves them towards the label rates that the test
file speaks for, and mixes the probabilities with the label rates of train. A leaderboard takes a few submissions a day,
so each must tell much: a Gaussian process models by how much the online score differs from the one that train reports
made like the test give to the same variation, and what it expects to gain most is tried next.

The process is over the difference alone, so that with no answer yet the local score decides, and each answer moves the
expectation around it (a prior mean, Rasmussen and Williams 2006, section 2.7). Expected improvement: Jones, Schonlau
and Welch 1998.
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
"""Variations at random that a proposal is chosen from, beside as many near the best so far."""
NEAR = 0.08
"""Of the range of each setting: how far these lie from it."""
LABEL_SHIFT_COST = 0.003
"""What following the test file's label rates is thought to cost: so much it was on stand-ins (README). Local rows
cannot tell, and without it proposals would take any share of it before the first answer."""
DIFFERENCE = 0.004
"""Standard deviation that the difference between online and local scores is thought to have across variations."""
SCALE = 0.5
"""Of the range of each setting: over which the difference changes."""
ROUNDING = 1e-4
"""Standard deviation of an online score: boards show four digits."""


@dataclass(frozen=True)
class Proposal:
    settings: dict[str, float]
    local: float
    """Score on the validation's rows."""
    expected: float
    """Score online."""
    spread: float
    """Standard deviation of that."""


@dataclass(frozen=True, eq=False)
class Base:
    """The runs that are varied, on the rows of a validation and on the test file."""

    task: Task
    runs: list[str]
    local: list[np.ndarray]
    """(R, L) logits of each run on the validation's rows."""
    labels: np.ndarray
    """(R, L)"""
    weights: np.ndarray
    """(R,)"""
    test: list[np.ndarray]
    """(N, L) logits of each run on the test file."""
    rates: np.ndarray
    """(L,) of each label in train."""
    odds: np.ndarray
    """(L,) by how much the test file's label rates are above those of train, in log odds."""

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """Of the settings of a variation. One run has no weight."""
        weights = {f"weight_{run}": FloatDistribution(0.0, 1.0) for run in self.runs if len(self.runs) > 1}
        return {
            "temperature": FloatDistribution(*TEMPERATURES, log=True),
            "shrinkage": FloatDistribution(*SHRINKAGE),
            "label_shift": FloatDistribution(0.0, 1.0),
            **weights,
        }

    def ask(self, told: list[tuple[dict[str, float], float | None]], seed: int) -> Proposal:
        """The variation to try after these, each with the score it got online, or None while that is not known."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # or it tells that it makes a study
        sampler = DifferenceSampler(self.space, self._prior, self.plain, seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for settings, score in told:
            state = TrialState.RUNNING if score is None else TrialState.COMPLETE
            study.add_trial(optuna.create_trial(state=state, params=settings, distributions=self.space, value=score))
        settings = study.ask(self.space).params
        return Proposal(settings, self.score(settings), *sampler.expected)

    def _prior(self, variation: dict[str, float]) -> float:
        return self.score(variation) - LABEL_SHIFT_COST * variation["label_shift"]

    @property
    def plain(self) -> dict[str, float]:
        """The runs as they are, or their mean."""
        return {"temperature": 1.0, "shrinkage": 0.0, "label_shift": 0.0} | {
            name: 0.5 for name in self.space if name.startswith("weight_")
        }

    def score(self, variation: dict[str, float]) -> float:
        """Official score on the validation's rows. Their label rates are known to be those of train, so label_shift
        changes nothing there: it can only be tried online."""
        probabilities = self._vary(self.local, {**variation, "label_shift": 0.0})
        return metrics.official_score(self.task, self.labels, probabilities, self.weights).value

    def predict(self, variation: dict[str, float]) -> np.ndarray:
        """(N, L) probabilities for the test file."""
        return self._vary(self.test, variation)

    def _vary(self, members: Sequence[np.ndarray], variation: dict[str, float]) -> np.ndarray:
        weights = np.array([variation.get(f"weight_{run}", 1.0) for run in self.runs])
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1 / len(weights))
        logits = sum(weight * np.asarray(one, dtype=np.float64) for weight, one in zip(weights, members, strict=True))
        probabilities = self.task.decode(logits / variation["temperature"] + variation["label_shift"] * self.odds)
        return (1 - variation["shrinkage"]) * probabilities + variation["shrinkage"] * self.rates


class DifferenceSampler(optuna.samplers.BaseSampler):
    """For Optuna's ask and tell: proposes what improves most upon the best answer so far, by a Gaussian process of the
    difference between answers and `prior`; with no answer, where `prior` is largest. Variations that wait for their
    answer count as having the one that is expected of them.
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
        """Mean and standard deviation of the answer to the last proposal."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, kind: BaseDistribution) -> Any:
        raise ValueError(f"{name} is no setting of a variation")

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, float]:
        space, trials = self._space, study.get_trials(deepcopy=False)
        told = [one for one in trials if one.state == TrialState.COMPLETE]
        waiting = [one for one in trials if one.state == TrialState.RUNNING and one.params]
        best = max(told, key=lambda one: one.value).params if told else self._start
        places = self._candidates(space, best)
        settings = [_from_unit(space, place) for place in places]
        local = np.array([self._prior(one) for one in settings])
        if not told and not waiting:
            chosen = int(local.argmax())
            self.expected = (float(local[chosen]), DIFFERENCE)
            return settings[chosen]
        process = _Difference()
        seen = np.array([_to_unit(space, one.params) for one in told]).reshape(len(told), len(space))
        process.fit(seen, np.array([one.value - self._prior(one.params) for one in told]))
        for one in waiting:
            place = _to_unit(space, one.params)[None]
            process.add(place, process.expect(place)[0])
        mean, spread = process.expect(places)
        mean = mean + local
        reached = max((one.value for one in told), default=float(local.max()))
        chosen = int(_improvement(mean, spread, reached).argmax())
        self.expected = (float(mean[chosen]), float(spread[chosen]))
        return settings[chosen]

    def _candidates(self, space: dict[str, BaseDistribution], best: dict[str, float]) -> np.ndarray:
        """(2 * CANDIDATES + 2, D) in the unit cube."""
        anywhere = self._rng.random((CANDIDATES, len(space)))
        known = np.array([_to_unit(space, best), _to_unit(space, self._start)])
        near = known[0] + NEAR * self._rng.standard_normal((CANDIDATES, len(space)))
        return np.clip(np.concatenate([known, anywhere, near]), 0, 1)


class _Difference:
    """A Gaussian process with a constant mean that is the average of what was seen, and a Matérn kernel (5/2)."""

    def __init__(self) -> None:
        self._places, self._values = np.empty((0, 0)), np.empty(0)

    def fit(self, places: np.ndarray, values: np.ndarray) -> None:
        self._places, self._values = places, values

    def add(self, place: np.ndarray, value: np.ndarray) -> None:
        self._places = np.concatenate([self._places, place]) if len(self._places) else place
        self._values = np.append(self._values, value)

    def expect(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation at each of (M, D) places."""
        if not len(self._values):
            return np.zeros(len(places)), np.full(len(places), DIFFERENCE)
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern

        # Nothing is fitted to a handful of answers but the mean.
        kernel = ConstantKernel(DIFFERENCE**2, "fixed") * Matern(SCALE, "fixed", nu=2.5)
        process = GaussianProcessRegressor(kernel, alpha=ROUNDING**2, optimizer=None)
        centre = self._values.mean()
        process.fit(self._places, self._values - centre)
        mean, spread = process.predict(places, return_std=True)
        return mean + centre, spread


def _improvement(mean: np.ndarray, spread: np.ndarray, reached: float) -> np.ndarray:
    """Expected improvement of normal variables upon `reached`."""
    from scipy.stats import norm

    z = (mean - reached) / np.maximum(spread, 1e-12)
    return (mean - reached) * norm.cdf(z) + spread * norm.pdf(z)


def _to_unit(space: dict[str, BaseDistribution], settings: dict[str, float]) -> np.ndarray:
    """(D,) in the unit cube."""
    found = []
    for name, kind in space.items():
        low, high, value = (math.log(x) if kind.log else x for x in (kind.low, kind.high, settings[name]))
        found.append((value - low) / (high - low))
    return np.array(found)


def _from_unit(space: dict[str, BaseDistribution], place: np.ndarray) -> dict[str, float]:
    """To four digits, as they are shown and kept."""
    found = {}
    for (name, kind), x in zip(space.items(), place, strict=True):
        low, high = (math.log(v) if kind.log else v for v in (kind.low, kind.high))
        value = low + float(x) * (high - low)
        found[name] = min(max(round(math.exp(value) if kind.log else value, 4), kind.low), kind.high)
    return found
