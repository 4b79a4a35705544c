"""Rows that a blend of runs is fitted on and chosen by."""

from __future__ import annotations

from collections.abc import Sequence

from src.data.splits import HOLDOUT_PARTS
from src.ensemble.blending import Evidence
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace


def blend_rows(workspace: Workspace, members: Sequence[RunFolder]) -> tuple[Evidence, str]:
    """Rows of select_on (under holdout those of the validation part), and their description in words."""
    target, splits = workspace.target, workspace.splits
    rows = workspace.validation()
    description = rows.described(target)
    if splits.scheme == "holdout":
        rows = rows.only(splits.first == HOLDOUT_PARTS["valid"])
        description = f"{description} of the validation part"
    logits = [rows.logits(member.oof(), member.copies(target.name) if target else None) for member in members]
    evidence = Evidence(logits, workspace.labels[rows.rows], splits.first[rows.rows], rows.weights, rows.rows)
    return evidence, description
