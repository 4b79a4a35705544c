"""./run.sh submit [RUN]: the submission of each test file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.language import _
from src.pipeline.command import add_force

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help=_("default: the pipeline's blend"))
    add_force(parser)


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import make
    from src.pipeline.stages.submit import Submit

    make(workspace, Submit(parsed.run))
