"""Early reading: trained folds on their out-of-fold stays as these were after some hours, and a reference for it.

Models have learned from whole stays. The reference are boosted trees that learn from the first hours alone, beside
trees that learn from whole stays: their difference at the same hour is what is lost by that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core import array_files, storage
from src.core.executors import Job, reads
from src.core.run_settings import Boosting
from src.data.corpus import Corpus
from src.data.inputs import InputShape
from src.data.splits import Split
from src.data.tasks import LOGITS, Average, Task, get_task
from src.training.job_specs import reference, trained_fold

if TYPE_CHECKING:
    import torch

    from src.models.classifier import Classifier

CHUNK = 8_192
"""Stays that are in memory at a time."""
MOST = 50_000
"""Stays that are read; a random sample of more has small enough standard errors."""
TREES = Boosting(learning_rate=0.1, max_iter=120)
"""Settings of the reference: fewer and larger steps than those of a run."""
SEED = 0
"""Seed of the reference's trees."""


def watched(n_rows: int) -> np.ndarray:
    """Marks the rows that are read, bool (n_rows,)."""
    marks = np.full(n_rows, n_rows <= MOST)
    if n_rows > MOST:
        marks[np.random.default_rng(SEED).choice(n_rows, MOST, replace=False)] = True
    return marks


def early_jobs(output: Path, folds: list[Path], corpus: Path, steps: Sequence[int], device: str) -> list[Job]:
    """Makes a job for each trained fold that has not yet read its out-of-fold series after each of `steps`."""
    name, jobs = early_name(corpus, steps), []
    for fold in folds:
        if not array_files.is_whole(fold / name):
            files = {"fold": fold, "corpus": corpus, "out": fold / name}
            payload = {key: reference(path, output) for key, path in files.items()}
            label = f"{fold.parent.name} {fold.name.rsplit('.', 1)[0].replace('.', ' ')}"
            payload |= {"output": str(output), "device": device, "steps": list(steps)}
            jobs.append(Job(label, "src.training.early_reading:predict_early", payload))
    return jobs


def early_prediction(
    folds: list[Path], corpus: Path, steps: Sequence[int], n_rows: int, n_labels: int, average: Average = LOGITS
) -> np.ndarray:
    """Averages the outputs for series after each of `steps` over the models that may judge each: (N, H, n_labels)
    float32, NaN for a row that no model may judge or that is not read."""
    name = early_name(corpus, steps)
    parts = ((_rows_of(fold, n_rows), array_files.read_npy(fold / name, "alarms")) for fold in folds)
    return average.of_rows((n_rows, len(steps), n_labels), parts)


def _rows_of(fold: Path, n_rows: int) -> np.ndarray:
    """Rows that a trained fold reads, (M,)."""
    rows = array_files.read_npz(fold / "split.npz", "train")["predicted_rows"]
    return rows[watched(n_rows)[rows]]


def early_name(corpus: Path, steps: Sequence[int]) -> str:
    """Name of the file with a fold's logits of its out-of-fold series after each of `steps`."""
    return f"early.{storage.array_hash(*Corpus.load(corpus).input_arrays(), np.asarray(steps, dtype=np.int64))}.npy"


@reads(trained_fold)
def predict_early(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job: a trained fold on its out-of-fold series, as they were after each step. Writes logits (M, H,
    n_labels)."""
    import torch

    from src.training import devices
    from src.training.trained_fold import TrainedFold

    output = Path(payload["output"])
    fold, device = output / payload["fold"], torch.device(payload["device"])
    devices.set_up(device)
    trained, corpus = TrainedFold.load(fold, device, output), Corpus.load(output / payload["corpus"])
    rows = _rows_of(fold, len(corpus))
    logits = early_logits(trained.model, corpus.inputs, corpus.lengths, rows, payload["steps"], device)
    array_files.write_npy(output / payload["out"], logits)


def early_logits(
    model: Classifier,
    inputs: Mapping[str, np.ndarray],
    lengths: np.ndarray,
    rows: np.ndarray,
    steps: Sequence[int],
    device: torch.device,
) -> np.ndarray:
    """Predicts logits (M, H, n_labels) float32 of the `rows` (M,) of series, from their first `steps` (H,) alone.

    Inputs {name: (N, T, ...)} and lengths (N,) may be memory maps. A model gets an array that ends at the step, so that
    no later value can reach what it makes of the series.
    """
    from src.training.inference import predict_logits

    logits = np.empty((len(rows), len(steps), model.n_labels), dtype=np.float32)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        part, there = {name: np.asarray(array[chunk]) for name, array in inputs.items()}, np.asarray(lengths[chunk])
        for i, step in enumerate(steps):
            seen = {name: array[:, :step] for name, array in part.items()}
            logits[start : start + len(chunk), i] = predict_logits(model, seen, np.minimum(there, step), device)
    return logits


def reference_jobs(
    output: Path,
    folder: Path,
    stamp: str,
    splits: Sequence[Split],
    corpus: Path,
    task: Task,
    shape: InputShape,
    steps: Sequence[int],
) -> tuple[list[Job], list[Path]]:
    """Makes a job for each fold whose file is missing; returns the files of all folds, too. `stamp` stands for all that
    the results depend on. Files in the folder `output` are named by references."""
    outs = [folder / f"fold_{split.fold}.{stamp[:8]}.npy" for split in splits]
    jobs, is_watched = [], watched(len(Corpus.load(corpus)))
    for split, out in zip(splits, outs, strict=True):
        if not (array_files.is_whole(out) and array_files.is_whole(out.with_suffix(".npz"))):
            rows = out.with_suffix(".npz")
            chosen = {"train_rows": split.train_rows, "predicted_rows": split.predicted_rows}
            arrays = {name: numbers[is_watched[numbers]] for name, numbers in chosen.items()}
            array_files.write_npz(rows, **arrays)
            payload = {
                name: reference(path, output) for name, path in {"corpus": corpus, "rows": rows, "out": out}.items()
            }
            payload |= {"output": str(output), "task": task.name, "inputs": shape.to_json(), "steps": list(steps)}
            jobs.append(Job(f"trees fold_{split.fold}", "src.training.early_reading:fit_reference", payload))
    return jobs, outs


@reads(lambda payload: [f"{payload['corpus']}/", payload["rows"]])
def fit_reference(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job: the trees of one fold. Writes their outputs for the predicted rows after each of the steps, (2, M,
    H, n_labels): of trees that learned from whole series, and of those that learned from the steps alone."""
    import torch

    from src.models.summaries import summary_table
    from src.models.tabular import BoostedTrees, fit_tabular

    output = Path(payload["output"])
    corpus, task = Corpus.load(output / payload["corpus"]), get_task(payload["task"])
    shape = InputShape.from_json(payload["inputs"])
    rows = array_files.read_npz(output / payload["rows"])
    train, predicted = rows["train_rows"], rows["predicted_rows"]
    inputs = {name: np.asarray(array[train]) for name, array in corpus.inputs.items()}
    lengths, steps = np.asarray(corpus.lengths), payload["steps"]
    targets = task.targets(torch.from_numpy(np.asarray(corpus.labels)[train].astype(np.float32))).numpy()

    def fitted(step: int) -> BoostedTrees:
        model = BoostedTrees(TREES, shape, task.n_labels)
        seen, weights = np.minimum(lengths[train], step), np.ones(len(train))
        fit_tabular(model, inputs, seen, targets, weights, SEED, task.kind)
        return model

    whole = fitted(shape.steps)
    outputs = np.empty((2, len(predicted), len(steps), task.n_labels), dtype=np.float32)
    for i, step in enumerate(steps):
        table = torch.from_numpy(summary_table(corpus.inputs, np.minimum(lengths, step), shape, predicted))
        for place, model in enumerate((whole, fitted(step))):
            outputs[place, :, i] = model.outputs(table).numpy()
    array_files.write_npy(output / payload["out"], outputs)
