"""A run is a folder that explains itself; a blend is a run with the same files.

config.yaml         the settings that made it
run.json            task, text form, and its parts: fold folders of a model, member runs of a blend
vocabulary.json     how its models number tokens
environment.json    machine and versions
fold_K.split_S.seed_S.HASH/   weights, history and logits of one model (models only)
history.csv         every epoch of every fold (models only)
oof.npy             logits (N, n_labels) in the order of the training files; NaN where no model may be judged
test_NAME.npy       logits of a test file
score.json          written last
"""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src import artifacts, metrics
from src.artifacts import Output
from src.config import Run, run_from_yaml
from src.console import show_table
from src.errors import UserError, unknown
from src.folds import Folds
from src.task import Task, get_task

CODE = ("src.runs", "src.metrics", "src.task")


@dataclass(frozen=True)
class RunFolder:
    path: Path
    record: dict[str, Any]
    """What run.json holds."""

    @classmethod
    def load(cls, output: Output, name: str) -> RunFolder:
        """Raises UserError, with the command, for a run that is not there or not finished."""
        path = output.run(name)
        if not path.is_dir() and output.run_names():
            raise unknown("run", name, output.run_names())
        artifacts.require(path / "score.json", "blend" if name == "blend" else f"train --model {name}")
        return cls(path, artifacts.read_json(path / "run.json"))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def task(self) -> Task:
        return get_task(self.record["task"])

    @property
    def score(self) -> dict[str, Any]:
        return artifacts.read_json(self.path / "score.json")

    @property
    def settings(self) -> Run:
        """Of a trained model, as its config.yaml has them."""
        return run_from_yaml(self.path / "config.yaml")

    def oof(self) -> np.ndarray:
        return np.load(artifacts.require(self.path / "oof.npy", f"train --model {self.name}"))

    def test_path(self, test_file: str) -> Path:
        return self.path / f"test_{Path(test_file).stem}.npy"


def score_oof(task: Task, labels: np.ndarray, logits: np.ndarray, folds: Folds, how: str) -> dict[str, Any]:
    """The content of a score.json: every metric of out-of-fold logits (N, n_labels), and `how` they came about."""
    rows = folds.scored
    probabilities = metrics.sigmoid(logits[rows].astype(np.float64))
    fold_of_row = folds.first[rows] if folds.scheme == "kfold" else None
    return {"how": how, "rows": int(rows.sum()), **metrics.score_report(task, labels[rows], probabilities, fold_of_row)}


def environment(device: str, precision: str) -> dict[str, Any]:
    """What a result depends on beside its configuration."""
    packages = ("torch", "numpy", "pandas", "scipy", "scikit-learn", "iterative-stratification")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "device": device,
        "precision": precision,
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def headline(score: dict[str, Any]) -> str:
    """The official score of a score.json, its standard error and how it came about."""
    official = score["overall"]["score"]
    return f"{official['value']:.4f} ± {official['standard_error']:.4f} on {score['rows']:,} reports ({score['how']})"


COLUMNS = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "sensitivity": "sens.", "specificity": "spec."}


def show_scores(scores: dict[str, dict[str, Any]]) -> None:
    """One line for each run's score.json, best last."""

    def figure(estimate: dict[str, Any]) -> str:
        return "–" if estimate["value"] is None else f"{estimate['value']:.4f}"

    rows = []
    for name, score in sorted(scores.items(), key=lambda item: item[1]["overall"]["score"]["value"]):
        all_rows = score["overall"]
        rows.append(
            [
                name,
                f"{figure(all_rows['score'])} ± {all_rows['score']['standard_error']:.4f}",
                figure(all_rows["exact_match"]),
                figure(all_rows["calibration_error"]),
                *(figure(all_rows["macro"][key]) for key in COLUMNS),
            ]
        )
    show_table("Score of each run, with its standard error", ["run", "score", "exact", "ECE", *COLUMNS.values()], rows)


def check_same_data(runs: list[RunFolder], train_hash: str) -> None:
    """Raises UserError for a run that was trained on other reports than those in output/data."""
    for run in runs:
        if run.record["train"] != train_hash:
            raise UserError(
                f"run {run.name} was trained on other reports than those in the input folder now. "
                f"Run: ./run.sh train --model {run.name}"
            )
