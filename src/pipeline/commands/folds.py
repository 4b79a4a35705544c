"""./run.sh folds [--anew | --keep]: which rows are validated by which model. See pipeline/stages/folds.py."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.language import _

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    changed = parser.add_mutually_exclusive_group()
    changed.add_argument("--anew", action="store_true", help=_("split again, whatever is in folds.csv"))
    changed.add_argument("--keep", action="store_true", help=_("use the folds of a folds.csv that you changed"))


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import get_stage, holding, make

    stage = get_stage("folds")
    if parsed.anew or parsed.keep:
        make(workspace, get_stage("prepare"))
        with holding(workspace, stage, [""]):
            workspace.refresh()
            stage.forget(workspace) if parsed.anew else stage.keep(workspace)
            workspace.refresh()
    make(workspace, stage)
