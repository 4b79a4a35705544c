"""Trained folds on a corpus: one job for each pair, kept beside the fold's weights and named by the text's hash."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage
from src.core.executors import Job, reads
from src.data.corpus import BLOCK, CHUNK, INPUTS, Corpus
from src.data.tasks import LOGITS, Average
from src.training.job_specs import reference, trained_fold

FUNCTION = "src.training.prediction:predict_fold"


def prediction_jobs(
    output: Path, folds: list[Path], corpora: list[Path], device: str, rows: Path | None = None
) -> list[Job]:
    """Makes a job for each missing prediction: folders of trained folds x folders of encoded corpora.

    `rows` is the file of the train rows (M,) that the corpora are copies of: then each fold predicts only the copies of
    those that it may judge. Neighbours in the list are on different corpora: the first job on one denoises it, and
    others on it would wait. Files in the folder `output` are named by references (job_specs.reference).
    """
    jobs, names = [], [prediction_name(corpus, rows) for corpus in corpora]
    for fold in folds:
        for corpus, name in zip(corpora, names, strict=True):
            if not array_files.is_whole(fold / name):
                files = {"fold": fold, "corpus": corpus, "out": fold / name} | ({"rows": rows} if rows else {})
                # Copies are called alike for each test file.
                label = f"{label_of(fold)} on {corpus.parent.name}/{corpus.name}"
                jobs.append(Job(label, FUNCTION, _payload(output, files, device)))
    return jobs


def shard_job(
    output: Path, fold: Path, corpus: Path, out: Path, device: str, chunk: int, label: str, work: float
) -> Job:
    """Makes the job of a trained fold on one shard of a file, encoded in the folder `corpus`; `out` gets the logits.
    `chunk`: as for predict_logits()."""
    payload = _payload(output, {"fold": fold, "corpus": corpus, "out": out}, device) | {"chunk": chunk}
    return Job(f"{label_of(fold)} {label}", FUNCTION, payload, work)


def label_of(fold: Path) -> str:
    """Name of a trained fold for the user: run, fold and seeds."""
    return f"{fold.parent.name} {fold.name.rsplit('.', 1)[0].replace('.', ' ')}"


def _payload(output: Path, files: dict[str, Path], device: str) -> dict[str, Any]:
    return {key: reference(path, output) for key, path in files.items()} | {"output": str(output), "device": device}


def logits_path(fold: Path, corpus: Path) -> Path:
    """Path of the logits that a trained fold keeps of a corpus."""
    return fold / prediction_name(corpus)


def mean_prediction(folds: list[Path], corpus: Path, average: Average = LOGITS) -> np.ndarray:
    """Averages the outputs of trained folds on a corpus: (N, n_labels) float32."""
    name = prediction_name(corpus)
    parts = [array_files.read_npy(fold / name, "train", mapped=True) for fold in folds]
    mean = np.empty(parts[0].shape, dtype=np.float32)
    for start in range(0, len(mean), BLOCK):  # in one piece it would take twice the memory of all parts together
        rows = slice(start, start + BLOCK)
        mean[rows] = average([part[rows] for part in parts])
    return mean


def out_of_fold_prediction(
    folds: list[Path], corpus: Path, rows: Path, n_labels: int, average: Average = LOGITS
) -> np.ndarray:
    """Averages the outputs for copies of train rows over the models that may judge each row: (M, n_labels) float32.

    NaN for a row that no model may judge.
    """
    train_rows, name = array_files.read_npy(rows, "shift"), prediction_name(corpus, rows)
    parts = ((judged_copies(fold, train_rows), array_files.read_npy(fold / name, "train")) for fold in folds)
    return average.of_rows((len(train_rows), n_labels), parts)


def judged_copies(fold: Path, train_rows: np.ndarray) -> np.ndarray:
    """Finds which of `train_rows` (M,) the model of this fold was not trained on: indices."""
    predicted_rows = array_files.read_npz(fold / "split.npz", "train")["predicted_rows"]
    return np.flatnonzero(np.isin(train_rows, predicted_rows))


@reads(lambda payload: [*trained_fold(payload), *filter(None, [payload.get("rows")])])
def predict_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job: a trained fold on a corpus. Writes logits (N, n_labels)."""
    import torch

    from src.training import devices
    from src.training.inference import mean_logits
    from src.training.trained_fold import TrainedFold

    output = Path(payload["output"])
    fold, folder = output / payload["fold"], output / payload["corpus"]
    device = torch.device(payload["device"])
    devices.set_up(device)
    trained = TrainedFold.load(fold, device, output)
    judged = judged_copies(fold, array_files.read_npy(output / payload["rows"], "shift")) if "rows" in payload else None
    lengths, doubt = Corpus.load(folder).lengths, trained.run.denoise.doubt
    chunk = payload.get("chunk", CHUNK)
    views = trained.views(folder)

    def predict(rows: np.ndarray | None) -> np.ndarray:
        return mean_logits(trained.model, views, lengths, device, rows, doubt=doubt, chunk=chunk)

    if judged is not None and trained.run.regime.personal:  # copies are judged as the rows that they are of
        from src.training.federated import kept_personal, predict_by_domain

        train_rows = array_files.read_npy(output / payload["rows"], "shift")[judged]
        of_row = array_files.read_npy(fold / "domains.npy", "train")[train_rows]
        logits = predict_by_domain(trained.model, kept_personal(fold), of_row, lambda places: predict(judged[places]))
    else:
        logits = predict(judged)
    array_files.write_npy(output / payload["out"], logits)


def prediction_name(corpus: Path, rows: Path | None = None) -> str:
    """Name of the file with logits of a corpus in a fold's folder."""
    inputs = (corpus / f"{name}.npy" for name in sorted(INPUTS, reverse=True))
    files = [*(path for path in inputs if path.exists()), *([rows] if rows else [])]
    states = [path.stat() for path in files]
    keys = ((path, state.st_ino, state.st_size, state.st_mtime_ns) for path, state in zip(files, states, strict=True))
    return f"{'copies' if rows else 'logits'}.{_hash_of(*keys)}.npy"


@functools.lru_cache(maxsize=256)
def _hash_of(*files: tuple[Path, int, int, int]) -> str:
    """Hash of the arrays in files, which are named with inode, size and time: a large file is read once."""
    return storage.array_hash(*(array_files.read_npy(path, mapped=True) for path, *_ in files))
