"""./run.sh prepare: read and check the input files, number their tokens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import get_stage, make

    make(workspace, get_stage("prepare"))
