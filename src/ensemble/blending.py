"""Blends of several models' outputs: plain mean, one temperature, fitted weights, or greedy selection.

Members are a list of M arrays (N, L) of logits, or of a regression's outputs, one a model, rows in the training file's
order. A blend's logits are sum_m weight_m * member_m / temperature, with weights that are at least zero and sum to one;
a regression's blend has no temperature. The loss of logits is convex in the coefficients c_m = weight_m / temperature,
so the fit has one optimum (blend_losses.py). Weights minimise the task's own loss; methods, and steps of the greedy
selection, are compared by the figure that Task.metric names. At most M parameters a label group are
fitted: stacking with more is reported not to help. `greedy` finds weights by adding one member at a time (Caruana et
al. 2004, "Ensemble selection from libraries of models"). `greedy_steps` and `leave_one_out` show the gain by each
member for a blend of any method.

A blend is scored on reports that its parameters were not fitted on (`fit_folds`). For the test reports the parameters
are fitted on all out-of-fold rows (`fit_method`).

Runs may be stacked on a blend of any method (`stacked`): for each label a logistic regression of the blend's log-odds
and theirs (Wolpert 1992, "Stacked generalization").

Rows to fit on may be weighted, and several rows may be noisy copies of one report (`Evidence`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import numpy as np

from src.core.errors import UserError, unknown
from src.core.language import _, word
from src.data.tasks import LOGITS, Average, LabelGroup, Task
from src.ensemble.blend_losses import LOSSES, BlendLoss, joined
from src.evaluation.metrics import Estimate, official_score, paired_difference

NESTED = ("mean", "temperature", "weights")  # from the simplest to the most flexible
METHODS = (*NESTED, "greedy", "auto")
UNFITTED = ("mean", "fixed")  # methods that fit nothing: their blends may be of probabilities
INNER_FOLDS = 5  # folds dealt to rows that have a single fold
GREEDY_ROUNDS = 12  # maximum additions, so that a weight is at least a twelfth
GREEDY_PATIENCE = 3  # additions in a row without a gain; a repeated member may gain nothing and still lead to a gain
STACKABLE = ("multilabel", "binary")  # kinds of tasks whose labels have log-odds of their own
STACK_PENALTY = 1e-4  # weight of the squared distance of a stack's coefficients from the blend as it is
GREEDY_NIL = 1e-5  # smallest gain in cross-fitted score that counts


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

    def apply(self, members: Sequence[np.ndarray], average: Average = LOGITS) -> np.ndarray:
        """Returns the blended logits of these columns, float64 (N, stop - start), of members (N, L)."""
        total = sum(
            weight * average.terms(np.asarray(member[:, self.columns], dtype=np.float64))
            for weight, member in zip(self.weights, members, strict=True)
            if weight
        )
        return average.outputs(total) / self.temperature


@dataclass(frozen=True)
class LabelStack:
    """Logistic regression of one label."""

    slopes: tuple[float, ...]
    """Slope of the blend's logit, then of each stacked run's."""
    bias: float


@dataclass(frozen=True)
class BlendWeights:
    """Fitted blend of all label columns, and its method (the chosen one for `auto`)."""

    method: str
    groups: tuple[GroupBlend, ...]
    kind: str = ""
    """Kind of the task whose probabilities are averaged; empty: logits are."""
    stack: tuple[LabelStack, ...] = ()
    """Regression of each label, where runs are stacked on the blend: the last members, whose weights are 0."""

    @property
    def n_stacked(self) -> int:
        return len(self.stack[0].slopes) - 1 if self.stack else 0

    @property
    def average(self) -> Average:
        return Average(self.kind)

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
            blended[:, group.columns] = group.apply(members, self.average)
        if not self.stack:
            return blended
        terms = [blended, *members[len(members) - self.n_stacked :]]
        slopes = np.array([label.slopes for label in self.stack]).T  # (1 + S, L)
        return sum(slope * term for slope, term in zip(slopes, terms, strict=True)) + [one.bias for one in self.stack]

    def unstacked(self) -> BlendWeights:
        """Returns the blend of the averaged members alone."""
        n = len(self.groups[0].weights) - self.n_stacked
        return replace(self, groups=tuple(replace(one, weights=one.weights[:n]) for one in self.groups), stack=())

    def of_probabilities(self, task: Task) -> BlendWeights:
        """Returns the blend of the members' probabilities by the same weights, which nothing was fitted for."""
        return replace(self, kind=task.kind)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ("kind", "stack") or value}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BlendWeights:
        groups = (GroupBlend(**group | {"weights": tuple(group["weights"])}) for group in fields["groups"])
        stack = (LabelStack(tuple(label["slopes"]), label["bias"]) for label in fields.get("stack", ()))
        return cls(fields["method"], tuple(groups), fields.get("kind", ""), tuple(stack))


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

    @property
    def judging(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights, reports and folds, as metrics.official_score takes them."""
        return self.weights, self.reports, self.folds

    @property
    def has_one_fold(self) -> bool:
        return len(np.unique(self.folds)) < 2

    def only(self, rows: np.ndarray) -> Evidence:
        """Selects `rows`, an index or a mask."""
        members = [member[rows] for member in self.members]
        return Evidence(members, self.labels[rows], self.folds[rows], self.weights[rows], self.reports[rows])

    def first(self, n: int) -> Evidence:
        """Selects the first `n` members."""
        return replace(self, members=self.members[:n])

    def dealt(self) -> Evidence:
        """Deals the reports of a single fold at random into INNER_FOLDS; returns rows of several folds unchanged.

        The new folds are valid since no member was trained on these reports.
        """
        if not self.has_one_fold:
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
    """Fits the weights and the temperature that minimise the task's own loss on these rows.

    `per_group` fits each label group of the task separately; otherwise all groups share weights and temperature. The
    loss is that of `metrics.official_score` without its clip. Raises ValueError for malformed input and UserError if no
    report counts for a group.
    """
    return BlendWeights("weights", _fit(evidence, task, per_group, equal=False))


def fit_temperature(evidence: Evidence, task: Task, per_group: bool) -> BlendWeights:
    """Fits the temperature of equal weights that minimises the official loss; raises the errors of `fit_weights`, and
    a UserError for a regression."""
    if not task.has_classes:
        raise UserError(
            _(
                "a temperature has no meaning for the task {name}: it sharpens probabilities, and "
                "this task predicts {unit}. Set blend.method to mean, weights or greedy."
            ).format(name=task.name, unit=task.unit)
        )
    return BlendWeights("temperature", _fit(evidence, task, per_group, equal=True))


def equal_weights(members: Sequence[np.ndarray]) -> BlendWeights:
    """Returns the plain mean as a blend without fitted parameters."""
    return BlendWeights("mean", (GroupBlend(0, _check_members(members), (1 / len(members),) * len(members), 1.0),))


def fixed_weights(weights: Sequence[float], width: int) -> BlendWeights:
    """Blend of `width` labels by given weights, one a member, which are divided by their sum. Raises ValueError where
    that is 0."""
    total = sum(weights)
    if not total > 0:
        raise ValueError("weights of a blend sum to 0")
    return BlendWeights("fixed", (GroupBlend(0, width, tuple(weight / total for weight in weights), 1.0),))


def fit_method(evidence: Evidence, task: Task, method: str, per_group: bool = True) -> BlendWeights:
    """Fits the blend of a method of METHODS on all these rows.

    `auto` goes through NESTED from the simplest method and takes a later method if its cross-fitted score is higher by
    more than a paired standard error; equal weights win ties. A regression has no temperature to choose. `greedy` is no
    candidate: `weights` covers its blends. Rows of a single fold are dealt into INNER_FOLDS; of a single report nothing
    can be cross-fitted, and equal weights are taken. Raises UserError for an unknown method, and the errors of
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


def stacked(blend: BlendWeights, evidence: Evidence, task: Task) -> BlendWeights:
    """Stacks the members of `evidence` that stand behind those of `blend` on it, fitted on these rows.

    For each label the log loss of the rows that count for it, plus STACK_PENALTY times the squared distance of slopes
    and bias from those of the blend as it is, is minimised. Raises UserError for tasks without labels of their own.
    """
    if task.kind not in STACKABLE:
        raise UserError(
            _(
                "blend.stack is a logistic regression of each label, and the task {name} has none of its own: set "
                "blend.stack=[]"
            ).format(name=task.name)
        )
    _check_evidence(evidence, task)
    n_members = len(blend.groups[0].weights)
    blended = blend.apply(evidence.members[:n_members])
    terms = np.stack([blended, *evidence.members[n_members:], np.ones_like(blended)]).astype(np.float64)
    labels: list[LabelStack] = []
    for _group, columns, counted in task.parts(evidence.labels):
        rows = counted & (evidence.weights > 0)
        share = evidence.weights[rows] / (evidence.weights[rows].sum() or 1)
        for column in range(*columns.indices(task.n_labels)):
            fitted = _logistic(terms[:, rows, column], evidence.labels[rows, column], share)
            labels.append(LabelStack(tuple(map(float, fitted[:-1])), float(fitted[-1])))
    unused = (0.0,) * (len(evidence.members) - n_members)
    groups = tuple(replace(group, weights=(*group.weights, *unused)) for group in blend.groups)
    return replace(blend, groups=groups, stack=tuple(labels))


def stacked_folds(blends: dict[int, BlendWeights], evidence: Evidence, task: Task) -> dict[int, BlendWeights]:
    """Stacks on the blend of each fold what was fitted on the other folds only, as `fit_folds` and `stacked`."""
    return {
        fold: stacked(one, evidence.only((evidence.folds >= 0) & (evidence.folds != fold)), task)
        for fold, one in blends.items()
    }


def _logistic(terms: np.ndarray, labels: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns the coefficients (K,) of terms (K, R) for labels (R,) of 0 and 1, whose rows have these shares of the
    loss. The first term is the blend, at which the penalty is 0."""
    from scipy.optimize import minimize
    from scipy.special import expit

    start = np.eye(1, len(terms))[0]

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        z, away = coefficients @ terms, coefficients - start
        value = share @ (np.logaddexp(0, z) - labels * z) + STACK_PENALTY * away @ away
        return float(value), terms @ (share * (expit(z) - labels)) + 2 * STACK_PENALTY * away

    def curvature(coefficients: np.ndarray) -> np.ndarray:
        chance = expit(coefficients @ terms)
        return (terms * (share * chance * (1 - chance))) @ terms.T + 2 * STACK_PENALTY * np.eye(len(terms))

    return minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-9}).x


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
    for _round in range(GREEDY_ROUNDS):
        (member, bag), *others = map(next, paths)
        for (_gain, other), rows in zip(others, held_out, strict=True):
            logits[rows, bag.columns] = other.apply([logit[rows] for logit in evidence.members])
        now = task.decode(logits)
        score = official_score(scored, labels, now, *evidence.judging)
        gain = paired_difference(scored, labels, now, before, *evidence.judging) if steps else None
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
    for the methods of UNFITTED. Refitted weights could recover a part: for `weights` and `greedy` the value is about an
    upper bound. A stack is fitted anew; without its last run there is none. None if the member is the whole blend of a
    fold.
    """
    _check_evidence(evidence, task)
    members = evidence.members
    without = np.full((len(members), *evidence.labels.shape), np.nan)
    for fold, blend in blends.items():
        rows = evidence.folds == fold
        held_out, others = [member[rows] for member in members], evidence.only(~rows & (evidence.folds >= 0))
        n_averaged = len(members) - blend.n_stacked
        for i, rest in enumerate(_averages_without_one(blend, others.first(n_averaged), task)):
            if rest is not None:
                rest = stacked(rest, others, task) if blend.stack else rest
                without[i, rows] = rest.apply(held_out)
        plain = blend.unstacked()
        for i in range(n_averaged, len(members)):
            kept = [j for j in range(len(members)) if j != i]
            if blend.n_stacked > 1:
                rest = stacked(plain, replace(others, members=[others.members[j] for j in kept]), task)
                without[i, rows] = rest.apply([held_out[j] for j in kept])
            else:
                without[i, rows] = plain.apply(held_out[:n_averaged])
    full = task.decode(apply_folds(blends, members, evidence.folds))
    return [
        None
        if np.isnan(logits).any()
        else paired_difference(task, evidence.labels, full, task.decode(logits), *evidence.judging)
        for logits in without
    ]


def _averages_without_one(blend: BlendWeights, others: Evidence, task: Task) -> list[BlendWeights | None]:
    """Blends of the averaged members, none stacked on them, without each of them, see leave_one_out(); fitted on
    `others`. None where a member is the whole blend of a group."""
    parts: list[list[GroupBlend]] = [[] for _ in others.members]
    for group in blend.unstacked().groups:
        fits = blend.method not in UNFITTED
        if fits:
            within = [g for g in task.groups if group.start <= task.columns[g.name].start < group.stop]
            loss = _loss(others, task, within).coarse()
            whole = np.tensordot(np.array(group.weights, dtype=loss.terms.dtype), loss.terms, axes=1)
        for i, weight in enumerate(group.weights):
            if weight > 1 - 1e-9:
                continue
            rest = tuple(0.0 if j == i else w / (1 - weight) for j, w in enumerate(group.weights))
            temperature = group.temperature
            if fits and weight:
                mix = 1 / (1 - weight), -weight / (1 - weight)
                temperature = 1 / loss.best_scale(whole, loss.terms[i], mix, 1 / temperature)[1]
            parts[i].append(GroupBlend(group.start, group.stop, rest, temperature))
    return [replace(blend, groups=tuple(part), stack=()) if len(part) == len(blend.groups) else None for part in parts]


def contributions(
    evidence: Evidence, task: Task, blends: dict[int, BlendWeights], names: Sequence[str]
) -> dict[str, Any]:
    """Returns the contribution of each member as JSON values: {"greedy": [a step …], "members": {name: …}}.

    A step has the member, the cross-fitted score, the gain over the step before (null at the first) and the number of
    agreeing folds (`greedy_steps`, one blend for all labels, without stacked members). A member has the score of its
    plain logits and the loss of the blend without the member (`leave_one_out`), null if no member is left. Evidence of
    a single fold, on which nothing can be cross-fitted, gives the scores alone.
    """
    alone = [
        official_score(task, evidence.labels, task.decode(member), *evidence.judging) for member in evidence.members
    ]
    is_fitted = not evidence.has_one_fold
    n_averaged = len(names) - max((blend.n_stacked for blend in blends.values()), default=0)
    lost = leave_one_out(evidence, task, blends) if is_fitted else [None] * len(alone)
    return {
        "greedy": [
            {
                "member": names[step.member],
                "score": step.score.to_json(),
                "gain": step.gain and step.gain.to_json(),
                "agree": step.agree,
                "folds": step.folds,
            }
            for step in (greedy_steps(evidence.first(n_averaged), task) if is_fitted else [])
        ],
        "members": {
            name: {"score": score.to_json(), "lost_without": loss and loss.to_json()}
            for name, score, loss in zip(names, alone, lost, strict=True)
        },
    }


def diversity(members: Sequence[np.ndarray], labels: np.ndarray, kind: str = "multilabel") -> dict[str, Any]:
    """Returns the correlation of the members' errors as JSON values: {"correlation": M x M, "mean_pairwise": number}.

    An error is a logit minus the member's mean over cells of the same label and truth; logits of classes are centred in
    each row before. An error of a regression is log1p(label) minus the output, minus its mean. Correlations are over
    all N x L cells; null for a constant member and for the mean without pairs.
    """
    _check_members(members)
    errors = []
    for member in members:
        error = np.array(member, dtype=np.float64)
        if kind == "regression":
            error = np.log1p(labels) - error
            error -= error.mean(axis=0)
        else:
            if kind == "multiclass":
                error -= error.mean(axis=1, keepdims=True)
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
    right = (labels == 0) | (labels == 1) if task.has_classes else labels >= 0
    if not right.all() or not all(np.isfinite(member).all() for member in members):
        expected = "labels of 0 or 1" if task.has_classes else "labels of at least 0"
        raise ValueError(f"expected {expected} and finite outputs: select the rows that were predicted")


def _choose(evidence: Evidence, task: Task, per_group: bool) -> str:
    evidence = evidence.dealt()
    if evidence.has_one_fold:
        return NESTED[0]
    chosen, best = NESTED[0], task.decode(mean_logits(evidence.members))
    for method in NESTED[1:] if task.has_classes else ("weights",):
        blends = fit_folds(evidence, task, method, per_group)
        candidate = task.decode(apply_folds(blends, evidence.members, evidence.folds))
        gain = paired_difference(task, evidence.labels, candidate, best, *evidence.judging)
        if gain.value > gain.standard_error:
            chosen, best = method, candidate
    return chosen


def _fit(evidence: Evidence, task: Task, per_group: bool, equal: bool) -> tuple[GroupBlend, ...]:
    """Fits a blend for each label group, or for all groups together, with `equal` or free weights."""
    _check_evidence(evidence, task)
    blends = []
    for groups in [[group] for group in task.groups] if per_group else [task.groups]:
        weights, temperature = _loss(evidence, task, groups).minimise(equal)
        columns = [task.columns[group.name] for group in groups]
        blends.append(GroupBlend(columns[0].start, columns[-1].stop, tuple(map(float, weights)), float(temperature)))
    return tuple(blends)


def _loss(evidence: Evidence, task: Task, groups: Sequence[LabelGroup]) -> BlendLoss:
    """Loss of several groups on the rows that count for them."""
    return joined([_group_loss(evidence, task, group) for group in groups])


def _group_loss(evidence: Evidence, task: Task, group: LabelGroup) -> BlendLoss:
    labels = evidence.labels
    counted, columns = task.counted(group, labels) & (evidence.weights > 0), task.columns[group.name]
    if not counted.any():
        raise UserError(
            _(
                "{name}: none of the {n} {noun} to fit a blend on counts for the {group}. Set "
                "a smaller folds.k, or add training files with more of them"
            ).format(name=task.name, n=len(labels), noun=word(task.noun), group=group.name)
        )
    members = [member[counted, columns] for member in evidence.members]
    share = evidence.weights[counted] / evidence.weights[counted].sum()
    loss = LOSSES[task.kind](members, labels[counted, columns], share)
    return replace(loss, share=group.weight * group.loss_scale * loss.share)


def _greedy(evidence: Evidence, task: Task, groups: Sequence[LabelGroup]) -> Iterator[tuple[int, GroupBlend]]:
    """Yields each added member and the blend after the addition, without end."""
    loss = _loss(evidence, task, groups).coarse()
    columns = [task.columns[group.name] for group in groups]
    counts, mean, scale = np.zeros(len(loss.terms), dtype=int), np.zeros_like(loss.terms[0]), 1.0
    for size in count(1):
        mix = 1 - 1 / size, 1 / size
        candidates = [loss.best_scale(mean, row, mix, scale) for row in loss.terms]
        chosen = int(np.argmin([lowest for lowest, _ in candidates]))
        scale = candidates[chosen][1]
        mean = mix[0] * mean + mix[1] * loss.terms[chosen]
        counts[chosen] += 1
        weights = tuple(map(float, counts / size))
        yield chosen, GroupBlend(columns[0].start, columns[-1].stop, weights, 1 / scale)
