"""./run.sh eda: the reports themselves as one HTML page, before any training."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import get_stage, make

    make(workspace, get_stage("eda"))
