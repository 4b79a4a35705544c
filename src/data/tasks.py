"""Tasks: what is predicted, how it is learned, scored and written.

Round 1 asks for 17 body regions; its score is 1 - mlogloss. Round 2 adds 12 abnormality types; its score is
0.6 * (1 - 2 * mlogloss of the regions) + 0.4 * (1 - 2 * mlogloss of the types), where the types count only in
reports that truly have an abnormal region.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor

LINE_FORMAT = "{id}|,|{values}"
"""A line of a submission; `values` are numbers with single blanks between them."""


@dataclass(frozen=True)
class LabelGroup:
    """A run of label columns that are scored together."""

    name: str
    size: int
    weight: float
    """Weight of this group in the official score; the weights of a task sum to one."""
    loss_scale: float
    """The group scores 1 - loss_scale * mlogloss."""
    counted_given: str | None = None
    """Name of the group that must have a positive label for a row to count; None counts every row."""


class Multilabel:
    """Kind of task: one probability a label, independent of the others. Outputs of models are logits."""

    metrics = ("positive_rate", "log_loss", "roc_auc", "pr_auc", "sensitivity", "specificity", "calibration_error")
    """Figures of each label, by their names in evaluation.metrics.FIGURES."""

    def losses(self, outputs: Tensor, targets: Tensor, positive_weight: Tensor | None = None) -> Tensor:
        """Cross-entropy of logits (B, L) averaged over the labels: (B,). `positive_weight` (L,) multiplies the loss of
        positive labels."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        cells = binary_cross_entropy_with_logits(outputs, targets, pos_weight=positive_weight, reduction="none")
        return cells.mean(dim=1)

    def disagreement(self, left: Tensor, right: Tensor) -> Tensor:
        """Symmetric Kullback-Leibler divergence of two predictions, logits (B, L), averaged over the labels: (B,).

        It is half the sum of both divergences: (p - q) (x - y) / 2 of logits x, y and probabilities p, q.
        """
        return ((left.sigmoid() - right.sigmoid()) * (left - right) / 2).mean(dim=1)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Probabilities of logits of any shape."""
        return sigmoid(outputs)


KINDS = {"multilabel": Multilabel()}


@dataclass(frozen=True)
class Task:
    """Target of the prediction and its score. In a label field the groups stand in order, separated by a comma."""

    name: str
    title: str
    groups: tuple[LabelGroup, ...]
    kind: str = "multilabel"
    line_format: str = LINE_FORMAT

    @property
    def n_labels(self) -> int:
        return sum(group.size for group in self.groups)

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
        return [f"{group.name.removesuffix('s')}_{i}" for group in self.groups for i in range(group.size)]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Figures of each label, by their names in evaluation.metrics.FIGURES."""
        return KINDS[self.kind].metrics

    def counted(self, group: LabelGroup, labels: np.ndarray) -> np.ndarray:
        """Which rows of `labels` (N, n_labels) count in the score of `group`: bool (N,)."""
        if group.counted_given is None:
            return np.ones(len(labels), dtype=bool)
        return labels[:, self.columns[group.counted_given]].any(axis=1)

    def losses(self, outputs: Tensor, targets: Tensor, positive_weight: Tensor | None = None) -> Tensor:
        """Training loss of each report (B,), from a model's outputs (B, n_labels) and targets of the same shape."""
        return KINDS[self.kind].losses(outputs, targets, positive_weight)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor, positive_weight: Tensor | None = None) -> Tensor:
        """Training loss of a batch: the mean of weights (B,) times losses()."""
        return (self.losses(outputs, targets, positive_weight) * weights).mean()

    def disagreement(self, left: Tensor, right: Tensor) -> Tensor:
        """Distance between two predictions of the same reports, outputs (B, n_labels) each: (B,)."""
        return KINDS[self.kind].disagreement(left, right)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Predictions in the unit of the labels, here probabilities, from a model's outputs: float64, same shape."""
        return KINDS[self.kind].decode(outputs)

    def score(self, losses: Mapping[str, Any]) -> Any:
        """Official score, from the mean loss of each group by its name. Losses are numbers or arrays of one shape.

        metrics.official_score computes the losses from predictions, and the score's standard error.
        """
        return sum(group.weight * (1 - group.loss_scale * losses[group.name]) for group in self.groups)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits of any shape, in float64: float32 would round all above 17 to exactly 1."""
    logits = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(logits))  # at most 1: nothing overflows, and nothing near 0 is lost
    return np.where(logits < 0, small, 1.0) / (1 + small)


ROUND1 = Task("round1", "round 1: 17 regions", (LabelGroup("regions", 17, weight=1.0, loss_scale=1.0),))
ROUND2 = Task(
    "round2",
    "round 2: 17 regions and 12 types",
    (
        LabelGroup("regions", 17, weight=0.6, loss_scale=2.0),
        LabelGroup("types", 12, weight=0.4, loss_scale=2.0, counted_given="regions"),
    ),
)
TASKS = {task.name: task for task in (ROUND1, ROUND2)}


def get_task(name: str) -> Task:
    """The task called `name`; an unknown name raises a UserError that lists the known ones."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def task_of_width(n_labels: int) -> Task | None:
    """The task with that many label columns, if there is one."""
    return next((task for task in TASKS.values() if task.n_labels == n_labels), None)
