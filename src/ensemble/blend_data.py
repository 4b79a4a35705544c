"""Rows to fit and to choose a blend of runs on."""

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
    """Returns the rows of select_on (under holdout, of the validation part) and their description."""
    target = shift.target(config.target)
    rows = validation(config.select_on, shift.rows, target, folds)
    description = rows.described(target)
    if folds.scheme == "holdout":
        rows = rows.only(folds.first == HOLDOUT_PARTS["valid"])
        description += " of the validation part"
    members = [rows.logits(part.oof(), part.copies(target.name) if target else None) for part in parts]
    return Evidence(members, labels[rows.rows], folds.first[rows.rows], rows.weights, rows.rows), description
