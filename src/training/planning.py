"""The FoldJobs of an experiment: each run on each fold with each seed, and the files that they read.

Training does them all; tuning does those of one run, with other settings each time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

import numpy as np

from src.core import storage, versions
from src.core.errors import UserError
from src.core.settings import Config, Run, fingerprint
from src.core.terminal import warn
from src.data.dataset import Dataset
from src.data.splits import Folds, Split
from src.evaluation.validation_sets import ValidationSets, validation
from src.training.device_cache import Machine
from src.training.initialization import starts_of
from src.training.job_specs import Beside, FoldJob, reference
from src.training.prediction import logits_path


def fold_jobs(
    config: Config,
    dataset: Dataset,
    folds: Folds,
    shift: ValidationSets,
    here: Machine,
    judged: Collection[str] = (),
    folder_of: Callable[[str], Path] | None = None,
) -> dict[str, list[FoldJob]]:
    """The jobs of each run, whether done or not, teachers first; a run's folds lie in `folder_of` its name (default:
    its run folder). Each epoch of those that are `judged`, or stop early, is judged by the rows of select_on. The
    arrays that jobs read are written, unless `prepared` only looks.
    """
    save = _named if dataset.only_looks else _save_arrays
    made_by = [versions.TRAIN, storage.libraries("torch"), here.device]
    starts = starts_of(config, dataset, here)
    ref = functools.partial(reference, output=dataset.output.root)
    jobs: dict[str, list[FoldJob]] = {}
    for name, run in sorted(config.runs.items(), key=lambda item: bool(item[1].train.teachers)):  # teachers first
        settings = run.model_dump(mode="json")
        del settings["train"]["seeds"]  # a further seed leaves the results of the others standing
        precision = here.precision(run.train.precision)
        start = starts[name]
        weights = _row_weights(config, dataset, shift, run)
        extra = _extra(dataset, run)
        jobs[name] = []
        for split, seed in itertools.product(folds.splits(), run.train.seeds):
            valid, copies = None, []
            if name in judged or run.train.patience:
                valid, copies = _valid_rows(config, folds, shift, split)
            teachers = [
                job
                for teacher in run.train.teachers
                for job in jobs[teacher]
                if Path(job.folder).name.startswith(_part(split.fold, split.seed, ""))
            ]
            stamp = fingerprint(
                {
                    "run": settings,
                    "train": dataset.manifest["train"],
                    "vocabulary": dataset.manifest["vocabulary"],
                    "start": start.fingerprint,
                    "weights": storage.array_hash(weights) if weights is not None else None,
                    "extra": [dataset.extra_texts, dataset.extra_labels] if extra else None,
                    "teachers": [teacher.fingerprint for teacher in teachers],
                    "unlabelled": [dataset.test_texts, dataset.extra_texts] if teachers else None,
                    "rows": storage.array_hash(split.train_rows, split.valid_rows, split.predicted_rows),
                    "valid": [storage.array_hash(*valid.values()), shift.fingerprint] if valid else None,
                    "seed": seed,
                    "fold": split.fold,
                    "precision": precision,
                    "made_by": made_by,
                }
            )
            folder = (folder_of or dataset.output.run)(name) / _part(split.fold, split.seed, f"{seed}.{stamp[:8]}")
            jobs[name].append(
                FoldJob(
                    run=settings,
                    task=dataset.task.name,
                    corpus=ref(dataset.train_folder),
                    vocabulary_size=len(dataset.vocabulary),
                    vectors=start.vectors and ref(start.vectors),
                    pretrained=start.pretrained and ref(start.pretrained),
                    denoiser=start.denoiser and ref(start.denoiser),
                    split=ref(save(folder / "split.npz", **_rows_of(split))),
                    weights=ref(save(folder / "weights.npy", weights)) if weights is not None else None,
                    beside=[asdict(one) for one in extra + _pseudo_labelled(dataset, run, teachers)],
                    valid=ref(save(folder / "valid.npz", **valid)) if valid else None,
                    valid_corpora=list(map(ref, copies or [dataset.train_folder])),
                    fold=split.fold,
                    seed=seed,
                    device=here.device,
                    precision=precision,
                    output=str(dataset.output.root),
                    folder=ref(folder),
                    fingerprint=stamp,
                )
            )
    return jobs


def _valid_rows(
    config: Config, folds: Folds, shift: ValidationSets, split: Split
) -> tuple[dict[str, np.ndarray] | None, list[Path]]:
    """What the epochs of one split are judged by: the arrays of FoldJob.valid, and the folders of the noisy copies that
    it chooses from; none for its valid_rows as they are."""
    target = shift.target(config.target)
    if config.select_on == "clean" or target is None:
        return None, []
    is_valid = np.zeros(len(folds.table), dtype=bool)
    is_valid[split.valid_rows] = True
    rows = validation(config.select_on, shift.rows, target, folds).only(is_valid)
    if rows.copies is None:
        return {"rows": rows.rows, "chosen": rows.rows, "weights": rows.weights}, []
    return {"rows": rows.rows, "chosen": rows.copies, "weights": rows.weights}, target.noised


def _part(fold: int, split_seed: int, rest: str) -> str:
    """Name of a fold's folder; with no rest, what it begins with."""
    return f"fold_{fold}.split_{split_seed}.seed_{rest}"


def _row_weights(config: Config, dataset: Dataset, shift: ValidationSets, run: Run) -> np.ndarray | None:
    """How much each train row counts, (N,) of mean one, by target_weight; None where all count alike."""
    target = shift.target(config.target)
    if not run.train.target_weight or target is None:
        return None
    if config.folds.scheme == "holdout":
        raise UserError(
            "train.target_weight is for folds.scheme=kfold and families: under holdout the train part is what others "
            "are compared with, and has no likeness of its own"
        )
    weights = np.ones(len(dataset.train))
    if len(shift.rows) < len(weights):
        warn(
            f"train.target_weight reaches the {len(shift.rows):,} of {len(weights):,} train reports that ./run.sh "
            "shift looked at (shift.max_rows); the others count as one"
        )
    found = target.array("weights")[0] ** run.train.target_weight
    weights[shift.rows] = found / found.mean()
    return weights / weights.mean()


def _extra(dataset: Dataset, run: Run) -> list[Beside]:
    """The labelled reports of the extra files, by extra_weight."""
    if not run.train.extra_weight:
        return []
    ref = functools.partial(reference, output=dataset.output.root)
    return [
        Beside(ref(dataset.extra_folder(name)), ref(dataset.extra_rows_path(name)), [], run.train.extra_weight)
        for name in dataset.extra_labelled
    ]


def _pseudo_labelled(dataset: Dataset, run: Run, teachers: list[FoldJob]) -> list[Beside]:
    """The reports that teachers label: those of the tests, and the extra ones whose own labels are not used."""
    if not teachers:
        return []
    ref = functools.partial(reference, output=dataset.output.root)
    used = dataset.extra_labelled if run.train.extra_weight else []
    folders = [folder for folder in unlabelled(dataset) if folder not in map(dataset.extra_folder, used)]
    return [
        Beside(
            ref(folder),
            None,
            [ref(logits_path(teacher.path, folder)) for teacher in teachers],
            run.train.teacher_weight,
        )
        for folder in folders
    ]


def unlabelled(dataset: Dataset) -> list[Path]:
    """Corpora that are not validated on: tests and extra files."""
    return [*map(dataset.test_folder, dataset.test_files), *map(dataset.extra_folder, dataset.extra_files)]


def _rows_of(split: Split) -> dict[str, np.ndarray]:
    return {"train_rows": split.train_rows, "valid_rows": split.valid_rows, "predicted_rows": split.predicted_rows}


def _save_arrays(path: Path, alone: np.ndarray | None = None, **arrays: np.ndarray) -> Path:
    if path.exists():
        return path
    if alone is not None:
        storage.write_npy(path, alone)
    else:
        storage.write_atomic(path, lambda file: np.savez(file, **arrays))
    return path


def _named(path: Path, *arrays: np.ndarray, **named: np.ndarray) -> Path:
    return path


def work_of(job: FoldJob) -> float:
    """For the order of jobs and the time left: an epoch of a Transformer layer takes longest, TextCNN and RCNN about as
    long as one recurrent layer, a block of DPCNN half of that."""
    model = job.run["model"]
    layers = model.get("layers", model.get("blocks", 1))
    return job.run["train"]["epochs"] * layers * {"transformer": 3.0, "dpcnn": 1.0}.get(model["encoder"], 2.0)
