"""What is predicted: the label groups of each round, their part in the official score, how a label field is written.

Round 1 asks for 17 body regions; its score is 1 - mlogloss. Round 2 adds 12 abnormality types; its score is
0.6 * (1 - 2 * mlogloss of the regions) + 0.4 * (1 - 2 * mlogloss of the types), where the types count only in
reports that truly have an abnormal region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.core.errors import unknown


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


@dataclass(frozen=True)
class Task:
    """One competition round. In a label field the groups stand in order, separated by a comma."""

    name: str
    title: str
    groups: tuple[LabelGroup, ...]

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

    def counted(self, group: LabelGroup, labels: np.ndarray) -> np.ndarray:
        """Which rows of `labels` (N, n_labels) count in the score of `group`: bool (N,)."""
        if group.counted_given is None:
            return np.ones(len(labels), dtype=bool)
        return labels[:, self.columns[group.counted_given]].any(axis=1)


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
