"""A run is a folder that explains itself; a blend is a run with the same files.

config.yaml         the settings that made it
run.json            task, text form, and its parts: fold folders of a model, member runs of a blend
vocabulary.json     how its models number tokens (reports only)
environment.json    machine and versions
fold_K.split_S.seed_S.HASH/   weights, history and logits of one model (models only)
history.csv         every epoch of every fold (models only)
oof.npy             logits (N, n_labels) in the order of the training files; NaN where no model may be judged
test_NAME.npy       logits of a test file
copies_NAME.npy     out-of-fold logits (D, M, n_labels) of the train rows with noise up to that of the test file
folds_NAME.npy      logits (k, m, n_labels) of each fold's models alone for (a sample of) the test file
score.json          written last
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core import storage
from src.core.errors import OutOfDate
from src.core.settings import PARTS, Config, Run
from src.core.settings_loader import run_from_yaml
from src.core.targets import Target
from src.core.terminal import result, show_table
from src.data.tasks import Task, get_task
from src.evaluation import metrics

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


@dataclass(frozen=True)
class RunFolder:
    path: Path
    record: dict[str, Any]
    """Content of run.json."""
    config: Config
    """Settings of the present command, which may differ from those that made the run."""

    @classmethod
    def load(cls, path: Path, settings: Config) -> RunFolder:
        """Raises UserError, with the command, for a run that is not finished."""
        run = cls(path, storage.read_json(path / "run.json"), settings)
        storage.require(path / "score.json", run.remedy)
        return run

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_blend(self) -> bool:
        return self.record["kind"] == "blend"

    @property
    def remedy(self) -> str:
        """The command that makes this run again, on the files and folds that are there now."""
        if self.is_blend:
            words = ["blend", *self.record["members"], "--name", self.name]
        else:
            words = ["train", "--model", self.name]
        paths = [word for word in self.config.overrides if word.startswith("paths.")]
        return shlex.join([*words, "--preset", self.record["preset"], *self.record["overrides"], *paths])

    def ancestors(self) -> set[str]:
        """Names of the members, and of their members."""
        found: set[str] = set()
        for name in self.record.get("members", ()):
            member = self.path.parent / name / "run.json"
            found |= {name}
            if member.exists():
                found |= RunFolder(member.parent, storage.read_json(member), self.config).ancestors()
        return found

    def models(self) -> list[RunFolder]:
        """The trained models that a blend is made of, through blends of blends; of a model, itself."""
        if not self.is_blend:
            return [self]
        paths = [self.path.parent / name for name in sorted(self.ancestors())]
        members = [RunFolder(path, storage.read_json(path / "run.json"), self.config) for path in paths]
        return [member for member in members if not member.is_blend]

    def check_members(self) -> None:
        """Raises UserError for a blend of which a member was made anew since."""
        for name, made in self.record.get("members", {}).items():
            path = self.path.parent / name
            if not Target(name, path / "score.json", made, (path / "run.json",)).is_current():
                raise OutOfDate(f"run {name} was made anew after the blend {self.name}. Run: ./run.sh {self.remedy}")
            RunFolder(path, storage.read_json(path / "run.json"), self.config).check_members()

    @property
    def task(self) -> Task:
        return get_task(self.record["task"])

    def check_fits(self, now: dict[str, Any], words: dict[str, dict[str, Any]]) -> None:
        """Raises UserError, with the command, where the run, or a member of it, was made of something else.

        `now`: fingerprints of the train reports, test files, folds and noisy copies (None: not compared) that are
        there now; `words`: the settings of folds and noisy copies, by the first part of their keys.
        """
        named = {"train": "on other train files", "folds": "on other folds", "tests": "for other test files"}
        named["shift"] = "with other noisy copies of the train reports (./run.sh shift)"
        for key, what in named.items():
            if now[key] is not None and self.record.get(key) != now[key]:
                part = "shift" if key == "shift" else "folds"
                changed = [f"{part}.{name}={value}".replace(" ", "") for name, value in words[part].items()]
                raise OutOfDate(
                    f"run {self.name} was made {what} than are there now. "
                    f"Run: ./run.sh {self.remedy} {shlex.join(changed)}"
                )
        self.check_members()

    @property
    def score(self) -> dict[str, Any]:
        return storage.read_json(self.path / "score.json")

    @property
    def settings(self) -> Run:
        """Settings of a trained model, read from its config.yaml."""
        return run_from_yaml(self.path / "config.yaml")

    def boards(self) -> dict[str, Any]:
        """Findings of ./run.sh leaderboard for the run as it is now, by test file; empty if there are none yet."""
        path = self.path / "leaderboard.json"
        found = storage.read_json(path) if path.exists() else {}
        return found["tests"] if found.get("run") == self.score["fingerprint"] else {}

    def oof(self) -> np.ndarray:
        return np.load(storage.require(self.path / "oof.npy", self.remedy))

    def test_logits(self, test_file: str) -> np.ndarray:
        return np.load(storage.require(test_path(self.path, test_file), self.remedy))

    def copies(self, test_file: str) -> np.ndarray:
        return np.load(storage.require(copies_path(self.path, test_file), self.remedy))

    def fold_logits(self, test_file: str) -> np.ndarray:
        return np.load(storage.require(folds_path(self.path, test_file), self.remedy))


def check_settings(config: Config, parts: Iterable[RunFolder]) -> None:
    """Raises UserError, with the command, for a run of the preset that was trained with other settings."""
    for part in parts:
        if not part.is_blend and part.settings != config.runs[part.name]:
            raise OutOfDate(
                f"run {part.name} was made with preset {part.record['preset']} or other settings than these. "
                f"Train it again: ./run.sh {command('train', config, '--model', part.name)}. "
                f"Or blend what is there, by name: ./run.sh blend {' '.join(config.runs)}"
            )


def test_path(run: Path, test_file: str) -> Path:
    """Path of a run's logits of a test file."""
    return run / f"test_{Path(test_file).stem}.npy"


def copies_path(run: Path, test_file: str) -> Path:
    """Path of a run's out-of-fold logits of the noisy copies."""
    return run / f"copies_{Path(test_file).stem}.npy"


def folds_path(run: Path, test_file: str) -> Path:
    """Path of each fold's own logits of a test file."""
    return run / f"folds_{Path(test_file).stem}.npy"


def files(test_files: list[str], *more: str) -> list[str]:
    """Names of what a finished run has beside its score.json."""
    tests = [path(Path(), test).name for test in test_files for path in (test_path, copies_path, folds_path)]
    return ["config.yaml", "run.json", "environment.json", "oof.npy", *tests, *more]


def command(verb: str, config: Config, *words: str) -> str:
    """A command line with the preset and the settings of `config`."""
    return shlex.join([verb, *words, "--preset", config.preset, *config.overrides])


def make_record(workspace: Workspace, kind: str, name: str | None = None) -> dict[str, Any]:
    """The part of run.json that every run has; RunFolder.check_fits reads it."""
    settings, dataset = workspace.settings, workspace.dataset
    return {
        "kind": kind,
        "preset": settings.preset,
        # Where the files lie does not matter to a run, and two places should give the same bytes.
        "overrides": [
            word
            for word in settings.overrides
            if not word.startswith("paths.")
            # Words for all runs do not reach a teacher that --model brought.
            and (name is None or name in settings.models or word.split(".")[0] not in PARTS)
        ],
        "task": workspace.task.name,
        "data": settings.data.model_dump(),
        **dataset.made_of(workspace.splits),
        "train_files": [file["sha256"] for file in dataset.manifest["files"] if file["role"] == "train"],
        "shift": workspace.validation_sets.fingerprint,
    }


def score_oof(workspace: Workspace, logits: np.ndarray, how: str, optimistic: bool = False) -> dict[str, Any]:
    """The content of a score.json: every metric of out-of-fold logits (N, n_labels), and `how` they came about.

    `optimistic`: something, such as the number of epochs, was chosen on the rows that are scored.
    """
    splits, task = workspace.splits, workspace.task
    rows = splits.scored
    probabilities = task.decode(logits[rows])
    fold_of_row = None if splits.scheme == "holdout" else splits.first[rows]
    return {
        "how": how,
        "optimistic": optimistic,
        "rows": int(rows.sum()),
        "train": workspace.dataset.manifest["train"],
        "folds_table": storage.array_hash(splits.table),
        **metrics.score_report(task, workspace.labels[rows], probabilities, fold_of_row),
    }


def headline(score: dict[str, Any]) -> str:
    """The official score of a score.json, its standard error and how it came about."""
    official = score["overall"]["score"]
    figure = f"{_cell(official['value'])} ± {_cell(official['standard_error'])}"
    return f"{figure} on {score['rows']:,} reports ({score['how']})"


COLUMNS = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "sensitivity": "sens.", "specificity": "spec."}


def show_scores(scores: dict[str, dict[str, Any]]) -> None:
    """One line for each run's score.json, best last."""
    rows = []
    for name, score in sorted(scores.items(), key=lambda item: item[1]["overall"]["score"]["value"]):
        overall = score["overall"]
        official = overall["score"]
        rows.append(
            [
                name + (" *" if score.get("optimistic") else ""),
                f"{_cell(official['value'])} ± {_cell(official['standard_error'])}",
                *(_cell(overall[key]["value"]) for key in ("exact_match", "calibration_error")),
                *(_cell(overall["macro"][key]["value"]) for key in COLUMNS),
            ]
        )
    show_table("Score of each run, with its standard error", ["run", "score", "exact", "ECE", *COLUMNS.values()], rows)
    if any(score.get("optimistic") for score in scores.values()):
        result("* optimistic: its epochs were chosen on the rows that are scored")


def show_details(run: RunFolder) -> None:
    """Every figure of a run with its standard error, then its labels one by one."""
    score = run.score
    overall = score["overall"]
    figures = {key: overall[key] for key in ("score", "mlogloss", "exact_match", "calibration_error")}
    figures |= {f"{group}: mlogloss": part["mlogloss"] for group, part in overall["groups"].items()}
    figures |= {f"mean {name}": overall["macro"][key] for key, name in COLUMNS.items()}
    rows = [[name, *(_cell(figure[key]) for key in ("value", "standard_error"))] for name, figure in figures.items()]
    show_table(f"{run.name}: {score['how']}", ["", "value", "s.e."], rows)
    losses = {name: label["log_loss"]["value"] for name, label in overall["labels"].items()}
    total = sum(loss or 0.0 for loss in losses.values())
    rows = []
    for name, label in overall["labels"].items():
        share = f"{losses[name] / total:.0%}" if losses[name] is not None and total else "–"
        figures = [_cell(label[key]["value"]) for key in ("log_loss", *COLUMNS)]
        rows.append([name, f"{label['positives']:,}", share, *figures])
    show_table(f"{run.name}, label by label", ["label", "positives", "share", "logloss", *COLUMNS.values()], rows)
    if score["folds"]:
        values = [f"{fold}: {_cell(part['score']['value'])}" for fold, part in score["folds"].items()]
        result(f"score of each fold: {', '.join(values)}")


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
