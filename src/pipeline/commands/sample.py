"""./run.sh sample [--rows N]: make sample data in the task's input folder, so that anyone can run everything."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.language import _

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", dest="sample.rows", metavar="N", help=_("labelled reports or stays"))
    parser.add_argument(
        "--test-rows", dest="sample.test_rows", metavar="N", help=_("reports or stays of each test file")
    )
    parser.add_argument("--seed", dest="sample.seed", metavar="N", help=_("another seed gives other reports or stays"))


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages.sample import make_from

    make_from(workspace.settings)
