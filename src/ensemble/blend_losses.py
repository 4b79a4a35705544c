"""Loss of a blend as a function of its coefficients, for each kind of task.

A loss is made of the members' outputs on rows to fit on. Its `terms` (M, …) are the members' parts of it: the loss of a
blend is a function of the blended terms, sum_m c_m * terms_m with c_m = weight_m / temperature. The losses of logits
are convex in c, and any c of at least zero is a blend; a regression's weights sum to one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

TEMPERATURE_RANGE = (0.1, 1000.0)  # the optimum is infinite for a useless member, zero where no row is on a wrong side
NEWTON_NIL = 1e-6  # tolerance on twice the remaining loss; the result is then exact to about 1e-8
BLOCK_CELLS = 8_192  # cells computed at once: they fit the cache and are too few for BLAS to use threads
SMOOTHING = 0.01
"""Error below which the absolute error is rounded off while weights are fitted, in the unit of the labels."""


@dataclass(frozen=True)
class BlendLoss:
    """Mean loss of the rows that count."""

    terms: np.ndarray
    """Part of each member, (M, …)."""
    share: np.ndarray
    """Share of each cell, or row, in the loss."""

    def coarse(self) -> BlendLoss:
        """Returns the loss in float32: twice as fast, exact to 1e-7."""
        return replace(self, terms=self.terms.astype(np.float32), share=self.share.astype(np.float32))

    def minimise(self, equal: bool) -> tuple[np.ndarray, float]:
        """Returns the weights (M,) and the temperature of the lowest loss; `equal` keeps the weights equal."""
        n_members = len(self.terms)
        if equal:
            one = replace(self, terms=self.terms.mean(axis=0, keepdims=True))
            return np.full(n_members, 1 / n_members), one.minimise(equal=False)[1]
        from scipy.optimize import minimize

        start, low, high = np.full(n_members, 1 / n_members), *TEMPERATURE_RANGE
        solution = minimize(
            self.slopes,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, 1 / low)] * n_members,
            options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 1000},
        )
        total = solution.x.sum()
        return (solution.x / total if total > 1 / high else start), min(max(1 / max(total, 1 / high), low), high)

    def slopes(self, coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns the loss at coefficients (M,) and its derivative by each."""
        raise NotImplementedError

    def best_scale(
        self, left: np.ndarray, right: np.ndarray, mix: tuple[float, float], start: float
    ) -> tuple[float, float]:
        """Returns the minimum over `scale` of the loss of scale * (mix[0] * left + mix[1] * right), and the scale.

        `left` and `right` are blended terms. Newton's method; a step outside the bracket of known slopes is replaced by
        a bisection on a log scale.
        """
        low, high = (1 / bound for bound in reversed(TEMPERATURE_RANGE))
        scale = min(max(start, low), high)
        while True:
            loss, slope, curvature = map(float, self.curve(left, right, mix, scale))
            step = slope / max(curvature, 1e-300)
            low, high = (scale, high) if slope < 0 else (low, scale)
            if low <= scale - step <= high and slope * step < NEWTON_NIL:
                return loss - slope * step / 2, scale - step
            if high / low < 1 + 1e-9:
                return loss, scale
            scale = scale - step if low < scale - step < high else math.sqrt(low * high)

    def curve(self, left: np.ndarray, right: np.ndarray, mix: tuple[float, float], scale: float) -> np.ndarray:
        """Returns the loss along a ray and its first and second derivative by the scale: (3,)."""
        raise NotImplementedError


class LogisticLoss(BlendLoss):
    """Cross-entropy of cells: share * log(1 + exp(z)), where z is the logit with the sign of wrong.

    That is log(1 + exp(-logit)) for a positive and log(1 + exp(logit)) for a negative. `terms` are (M, cells).
    """

    def slopes(self, coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        from scipy.special import expit

        z = coefficients @ self.terms
        return float(self.share @ np.logaddexp(0, z)), self.terms @ (self.share * expit(z))

    def curve(self, left: np.ndarray, right: np.ndarray, mix: tuple[float, float], scale: float) -> np.ndarray:
        total = np.zeros(3)
        for at in range(0, len(self.share), BLOCK_CELLS):
            block = slice(at, at + BLOCK_CELLS)
            wrong = mix[0] * left[block]
            wrong += mix[1] * right[block]
            truth = np.exp(np.minimum(scale * wrong, 80))  # in float32, 89 overflows
            truth += 1
            np.reciprocal(truth, out=truth)  # the probability of the true label
            pull = self.share[block] * wrong
            pull *= 1 - truth
            total += -self.share[block] @ np.log(truth), pull.sum(), (pull * truth) @ wrong
        return total


class SoftmaxLoss(BlendLoss):
    """Cross-entropy of classes: share * log(sum_k exp(z_k)), where z_k is the logit of class k minus that of the true
    class. `terms` are (M, rows, C)."""

    def slopes(self, coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        z = np.tensordot(coefficients, self.terms, axes=1)
        losses, chances = _softmax(z)
        pull = self.share[:, None] * chances
        return float(self.share @ losses), np.array([(pull * one).sum() for one in self.terms])

    def curve(self, left: np.ndarray, right: np.ndarray, mix: tuple[float, float], scale: float) -> np.ndarray:
        ray = mix[0] * left + mix[1] * right
        losses, chances = _softmax(scale * ray)
        mean = (chances * ray).sum(axis=1)
        spread = (chances * ray**2).sum(axis=1) - mean**2
        return np.array([self.share @ losses, self.share @ mean, self.share @ spread], dtype=np.float64)


@dataclass(frozen=True)
class AbsoluteLoss(BlendLoss):
    """Absolute error of the decoded output: share * |expm1(z) - label|. `terms` are (M, rows). Weights sum to one."""

    labels: np.ndarray
    """Labels in their unit, (rows,)."""

    def coarse(self) -> AbsoluteLoss:
        return self

    def minimise(self, equal: bool) -> tuple[np.ndarray, float]:
        from scipy.optimize import minimize

        start = np.full(len(self.terms), 1 / len(self.terms))
        if equal or len(start) == 1:
            return start, 1.0
        one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
        solution = minimize(
            self.slopes, start, jac=True, method="SLSQP", bounds=[(0, 1)] * len(start), constraints=one,
            options={"ftol": 1e-10, "maxiter": 1000},
        )  # fmt: skip
        weights = np.clip(solution.x, 0, None) / np.clip(solution.x, 0, None).sum()
        candidates = [start, weights]  # the blended error is not convex: never worse than equal weights
        return min(candidates, key=lambda w: self._error(w @ self.terms)), 1.0

    def slopes(self, coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        z = coefficients @ self.terms
        error = np.maximum(np.expm1(z), 0) - self.labels
        smooth = np.sqrt(error**2 + SMOOTHING**2)
        return float(self.share @ smooth), self.terms @ (self.share * error / smooth * np.exp(z) * (z > 0))

    def best_scale(
        self, left: np.ndarray, right: np.ndarray, mix: tuple[float, float], start: float
    ) -> tuple[float, float]:
        """Returns the loss of mix[0] * left + mix[1] * right, and 1: there is no scale to choose."""
        return self._error(mix[0] * left + mix[1] * right), 1.0

    def _error(self, outputs: np.ndarray) -> float:
        return float(self.share @ np.abs(np.maximum(np.expm1(outputs), 0) - self.labels))


def _softmax(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log of the sum of exp, (rows,), and the shares in the sum, (rows, C), of z (rows, C)."""
    top = z.max(axis=1, keepdims=True)
    powers = np.exp(z - top)
    total = powers.sum(axis=1, keepdims=True)
    return (np.log(total) + top)[:, 0], powers / total


def logistic_loss(members: Sequence[np.ndarray], labels: np.ndarray, share: np.ndarray) -> LogisticLoss:
    """Loss of logits (n, L) of members against labels (n, L) of 0 and 1; `share` is of rows, (n,)."""
    sign = (1.0 - 2.0 * labels).ravel()
    wrong = np.stack([member.ravel() * sign for member in members])
    return LogisticLoss(wrong, np.repeat(share, labels.shape[1]) / labels.shape[1])


def softmax_loss(members: Sequence[np.ndarray], labels: np.ndarray, share: np.ndarray) -> SoftmaxLoss:
    """Loss of logits (n, C) of members against one-hot labels (n, C); `share` is of rows, (n,)."""
    true = labels.argmax(axis=1)[:, None]
    logits = (np.asarray(member, dtype=np.float64) for member in members)
    return SoftmaxLoss(np.stack([member - np.take_along_axis(member, true, axis=1) for member in logits]), share)


def absolute_loss(members: Sequence[np.ndarray], labels: np.ndarray, share: np.ndarray) -> AbsoluteLoss:
    """Loss of outputs (n, 1) of members against labels (n, 1) in their unit; `share` is of rows, (n,)."""
    terms = np.stack([np.asarray(member, dtype=np.float64)[:, 0] for member in members])
    return AbsoluteLoss(terms, share, labels[:, 0].astype(np.float64))


def joined(losses: Sequence[BlendLoss]) -> BlendLoss:
    """Sum of the losses of several label groups."""
    first, *others = losses
    if not others:
        return first
    terms = np.hstack([loss.terms for loss in losses])
    return replace(first, terms=terms, share=np.hstack([loss.share for loss in losses]))


LOSSES = {
    "multilabel": logistic_loss,
    "binary": logistic_loss,
    "multiclass": softmax_loss,
    "regression": absolute_loss,
}
