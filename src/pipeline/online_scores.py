"""Online scores: what was submitted, what it scored, and what to submit next (./run.sh leaderboard add|ask|tell).

./run.sh leaderboard add output/submission_track1_round1_testB.csv 0.9231 --note "first try"
./run.sh leaderboard ask student lstm_student
./run.sh leaderboard tell s4 0.9244
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core import storage
from src.core.errors import Damaged, UserError
from src.core.language import _
from src.core.names import check_name
from src.core.settings import BOARD
from src.core.targets import json_fingerprint
from src.core.terminal import result, show_table, warn
from src.data.submission_files import read_submission, write_submission
from src.ensemble.submission_log import Submission, SubmissionLog, entered_on
from src.evaluation import label_shift, metrics
from src.evaluation.run_comparison import gain
from src.evaluation.runs import RunFolder
from src.evaluation.validation_sets import VALIDATIONS, ShiftedTest
from src.evaluation.workspace import Workspace

if TYPE_CHECKING:
    from src.ensemble.leaderboard_search import Base

MEASURES = (*VALIDATIONS, "expected")
AS_IT_IS = {"label_shift": False}
"""Entry `how` of a submission that ./run.sh submit makes without changes to the run's probabilities."""
FEWEST = 3
"""Least number of submissions with an online score for a correlation."""


def show(workspace: Workspace) -> None:
    """Shows the table of submissions, where any has an online score, and what to submit next."""
    config, register = workspace.settings, SubmissionLog(workspace.output.submissions)
    for one in register.submissions():
        _judge(workspace, register, one)
    submissions = register.submissions_for(workspace.dataset.test_texts)
    if not any(one.online for one in submissions):
        return
    for test in sorted({one.test for one in submissions}, key=lambda test: (test is None, test or "")):
        here = [one for one in submissions if one.test == test]
        for board in sorted({entry.board for one in here for entry in one.online}):
            _show(workspace, here, test, board)
    for board in sorted({entry.board for one in submissions for entry in one.online}):
        today = entered_on(submissions, board, datetime.now().date())
        limit = config.leaderboard.daily_limit
        result(
            _("leaderboard: {today} of {limit} submissions of today on {board} (leaderboard.daily_limit)").format(
                today=today, limit=limit, board=board
            )
        )
    if told := advice(workspace, submissions):
        result(told)


def add(workspace: Workspace, file: Path, score: float, board: str | None, note: str) -> None:
    """Notes the online score of a submission file, one of ours or any other.

    Raises UserError, and notes nothing, for no score, for a file that is not there or is no submission, and for one
    that was noted with other bytes: which of the two was scored, only the user knows.
    """
    output = workspace.output
    register, board = SubmissionLog(output.submissions), _checked(workspace, score, board)
    if not file.is_file():
        raise UserError(
            _("{file} is not there. Name the file that was submitted, such as {submission}").format(
                file=file, submission=output.submission("….csv")
            )
        )
    sha = storage.file_sha256(file)
    noted = register.submissions()
    if known := [one for one in noted if one.sha256 == sha]:
        one = known[-1]
    elif before := [one for one in noted if one.test and (output.root / one.file).resolve() == file.resolve()]:
        raise UserError(
            _(
                "{file} has changed since it was noted as {id}. If it was submitted before: ./run.sh "
                "{command}. If it was submitted as it is now, give it another name and add that"
            ).format(
                file=file, id=before[-1].id, command=workspace.command("leaderboard", "tell", before[-1].id, str(score))
            )
        )
    else:
        test = _test_of(workspace, file)
        text = workspace.dataset.test_texts[test] if test else None
        one = register.made(file, sha, test=test, test_text=text, run=None, fingerprint=None, how={})
    _enter(workspace, register, one, score, board, note)


def _test_of(workspace: Workspace, file: Path) -> str | None:
    """The test file whose ids a submission from elsewhere has; None where it has those of none. Tells either. Raises
    UserError for a file that is no submission: nobody can have scored it."""
    told, ids = f"{file.name} was not made here", np.sort(read_submission(file, workspace.task)[0])
    try:
        tests = {test: np.sort(workspace.test_ids(test)) for test in workspace.dataset.test_files}
    except UserError as error:
        warn(
            _("{told}, and its ids cannot be compared: {error}. Its score is noted, and compares with none").format(
                told=told, error=error
            )
        )
        return None
    alike = [test for test, known in tests.items() if np.array_equal(ids, known)]
    named = [test for test in alike if Path(test).stem in file.name] or alike
    if not named:
        common = {test: int(np.isin(ids, known).sum()) for test, known in tests.items()}
        counts = ", ".join(f"{count:,} are in {test}" for test, count in common.items()) or "there are no test files"
        warn(
            _(
                "{told}, and its {n:,} ids are those of no test file: {counts}. Its score is "
                "noted, and compares with none"
            ).format(told=told, n=len(ids), counts=counts)
        )
        return None
    target = workspace.target
    test = target.name if target is not None and target.name in named else named[0]
    both = f" ({' and '.join(alike)} have the same ids)" if len(alike) > 1 else ""
    warn(
        _(
            "{told}: it counts as a submission of {test}{both}, without validations. To blend it "
            "and set its score beside validations: ./run.sh {command}"
        ).format(
            told=told, test=test, both=both, command=workspace.command("import", "NAME", "--test", f"{test}={file}")
        )
    )
    return test


def ask(workspace: Workspace, names: list[str], board: str | None) -> None:
    """Proposes the next submission for the target: a variation of the runs, or of the blend. Writes and notes it."""
    config, output, dataset = workspace.settings, workspace.output, workspace.dataset
    board = check_name(BOARD, config.leaderboard.board if board is None else board)
    target, runs_, base, validation = _base(workspace, names)
    register = SubmissionLog(output.submissions)
    made_of = {run.name: run.score["fingerprint"] for run in runs_}
    told = []
    for one in register.submissions_for(dataset.test_texts):
        if one.test == target.name and one.how.get("made_of") == made_of and one.how["board"] == board:
            if one.how["settings"].keys() != base.plain.keys():
                raise UserError(
                    _("{path}: {id} has other settings than are varied. Take it out of the log").format(
                        path=register.path, id=one.id
                    )
                )
            told.append((one.how["settings"], one.score(board)))
        elif one.test == target.name and len(made_of) == 1 and one.is_made_of(*made_of.values(), AS_IT_IS):
            if one.score(board) is not None:
                told.append((base.plain, one.score(board)))
    proposal = base.ask(told, seed=len(told))
    number = 1 + len([one for one in register.submissions() if "made_of" in one.how])
    # A submission that was taken out of the log may have been uploaded: its file stays.
    path = next(
        path for i in itertools.count(number) if not (path := output.submission(target.name, f"ask{i}")).exists()
    )
    ids, predictions = workspace.whole_test_file(target.name, base.predict(proposal.settings))
    write_submission(path, ids, predictions, config.submit.eps, dataset.task)
    noted = register.made(
        path,
        storage.file_sha256(path),
        test=target.name,
        test_text=dataset.test_texts[target.name],
        run=None,
        fingerprint=None,
        how={"made_of": made_of, "board": board, "settings": proposal.settings},
    )
    answers = sum(score is not None for _, score in told)
    result(
        _("leaderboard: a variation of {runs}, by {answers} answers and {awaited} awaited").format(
            runs=", ".join(base.runs), answers=answers, awaited=len(told) - answers
        )
    )
    show_table(
        _("Settings"),
        ["setting", "as it is", "proposed"],
        [[name, f"{base.plain[name]:.4g}", f"{value:.4g}"] for name, value in proposal.settings.items()],
    )
    result(
        _(
            "by {select_on} {local:.4f}, as it is {plain:.4f}; expected on {board} {expected:.4f} ± {spread:.4f}{when}"
        ).format(
            select_on=validation,
            local=proposal.local,
            plain=base.score(base.plain),
            board=board,
            expected=proposal.expected,
            spread=proposal.spread,
            when="" if answers else _(", before any answer"),
        )
    )
    tell_it = f"./run.sh {workspace.command('leaderboard', 'tell', noted.id, 'SCORE')}"
    result(
        _("leaderboard: {path}, noted as {id}. With its score: {tell_it}").format(
            path=path, id=noted.id, tell_it=tell_it
        )
    )


def _base(workspace: Workspace, names: list[str]) -> tuple[ShiftedTest, list[RunFolder], Base, str]:
    """The target, the runs that are varied, their predictions for the validation's rows and for the target, and the
    name of this validation."""
    from src.ensemble.leaderboard_search import Base

    target, labels = workspace.target, workspace.labels
    if target is None:
        raise UserError(
            _("there is no test file in {input} to make a submission for").format(input=workspace.settings.paths.input)
        )
    if len(set(names)) < len(names):
        raise UserError(_("a run is named twice: {names}").format(names=" ".join(names)))
    if not workspace.task.has_classes:
        raise UserError(
            _(
                "leaderboard ask varies probabilities, and the task {name} predicts {unit}. Choose a "
                "run with: ./run.sh {command}"
            ).format(name=workspace.task.name, unit=workspace.task.unit, command=workspace.command("leaderboard"))
        )
    runs_ = [workspace.fitting_run(name) for name in names or ["blend"]]
    workspace.check_unbroken(runs_)
    rows = workspace.validation_for(runs_).only(workspace.splits.scored)
    local = [rows.logits(run.oof(), run.copies(target.name)) for run in runs_]
    test = [np.asarray(run.test_logits(target.name)) for run in runs_]
    task, mean = workspace.task, np.mean(local, axis=0)
    _adapted, known, rates = label_shift.adapt(task, mean, labels[rows.rows], rows.weights, np.mean(test, axis=0))
    base = Base(
        task,
        [run.name for run in runs_],
        local,
        labels[rows.rows],
        rows.weights,
        test,
        task.rates(labels),
        metrics.logit(rates) - metrics.logit(known)
        if task.kind != "multiclass"
        else label_shift.log_odds(task, rates) - label_shift.log_odds(task, known),
    )
    return target, runs_, base, rows.name


def tell(workspace: Workspace, name: str, score: float, board: str | None, note: str) -> None:
    """Notes the online score of a submission by its id. Raises UserError, and notes nothing, for no score."""
    register = SubmissionLog(workspace.output.submissions)
    one = register.find(name)
    board = _checked(workspace, score, one.how.get("board") if board is None else board)
    _enter(workspace, register, one, score, board, note)


def _checked(workspace: Workspace, score: float, board: str | None) -> str:
    """Returns the board, by default that of the settings. Raises UserError for a name that is none, or no score."""
    if 1 < score <= 100:
        raise UserError(
            _("a score is a number below 1, not {score}. If that is a percentage, enter {share:g}").format(
                score=score, share=score / 100
            )
        )
    if not -math.inf < score < 1:
        raise UserError(_("a score is a number below 1, not {score}").format(score=score))
    return check_name(BOARD, workspace.settings.leaderboard.board if board is None else board)


def _enter(workspace: Workspace, register: SubmissionLog, one: Submission, score: float, board: str, note: str) -> None:
    before = one.score(board)
    register.scored(one, score, board, note)
    instead = f" instead of {before}" if before is not None and before != score else ""
    result(
        _("leaderboard: {id} ({file}) scored {score} on {board}{instead}").format(
            id=one.id, file=one.file, score=score, board=board, instead=instead
        )
    )
    try:
        show(workspace)
    except UserError as error:  # the score is noted; what it means can be asked again
        warn(_("the score is noted, but cannot be set beside the runs: {error}").format(error=error))


def _judge(workspace: Workspace, register: SubmissionLog, one: Submission) -> None:
    """Takes over what ./run.sh leaderboard found of a submission's run, if that run is still the same."""
    if one.judged or not one.run or not _is_there(workspace, one):
        return
    tests = workspace.boards(workspace.run(one.run))
    if one.test in tests:
        register.judged(one, {key: tests[one.test][key] for key in ("validations", "expected")})


@dataclass(frozen=True)
class _Line:
    submission: Submission
    values: dict[str, float | None]
    """Score under each measure, and `online`."""


def _show(workspace: Workspace, submissions: list[Submission], test: str | None, board: str) -> None:
    lines = []
    for one in submissions:
        values: dict[str, float | None] = dict.fromkeys(MEASURES)
        if one.judged:
            values = {name: one.judged["validations"][name]["value"] for name in VALIDATIONS}
            values["expected"] = one.judged["expected"]["value"]
        lines.append(_Line(one, {**values, "online": one.score(board)}))
    entered = [line for line in lines if line.values["online"] is not None]
    entered.sort(key=lambda line: line.values["online"], reverse=True)
    if not entered:
        return
    measured = [line for line in entered if None not in line.values.values()]
    names = [*MEASURES, "online"]
    ranks = {name: _ranks([line.values[name] for line in entered]) for name in names}
    rows = [
        [
            line.submission.id,
            (line.submission.run or line.submission.file.removeprefix("submission_"))[:12],
            *(_with_rank(line.values[name], ranks[name][i]) for name in names),
        ]
        for i, line in enumerate(entered)
    ]
    of = f"of {test}" if test else "with ids of no test file"
    show_table(
        _("Submissions {of}, best on {board} first: score/rank").format(of=of, board=board), ["id", "run", *names], rows
    )
    if len(measured) >= FEWEST:
        online = [line.values["online"] for line in measured]
        told = ", ".join(f"{name} {_spearman([line.values[name] for line in measured], online)}" for name in MEASURES)
        result(
            _("rank correlation with {board}: {told}; from {n} submissions alone").format(
                board=board, told=told, n=len(measured)
            )
        )
    if len(measured) > 1 and test:
        _show_gains(workspace, measured[0].submission, [line.submission for line in measured[1:]], test)


def _show_gains(workspace: Workspace, best: Submission, others: list[Submission], test: str) -> None:
    """Gain of the best submission online over the others on the validation rows, where their runs are still there."""
    target = next((one for one in workspace.validation_sets.tests if one.name == test), None)
    fitting = {run.score["fingerprint"]: run for run in workspace.fitting_runs()[0]}
    if target is None or best.fingerprint not in fitting:
        return
    for one in others:
        if one.fingerprint not in fitting or one.fingerprint == best.fingerprint:
            continue
        select_on = workspace.settings.select_on
        found = gain(workspace, target, fitting[best.fingerprint], fitting[one.fingerprint], select_on)
        small = ": less than one standard error" if abs(found.value) < found.standard_error else ""
        words = metrics.gain_text(workspace.task, found)
        result(
            _("{id} gains {words} over {other} by {select_on}{small}").format(
                id=best.id, words=words, other=one.id, select_on=select_on, small=small
            )
        )


def advice(workspace: Workspace, submissions: list[Submission]) -> str:
    """Proposal for the next submission: the best run not submitted, beside the best that was. Empty without a test."""
    select_on, target = workspace.settings.select_on, workspace.target
    if target is None:
        return ""
    loaded = {run.name: run for run in workspace.fitting_runs()[0] if not run.fault}
    by_test = {name: workspace.boards(run) for name, run in loaded.items()}
    boards = {
        name: tests[target.name]["validations"][select_on]["value"]
        for name, tests in by_test.items()
        if target.name in tests
    }
    boards = {name: value for name, value in boards.items() if value is not None}
    entered = {maker["fingerprint"] for one in submissions if one.online for maker in one.makers()}
    done = [name for name in boards if loaded[name].score["fingerprint"] in entered]
    left = sorted((name for name in boards if name not in done), key=lambda name: boards[name])
    if not boards:
        return f"next: ./run.sh {workspace.command('leaderboard')}, by which runs are chosen"
    vary = f"./run.sh {workspace.command('leaderboard', 'ask')}"
    if not left:
        return f"next: every run was submitted. {vary} proposes variations of them"
    submit = f"./run.sh {workspace.command('submit', left[-1])}"
    if not done:
        return f"next: {submit}, the best by {select_on} ({boards[left[-1]]:.4f})"
    best = max(done, key=lambda name: boards[name])
    found = gain(workspace, target, loaded[left[-1]], loaded[best], select_on)
    words = metrics.gain_text(workspace.task, found)
    if found.value > found.standard_error:
        return f"next: {submit}, {words} over {best} by {select_on}"
    return (
        f"next: no run is ahead of {best} by more than a standard error (the nearest is {left[-1]}, {words} "
        f"by {select_on}). {vary} proposes variations"
    )


def _is_there(workspace: Workspace, one: Submission) -> bool:
    """Returns True if the submission's run has not been made anew since."""
    score = workspace.output.run(one.run) / "score.json"
    try:
        return score.exists() and json_fingerprint(score) == one.fingerprint
    except Damaged:
        return False  # Workspace.fitting_runs tells it


def _ranks(values: list[float | None]) -> list[int | None]:
    """1 for the largest; None where there is no value."""
    known = [value for value in values if value is not None]
    return [None if value is None else 1 + sum(other > value for other in known) for value in values]


def _with_rank(value: float | None, rank: int | None) -> str:
    return "–" if value is None else f"{value:.4f}/{rank}"


def _spearman(left: list[Any], right: list[Any]) -> str:
    from scipy.stats import spearmanr

    if len(set(left)) < 2 or len(set(right)) < 2:
        return "–"
    return f"{spearmanr(left, right).statistic:.2f}"
