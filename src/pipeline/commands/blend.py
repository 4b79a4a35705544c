"""./run.sh blend [RUN …]: several runs into one, which is again a run.

./run.sh blend lstm transformer blend.method=mean --name two
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.language import _
from src.pipeline.command import add_force

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help=_("default: blend.members, or the whole preset"))
    parser.add_argument("--name", default="blend", help=_("name of the blend's own run (default: blend)"))
    add_force(parser)


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import make
    from src.pipeline.stages.blend import Blend, check_blend_name

    check_blend_name(workspace, parsed.name)
    make(workspace, Blend(parsed.runs, parsed.name))
