"""Rows that a blend of runs is fitted on and chosen by, and rows that are blended as a run blends its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from src.core.errors import UserError
from src.core.language import _
from src.data.splits import HOLDOUT_PARTS, Splits
from src.ensemble.blending import BlendWeights, Evidence, apply_folds
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace


def blend_rows(workspace: Workspace, members: Sequence[RunFolder]) -> tuple[Evidence, str]:
    """Rows of select_on (under holdout those of the validation part), and their description in words."""
    target, splits = workspace.target, workspace.splits
    rows = workspace.validation_for(members)
    description = rows.described(target)
    if splits.scheme == "holdout":
        rows = rows.only(splits.first == HOLDOUT_PARTS["valid"])
        description = f"{description} of the validation part"
    logits = [rows.logits(member.oof(), member.copies(target.name) if target else None) for member in members]
    evidence = Evidence(logits, workspace.labels[rows.rows], splits.first[rows.rows], rows.weights, rows.rows)
    return evidence, description


def blend_out_of_fold(run: RunFolder, folds: np.ndarray, logits_of: Callable[[RunFolder], np.ndarray]) -> np.ndarray:
    """Blends logits (N, H, n_labels) of the models of a run, each row by the weights that its fold was judged by.

    `folds` (N,) as run.json numbers them, `logits_of` gives those of one trained model; a single model's come back as
    they are. Raises UserError for a blend whose weights of each fold were not noted.
    """
    if not run.is_blend:
        return logits_of(run)
    if "fold_weights" not in run.record:
        raise UserError(
            _("{path} lacks the weights of each fold. Make it again: ./run.sh {remedy}").format(
                path=run.path / "run.json", remedy=run.remedy
            )
        )
    blends = {int(fold): BlendWeights.from_json(one) for fold, one in run.record["fold_weights"].items()}
    parts = [blend_out_of_fold(member, folds, logits_of) for member in run.members()]
    return np.stack([apply_folds(blends, [part[:, i] for part in parts], folds) for i in range(parts[0].shape[1])], 1)


def judging_folds(splits: Splits) -> np.ndarray:
    """Fold of each row in a blend's fold_weights, (N,): under holdout 0 for all rows that are judged, -1 for others."""
    return np.where(splits.first >= 0, 0, -1) if splits.scheme == "holdout" else splits.first
