"""./run.sh alarms [RUN]: a run's score against the hours of data that it sees, and the alarms that it raises.

./run.sh alarms --task icu                    the pipeline's blend, or the best run
./run.sh alarms boosting --task icu alarms.false_alarms=0.1
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.language import _

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help=_("a trained run or a blend (default: blend, or the best)")
    )


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import make
    from src.pipeline.stages.alarms import AlarmStage

    make(workspace, AlarmStage(parsed.run))
