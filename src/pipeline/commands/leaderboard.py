"""./run.sh leaderboard [RUN …]: every run under each validation, and its expected score on each test file.

./run.sh leaderboard blend
./run.sh leaderboard add output/submission_track1_round1_testB.csv 0.9231 --note "first try"
./run.sh leaderboard ask student lstm_student
./run.sh leaderboard tell s4 0.9244
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.language import _
from src.pipeline.command import add_force, existing_file

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help=_(
            "runs to show in detail; or `add FILE SCORE`, `tell ID SCORE`: what a submission scored online; or "
            "`ask [RUN …]`: a variation of runs to submit next"
        ),
    )
    parser.add_argument("--against", metavar="RUN", help=_("also what each other run gains over this one"))
    parser.add_argument(
        "--board", metavar="NAME", help=_("of add, ask and tell: where it is scored (leaderboard.board)")
    )
    parser.add_argument("--note", metavar="TEXT", help=_("of add and tell: a note kept with the score"))
    add_force(parser)


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline import online_scores
    from src.pipeline.stage import make, reading, run_lock
    from src.pipeline.stages.leaderboard import Leaderboard

    action, *words = parsed.runs or [""]
    if action in ("add", "ask", "tell") and parsed.against is not None:
        raise UserError(_("--against is not for ./run.sh leaderboard {action}").format(action=action))
    if action == "ask":
        if parsed.note is not None:
            raise UserError(_("--note is for ./run.sh leaderboard add and tell"))
        with reading(workspace, "leaderboard", map(run_lock, words or ["blend"])):
            online_scores.ask(workspace, words, parsed.board)
        return
    if action not in ("add", "tell"):
        if parsed.board is not None or parsed.note is not None:
            raise UserError(_("--board and --note are for ./run.sh leaderboard add, ask and tell"))
        make(workspace, Leaderboard(parsed.runs, parsed.against))
        return
    if len(words) != 2:
        raise UserError(
            _("./run.sh leaderboard {action} wants {what} and a SCORE").format(
                action=action, what=_("a FILE") if action == "add" else _("an ID")
            )
        )
    try:
        score = float(words[1])
    except ValueError:
        raise UserError(
            _("./run.sh leaderboard {action}: {words} is not a score, such as 0.9231").format(
                action=action, words=repr(words[1])
            )
        ) from None
    if action == "add":
        online_scores.add(workspace, existing_file(words[0]), score, parsed.board, parsed.note or "")
    else:
        online_scores.tell(workspace, words[0], score, parsed.board, parsed.note or "")
