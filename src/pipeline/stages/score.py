"""./run.sh score: what was scored, beside the ladder; with --labels, a submission against a labelled file.

./run.sh score
./run.sh score --labels answers.csv output/submission_test.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.settings import Config
from src.core.storage import Output
from src.core.terminal import info, result
from src.data.dataset import Dataset
from src.data.report_reader import read_reports
from src.data.submission_files import read_submission
from src.data.tasks import task_of_width
from src.evaluation import metrics, runs
from src.evaluation.runs import RunFolder
from src.training.tracking import tracking_of


def run(config: Config, names: Sequence[str] = ()) -> None:
    """The table of all runs and baselines on the reports that are there now; for each run in `names`, its details."""
    output = Output(config.paths.output)
    if not output.run_names():
        raise UserError(f"{output.runs} holds no finished run. Make one with: ./run.sh train")
    for name in names:
        if Path(name).is_file():
            raise UserError(f"{name} is a file; to score it: ./run.sh score --labels FILE {name}")
        runs.show_details(RunFolder.load(output, name, config))
    scores = {path.parent.name: storage.read_json(path) for path in output.baselines.glob("*/score.json")}
    scores |= {name: RunFolder.load(output, name, config).score for name in output.run_names()}
    dataset = Dataset.load(output)
    now = (dataset.manifest["train"], storage.array_hash(dataset.load_folds().table))
    others = [name for name, score in scores.items() if (score.get("train"), score.get("folds_table")) != now]
    runs.show_scores({name: score for name, score in scores.items() if name not in others})
    tracking = tracking_of(config)
    for name in output.run_names():
        if name not in others:
            tracking.score(output.run(name))
    if others:
        result(f"left out, as they were made on other train files or folds than are there now: {', '.join(others)}")


def score_submission(submission: Path, labels: Path) -> None:
    """Prints the official score of a submission file against a labelled file; order of rows and ids must agree."""
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
