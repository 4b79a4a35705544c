"""The rows that a blend of runs is fitted on and chosen by."""

from __future__ import annotations

import numpy as np

from src.core.settings import Config
from src.data.splits import HOLDOUT_PARTS, Folds
from src.ensemble.blending import Evidence
from src.evaluation.runs import RunFolder
from src.evaluation.validation_sets import ValidationSets, validation


def evidence_of(
    config: Config, parts: list[RunFolder], labels: np.ndarray, folds: Folds, shift: ValidationSets
) -> tuple[Evidence, str]:
    """The rows of select_on (of a holdout, those of its validation part), and what they are in words."""
    target = shift.target(config.target)
    rows = validation(config.select_on, shift.rows, target, folds)
    on = rows.described(target)
    if folds.scheme == "holdout":
        rows, on = rows.only(folds.first == HOLDOUT_PARTS["valid"]), f"{on} of the validation part"
    members = [rows.logits(part.oof(), part.copies(target.name) if target else None) for part in parts]
    return Evidence(members, labels[rows.rows], folds.first[rows.rows], rows.weights, rows.rows), on
