"""Distillation: one student that learns what a run or a blend says of all text.

The student has the settings of one model of the run and starts from its weights, fold by fold. It learns the labels of
the train rows and, on train, test and extra text, the run's own logits as soft labels (Hinton et al. 2015). Noise is
drawn anew each epoch, as in every training, while soft labels are of the text without that noise. Jobs, loop and
checkpoints are those of training.

Fold students are taught by the models of their own fold alone, none of which saw the rows that the student is judged
on. The student that is shipped is one more: the same recipe on all rows, taught by the models of all folds. It cannot
be judged on train rows; its score is that of the fold students.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.core import array_files, storage
from src.core.errors import UserError, unknown
from src.core.executors import Job
from src.core.run_settings import FEDERATED, Pretrain, Regime, Run
from src.core.settings import Config
from src.core.targets import check_files
from src.data.splits import Split
from src.ensemble.blend_data import blend_rows
from src.ensemble.blending import BlendWeights
from src.evaluation import metrics
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.training.job_specs import Beside
from src.training.planning import Lesson, part_of, unlabelled
from src.training.prediction import mean_prediction, prediction_jobs


class Student(NamedTuple):
    """A student that is to be trained."""

    name: str
    model: RunFolder
    """Model of the run whose settings and weights it starts from."""
    workspace: Workspace
    """Workspace whose settings have the student as their only run."""
    splits: list[Split]
    """Splits of the fold students, then that of all rows."""

    @property
    def run(self) -> Run:
        return self.workspace.settings.runs[self.name]


def plan_student(workspace: Workspace, run: RunFolder) -> Student:
    """Chooses the model that the student starts from and its settings. Raises UserError for a run of series, whose
    models ONNX lacks operators for, and for an unknown model."""
    settings = workspace.settings
    if run.task.input_kind != "reports":
        raise UserError(f"compress makes ONNX graphs, and ONNX lacks what models of {run.task.noun} need")
    models = {model.name: model for model in run.models() if not model.settings.is_fitted}
    if not models:
        raise UserError(
            f"compress trains a small model further, and {run.name} has learned nothing by gradients "
            "(model.head=neighbours): compress another run, or a blend"
        )
    if settings.compress.student is not None and settings.compress.student not in models:
        raise unknown("compress.student", settings.compress.student, models)
    model = models[settings.compress.student or _best(workspace, list(models.values()))]
    name = f"{run.name}_small"
    folds = workspace.splits.splits()
    every = np.arange(len(workspace.labels))
    nothing = every[:0]
    whole = Split(folds[0].seed, 1 + max(split.fold for split in folds), every, folds[0].valid_rows, nothing)
    student = student_settings(settings, model.settings, model.settings.model, settings.compress.epochs)
    return Student(name, model, workspace.variant(with_run(settings, name, student)), [*folds, whole])


def student_settings(settings: Config, base: Run, model: object, epochs: int) -> Run:
    """Settings of a student: those of the run `base` with its teachers, its attack and its pretraining left out, for
    all that is in the weights that it starts from."""
    compress, train = settings.compress, base.train
    return base.model_copy(
        update={
            "model": model,
            "pretrain": Pretrain(),
            **({"regime": Regime()} if train.regime in FEDERATED else {}),
            "denoise": base.denoise if compress.denoise else base.denoise.model_copy(update={"by": None, "doubt": 0.0}),
            "train": train.with_epochs(epochs).model_copy(
                update={
                    "seeds": train.seeds[:1],
                    "learning_rate": train.learning_rate * compress.rate,
                    "teachers": [],
                    "attack": "none",
                    "attack_size": None,
                    "patience": 0,
                    # A teacher's predictions are of no domain.
                    **({"regime": "pooled"} if train.regime in FEDERATED else {}),
                }
            ),
        }
    )


def with_run(settings: Config, name: str, run: Run) -> Config:
    """Settings whose only run is `run`, with the run that denoises for it. Raises UserError where that is unknown."""
    denoisers, by = {**settings.denoisers, **settings.runs}, run.denoise.by
    if by is not None and by not in denoisers:
        raise unknown("run", by, denoisers)
    needed = {by: denoisers[by]} if by is not None else {}
    return settings.model_copy(update={"runs": {name: run}, "models": [name], "denoisers": needed})


def _best(workspace: Workspace, models: Sequence[RunFolder]) -> str:
    """Name of the model with the highest score on select_on."""
    evidence, _ = blend_rows(workspace, models)
    task, rows = workspace.task, (evidence.weights, evidence.reports)
    scores = [
        metrics.official_score(task, evidence.labels, task.decode(logits), *rows).value for logits in evidence.members
    ]
    return models[int(np.argmax(scores))].name


def texts(workspace: Workspace) -> list[Path]:
    """Folders of all corpora that are taught on, the train corpus first."""
    return [workspace.dataset.train_folder, *unlabelled(workspace.dataset)]


def teaching_jobs(workspace: Workspace, run: RunFolder, device: str) -> list[Job]:
    """Jobs that predict all text by the trained folds of a run, as far as that is missing."""
    folds = [model.path / fold for model in run.models() for fold in model.record["fold_folders"]]
    return prediction_jobs(workspace.output.root, folds, texts(workspace), device)


def lessons(workspace: Workspace, run: RunFolder, student: Student, initial: Callable[[Split], Path]) -> list[Lesson]:
    """Writes the soft labels of each split of a student beside its folds; `initial` are the weights it starts from.

    The teaching_jobs() of the run must be done. Raises UserError for a blend whose weights of each fold are not noted.
    """
    folder, weight = workspace.output.run(student.name) / "lessons", workspace.settings.compress.teacher_weight
    found = []
    for split in student.splits:
        is_whole = split is student.splits[-1]
        stem = "all" if is_whole else f"{split.fold}.{split.seed}"
        beside = []
        for i, corpus in enumerate(texts(workspace)):

            def logits_of(model: RunFolder, corpus: Path = corpus, split: Split | None = None if is_whole else split):
                return mean_prediction(folds_of(model, split), corpus, model.average)

            logits = folder / f"{stem}.{i}.npy"
            array_files.write_npy(logits, _blended(run, logits_of, None if is_whole else split.fold))
            rows = None
            if i == 0:
                rows = folder / f"{stem}.rows.npy"
                array_files.write_npy(rows, split.train_rows)
            beside.append(Beside(str(corpus), rows and str(rows), [str(logits)], weight))
        found.append(Lesson(split, beside, initial(split), "whole" if is_whole else ""))
    return found


def folds_of(model: RunFolder, split: Split | None) -> list[Path]:
    """Trained folds of a model: those of a split, or all."""
    start = "" if split is None else part_of(split.fold, split.seed)
    return [model.path / fold for fold in model.record["fold_folders"] if fold.startswith(start)]


def start_of(student: Student, split: Split) -> Path:
    """Weights that a split's student starts from: those of its model on the same fold, of any fold for all rows."""
    return weights_of(folds_of(student.model, None if split is student.splits[-1] else split)[0])


def weights_of(fold: Path) -> Path:
    """The weights that predict, of a trained fold."""
    result = storage.require(fold / "result.json", "train")
    check_files(result, "train")
    return fold / f"{storage.read_json(result)['weights']}.safetensors"


def _blended(run: RunFolder, logits_of: Callable[[RunFolder], np.ndarray], fold: int | None) -> np.ndarray:
    """Logits (N, L) float32 of a run from those of its models, by the weights that `fold` was judged with, or by those
    of the whole blend."""
    if not run.is_blend:
        return logits_of(run)
    if fold is not None and str(fold) not in run.record.get("fold_weights", {}):
        raise UserError(f"{run.path / 'run.json'} lacks the weights of each fold. Make it again: ./run.sh {run.remedy}")
    weights = run.record["weights"] if fold is None else run.record["fold_weights"][str(fold)]
    members = [_blended(member, logits_of, fold) for member in run.members()]
    return BlendWeights.from_json(weights).apply(members).astype(np.float32)
