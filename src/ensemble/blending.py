"""Several models' logits into one: plain mean, one temperature, or weights, fitted to the official loss or greedy.

Members are a list of M logit arrays (N, L), one a model, rows in the training file's order. A blend's logits are
sum_m weight_m * member_m / temperature, with weights that are at least zero and sum to one. Written with coefficients
c_m = weight_m / temperature the official loss is convex in c, so the fit has one optimum and needs no luck. Few
parameters are fitted (M a label group at most): stacking with more is reported not to help. `greedy` finds weights in
another way, by adding one member at a time (Caruana et al. 2004, "Ensemble selection from libraries of models"); its
steps also show, for a blend of any method, what each member adds (`greedy_steps`, `leave_one_out`).

A blend is judged on reports that its parameters were not fitted on (`fit_folds`). For the test reports they are
fitted on all out-of-fold rows (`fit_method`): more data, and nothing left to judge.

Rows to fit on may be weighted, and several may be noisy copies of one report (`Evidence`).
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

LADDER = ("mean", "temperature", "weights")  # from the simplest to the most flexible
METHODS = (*LADDER, "greedy", "auto")
TEMPERATURE_RANGE = (0.01, 1000.0)  # a hopeless member asks for an infinite temperature, a perfect one for zero
INNER_FOLDS = 5  # dealt to the rows that may be chosen on when they hold one fold only
GREEDY_ROUNDS = 12  # additions at most, so that a weight is a twelfth or more
GREEDY_PATIENCE = 3  # additions in a row without a gain: a member added twice to itself gains nothing, yet may lead on
GREEDY_NIL = 1e-5  # a gain in cross-fitted score below this is nil
NEWTON_NIL = 1e-6  # twice the loss left to gain: what the last step then takes is right to about 1e-8
BLOCK_CELLS = 8_192  # cells worked on at once: they stay in cache, and so few BLAS does not share out among threads


@dataclass(frozen=True)
class GroupBlend:
    """How the label columns start <= column < stop are blended."""

    start: int
    stop: int
    weights: tuple[float, ...]
    temperature: float

    @property
    def columns(self) -> slice:
        return slice(self.start, self.stop)

    def apply(self, members: Sequence[np.ndarray]) -> np.ndarray:
        """Blended logits of these columns, float64 (N, stop - start), of members (N, L)."""
        total = sum(
            weight * np.asarray(member[:, self.columns], dtype=np.float64)
            for weight, member in zip(self.weights, members, strict=True)
            if weight
        )
        return total / self.temperature


@dataclass(frozen=True)
class BlendWeights:
    """A fitted blend: what to do with every run of label columns, and the method (not `auto`) that it came from."""

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

    def dealt(self) -> Evidence:
        """The same, with the reports dealt at random into INNER_FOLDS where all are of one fold.

        That is fair, as every member predicted them without seeing them.
        """
        if len(np.unique(self.folds)) > 1:
            return self
        report = np.unique(self.reports, return_inverse=True)[1]
        return replace(self, folds=(np.random.default_rng(0).permutation(report.max() + 1) % INNER_FOLDS)[report])


@dataclass(frozen=True)
class GreedyStep:
    """One addition of a greedy selection."""

    member: int
    """Number of the member that all rows choose."""
    bag: GroupBlend
    """All members so far, with the temperature that all rows choose."""
    score: Estimate
    """Official score, cross-fitted: the bag that the other folds chose judges each fold."""
    gain: Estimate | None
    """Over the step before, with the standard error of the paired difference; None at the first."""
    agree: int
    """In how many folds the others choose the same member at this step."""
    folds: int


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
    paired standard error, so that equal weights win ties. `greedy` is not on the ladder: its bags are among the
    blends that `weights` fits. Rows of a single fold are dealt into INNER_FOLDS.
    Raises UserError on an unknown method, else as `fit_weights`.
    """
    if method not in METHODS:
        raise unknown("blend method", method, METHODS)
    if method == "auto":
        method = _choose(evidence, task, per_group)
    if method == "mean":
        return equal_weights(evidence.members)
    # Looked up when called, so that a test can watch them.
    fit = {"temperature": fit_temperature, "weights": fit_weights, "greedy": fit_greedy}[method]
    return fit(evidence, task, per_group)


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


def fit_greedy(evidence: Evidence, task: Task, per_group: bool) -> BlendWeights:
    """The bag of members after the last of `greedy_steps`; a member's weight is its share of the bag.

    On these rows it is no worse than the best member alone with a temperature: as the loss is convex, adding that
    member to a bag never brings the loss above its own. Arguments and errors as `fit_weights`.
    """
    parts = [(group,) for group in task.groups] if per_group else [task.groups]
    return BlendWeights("greedy", tuple(greedy_steps(evidence, task, part)[-1].bag for part in parts))


def greedy_steps(evidence: Evidence, task: Task, groups: Sequence[LabelGroup] = ()) -> list[GreedyStep]:
    """Greedy forward selection with replacement (Caruana et al. 2004), step by step.

    Each step adds the member that brings the official loss lowest, at the temperature that is best after it. It ends
    where the cross-fitted score is highest: GREEDY_PATIENCE more additions do not raise it by GREEDY_NIL, or
    GREEDY_ROUNDS are made. The number of steps is the one thing chosen on the very rows that score them; `fit_folds`
    cross-fits that as well. Rows of a single fold are dealt into INNER_FOLDS.
    `groups` of the task, which stand side by side, are the only ones that count; none given: all. Raises as
    `fit_weights`.
    """
    _check_evidence(evidence, task)
    evidence, groups = evidence.dealt(), groups or task.groups
    # A group of weight nought keeps its columns and has no part in the score.
    scored = replace(task, groups=tuple(g if g in groups else replace(g, weight=0.0) for g in task.groups))
    judged = [evidence.folds == fold for fold in np.unique(evidence.folds)]
    paths = [_greedy(some, task, groups) for some in (evidence, *(evidence.only(~rows) for rows in judged))]
    labels, logits, before = evidence.labels, np.zeros(evidence.labels.shape), None
    steps: list[GreedyStep] = []
    best = 0
    for _ in range(GREEDY_ROUNDS):
        (member, bag), *others = map(next, paths)
        for (_, other), rows in zip(others, judged, strict=True):
            logits[rows, bag.columns] = other.apply([one[rows] for one in evidence.members])
        now, weighed = task.decode(logits), (evidence.weights, evidence.reports)
        score = official_score(scored, labels, now, *weighed)
        gain = paired_difference(scored, labels, now, before, *weighed) if steps else None
        steps.append(GreedyStep(member, bag, score, gain, sum(other == member for other, _ in others), len(others)))
        if score.value > steps[best].score.value + GREEDY_NIL:
            best = len(steps) - 1
        elif len(steps) - 1 - best >= GREEDY_PATIENCE:
            break
        before = now
    return steps[: best + 1]


def leave_one_out(evidence: Evidence, task: Task, blends: dict[int, BlendWeights]) -> list[Estimate | None]:
    """By how much the official score is lower without each member; `blends` judges each fold (see `fit_folds`).

    The others keep the proportions of their weights, and the temperature is fitted anew on the other folds (where
    nothing was fitted, with `mean`, it stays one). Fitted weights might make up for some of the loss by other
    proportions: for `weights` and `greedy` this is about the most that can be lost. None where the member is the
    whole blend of a fold.
    """
    _check_evidence(evidence, task)
    members = evidence.members
    without = np.full((len(members), *evidence.labels.shape), np.nan)
    for fold, blend in blends.items():
        rows = evidence.folds == fold
        judged, others = [member[rows] for member in members], evidence.only(~rows & (evidence.folds >= 0))
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
                without[i, rows, group.columns] = GroupBlend(group.start, group.stop, rest, temperature).apply(judged)
    full = task.decode(apply_folds(blends, members, evidence.folds))
    weighed = evidence.weights, evidence.reports
    return [
        None
        if np.isnan(logits).any()
        else paired_difference(task, evidence.labels, full, task.decode(logits), *weighed)
        for logits in without
    ]


def contributions(
    evidence: Evidence, task: Task, blends: dict[int, BlendWeights], names: Sequence[str]
) -> dict[str, Any]:
    """What each of the members called `names` is worth, JSON-able: {"greedy": [a step …], "members": {name: …}}.

    A step has the member, the cross-fitted score, the gain over the step before (null at the first) and the folds that
    agree (`greedy_steps`, one bag for all labels). A member has the score of its logits alone, as they are, and what
    the blend loses without it (`leave_one_out`), null where nothing is left.
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


def _check_evidence(evidence: Evidence, task: Task) -> None:
    members, labels = evidence.members, evidence.labels
    width = _check_members(members)
    if np.shape(labels) != np.shape(members[0]) or width != task.n_labels:
        raise ValueError(
            f"{task.name} has {task.n_labels} labels; given labels {np.shape(labels)} and members "
            f"{np.shape(members[0])}"
        )
    if not ((labels == 0) | (labels == 1)).all() or not all(np.isfinite(member).all() for member in members):
        raise ValueError("want labels of 0 or 1 and finite logits: rows that were not predicted cannot be fitted on")


def _choose(evidence: Evidence, task: Task, per_group: bool) -> str:
    evidence = evidence.dealt()
    chosen, best = LADDER[0], task.decode(mean_logits(evidence.members))
    for method in LADDER[1:]:
        blends = fit_folds(evidence, task, method, per_group)
        candidate = task.decode(apply_folds(blends, evidence.members, evidence.folds))
        gain = paired_difference(task, evidence.labels, candidate, best, evidence.weights, evidence.reports)
        if gain.value > gain.standard_error:
            chosen, best = method, candidate
    return chosen


def _fit(evidence: Evidence, task: Task, per_group: bool, equal: bool) -> tuple[GroupBlend, ...]:
    """The best blend of each label group, or of all together: `equal` weights or free ones."""
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
    """`_wrongness` of several groups side by side."""
    return tuple(map(np.hstack, zip(*(_wrongness(evidence, task, group) for group in groups), strict=True)))


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


def _greedy(evidence: Evidence, task: Task, groups: Sequence[LabelGroup]) -> Iterator[tuple[int, GroupBlend]]:
    """The member that is added next and the bag after it, over and over."""
    wrong, share = (cells.astype(np.float32) for cells in _cells(evidence, task, groups))  # twice as fast, good to 1e-7
    columns = [task.columns[group.name] for group in groups]
    counts, mean, scale = np.zeros(len(wrong), dtype=int), np.zeros_like(share), 1.0
    for size in count(1):
        mix = 1 - 1 / size, 1 / size
        found = [_best_scale(share, mean, row, mix, scale) for row in wrong]
        chosen = int(np.argmin([loss for loss, _ in found]))
        scale = found[chosen][1]
        mean = mix[0] * mean + mix[1] * wrong[chosen]
        counts[chosen] += 1
        weights = tuple(map(float, counts / size))
        yield chosen, GroupBlend(columns[0].start, columns[-1].stop, weights, 1 / scale)


def _best_scale(
    share: np.ndarray, left: np.ndarray, right: np.ndarray, mix: tuple[float, float], start: float
) -> tuple[float, float]:
    """The smallest loss of scale * (mix[0] * left + mix[1] * right), three (cells,) arrays, and that scale.

    Newton's method; a step that leaves the bracket of slopes seen so far halves it (on a log scale) instead.
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
    """Loss of `_minimise` along a ray, with its first and second derivative by the scale: (3,)."""
    total = np.zeros(3)
    for at in range(0, len(share), BLOCK_CELLS):
        block = slice(at, at + BLOCK_CELLS)
        wrong = mix[0] * left[block]
        wrong += mix[1] * right[block]
        truth = np.exp(np.minimum(scale * wrong, 80))  # in float32, 89 overflows
        truth += 1
        np.reciprocal(truth, out=truth)  # the probability given to the truth
        pull = share[block] * wrong
        pull *= 1 - truth
        total += -share[block] @ np.log(truth), pull.sum(), (pull * truth) @ wrong
    return total
