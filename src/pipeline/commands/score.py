"""./run.sh score: what was scored, beside the baselines; with --labels, a submission against a labelled file.

./run.sh score
./run.sh score --labels answers.csv output/submission_test.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="*", help="runs to show label by label; with --labels, a submission")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="labelled reports to score a submission against")


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.evaluation import runs
    from src.pipeline.stages.score import STAGE

    if parsed.labels is not None:
        if len(parsed.what) != 1:
            raise UserError("--labels takes one submission: ./run.sh score --labels FILE SUBMISSION")
        score_submission(Path(parsed.what[0]), parsed.labels)
        return
    for name in parsed.what:
        if Path(name).is_file():
            raise UserError(f"{name} is a file; to score it: ./run.sh score --labels FILE {name}")
        runs.show_details(workspace.run(name))
    STAGE.show(workspace)


def score_submission(submission: Path, labels: Path) -> None:
    """Prints the official score of a submission file against a labelled file; ids must agree row by row."""
    import numpy as np

    from src.core.terminal import info, result
    from src.data.report_reader import read_reports
    from src.data.submission_files import read_submission
    from src.data.tasks import task_of_width
    from src.evaluation import metrics, runs

    ids, probabilities = read_submission(submission)
    truth = read_reports(labels, labelled=True)
    task = task_of_width(probabilities.shape[1])
    if task is None:
        raise UserError(f"{submission} has {probabilities.shape[1]} probabilities a row; no round has so many labels")
    if len(ids) != len(truth.ids) or (ids != truth.ids).any():
        where = np.flatnonzero(ids[: len(truth)] != truth.ids[: len(ids)])
        line = int(where[0]) + 1 if len(where) else min(len(ids), len(truth)) + 1
        raise UserError(
            f"{submission} ({len(ids):,} rows) and {labels} ({len(truth):,} rows) differ in their ids from line "
            f"{line} on; they must hold the same reports in the same order"
        )
    report = metrics.score_report(task, truth.labels_for(task), probabilities)
    info(f"score: {submission} against {labels}")
    runs.show_scores({"submission": report})
    score = report["overall"]["score"]
    spread = "" if score["standard_error"] is None else f" ± {score['standard_error']:.6f}"
    result(f"score: {score['value']:.6f}{spread} ({task.title}, {len(ids):,} reports)")
