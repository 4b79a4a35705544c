"""./run.sh import NAME --test FILE=SUBMISSION …: predictions that were made elsewhere become a run.

./run.sh import theirs --test sample_testA=a.csv sample_testB=b.csv --oof oof.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.language import _

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=_("name of the run"))
    parser.add_argument(
        "--test",
        action="extend",
        nargs="+",
        default=[],
        metavar="FILE=SUBMISSION",
        help=_("a test file and the submission that predicts it; once for each test file"),
    )
    parser.add_argument(
        "--oof",
        type=Path,
        metavar="FILE",
        help=_("out-of-fold predictions of the train rows, in the form of a submission, in any order"),
    )


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.core.terminal import dependency
    from src.pipeline.imported import import_run
    from src.pipeline.stage import get_stage, make

    tests: dict[str, Path] = {}
    for word in parsed.test:
        test, equals, path = word.partition("=")
        if not (test and equals and path):
            raise UserError(_("--test {word}: want FILE=SUBMISSION, such as sample_testB=theirs.csv").format(word=word))
        if test in tests:
            raise UserError(_("--test names {test} twice").format(test=test))
        tests[test] = Path(path)
    if not tests:
        raise UserError(_("./run.sh import wants --test FILE=SUBMISSION for each test file"))
    with dependency():
        make(workspace, get_stage("shift"))
    import_run(workspace, parsed.name, tests, parsed.oof)
