"""Runs that are broken: diverged or constant. No command blends, submits or hands on such a run without --force.

    what = fault(task, labels, outputs, splits.table)        # "" for every other run, however weak it is

A weak run, such as one after two epochs, is not broken: more training or a blend can mend it. What is compared is
therefore not the best constant but what a network says before it has learned anything: outputs of zero.
"""

from __future__ import annotations

import numpy as np

from src.data.tasks import Task

DIVERGED = 1.5
"""Loss, relative to that of outputs of zero, above which a fold has diverged. Weak models of a dozen rows stay below
1.1; outputs without bounds lose 16 where they are wrong, 23 times as much as a probability of 0.5."""
ERRORS = 3
"""Standard errors that the loss must lie above that of outputs of zero: a few unlucky rows are no divergence."""
SAME = 1e-3
"""Largest difference of predictions that count as the same, relative to the largest where that is above 1. Weights that
were not trained differ by a tenth of it, a model after two epochs by ten times as much."""

REMEDY = "Try a lower learning_rate, a lower clip_norm, more epochs or a longer warmup."


def fault(task: Task, labels: np.ndarray, outputs: np.ndarray, table: np.ndarray) -> str:
    """Returns what is wrong with finite out-of-fold `outputs` (N, L) of rows with `labels` (N, L); empty if nothing is.

    `table` (N, seeds): fold of each row for each seed. Constant: the labels differ, and wherever rows were predicted by
    the same models, their predictions are the same. Diverged: the loss of a fold is above DIVERGED times that of
    outputs of zero.
    """
    predictions, nothing = task.decode(outputs), task.decode(np.zeros(outputs.shape))
    _, part, sizes = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    may_differ = sizes.max() > 1 and (labels != labels[0]).any()
    if may_differ and _largest_spread(predictions, part) <= SAME * max(1.0, np.abs(predictions).max()):
        return "is constant: out of fold, each of its models predicts the same for all rows"
    losses, of_zero = (task.cells(labels, task.judged(labels, p)).mean(axis=1) for p in (predictions, nothing))
    for folds in table.T:
        for fold in np.unique(folds):
            own, zero = losses[folds == fold], of_zero[folds == fold]
            error = (own - zero).std() / np.sqrt(len(own))
            if own.mean() > DIVERGED * zero.mean() and (own - zero).mean() > ERRORS * error:
                where = f"in fold {fold}" if len(np.unique(folds)) > 1 else "on the rows that are scored"
                return (
                    f"has diverged: {where} its loss is {own.mean():.4g}, and a model that has learned nothing has "
                    f"{zero.mean():.4g}"
                )
    return ""


def _largest_spread(predictions: np.ndarray, part: np.ndarray) -> float:
    """Returns the largest difference between two predictions (N, L) of one label and one `part` (N,)."""
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order], prepend=-1))
    low, high = (extreme.reduceat(predictions[order], starts, axis=0) for extreme in (np.minimum, np.maximum))
    return float((high - low).max())
