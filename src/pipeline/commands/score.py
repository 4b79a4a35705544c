"""./run.sh score: what was scored, beside the baselines; with --labels, a submission against a labelled file.

./run.sh score
./run.sh score --labels answers.csv output/submission_test.csv
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.language import _, word
from src.pipeline.command import existing_file

if TYPE_CHECKING:
    import numpy as np

    from src.core.settings import Config
    from src.data.tasks import Task
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="*", help=_("runs to show label by label; with --labels, a submission"))
    parser.add_argument(
        "--labels",
        type=existing_file,
        metavar="FILE",
        help=_("labelled reports, or outcomes of stays, to score a submission against"),
    )


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.evaluation import runs
    from src.pipeline.stages.score import STAGE

    if parsed.labels is not None:
        if len(parsed.what) != 1:
            raise UserError(_("--labels takes one submission: ./run.sh score --labels FILE SUBMISSION"))
        score_submission(workspace.settings, existing_file(parsed.what[0]), parsed.labels)
        return
    workspace.check_input()
    for name in parsed.what:
        if Path(name).is_file():
            told = _("{name} is a file; to score it: ./run.sh score --labels FILE {typed}")
            raise UserError(told.format(name=name, typed=shlex.quote(name)))
        runs.show_details(workspace.run(name))
    STAGE.show(workspace)


def score_submission(settings: Config, submission: Path, labels: Path) -> None:
    """Prints the official score of a submission file against a labelled file; ids must agree row by row."""
    from src.core.terminal import info, result
    from src.data.series_dataset import labels_of
    from src.data.submission_files import read_submission
    from src.evaluation import metrics, runs

    task = _clinical_task(settings)
    ids, predictions = read_submission(submission, task) if task else read_submission(submission)
    unknown = 0
    if task:
        rows, truth = labels_of(labels, ids, task)
        predictions, unknown = predictions[rows], len(ids) - len(rows)
    else:
        task, true_ids, truth = _labelled_reports(submission, predictions, labels)
        if len(ids) != len(true_ids) or (ids != true_ids).any():
            raise UserError(_differing(submission, ids, labels, true_ids))
    report = metrics.score_report(task, truth, predictions, operating=settings.operating)
    info(_("score: {submission} against {labels}").format(submission=submission, labels=labels))
    if unknown:
        info(
            _("score: {unknown:,} {noun} without a known label are left out").format(
                unknown=unknown, noun=word(task.noun)
            )
        )
    runs.show_scores({"submission": report}, settings.metric)
    score = report["overall"]["score"]
    spread = "" if score["standard_error"] is None else f" ± {score['standard_error']:.6f}"
    result(
        _("score: {value:.6f}{spread} ({title}, {n:,} {noun})").format(
            value=score["value"], spread=spread, title=word(task.title), n=len(truth), noun=word(task.noun)
        )
    )


def _differing(submission: Path, ids: np.ndarray, labels: Path, true_ids: np.ndarray) -> str:
    """Says how the ids (N,) of a submission and (M,) of a labelled file differ."""
    import numpy as np

    both = np.intersect1d(ids, true_ids)
    two = f"{submission} ({len(ids):,} rows) and {labels} ({len(true_ids):,} rows)"
    if not len(both):
        return f"{two} have no id in common: these labels are not for this submission. Name those of its test file."
    where = np.flatnonzero(ids[: len(true_ids)] != true_ids[: len(ids)])
    line = int(where[0]) + 1 if len(where) else min(len(ids), len(true_ids)) + 1
    if len(both) == len(ids) == len(true_ids):
        return f"{two} have the same ids in another order from line {line} on; they must have one order"
    odd = np.setxor1d(ids, true_ids)[0]
    return (
        f"{two} differ in their ids from line {line} on: {len(both):,} are in both, {odd.decode()} is in one alone. "
        "They must hold the same reports in the same order."
    )


def _labelled_reports(submission: Path, predictions: np.ndarray, labels: Path) -> tuple[Task, np.ndarray, np.ndarray]:
    """The round that has so many labels, and ids (N,) and labels (N, n_labels) of a file of labelled reports."""
    from src.data.report_reader import read_reports
    from src.data.tasks import task_of_width

    truth = read_reports(labels, labelled=True, may_be_empty=True)
    task = task_of_width(predictions.shape[1])
    if task is None:
        raise UserError(
            _("{submission} has {n} probabilities a row; no round has so many labels").format(
                submission=submission, n=predictions.shape[1]
            )
        )
    known = truth.truth_for(task)
    if truth.empty.labels is None:
        return task, truth.ids, known
    return task, *truth.empty.complete(truth.ids, known, truth.empty.labels[:, : task.n_labels])


def _clinical_task(settings: Config) -> Task | None:
    from src.data.tasks import get_task

    if settings.task == "frames":
        raise UserError(
            _("score --labels is for reports and stays; ./run.sh predict scores images against their labels")
        )
    return get_task(settings.task) if settings.is_clinical else None
