"""Several models' logits into one: plain mean, one temperature, or non-negative weights, fitted to the official loss.

Members are a list of M logit arrays (N, L), one a model, rows in the training file's order. A blend's logits are
sum_m weight_m * member_m / temperature, with weights that are at least zero and sum to one. Written with coefficients
c_m = weight_m / temperature the official loss is convex in c, so the fit has one optimum and needs no luck. Few
parameters are fitted (M a label group at most): stacking with more is reported not to help.

A blend is judged on reports that its parameters were not fitted on (`fit_folds`). For the test reports they are
fitted on all out-of-fold rows (`fit_method`): more data, and nothing left to judge.

Rows to fit on may be weighted, and several may be noisy copies of one report (`Evidence`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from src.errors import UserError, unknown
from src.metrics import paired_difference, sigmoid
from src.task import LabelGroup, Task

LADDER = ("mean", "temperature", "weights")  # from the simplest to the most flexible
METHODS = (*LADDER, "auto")
TEMPERATURE_RANGE = (0.01, 1000.0)  # a hopeless member asks for an infinite temperature, a perfect one for zero
INNER_FOLDS = 5  # dealt to the rows that `auto` may choose on when they hold one fold only


@dataclass(frozen=True)
class GroupBlend:
    """How the label columns start <= column < stop are blended."""

    start: int
    stop: int
    weights: tuple[float, ...]
    temperature: float


@dataclass(frozen=True)
class BlendWeights:
    """A fitted blend: what to do with every run of label columns, and the method of LADDER that it came from."""

    method: str
    groups: tuple[GroupBlend, ...]

    def apply(self, members: Sequence[np.ndarray]) -> np.ndarray:
        """Blended logits, float64 (N, L). Raises ValueError if the members are not those fitted in number or width."""
        width = _check_members(members)
        if width != self.groups[-1].stop or len(members) != len(self.groups[0].weights):
            raise ValueError(
                f"fitted on {len(self.groups[0].weights)} members of {self.groups[-1].stop} labels, "
                f"given {len(members)} of {width}"
            )
        blended = np.empty(np.shape(members[0]))
        for group in self.groups:
            columns = slice(group.start, group.stop)
            total = sum(
                weight * np.asarray(member[:, columns], dtype=np.float64)
                for weight, member in zip(group.weights, members, strict=True)
            )
            blended[:, columns] = total / group.temperature
        return blended

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BlendWeights:
        groups = (GroupBlend(**group | {"weights": tuple(group["weights"])}) for group in fields["groups"])
        return cls(fields["method"], tuple(groups))


@dataclass(frozen=True)
class Evidence:
    """Rows to fit on and to choose by."""

    members: Sequence[np.ndarray]
    """M of (R, L): logits of each member."""
    labels: np.ndarray
    """(R, L)"""
    folds: np.ndarray
    """(R,): rows of one fold are judged by what was fitted on the others. All copies of a report are in its fold."""
    weights: np.ndarray
    """(R,): how much a row counts."""
    reports: np.ndarray
    """(R,): number of the report that a row is, or is a copy of."""

    @classmethod
    def of(cls, members: Sequence[np.ndarray], labels: np.ndarray, folds: np.ndarray) -> Evidence:
        """Rows that count alike and are a report each."""
        return cls(members, labels, folds, np.ones(len(labels)), np.arange(len(labels)))

    def only(self, rows: np.ndarray) -> Evidence:
        """Those rows alone: index or bool."""
        members = [member[rows] for member in self.members]
        return Evidence(members, self.labels[rows], self.folds[rows], self.weights[rows], self.reports[rows])


def mean_logits(members: Sequence[np.ndarray]) -> np.ndarray:
    """Plain mean of the members, float64 (N, L)."""
    _check_members(members)
    return sum(np.asarray(member, dtype=np.float64) for member in members) / len(members)


def fit_weights(evidence: Evidence, task: Task, per_group: bool) -> BlendWeights:
    """The weights and the temperature that minimise the official loss on these rows.

    `per_group` fits each label group of the task by itself, otherwise all share one set. The loss is that of
    `metrics.official_score` without its clip. Raises ValueError on malformed input, UserError when no report counts
    for a group.
    """
    return BlendWeights("weights", _fit(evidence, task, per_group, equal=False))


def fit_temperature(evidence: Evidence, task: Task, per_group: bool) -> BlendWeights:
    """Equal weights and the temperature that minimises the official loss on these rows; raises as `fit_weights`."""
    return BlendWeights("temperature", _fit(evidence, task, per_group, equal=True))


def equal_weights(members: Sequence[np.ndarray]) -> BlendWeights:
    """The plain mean, as a blend: nothing is fitted."""
    return BlendWeights("mean", (GroupBlend(0, _check_members(members), (1 / len(members),) * len(members), 1.0),))


def fit_method(evidence: Evidence, task: Task, method: str, per_group: bool = True) -> BlendWeights:
    """The blend of a method of METHODS, fitted on all these rows: for the test reports, every out-of-fold row.

    `auto` is the simplest method of the ladder that no later one beats, cross-fitted over the folds, by more than one
    paired standard error, so that equal weights win ties. Rows of a single fold are dealt into INNER_FOLDS; that is
    fair, as every member predicted them without seeing them.
    Raises UserError on an unknown method, else as `fit_weights`.
    """
    if method not in METHODS:
        raise unknown("blend method", method, METHODS)
    if method == "auto":
        method = _choose(evidence, task, per_group)
    if method == "mean":
        return equal_weights(evidence.members)
    return (fit_temperature if method == "temperature" else fit_weights)(evidence, task, per_group)


def fit_folds(evidence: Evidence, task: Task, method: str, per_group: bool = True) -> dict[int, BlendWeights]:
    """For each fold the blend that was fitted, and with `auto` chosen, on the other folds only.

    Rows of a negative fold were not predicted and are not fitted on. Raises ValueError when there are fewer than two
    folds, else as `fit_method`.
    """
    present = np.unique(evidence.folds[evidence.folds >= 0])
    if len(present) < 2:
        raise ValueError(f"cross-fitting needs two folds or more, given {present.tolist()}")
    others = {int(fold): (evidence.folds >= 0) & (evidence.folds != fold) for fold in present}
    return {fold: fit_method(evidence.only(rows), task, method, per_group) for fold, rows in others.items()}


def apply_folds(blends: dict[int, BlendWeights], members: Sequence[np.ndarray], folds: np.ndarray) -> np.ndarray:
    """Blended logits (N, L) of `members`, each row by the blend of its fold; NaN where there is none."""
    blended = np.full(np.shape(members[0]), np.nan)
    for fold, blend in blends.items():
        rows = folds == fold
        blended[rows] = blend.apply([member[rows] for member in members])
    return blended


def diversity(members: Sequence[np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """How alike the members' mistakes are: JSON-able {"correlation": M x M, "mean_pairwise": number}.

    A mistake is a logit's distance from the member's mean over the cells of the same label and the same truth; what is
    left after that is not explained by the answer. Correlated over all N x L cells; null where a member is constant
    or, for the mean, where there is no pair.
    """
    _check_members(members)
    errors = []
    for member in members:
        error = np.array(member, dtype=np.float64)
        for truth in (0, 1):
            cells = labels == truth
            error -= cells * ((error * cells).sum(axis=0) / np.maximum(cells.sum(axis=0), 1))
        errors.append(error.ravel() / (np.linalg.norm(error) or np.nan))
    correlation = np.array([[left @ right for right in errors] for left in errors])
    pairs = correlation[np.triu_indices(len(members), k=1)]
    known = pairs[np.isfinite(pairs)]
    return {
        "correlation": [[float(value) if np.isfinite(value) else None for value in row] for row in correlation],
        "mean_pairwise": float(known.mean()) if len(known) else None,
    }


def _check_members(members: Sequence[np.ndarray]) -> int:
    """Their common width L; ValueError unless they are one or more arrays of one (N, L) shape."""
    shapes = {np.shape(member) for member in members}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2:
        raise ValueError(f"want members of one (N, L) shape, given {[np.shape(member) for member in members]}")
    return shape[1]


def _choose(evidence: Evidence, task: Task, per_group: bool) -> str:
    if len(np.unique(evidence.folds)) < 2:
        dealt = np.random.default_rng(0).permutation(evidence.reports.max() + 1) % INNER_FOLDS
        evidence = replace(evidence, folds=dealt[evidence.reports])
    chosen, best = LADDER[0], sigmoid(mean_logits(evidence.members))
    for method in LADDER[1:]:
        blends = fit_folds(evidence, task, method, per_group)
        candidate = sigmoid(apply_folds(blends, evidence.members, evidence.folds))
        gain = paired_difference(task, evidence.labels, candidate, best, evidence.weights, evidence.reports)
        if gain.value > gain.standard_error:
            chosen, best = method, candidate
    return chosen


def _fit(evidence: Evidence, task: Task, per_group: bool, equal: bool) -> tuple[GroupBlend, ...]:
    """The best blend of each label group, or of all together: `equal` weights or free ones."""
    members, labels = evidence.members, evidence.labels
    width = _check_members(members)
    if np.shape(labels) != np.shape(members[0]) or width != task.n_labels:
        raise ValueError(
            f"{task.name} has {task.n_labels} labels; given labels {np.shape(labels)} and members "
            f"{np.shape(members[0])}"
        )
    if not ((labels == 0) | (labels == 1)).all() or not all(np.isfinite(member).all() for member in members):
        raise ValueError("want labels of 0 or 1 and finite logits: rows that were not predicted cannot be fitted on")
    blends = []
    for groups in [[group] for group in task.groups] if per_group else [task.groups]:
        wrong, share = map(np.hstack, zip(*(_wrongness(evidence, task, group) for group in groups), strict=True))
        if equal:
            weights = np.full(len(members), 1 / len(members))
            _, temperature = _minimise(wrong.mean(axis=0, keepdims=True), share)
        else:
            weights, temperature = _minimise(wrong, share)
        columns = [task.columns[group.name] for group in groups]
        blends.append(GroupBlend(columns[0].start, columns[-1].stop, tuple(map(float, weights)), float(temperature)))
    return tuple(blends)


def _wrongness(evidence: Evidence, task: Task, group: LabelGroup) -> tuple[np.ndarray, np.ndarray]:
    """Counted cells of a group: logits signed so that more is worse (M, cells), and each cell's share in the loss."""
    labels = evidence.labels
    counted, columns = task.counted(group, labels) & (evidence.weights > 0), task.columns[group.name]
    if not counted.any():
        raise UserError(f"{task.name}: none of {len(labels)} reports to fit a blend on counts for the {group.name}")
    sign = (1.0 - 2.0 * labels[counted, columns]).ravel()
    wrong = np.stack([member[counted, columns].ravel() * sign for member in evidence.members])
    share = np.repeat(evidence.weights[counted] / evidence.weights[counted].sum(), group.size) / group.size
    return wrong, group.weight * group.loss_scale * share


def _minimise(wrong: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (M,) and temperature of the smallest sum over cells of share * log(1 + exp(c @ wrong)), c >= 0.

    A cell's cross-entropy is log(1 + exp(-z)) of a positive's logit z and log(1 + exp(z)) of a negative's.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(c: np.ndarray) -> tuple[float, np.ndarray]:
        z = c @ wrong
        return float(share @ np.logaddexp(0, z)), wrong @ (share * expit(z))

    start, low, high = np.full(len(wrong), 1 / len(wrong)), *TEMPERATURE_RANGE
    found = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, 1 / low)] * len(wrong),
        options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 1000},
    )
    total = found.x.sum()
    return (found.x / total if total > 1 / high else start), min(max(1 / max(total, 1 / high), low), high)
