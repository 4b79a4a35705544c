"""Tasks: what is predicted, how it is learned, scored and written.

Reports: round 1 asks for 17 body regions; its score is 1 - mlogloss. Round 2 adds 12 abnormality types; its score is
0.6 * (1 - 2 * mlogloss of the regions) + 0.4 * (1 - 2 * mlogloss of the types), where the types count only in
reports that truly have an abnormal region.

Clinical tasks: `icu` (does a patient die in hospital?), `los` (days in hospital), and `framesC` (which of C classes is
an image?). Their scores are 1 - log loss, minus the mean absolute error in days, and 1 - log loss; Task.metric names
another figure to choose by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core.errors import UserError, unknown
from src.core.language import _

if TYPE_CHECKING:
    from torch import Tensor

LINE_FORMAT = "{id}|,|{values}"
"""A line of a submission; `values` are numbers, Task.separator between them."""
EPS = 1e-7
"""Probabilities are clipped to [EPS, 1 - EPS] before logarithms; the organisers' own clip is unknown."""
STRATA = 10
"""Strata of a regression's labels: equal parts by rank."""
COUNTED = 1
"""Version of what is made by the rows that count in the score of a group, see Task.version."""
SUM_TOLERANCE = 1e-3
"""Largest distance from 1 of the sum of a row's class probabilities; files hold rounded and clipped numbers."""


@dataclass(frozen=True)
class LabelGroup:
    """A run of label columns that are scored together."""

    name: str
    size: int
    weight: float
    """Weight of this group in the official score; the weights of a task sum to one."""
    loss_scale: float
    """The group scores perfect - loss_scale * mean loss."""
    counted_given: str | None = None
    """Name of the group that must have a positive label for a row to count; None counts every row."""
    perfect: float = 1.0
    """Score of a prediction without loss."""


class Multilabel:
    """Kind of task: one probability a label, independent of the others. Outputs of models are logits."""

    metrics = ("positive_rate", "log_loss", "roc_auc", "pr_auc", "sensitivity", "specificity", "calibration_error")
    """Figures of each label, by their names in evaluation.metrics.FIGURES."""
    scores: tuple[str, ...] = ("official",)
    """Figures that runs can be ordered by, by their names in evaluation.metrics.SCORES; the first is the default."""
    has_classes = True
    """Labels are 0 or 1 and outputs are logits."""

    def losses(
        self,
        outputs: Tensor,
        labels: Tensor,
        positive_weight: Tensor | None = None,
        regression_loss: str | None = None,
        label_weight: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy of logits (B, L) averaged over the labels: (B,). `positive_weight` (L,) multiplies the loss of
        positive labels, `label_weight` (L,) that of each label. An unknown label, NaN, has no loss and no gradient, and
        counts in the average."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        known = ~labels.isnan()
        targets = labels.where(known, 0)  # NaN would reach the gradient through a loss that is multiplied by zero
        cells = binary_cross_entropy_with_logits(outputs, targets, pos_weight=positive_weight, reduction="none")
        cells = cells.where(known, 0)
        return (cells if label_weight is None else cells * label_weight).mean(dim=1)

    def disagreement(self, left: Tensor, right: Tensor) -> Tensor:
        """Symmetric Kullback-Leibler divergence of two predictions, logits (B, L), averaged over the labels: (B,).

        It is half the sum of both divergences: (p - q) (x - y) / 2 of logits x, y and probabilities p, q.
        """
        return ((left.sigmoid() - right.sigmoid()) * (left - right) / 2).mean(dim=1)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Probabilities of logits of any shape."""
        return sigmoid(outputs)

    def encode(self, predictions: np.ndarray) -> np.ndarray:
        """Logits of probabilities of any shape, which are clipped to [EPS, 1 - EPS]."""
        clipped = np.clip(np.asarray(predictions, dtype=np.float64), EPS, 1 - EPS)
        return np.log(clipped) - np.log1p(-clipped)

    def targets(self, labels: Tensor) -> Tensor:
        """Targets of the loss: the labels."""
        return labels

    def cells(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Log loss of each cell, float64 (N, L)."""
        return log_loss_cells(labels, predictions)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Columns (N, K) of 0 and 1 whose rates stratified folds keep: the labels."""
        return labels


class Binary(Multilabel):
    """Kind of task: the probability of one event. Outputs of models are logits (B, 1)."""

    scores = ("log_loss", "roc_auc", "pr_auc", "min_se_p")


class Multiclass(Multilabel):
    """Kind of task: one of C classes, labels one-hot (N, C). Outputs of models are logits, up to a constant a row."""

    scores = ("log_loss", "accuracy")

    def losses(
        self,
        outputs: Tensor,
        labels: Tensor,
        positive_weight: Tensor | None = None,
        regression_loss: str | None = None,
        label_weight: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy of logits (B, C) and class probabilities (B, C), one-hot or a teacher's: (B,).
        `positive_weight` (C,) multiplies the loss of each class; `label_weight` is ignored."""
        weighted = labels if positive_weight is None else labels * positive_weight
        return -(weighted * outputs.log_softmax(dim=1)).sum(dim=1)

    def disagreement(self, left: Tensor, right: Tensor) -> Tensor:
        """Symmetric Kullback-Leibler divergence of two predictions, logits (B, C): (B,)."""
        left, right = left.log_softmax(dim=1), right.log_softmax(dim=1)
        return ((left.exp() - right.exp()) * (left - right) / 2).sum(dim=1)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Probabilities (…, C) of logits (…, C), in float64."""
        outputs = np.asarray(outputs, dtype=np.float64)
        shares = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        return shares / shares.sum(axis=-1, keepdims=True)

    def encode(self, predictions: np.ndarray) -> np.ndarray:
        """Logits (…, C) of probabilities (…, C), which are clipped to [EPS, 1]."""
        return np.log(np.clip(np.asarray(predictions, dtype=np.float64), EPS, 1.0))

    def cells(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """C times the log loss at the true class, 0 elsewhere: a row's mean is its log loss. Float64 (N, C).

        Raises ValueError unless labels are one-hot and predictions are probabilities that sum to one in each row.
        """
        log_loss_cells(labels, predictions)  # raises its errors
        labels, predictions = np.asarray(labels), np.asarray(predictions, dtype=np.float64)
        if not (labels.sum(axis=1) == 1).all():
            raise ValueError("labels must be one-hot: one class a row")
        if not (np.abs(predictions.sum(axis=1) - 1) < SUM_TOLERANCE).all():
            raise ValueError("class probabilities must sum to 1 in each row")
        return labels.shape[1] * np.where(labels == 1, -np.log(np.clip(predictions, EPS, 1.0)), 0.0)


class Regression:
    """Kind of task: one number of at least zero, such as days. Outputs of models are log1p of it."""

    metrics = ()
    scores = ("mae", "rmse", "r2_log")
    has_classes = False

    def losses(
        self,
        outputs: Tensor,
        labels: Tensor,
        positive_weight: Tensor | None = None,
        regression_loss: str | None = None,
        label_weight: Tensor | None = None,
    ) -> Tensor:
        """Loss of outputs (B, L) against labels (B, L) in their unit, averaged over the labels: (B,).

        `regression_loss`: mse, mae or huber between outputs and log1p(labels); None: the absolute error in the unit of
        the labels, which the score counts. `positive_weight` and `label_weight` have no meaning here and are ignored.
        """
        from torch.nn.functional import huber_loss

        if regression_loss is None:
            return (outputs.expm1().clamp(min=0) - labels).abs().mean(dim=1)
        error = outputs - self.targets(labels)
        if regression_loss == "huber":
            return huber_loss(outputs, self.targets(labels), reduction="none", delta=HUBER_DELTA).mean(dim=1)
        return {"mse": error.square(), "mae": error.abs()}[regression_loss].mean(dim=1)

    def disagreement(self, left: Tensor, right: Tensor) -> Tensor:
        """Squared difference of two predictions, outputs (B, L), averaged over the labels: (B,)."""
        return (left - right).square().mean(dim=1)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Finite numbers of at least zero, in the unit of the labels, of finite outputs of any shape."""
        return np.maximum(np.expm1(np.minimum(np.asarray(outputs, dtype=np.float64), LARGEST_OUTPUT)), 0.0)

    def encode(self, predictions: np.ndarray) -> np.ndarray:
        """Outputs of numbers of at least zero, of any shape."""
        return np.log1p(np.asarray(predictions, dtype=np.float64))

    def targets(self, labels: Tensor) -> Tensor:
        """Targets of the loss: log1p of the labels."""
        return labels.log1p()

    def cells(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Absolute error of each cell in the unit of the labels, float64 (N, L).

        Raises ValueError unless both are finite, at least zero and of one (N, L) shape.
        """
        labels, predictions = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
        if labels.shape != predictions.shape or labels.ndim != 2 or labels.size == 0:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must have one shape, (N, L)")
        for what, values in (("labels", labels), ("predictions", predictions)):
            if not ((values >= 0) & (values < np.inf)).all():  # false for NaN as well
                raise ValueError(f"{what} must be finite and at least 0")
        return np.abs(predictions - labels)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Columns (N, at most STRATA) of 0 and 1, uint8: the part that a label lies in, by its rank; equal labels lie
        in one part."""
        values = np.asarray(labels)[:, 0]
        limits = np.unique(np.quantile(values, np.arange(1, STRATA) / STRATA)) if len(values) else np.zeros(0)
        return np.eye(len(limits) + 1, dtype=np.uint8)[np.searchsorted(limits, values, side="left")]


LARGEST_OUTPUT = 88.0
"""Output of a regression above which its prediction, 1e38, does not grow: float32 holds no larger ones."""
HUBER_DELTA = 1.0
"""Error of log1p above which the Huber loss is linear."""
KINDS = {"multilabel": Multilabel(), "binary": Binary(), "multiclass": Multiclass(), "regression": Regression()}
SCORE_NAMES = {
    "official": "official score",
    "log_loss": "1 - log loss",
    "roc_auc": "AUROC",
    "pr_auc": "AUPRC",
    "min_se_p": "min(Se, +P)",
    "mae": "-MAE",
    "rmse": "-RMSE",
    "r2_log": "R² of log1p",
    "accuracy": "accuracy",
}
"""Names of the figures that runs can be ordered by; each is the higher the better."""


@dataclass(frozen=True)
class Average:
    """Mean of the outputs of several models: of the outputs as they are, or the output of their mean prediction.

    The mean of probabilities is nearer to 1/2 than the mean of logits where models disagree.
    """

    kind: str = ""
    """Kind of the task whose predictions are averaged; empty: outputs are averaged as they are."""

    def terms(self, outputs: np.ndarray) -> np.ndarray:
        """Returns the terms whose sum over models is averaged, the shape of the model's outputs."""
        return KINDS[self.kind].decode(outputs) if self.kind else outputs

    def outputs(self, mean: np.ndarray) -> np.ndarray:
        """Outputs of a mean of terms(), same shape."""
        return KINDS[self.kind].encode(mean) if self.kind else mean

    def __call__(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Averages the outputs of several models, of any one shape: float32."""
        if not self.kind:
            return np.mean(outputs, axis=0, dtype=np.float32)
        return self.outputs(np.mean([self.terms(one) for one in outputs], axis=0)).astype(np.float32)

    def of_rows(self, shape: tuple[int, ...], parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Averages the outputs of several models, each of some rows: float32 of this shape (N, …).

        `parts` has the rows (M,) and the outputs (M, …) of each model. NaN for a row that no model has.
        """
        total, count = np.zeros(shape), np.zeros((shape[0], *[1] * (len(shape) - 1)))
        for rows, outputs in parts:
            total[rows] += self.terms(outputs)
            count[rows] += 1
        with np.errstate(invalid="ignore"):
            return self.outputs(total / count).astype(np.float32)


LOGITS = Average()


@dataclass(frozen=True)
class Task:
    """Target of the prediction and its score. In a label field the groups stand in order, separated by a comma."""

    name: str
    title: str
    groups: tuple[LabelGroup, ...]
    kind: str = "multilabel"
    line_format: str = LINE_FORMAT
    separator: str = " "
    """Text between the values of a line of a submission."""
    header: str = ""
    """First line of a submission; empty: none."""
    names: tuple[str, ...] = ()
    """Label names in column order; empty: made from the groups."""
    noun: str = "reports"
    """Name of the rows, in the plural."""
    unit: str = ""
    """Unit of labels and predictions; empty for probabilities."""
    input_kind: str = "reports"
    """Kind of the input files: reports, stays or images."""
    input_folder: str = ""
    """Default folder of the input files, in the project's input folder."""
    output_folder: str = ""
    """Default folder of the results, in the project's output folder."""
    metric: str = ""
    """Figure that runs are ordered by, one of the kind's `scores`; empty: the first."""

    @property
    def n_labels(self) -> int:
        return sum(group.size for group in self.groups)

    @property
    def predicted(self) -> str:
        """Words for the prediction of a row: `17 probabilities`, `1 probability`, `1 number of days`."""
        if self.unit:
            return f"{self.n_labels} number of {self.unit}"
        return f"{self.n_labels} probabilit{'y' if self.n_labels == 1 else 'ies'}"

    @property
    def one(self) -> str:
        """Name of a row, in the singular."""
        return self.noun.removesuffix("s")

    @property
    def columns(self) -> dict[str, slice]:
        """Columns of each group in a (N, n_labels) array."""
        columns, start = {}, 0
        for group in self.groups:
            columns[group.name] = slice(start, start + group.size)
            start += group.size
        return columns

    @property
    def label_names(self) -> list[str]:
        """`region_0` … in column order."""
        if self.names:
            return list(self.names)
        return [f"{group.name.removesuffix('s')}_{i}" for group in self.groups for i in range(group.size)]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Figures of each label, by their names in evaluation.metrics.FIGURES."""
        return KINDS[self.kind].metrics

    @property
    def has_classes(self) -> bool:
        """Labels are 0 or 1, outputs are logits and predictions probabilities."""
        return KINDS[self.kind].has_classes

    @property
    def is_ordered_by_loss(self) -> bool:
        """Runs are ordered by score(), which the blend weights are fitted for."""
        return not self.metric

    @property
    def score_name(self) -> str:
        """Name of the figure that runs are ordered by, with its unit."""
        name = self.metric or KINDS[self.kind].scores[0]
        return SCORE_NAMES[name] + (f" ({self.unit})" if self.unit and name in ("mae", "rmse") else "")

    def counted(self, group: LabelGroup, labels: np.ndarray) -> np.ndarray:
        """Which rows of `labels` (N, n_labels) count in the score of `group`: bool (N,)."""
        if group.counted_given is None:
            return np.ones(len(labels), dtype=bool)
        return labels[:, self.columns[group.counted_given]].any(axis=1)

    @property
    def version(self) -> dict[str, int]:
        """Entry of fingerprints of what is made by the rows that count in the score of each group: nothing where all
        do."""
        return {"counted": COUNTED} if any(group.counted_given for group in self.groups) else {}

    def parts(self, labels: np.ndarray) -> Iterator[tuple[LabelGroup, slice, np.ndarray]]:
        """Each group with its columns and the rows of `labels` (N, n_labels) that count in its score, bool (N,)."""
        for group in self.groups:
            yield group, self.columns[group.name], self.counted(group, labels)

    def counted_cells(self, labels: np.ndarray) -> np.ndarray:
        """Which cells of `labels` (N, n_labels) count in the score of their group: bool, same shape."""
        return np.column_stack([rows for group, _columns, rows in self.parts(labels) for _column in range(group.size)])

    def judged(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Predictions (N, n_labels) that are the label itself, and so without loss, where the score does not count
        it."""
        return np.where(self.counted_cells(labels), predictions, labels) if self.version else predictions

    def chance_to_count(self, group: LabelGroup, predictions: np.ndarray) -> np.ndarray | None:
        """Probability that each row counts in the score of `group`, (N,), as if the labels that decide it were
        independent, from predictions (N, n_labels); None where every row counts."""
        if group.counted_given is None:
            return None
        return 1 - np.prod(1 - predictions[:, self.columns[group.counted_given]], axis=1)

    def rates(self, labels: np.ndarray) -> np.ndarray:
        """Mean of each label (L,) over the rows that count in the score of its group; 0 where none counts."""
        return np.concatenate(
            [
                labels[rows, columns].mean(axis=0) if rows.any() else np.zeros(group.size)
                for group, columns, rows in self.parts(labels)
            ]
        )

    def marginal(self, labels: np.ndarray) -> np.ndarray:
        """Probabilities (N, n_labels) in any row, of those in rows that count in the score of the group: times
        chance_to_count()."""
        return self._times_chance(labels, lambda chance: chance)

    def conditional(self, labels: np.ndarray) -> np.ndarray:
        """Probabilities (N, n_labels) in rows that count in the score of the group, of those in any row: the reverse of
        marginal(). A row that cannot count keeps its own."""
        return self._times_chance(labels, lambda chance: 1 / np.where(chance > 0, chance, 1))

    def _times_chance(self, labels: np.ndarray, factor: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = labels
        for group in self.groups:
            chance = self.chance_to_count(group, labels)
            if chance is not None:
                found, columns = found.copy(), self.columns[group.name]
                found[:, columns] = np.minimum(found[:, columns] * factor(chance)[:, None], 1)
        return found

    def bounded(self, predictions: np.ndarray) -> np.ndarray:
        """Predictions (..., n_labels) in which no label of a group that counts given another one is likelier than all
        of that one: no type without an abnormal region."""
        found = predictions
        for group in self.groups:
            if group.counted_given is not None:
                found = found.copy()
                most = found[..., self.columns[group.counted_given]].max(axis=-1, keepdims=True)
                columns = self.columns[group.name]
                found[..., columns] = np.minimum(found[..., columns], most)
        return found

    def counted_labels(self, labels: Tensor) -> Tensor:
        """Labels (B, n_labels) float with NaN, unknown, where a row does not count in the score of the label's group.
        Soft and unknown labels that are not zero make a row count."""
        found = labels
        for group in self.groups:
            if group.counted_given is not None:
                is_counted = (labels[:, self.columns[group.counted_given]] != 0).any(dim=1, keepdim=True)
                found = found.clone()
                columns = self.columns[group.name]
                found[:, columns] = found[:, columns].where(is_counted, float("nan"))
        return found

    def label_weights(self, given: float) -> np.ndarray:
        """Weight of each label in the training loss, float32 (n_labels,) with mean 1: that of a label of a group that
        counts given another one, as types do, is `given` times that of the others."""
        weights = [
            1.0 if group.counted_given is None else given for group in self.groups for _label in range(group.size)
        ]
        return np.array(weights, dtype=np.float32) / np.float32(np.mean(weights))

    def losses(
        self,
        outputs: Tensor,
        labels: Tensor,
        positive_weight: Tensor | None = None,
        regression_loss: str | None = None,
        label_weight: Tensor | None = None,
    ) -> Tensor:
        """Loss of each row (B,), from a model's outputs (B, n_labels) and labels of the same shape and in their unit.

        `regression_loss` is train.regression_loss; without it a regression counts the error that its score counts.
        `label_weight` is label_weights().
        """
        return KINDS[self.kind].losses(outputs, labels, positive_weight, regression_loss, label_weight)

    def loss(
        self,
        outputs: Tensor,
        labels: Tensor,
        weights: Tensor,
        positive_weight: Tensor | None = None,
        regression_loss: str | None = None,
        label_weight: Tensor | None = None,
    ) -> Tensor:
        """Training loss of a batch: the mean of weights (B,) times losses()."""
        return (self.losses(outputs, labels, positive_weight, regression_loss, label_weight) * weights).mean()

    def disagreement(self, left: Tensor, right: Tensor) -> Tensor:
        """Distance between two predictions of the same rows, outputs (B, n_labels) each: (B,)."""
        return KINDS[self.kind].disagreement(left, right)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Predictions in the unit of the labels, probabilities or numbers, from a model's outputs: float64, same
        shape."""
        return KINDS[self.kind].decode(outputs)

    def encode(self, predictions: np.ndarray) -> np.ndarray:
        """Outputs, float64 of the same shape, that decode() makes these predictions of."""
        return KINDS[self.kind].encode(predictions)

    def average(self, of: str) -> Average:
        """Mean over models of their `logits` or `probabilities`, as the setting `average` names it."""
        return Average(self.kind if of == "probabilities" else "")

    def targets(self, labels: Tensor) -> Tensor:
        """Targets of losses(), in the unit of the outputs: same shape as `labels`."""
        return KINDS[self.kind].targets(labels)

    def cells(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Loss of each cell for the score, float64 (N, n_labels), of labels and predictions in one unit.

        Raises ValueError for anything but labels and predictions of this kind.
        """
        return KINDS[self.kind].cells(labels, predictions)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Columns of 0 and 1, (N, K), whose rates stratified folds keep."""
        return KINDS[self.kind].strata(labels)

    def score(self, losses: Mapping[str, Any]) -> Any:
        """Official score, from the mean loss of each group by its name. Losses are numbers or arrays of one shape.

        metrics.official_score computes the losses from predictions, and the score's standard error.
        """
        return sum(group.weight * (group.perfect - group.loss_scale * losses[group.name]) for group in self.groups)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits of any shape, in float64: float32 would round all above 17 to exactly 1."""
    logits = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(logits))  # at most 1: nothing overflows, and nothing near 0 is lost
    return np.where(logits < 0, small, 1.0) / (1 + small)


def log_loss_cells(labels: np.ndarray, probabilities: np.ndarray, eps: float = EPS) -> np.ndarray:
    """Returns the log loss of each cell, -ln of the probability of the true label: float64 (N, L).

    Raises ValueError unless labels are 0 or 1 and probabilities are finite, in [0, 1] and of the same (N, L) shape.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.shape != probabilities.shape or labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"labels {labels.shape} and probabilities {probabilities.shape} must have one shape, (N, L)")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0 or 1; are labels and probabilities swapped?")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # false for NaN as well
        raise ValueError("probabilities must be finite and in [0, 1]; were logits passed?")
    clipped = np.clip(probabilities, eps, 1 - eps)
    return -np.log(np.where(labels == 1, clipped, 1 - clipped))


ROUND1 = Task("round1", "round 1: 17 regions", (LabelGroup("regions", 17, weight=1.0, loss_scale=1.0),))
ROUND2 = Task(
    "round2",
    "round 2: 17 regions and 12 types",
    (
        LabelGroup("regions", 17, weight=0.6, loss_scale=2.0),
        LabelGroup("types", 12, weight=0.4, loss_scale=2.0, counted_given="regions"),
    ),
)
STAYS: dict[str, Any] = {
    "noun": "stays", "input_kind": "stays", "input_folder": "icu", "line_format": "{id},{values}", "separator": ","
}  # fmt: skip
"""Fields that all tasks on intensive-care stays share."""
ICU = Task(
    "icu",
    "ICU mortality",
    (LabelGroup("death", 1, weight=1.0, loss_scale=1.0),),
    kind="binary",
    names=("In-hospital_death",),
    header="RecordID,In-hospital_death",
    output_folder="icu",
    **STAYS,
)
LOS = Task(
    "los",
    "length of stay",
    (LabelGroup("days", 1, weight=1.0, loss_scale=1.0, perfect=0.0),),
    kind="regression",
    names=("Length_of_stay",),
    header="RecordID,Length_of_stay",
    unit="days",
    output_folder="los",
    **STAYS,
)
TASKS = {task.name: task for task in (ROUND1, ROUND2, ICU, LOS)}
"""Tasks by name; those of images, whose number of classes comes from the data, are made by frames()."""
REPORT_TASKS = {name: task for name, task in TASKS.items() if task.input_kind == "reports"}


def frames(n_classes: int) -> Task:
    """The task `framesC`: images of `n_classes` classes, at least two, read row by row."""
    if n_classes < 2:
        raise UserError(_("images need at least 2 classes, not {n_classes}").format(n_classes=n_classes))
    return Task(
        f"frames{n_classes}",
        f"images of {n_classes} classes",
        (LabelGroup("classes", n_classes, weight=1.0, loss_scale=1.0),),
        kind="multiclass",
        names=tuple(f"class_{i}" for i in range(n_classes)),
        header=",".join(["id", *(f"p{i}" for i in range(n_classes))]),
        noun="images",
        input_kind="images",
        input_folder="frames",
        output_folder="frames",
        line_format="{id},{values}",
        separator=",",
    )


def get_task(name: str, metric: str = "auto") -> Task:
    """The task called `name`, ordered by `metric` (auto: its own score).

    An unknown name, or a metric of another kind of task, raises a UserError that lists the known ones.
    """
    if named := re.fullmatch(r"frames([1-9]\d{0,4})", name):
        task = frames(int(named[1]))
    elif name in TASKS:
        task = TASKS[name]
    else:
        raise unknown("task", name, [*TASKS, "frames10 (frames and the number of classes)"])
    if metric == "auto":
        return task
    if metric not in (known := KINDS[task.kind].scores):
        raise unknown(f"metric of task {name}", metric, ["auto", *known])
    return replace(task, metric="" if metric == known[0] else metric)


def task_of_width(n_labels: int) -> Task | None:
    """The task on reports with that many label columns, if there is one."""
    return next((task for task in REPORT_TASKS.values() if task.n_labels == n_labels), None)
