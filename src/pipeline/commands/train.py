"""./run.sh train: train the models of the preset, fold by fold."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace

EXAMPLE = "./run.sh train --model lstm train.epochs=6"


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import get_stage, make

    make(workspace, get_stage("train"))
