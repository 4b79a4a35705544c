"""./run.sh score: what was scored, beside the ladder; with --labels, a submission against a labelled file.

./run.sh score
./run.sh score --labels answers.csv output/submission_test.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src import artifacts, metrics, runs
from src.artifacts import Output
from src.config import Config
from src.console import say, show_table
from src.errors import UserError
from src.reports import read_reports
from src.runs import RunFolder
from src.submissions import read_submission
from src.task import task_of_width


def run(config: Config, names: Sequence[str] = ()) -> None:
    """The table of all runs and baselines; for each run in `names`, its labels one by one."""
    output = Output(config.paths.output)
    if not output.run_names():
        raise UserError(f"{output.runs} holds no finished run. Make one with: ./run.sh train")
    for name in names:
        _show_labels(RunFolder.load(output, name))
    ladder = {path.parent.name: artifacts.read_json(path) for path in output.baselines.glob("*/score.json")}
    runs.show_scores(ladder | {name: RunFolder.load(output, name).score for name in output.run_names()})


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
    runs.show_scores({submission.name: report})
    score = report["overall"]["score"]
    say(f"score: {score['value']:.6f} ± {score['standard_error']:.6f} ({task.title}, {len(ids):,} reports)")


def _show_labels(source: RunFolder) -> None:
    score = source.score
    overall = score["overall"]
    figures = {key: overall[key] for key in ("score", "mlogloss", "exact_match", "calibration_error")}
    figures |= {f"{group}: mlogloss": part["mlogloss"] for group, part in overall["groups"].items()}
    figures |= {f"mean {name}": overall["macro"][key] for key, name in runs.COLUMNS.items()}
    rows = [[name, *(_cell(figure[key]) for key in ("value", "standard_error"))] for name, figure in figures.items()]
    show_table(f"{source.name}: {score['how']}", ["", "value", "s.e."], rows)
    total = sum(label["log_loss"]["value"] or 0.0 for label in score["overall"]["labels"].values())
    rows = []
    for name, label in score["overall"]["labels"].items():
        cells = [label[key]["value"] for key in ("log_loss", *runs.COLUMNS)]
        share = f"{cells[0] / total:.0%}" if cells[0] is not None and total else "–"
        rows.append([name, f"{label['positives']:,}", share, *map(_cell, cells)])
    columns = ["label", "positives", "loss share", "log loss", *runs.COLUMNS.values()]
    show_table(f"{source.name}, label by label", columns, rows)
    if score["folds"]:
        values = [f"{fold}: {part['score']['value']:.4f}" for fold, part in score["folds"].items()]
        say(f"score of each fold: {', '.join(values)}")


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
