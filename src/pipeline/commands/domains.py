"""./run.sh domains [RUN …]: how institutions, wards or sources differ, and how runs score in each of them.

./run.sh domains --task icu domains.by=ICUType
./run.sh domains dann coral --against pooled --task icu domains.by=ICUType folds.scheme=domains folds.k=4
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.language import _
from src.pipeline.command import add_force

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help=_("runs that are judged by domain (default: all)"))
    parser.add_argument(
        "--against", metavar="RUN", help=_("run that the others are compared with (default: pooled, if there is one)")
    )
    add_force(parser)


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import make
    from src.pipeline.stages.domains import DomainStage

    make(workspace, DomainStage(parsed.runs, parsed.against))
