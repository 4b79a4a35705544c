"""./run.sh folds: decide which report is validated by which model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace

EXAMPLE = "./run.sh folds folds.k=10"


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import get_stage, make

    make(workspace, get_stage("folds"))
