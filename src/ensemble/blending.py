"""Blends of several models' logits: plain mean, one temperature, fitted weights, or greedy selection.

Members are a list of M logit arrays (N, L), one a model, rows in the training file's order. A blend's logits are
sum_m weight_m * member_m / temperature, with weights that are at least zero and sum to one. The official loss is convex
in the coefficients c_m = weight_m / temperature, so the fit has one optimum. At most M parameters a label group are
fitted: stacking with more is reported not to help. `greedy` finds weights by adding one member at a time (Caruana et
al. 2004, "Ensemble selection from libraries of models"). `greedy_steps` and `leave_one_out` show the gain by each
member for a blend of any method.

A blend is scored on reports that its parameters were not fitted on (`fit_folds`). For the test reports the parameters
are fitted on all out-of-fold rows (`fit_method`).

Rows to fit on may be weighted, and several rows may be noisy copies of one report (`Evidence`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import numpy as np

from src.core.errors import UserError, unknown
from src.data.tasks import LabelGroup, Task
from src.evaluation.metrics import Estimate, official_score, paired_difference

NESTED = ("mean", "temperature", "weights")  # from the simplest to the most flexible
METHODS = (*NESTED, "greedy", "auto")
TEMPERATURE_RANGE = (0.01, 1000.0)  # the optimum is infinite for a useless member, zero for a perfect one
INNER_FOLDS = 5  # folds dealt to rows that have a single fold
GREEDY_ROUNDS = 12  # maximum additions, so that a weight is at least a twelfth
GREEDY_PATIENCE = 3  # additions in a row without a gain; a repeated member may gain nothing and still lead to a gain
GREEDY_NIL = 1e-5  # smallest gain in cross-fitted score that counts
NEWTON_NIL = 1e-6  # tolerance on twice the remaining loss; the result is then exact to about 1e-8
BLOCK_CELLS = 8_192  # cells computed at once: they fit the cache and are too few for BLAS to use threads


@dataclass(frozen=True)
class GroupBlend:
    """Blend of the label columns start <= column < stop."""

    start: int
    stop: int
    weights: tuple[float, ...]
    temperature: float

    @property
    def columns(self) -> slice:
        return slice(self.start, self.stop)

    def apply(self, members: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the blended logits of these columns, float64 (N, stop - start), of members (N, L)."""
        total = sum(
            weight * np.asarray(member[:, self.columns], dtype=np.float64)
            for weight, member in zip(self.weights, members, strict=True)
            if weight
        )
        return total / self.temperature


@dataclass(frozen=True)
class BlendWeights:
    """Fitted blend of all label columns, and its method (the chosen one for `auto`)."""

    method: str
    groups: tuple[GroupBlend, ...]

    def apply(self, members: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the blended logits, float64 (N, L). Raises ValueError for another number or width of members."""
        width = _check_members(members)
        if width != self.groups[-1].stop or len(members) != len(self.groups[0].weights):
            raise ValueError(
                f"fitted on {len(self.groups[0].weights)} members of {self.groups[-1].stop} labels, "
                f"given {len(members)} of {width}"
            )
        blended = np.empty(np.shape(members[0]))
        for group in self.groups:
            blended[:, group.columns] = group.apply(members)
        return blended

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BlendWeights:
        groups = (GroupBlend(**group | {"weights": tuple(group["weights"])}) for group in fields["groups"])
        return cls(fields["method"], tuple(groups))


@dataclass(frozen=True)
class Evidence:
    """Rows to fit and to choose blends on."""

    members: Sequence[np.ndarray]
    """Logits of the M members, (R, L) each."""
    labels: np.ndarray
    """Labels, (R, L)."""
    folds: np.ndarray
    """Fold of each row, (R,); all copies of a report have one fold."""
    weights: np.ndarray
    """Sample weights, (R,)."""
    reports: np.ndarray
    """Number of each row's report, (R,)."""

    @classmethod
    def of(cls, members: Sequence[np.ndarray], labels: np.ndarray, folds: np.ndarray) -> Evidence:
        """Rows of distinct reports with equal weights."""
        return cls(members, labels, folds, np.ones(len(labels)), np.arange(len(labels)))

    def only(self, rows: np.ndarray) -> Evidence:
        """Selects `rows`, an index or a mask."""
        members = [member[rows] for member in self.members]
        return Evidence(members, self.labels[rows], self.folds[rows], self.weights[rows], self.reports[rows])

    def dealt(self) -> Evidence:
        """Deals the reports of a single fold at random into INNER_FOLDS; returns rows of several folds unchanged.

        The new folds are valid since no member was trained on these reports.
        """
        if len(np.unique(self.folds)) > 1:
            return self
        report = np.unique(self.reports, return_inverse=True)[1]
        return replace(self, folds=(np.random.default_rng(0).permutation(report.max() + 1) % INNER_FOLDS)[report])


@dataclass(frozen=True)
class GreedyStep:
    """Addition of a member in a greedy selection."""

    member: int
    """Number of the member chosen on all rows."""
    bag: GroupBlend
    """Blend of all members so far, with the temperature fitted on all rows."""
    score: Estimate
    """Cross-fitted official score: each fold is scored with the blend chosen on the other folds."""
    gain: Estimate | None
    """Difference to the step before, with paired standard error; None at the first step."""
    agree: int
    """Number of folds whose other folds choose the same member at this step."""
    folds: int
    """Number of folds."""


def mean_logits(members: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the plain mean of the members, float64 (N, L)."""
    _check_members(members)
    return sum(np.asarray(member, dtype=np.float64) for member in members) / len(members)


def fit_weights(evidence: Evidence, task: Task, per_group: bool) -> BlendWeights:
    """Fits the weights and the temperature that minimise the official loss on these rows.

    `per_group` fits each label group of the task separately; otherwise all groups share weights and temperature. The
    loss is that of `metrics.official_score` without its clip. Raises ValueError for malformed input and UserError if no
    report counts for a group.
    """
    return BlendWeights("weights", _fit(evidence, task, per_group, equal=False))


def fit_temperature(evidence: Evidence, task: Task, per_group: bool) -> BlendWeights:
    """Fits the temperature of equal weights that minimises the official loss; raises the errors of `fit_weights`."""
    return BlendWeights("temperature", _fit(evidence, task, per_group, equal=True))


def equal_weights(members: Sequence[np.ndarray]) -> BlendWeights:
    """Returns the plain mean as a blend without fitted parameters."""
    return BlendWeights("mean", (GroupBlend(0, _check_members(members), (1 / len(members),) * len(members), 1.0),))


def fit_method(evidence: Evidence, task: Task, method: str, per_group: bool = True) -> BlendWeights:
    """Fits the blend of a method of METHODS on all these rows.

    `auto` goes through NESTED from the simplest method and takes a later method if its cross-fitted score is higher by
    more than a paired standard error; equal weights win ties. `greedy` is no candidate: `weights` covers its blends.
    Rows of a single fold are dealt into INNER_FOLDS. Raises UserError for an unknown method, and the errors of
    `fit_weights`.
    """
    if method not in METHODS:
        raise unknown("blend method", method, METHODS)
    if method == "auto":
        method = _choose(evidence, task, per_group)
    if method == "mean":
        return equal_weights(evidence.members)
    # A dictionary in the function, so that tests can replace the functions.
    fit = {"temperature": fit_temperature, "weights": fit_weights, "greedy": fit_greedy}[method]
    return fit(evidence, task, per_group)


def fit_folds(evidence: Evidence, task: Task, method: str, per_group: bool = True) -> dict[int, BlendWeights]:
    """Fits (and, for `auto`, chooses) a blend for each fold on the other folds only.

    Rows of a negative fold were not predicted and are ignored. Raises ValueError for fewer than two folds, and the
    errors of `fit_method`.
    """
    present = np.unique(evidence.folds[evidence.folds >= 0])
    if len(present) < 2:
        raise ValueError(f"cross-fitting needs at least two folds, not {present.tolist()}")
    others = {int(fold): (evidence.folds >= 0) & (evidence.folds != fold) for fold in present}
    return {fold: fit_method(evidence.only(rows), task, method, per_group) for fold, rows in others.items()}


def apply_folds(blends: dict[int, BlendWeights], members: Sequence[np.ndarray], folds: np.ndarray) -> np.ndarray:
    """Returns the blended logits (N, L) of `members`, each row by the blend of its fold; NaN for other folds."""
    blended = np.full(np.shape(members[0]), np.nan)
    for fold, blend in blends.items():
        rows = folds == fold
        blended[rows] = blend.apply([member[rows] for member in members])
    return blended


def fit_greedy(evidence: Evidence, task: Task, per_group: bool) -> BlendWeights:
    """Returns the blend after the last of `greedy_steps`; a member's weight is its share of the additions.

    On these rows the blend is no worse than the best member with a temperature, since the loss is convex. Arguments and
    errors are those of `fit_weights`.
    """
    parts = [(group,) for group in task.groups] if per_group else [task.groups]
    return BlendWeights("greedy", tuple(greedy_steps(evidence, task, part)[-1].bag for part in parts))


def greedy_steps(evidence: Evidence, task: Task, groups: Sequence[LabelGroup] = ()) -> list[GreedyStep]:
    """Selects members greedily with replacement (Caruana et al. 2004) and returns the steps.

    Each step adds the member with the lowest resulting official loss, at the best temperature. Steps end at the highest
    cross-fitted score, when GREEDY_PATIENCE more additions do not raise it by GREEDY_NIL, or after GREEDY_ROUNDS.
    Only the number of steps is chosen on the rows that score the steps; `fit_folds` cross-fits this choice, too. Rows
    of a single fold are dealt into INNER_FOLDS. `groups` are adjacent label groups that count; default: all groups.
    Raises the errors of `fit_weights`.
    """
    _check_evidence(evidence, task)
    evidence, groups = evidence.dealt(), groups or task.groups
    # A group of weight 0 keeps its columns and does not count in the score.
    scored = replace(task, groups=tuple(g if g in groups else replace(g, weight=0.0) for g in task.groups))
    held_out = [evidence.folds == fold for fold in np.unique(evidence.folds)]
    paths = [_greedy(some, task, groups) for some in (evidence, *(evidence.only(~rows) for rows in held_out))]
    labels, logits, before = evidence.labels, np.zeros(evidence.labels.shape), None
    steps: list[GreedyStep] = []
    best = 0
    for _ in range(GREEDY_ROUNDS):
        (member, bag), *others = map(next, paths)
        for (_, other), rows in zip(others, held_out, strict=True):
            logits[rows, bag.columns] = other.apply([logit[rows] for logit in evidence.members])
        now, weighting = task.decode(logits), (evidence.weights, evidence.reports)
        score = official_score(scored, labels, now, *weighting)
        gain = paired_difference(scored, labels, now, before, *weighting) if steps else None
        steps.append(GreedyStep(member, bag, score, gain, sum(other == member for other, _ in others), len(others)))
        if score.value > steps[best].score.value + GREEDY_NIL:
            best = len(steps) - 1
        elif len(steps) - 1 - best >= GREEDY_PATIENCE:
            break
        before = now
    return steps[: best + 1]


def leave_one_out(evidence: Evidence, task: Task, blends: dict[int, BlendWeights]) -> list[Estimate | None]:
    """Returns the decrease of the official score without each member; `blends` are those of `fit_folds`.

    The other members keep the proportions of their weights; the temperature is fitted anew on the other folds, except
    for `mean`. Refitted weights could recover a part: for `weights` and `greedy` the value is about an upper bound.
    None if the member is the whole blend of a fold.
    """
    _check_evidence(evidence, task)
    members = evidence.members
    without = np.full((len(members), *evidence.labels.shape), np.nan)
    for fold, blend in blends.items():
        rows = evidence.folds == fold
        held_out, others = [member[rows] for member in members], evidence.only(~rows & (evidence.folds >= 0))
        for group in blend.groups:
            fits = blend.method != "mean"
            if fits:
                within = [g for g in task.groups if group.start <= task.columns[g.name].start < group.stop]
                wrong, share = (cells.astype(np.float32) for cells in _cells(others, task, within))
                whole = np.array(group.weights, dtype=np.float32) @ wrong
            for i, weight in enumerate(group.weights):
                if weight > 1 - 1e-9:
                    continue
                rest = tuple(0.0 if j == i else w / (1 - weight) for j, w in enumerate(group.weights))
                temperature = group.temperature
                if fits and weight:
                    mix = 1 / (1 - weight), -weight / (1 - weight)
                    temperature = 1 / _best_scale(share, whole, wrong[i], mix, 1 / temperature)[1]
                without[i, rows, group.columns] = GroupBlend(group.start, group.stop, rest, temperature).apply(held_out)
    full = task.decode(apply_folds(blends, members, evidence.folds))
    weighting = evidence.weights, evidence.reports
    return [
        None
        if np.isnan(logits).any()
        else paired_difference(task, evidence.labels, full, task.decode(logits), *weighting)
        for logits in without
    ]


def contributions(
    evidence: Evidence, task: Task, blends: dict[int, BlendWeights], names: Sequence[str]
) -> dict[str, Any]:
    """Returns the contribution of each member as JSON values: {"greedy": [a step …], "members": {name: …}}.

    A step has the member, the cross-fitted score, the gain over the step before (null at the first) and the number of
    agreeing folds (`greedy_steps`, one blend for all labels). A member has the score of its plain logits and the loss
    of the blend without the member (`leave_one_out`), null if no member is left.
    """
    rows = evidence.labels, evidence.weights, evidence.reports
    alone = [official_score(task, rows[0], task.decode(member), *rows[1:]) for member in evidence.members]
    lost = leave_one_out(evidence, task, blends)
    return {
        "greedy": [
            {
                "member": names[step.member],
                "score": step.score.to_json(),
                "gain": step.gain and step.gain.to_json(),
                "agree": step.agree,
                "folds": step.folds,
            }
            for step in greedy_steps(evidence, task)
        ],
        "members": {
            name: {"score": score.to_json(), "lost_without": loss and loss.to_json()}
            for name, score, loss in zip(names, alone, lost, strict=True)
        },
    }


def diversity(members: Sequence[np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """Returns the correlation of the members' errors as JSON values: {"correlation": M x M, "mean_pairwise": number}.

    An error is a logit minus the member's mean over cells of the same label and truth. Correlations are over all N x L
    cells; null for a constant member and for the mean without pairs.
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
    finite = pairs[np.isfinite(pairs)]
    return {
        "correlation": [[float(value) if np.isfinite(value) else None for value in row] for row in correlation],
        "mean_pairwise": float(finite.mean()) if len(finite) else None,
    }


def _check_members(members: Sequence[np.ndarray]) -> int:
    """Returns the members' width L; raises ValueError unless all members have one (N, L) shape."""
    shapes = {np.shape(member) for member in members}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2:
        raise ValueError(f"expected members of one (N, L) shape, not {[np.shape(member) for member in members]}")
    return shape[1]


def _check_evidence(evidence: Evidence, task: Task) -> None:
    members, labels = evidence.members, evidence.labels
    width = _check_members(members)
    if np.shape(labels) != np.shape(members[0]) or width != task.n_labels:
        raise ValueError(
            f"{task.name} has {task.n_labels} labels; given labels {np.shape(labels)} and members "
            f"{np.shape(members[0])}"
        )
    if not ((labels == 0) | (labels == 1)).all() or not all(np.isfinite(member).all() for member in members):
        raise ValueError("expected labels of 0 or 1 and finite logits: select the rows that were predicted")


def _choose(evidence: Evidence, task: Task, per_group: bool) -> str:
    evidence = evidence.dealt()
    chosen, best = NESTED[0], task.decode(mean_logits(evidence.members))
    for method in NESTED[1:]:
        blends = fit_folds(evidence, task, method, per_group)
        candidate = task.decode(apply_folds(blends, evidence.members, evidence.folds))
        gain = paired_difference(task, evidence.labels, candidate, best, evidence.weights, evidence.reports)
        if gain.value > gain.standard_error:
            chosen, best = method, candidate
    return chosen


def _fit(evidence: Evidence, task: Task, per_group: bool, equal: bool) -> tuple[GroupBlend, ...]:
    """Fits a blend for each label group, or for all groups together, with `equal` or free weights."""
    _check_evidence(evidence, task)
    members = evidence.members
    blends = []
    for groups in [[group] for group in task.groups] if per_group else [task.groups]:
        wrong, share = _cells(evidence, task, groups)
        if equal:
            weights = np.full(len(members), 1 / len(members))
            _, temperature = _minimise(wrong.mean(axis=0, keepdims=True), share)
        else:
            weights, temperature = _minimise(wrong, share)
        columns = [task.columns[group.name] for group in groups]
        blends.append(GroupBlend(columns[0].start, columns[-1].stop, tuple(map(float, weights)), float(temperature)))
    return tuple(blends)


def _cells(evidence: Evidence, task: Task, groups: Sequence[LabelGroup]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates the `_signed_logits` of several groups."""
    return tuple(map(np.hstack, zip(*(_signed_logits(evidence, task, group) for group in groups), strict=True)))


def _signed_logits(evidence: Evidence, task: Task, group: LabelGroup) -> tuple[np.ndarray, np.ndarray]:
    """Returns the counted cells of a group: logits with the sign of wrong (M, cells), and cells' shares of the loss."""
    labels = evidence.labels
    counted, columns = task.counted(group, labels) & (evidence.weights > 0), task.columns[group.name]
    if not counted.any():
        raise UserError(f"{task.name}: none of the {len(labels)} reports to fit a blend on counts for the {group.name}")
    sign = (1.0 - 2.0 * labels[counted, columns]).ravel()
    wrong = np.stack([member[counted, columns].ravel() * sign for member in evidence.members])
    share = np.repeat(evidence.weights[counted] / evidence.weights[counted].sum(), group.size) / group.size
    return wrong, group.weight * group.loss_scale * share


def _minimise(wrong: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns weights (M,) and temperature that minimise the sum of share * log(1 + exp(c @ wrong)), c >= 0.

    The cross-entropy of a cell with logit z is log(1 + exp(-z)) for a positive and log(1 + exp(z)) for a negative.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(c: np.ndarray) -> tuple[float, np.ndarray]:
        z = c @ wrong
        return float(share @ np.logaddexp(0, z)), wrong @ (share * expit(z))

    start, low, high = np.full(len(wrong), 1 / len(wrong)), *TEMPERATURE_RANGE
    solution = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, 1 / low)] * len(wrong),
        options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 1000},
    )
    total = solution.x.sum()
    return (solution.x / total if total > 1 / high else start), min(max(1 / max(total, 1 / high), low), high)


def _greedy(evidence: Evidence, task: Task, groups: Sequence[LabelGroup]) -> Iterator[tuple[int, GroupBlend]]:
    """Yields each added member and the blend after the addition, without end."""
    wrong, share = (
        cells.astype(np.float32) for cells in _cells(evidence, task, groups)
    )  # twice as fast, exact to 1e-7
    columns = [task.columns[group.name] for group in groups]
    counts, mean, scale = np.zeros(len(wrong), dtype=int), np.zeros_like(share), 1.0
    for size in count(1):
        mix = 1 - 1 / size, 1 / size
        candidates = [_best_scale(share, mean, row, mix, scale) for row in wrong]
        chosen = int(np.argmin([loss for loss, _ in candidates]))
        scale = candidates[chosen][1]
        mean = mix[0] * mean + mix[1] * wrong[chosen]
        counts[chosen] += 1
        weights = tuple(map(float, counts / size))
        yield chosen, GroupBlend(columns[0].start, columns[-1].stop, weights, 1 / scale)


def _best_scale(
    share: np.ndarray, left: np.ndarray, right: np.ndarray, mix: tuple[float, float], start: float
) -> tuple[float, float]:
    """Returns the minimum over `scale` of the loss of scale * (mix[0] * left + mix[1] * right), and the scale.

    `share`, `left` and `right` are (cells,). Newton's method; a step outside the bracket of known slopes is replaced by
    a bisection on a log scale.
    """
    low, high = (1 / bound for bound in reversed(TEMPERATURE_RANGE))
    scale = min(max(start, low), high)
    while True:
        loss, slope, curvature = map(float, _curve(share, left, right, mix, scale))
        step = slope / max(curvature, 1e-300)
        low, high = (scale, high) if slope < 0 else (low, scale)
        if low <= scale - step <= high and slope * step < NEWTON_NIL:
            return loss - slope * step / 2, scale - step
        if high / low < 1 + 1e-9:
            return loss, scale
        scale = scale - step if low < scale - step < high else math.sqrt(low * high)


def _curve(
    share: np.ndarray, left: np.ndarray, right: np.ndarray, mix: tuple[float, float], scale: float
) -> np.ndarray:
    """Returns the loss of `_minimise` along a ray and its first and second derivative by the scale: (3,)."""
    total = np.zeros(3)
    for at in range(0, len(share), BLOCK_CELLS):
        block = slice(at, at + BLOCK_CELLS)
        wrong = mix[0] * left[block]
        wrong += mix[1] * right[block]
        truth = np.exp(np.minimum(scale * wrong, 80))  # in float32, 89 overflows
        truth += 1
        np.reciprocal(truth, out=truth)  # the probability of the true label
        pull = share[block] * wrong
        pull *= 1 - truth
        total += -share[block] @ np.log(truth), pull.sum(), (pull * truth) @ wrong
    return total
