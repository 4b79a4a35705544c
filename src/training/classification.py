"""train_fold(): one model on one fold, a job that a kill at any moment only delays. Its batches and its loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from src.core import storage
from src.core.settings import Run, Train
from src.data.corpus import Corpus, Stacked
from src.models.classifier import BODY, Classifier, build_model
from src.training import checkpoints, devices
from src.training.batching import Batch
from src.training.denoising import Denoiser, denoised_tokens
from src.training.devices import autocast
from src.training.epoch_reader import EpochReader, Wanted
from src.training.inference import mean_logits, predict_logits
from src.training.job_specs import Beside, FoldJob, is_trained
from src.training.loop import fit, seed_of
from src.training.rows import Rows


def train_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs a FoldJob given as a dictionary. Leaves in its folder best.safetensors and last.safetensors (weights),
    logits.npy (of the predicted rows), history.csv and, written last, result.json.
    """
    job = FoldJob(**payload)
    folder = Path(job.folder)
    with storage.lock(folder / "job.lock"):
        if is_trained(job):
            return
        run = Run.model_validate(job.run)
        device = torch.device(job.device)
        devices.set_up(device)
        corpus = Corpus.load(Path(job.corpus))
        # What is trained on is denoised after noise was put on it, by batches.
        reading = (Path(job.denoiser), run.denoise, device, job.precision) if job.denoiser else None
        denoiser = Denoiser.load(*reading) if reading else None

        def views(folders: Sequence[str]) -> list[dict[str, Stacked]]:
            """Inputs of the corpora in `folders`, one behind the other, in each view."""
            found = [
                denoised_tokens(Path(folder), *reading) if reading else [Corpus.load(Path(folder)).tokens]
                for folder in folders
            ]
            return [{"tokens": Stacked(tokens)} for tokens in zip(*found, strict=True)]

        with np.load(job.split) as split:
            train, valid = Rows.of(corpus, split["train_rows"]), Rows.of(corpus, split["valid_rows"])
            predicted = split["predicted_rows"]
        if job.weights:
            train = replace(train, weights=np.load(job.weights)[train.chosen].astype(np.float32))
        train = Rows.joined([train, *(Rows.beside(Beside(**beside)) for beside in job.beside)])
        # The valid rows in each view; epochs are judged by the first alone.
        valid_views = views(job.valid_corpora)
        if job.valid:
            lengths = Stacked([Corpus.load(Path(folder)).lengths for folder in job.valid_corpora])
            valid = Rows.judged(Path(job.valid), corpus, valid_views[0], lengths)
        valid = replace(valid, inputs=valid_views[0])
        torch.manual_seed(seed_of(job.seed, job.fold, 0))
        vectors = torch.from_numpy(np.load(job.vectors)) if job.vectors else None
        model = build_model(run.model, job.vocabulary_size, train.labels.shape[1], vectors).to(device)
        if job.pretrained:
            checkpoints.load_parts(Path(job.pretrained), model, BODY)
        storage.remove_temporaries(folder)
        started = time.perf_counter()
        reads_denoised = denoiser if run.denoise.in_training else None
        objective = Classification(model, train, valid, run.train, device, job.precision, reads_denoised)
        history = fit(objective, run.train, (job.seed, job.fold), folder, progress)
        checkpoints.save_weights(folder / "last.safetensors", model)
        if run.train.patience:
            checkpoints.load_weights(folder / "best.safetensors", model)
        logits = mean_logits(model, views([job.corpus]), corpus.lengths, device, predicted)
        storage.write_npy(folder / "logits.npy", logits)
        if job.valid:
            logits = mean_logits(model, valid_views, valid.lengths, device, valid.chosen)
            storage.write_npy(folder / "valid_logits.npy", logits)
        storage.write_text(folder / "history.csv", pd.DataFrame(history).to_csv(index=False))
        best = min(history, key=lambda epoch: epoch["valid_loss"])
        checkpoints.remove_all(folder)
        storage.write_json(
            folder / "result.json",
            {
                "fingerprint": job.fingerprint,
                "run": job.run,
                "denoiser": job.denoiser and Path(job.denoiser).name,
                "teachers": sorted({str(Path(*Path(f).parts[-3:-1])) for one in job.beside for f in one["logits"]}),
                "vocabulary_size": job.vocabulary_size,
                "n_labels": train.labels.shape[1],
                "fold": job.fold,
                "seed": job.seed,
                "weights": "best" if run.train.patience else "last",
                "epochs": len(history),
                "best_epoch": best["epoch"],
                "best_valid_loss": best["valid_loss"],
                "last_valid_loss": history[-1]["valid_loss"],
                "seconds_since_last_start": round(time.perf_counter() - started, 2),
                "environment": storage.environment(devices.name_of(device), job.precision),
            },
        )


class Classification:
    """The objective of training: cross-entropy of each label, over all cells (see loop.Objective).

    With settings.consistency each report is seen with two draws of noise and dropout; the loss is the mean of both and,
    times that number, the symmetric Kullback-Leibler distance of the two predictions: R-Drop (Liang et al. 2021).
    """

    def __init__(
        self,
        model: Classifier,
        train: Rows,
        valid: Rows,
        settings: Train,
        device: torch.device,
        precision: str,
        denoiser: Denoiser | None = None,
    ):
        self.model, self.device = model, device
        self._train, self._valid, self._precision = train, valid, precision
        self._consistency = settings.consistency
        self._pos_weight = positive_weight(train.labels, settings).to(device)
        self._reader = EpochReader(train, settings, device, denoiser)
        self.n_batches = self._reader.n_batches

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Batch, Wanted]]:
        return self._reader.batches(rng)

    def loss(self, compute: Callable[..., Tensor], batch: Batch, wanted: Wanted) -> Tensor:
        copies = [batch] if wanted.twin is None else [batch, wanted.twin]
        predictions = []
        for copy in copies:
            with autocast(self._precision, self.device):
                predictions.append(compute(copy.inputs, copy.lengths))
        predictions = [logits.float() for logits in predictions]
        cells = torch.stack(
            [
                functional.binary_cross_entropy_with_logits(
                    logits, wanted.targets, pos_weight=self._pos_weight, reduction="none"
                )
                for logits in predictions
            ]
        ).mean(dim=0)
        if len(predictions) == 2:
            cells = cells + self._consistency * disagreement(*predictions)
        return (cells.mean(dim=1) * wanted.weights).mean()

    def validate(self, model: Classifier) -> float:
        valid = self._valid
        logits = predict_logits(model, valid.inputs, valid.lengths, self.device, valid.chosen, self._precision)
        return weighted_loss(logits, valid)

    def named(self, rows: np.ndarray) -> np.ndarray:
        return self._train.ids[rows]


def disagreement(left: Tensor, right: Tensor) -> Tensor:
    """Half the sum of both Kullback-Leibler divergences between the yes-or-no answers of two sets of logits, by cell.

    For logits x, y and probabilities p, q it is (p - q) (x - y) / 2.
    """
    return (left.sigmoid() - right.sigmoid()) * (left - right) / 2


def positive_weight(labels: np.ndarray, settings: Train) -> Tensor:
    """(n_labels,): ones, or negatives / positives of each label; a label without positives keeps 1."""
    if settings.pos_weight == "none":
        return torch.ones(labels.shape[1])
    positives = labels.sum(axis=0, dtype=np.float64)
    weights = np.where(positives > 0, (len(labels) - positives) / np.maximum(positives, 1), 1.0)
    return torch.from_numpy(weights).to(torch.float32)


def weighted_loss(logits: np.ndarray, rows: Rows) -> float:
    """Cross-entropy (N, n_labels) averaged over labels, then over reports by their weights."""
    targets, weights = torch.from_numpy(rows.labels).to(torch.float32), torch.from_numpy(rows.weights)
    cells = functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), targets, reduction="none")
    return ((cells.mean(dim=1) * weights).sum() / weights.sum()).item()
