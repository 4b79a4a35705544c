"""./run.sh domains [RUN …]: how institutions, wards or sources differ, and how runs score in each of them.
./run.sh domains adapt [RUN …]: what a few labelled rows of a new domain bring.

./run.sh domains --task icu domains.by=ICUType
./run.sh domains dann coral --against pooled --task icu domains.by=ICUType folds.scheme=domains folds.k=4
./run.sh domains adapt pooled --rows 0,10,100 --task icu domains.by=ICUType folds.scheme=domains folds.k=4
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.language import _
from src.pipeline.command import add_force

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help=_("runs that are judged by domain (default: all); or `adapt [RUN …]`: few labelled rows of a new domain"),
    )
    parser.add_argument(
        "--against", metavar="RUN", help=_("run that the others are compared with (default: pooled, if there is one)")
    )
    parser.add_argument(
        "--rows", metavar="N,N,…", help=_("of adapt: numbers of labelled rows (default: 0,10,100,1000)")
    )
    add_force(parser)


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import make
    from src.pipeline.stages.domains import DomainStage

    if parsed.runs[:1] != ["adapt"]:
        if parsed.rows is not None:
            raise UserError(_("--rows is for ./run.sh domains adapt"))
        make(workspace, DomainStage(parsed.runs, parsed.against))
        return
    if parsed.against is not None:
        raise UserError(_("--against is not for ./run.sh domains adapt"))
    from src.pipeline.stages.adaptation import SIZES, Adaptation

    make(workspace, Adaptation(parsed.runs[1:], SIZES if parsed.rows is None else _sizes(parsed.rows)))


def _sizes(text: str) -> list[int]:
    """Numbers of rows. Raises UserError for anything else."""
    words = text.split(",")
    if not all(word.isdecimal() and len(word) < 10 for word in words):
        raise UserError(_("--rows {text}: expected numbers of rows such as 0,10,100").format(text=repr(text)))
    return list(map(int, words))
