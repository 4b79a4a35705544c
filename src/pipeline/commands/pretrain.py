"""./run.sh pretrain: pretrain encoders on all text, without labels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace

EXAMPLE = "./run.sh pretrain --model transformer pretrain.epochs=10"


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import get_stage, make

    make(workspace, get_stage("pretrain"))
