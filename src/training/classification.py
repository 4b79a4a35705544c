"""train_fold(): one model on one fold, a job that a kill at any moment only delays. Its batches and its loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from src.core import storage
from src.core.settings import Noise, Run, Train
from src.data.corpus import Corpus, Stacked, pad, unpad
from src.data.corruption import NoiseRates, corrupt
from src.evaluation.metrics import sigmoid
from src.models.classifier import BODY, Classifier, build_model
from src.training import checkpoints, devices
from src.training.batching import POOL, WIDTHS, Batch, alphabet_of, length_batches
from src.training.denoising import Denoiser, denoised_tokens
from src.training.devices import autocast
from src.training.inference import mean_logits, predict_logits
from src.training.job_specs import Beside, FoldJob, is_trained
from src.training.loop import fit, seed_of

GRAPH_WIDTHS = 16
"""Where CUDA graphs are captured, widths of batches are multiples of this: seven graphs serve all batches but the last
of an epoch."""


@dataclass(frozen=True)
class Rows:
    """Reports as fit() takes them: some of a corpus, whose arrays may be memory maps. Nothing of them is copied, so
    that folds side by side share one corpus of any size."""

    tokens: np.ndarray | Stacked
    """(all, max_len) uint16"""
    lengths: np.ndarray | Stacked
    """(all,) int32"""
    labels: np.ndarray
    """(N, n_labels) uint8, of the chosen ones; float32 where some are a teacher's"""
    ids: np.ndarray
    """(N,) bytes, of the chosen ones, to name the reports of a failing batch"""
    weights: np.ndarray
    """(N,) float32, how much a chosen one counts in a loss; one on average"""
    chosen: np.ndarray
    """(N,) rows of tokens and lengths"""

    def __len__(self) -> int:
        return len(self.chosen)

    @classmethod
    def of(cls, corpus: Corpus, rows: np.ndarray) -> Rows:
        labels, ids = np.asarray(corpus.labels[rows]), np.asarray(corpus.ids[rows])
        return cls(corpus.tokens, corpus.lengths, labels, ids, np.ones(len(rows), dtype=np.float32), rows)

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """Rows of several corpora, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.lengths) for part in parts)])
        return cls(
            Stacked([part.tokens for part in parts]),
            Stacked([part.lengths for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.weights for part in parts]),
            np.concatenate([start + part.chosen for start, part in zip(starts, parts, strict=False)]),
        )

    @classmethod
    def beside(cls, beside: Beside) -> Rows:
        corpus = Corpus.load(Path(beside.corpus))
        rows = np.arange(len(corpus)) if beside.rows is None else np.load(beside.rows)
        weights = np.full(len(rows), beside.weight, dtype=np.float32)
        if beside.logits:
            total = 0.0
            for file in beside.logits:  # one after the other: all at once would take their number times the memory
                total = total + np.load(file, mmap_mode="r")[rows]
            labels = sigmoid(total / len(beside.logits)).astype(np.float32)
        else:
            labels = np.asarray(corpus.labels[rows])
        return cls(corpus.tokens, corpus.lengths, labels, np.asarray(corpus.ids[rows]), weights, rows)

    @classmethod
    def judged(cls, path: Path, corpus: Corpus, tokens: Stacked, lengths: Stacked) -> Rows:
        """Of a FoldJob's `valid`; tokens and lengths are those of its valid_corpora."""
        with np.load(path) as file:
            rows, weights, chosen = file["rows"], file["weights"].astype(np.float32), file["chosen"]
        return cls(tokens, lengths, np.asarray(corpus.labels[rows]), np.asarray(corpus.ids[rows]), weights, chosen)


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

        def seen(folder: str) -> list[np.ndarray]:
            return denoised_tokens(Path(folder), *reading) if reading else [Corpus.load(Path(folder)).tokens]

        with np.load(job.split) as split:
            train, valid = Rows.of(corpus, split["train_rows"]), Rows.of(corpus, split["valid_rows"])
            predicted = split["predicted_rows"]
        if job.weights:
            train = replace(train, weights=np.load(job.weights)[train.chosen].astype(np.float32))
        train = Rows.joined([train, *(Rows.beside(Beside(**beside)) for beside in job.beside)])
        # The valid rows in each view; epochs are judged by the first alone.
        valid_views = [Stacked(view) for view in zip(*map(seen, job.valid_corpora), strict=True)]
        if job.valid:
            lengths = Stacked([Corpus.load(Path(folder)).lengths for folder in job.valid_corpora])
            valid = Rows.judged(Path(job.valid), corpus, valid_views[0], lengths)
        valid = replace(valid, tokens=valid_views[0])
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
        logits = mean_logits(model, seen(job.corpus), corpus.lengths, device, predicted)
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


class Wanted(NamedTuple):
    """What a batch is trained towards."""

    targets: Tensor
    """(B, n_labels) float32, probabilities where they are a teacher's"""
    weights: Tensor
    """(B,) float32"""
    twin: Batch | None
    """The same reports with other noise."""


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
                predictions.append(compute(copy.tokens, copy.lengths))
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
        logits = predict_logits(model, valid.tokens, valid.lengths, self.device, valid.chosen, self._precision)
        return weighted_loss(logits, valid)

    def named(self, rows: np.ndarray) -> np.ndarray:
        return self._train.ids[rows]


def disagreement(left: Tensor, right: Tensor) -> Tensor:
    """Half the sum of both Kullback-Leibler divergences between the yes-or-no answers of two sets of logits, by cell.

    For logits x, y and probabilities p, q it is (p - q) (x - y) / 2.
    """
    return (left.sigmoid() - right.sigmoid()) * (left - right) / 2


class EpochReader:
    """The batches of an epoch: reports in a new order, with new noise, POOL batches at a time.

    Of the texts only one pool is in memory; what grows with the file is the order alone, eight bytes a report.
    """

    def __init__(self, train: Rows, settings: Train, device: torch.device, denoiser: Denoiser | None = None):
        self._train = train
        self._denoiser = denoiser
        self._batch_size = settings.batch_size
        self._device = device
        self._multiple = GRAPH_WIDTHS if settings.compile and device.type == "cuda" else WIDTHS
        self._twins = settings.consistency > 0
        self._rates = noise_rates(settings.noise)
        self._alphabet = alphabet_of(train.tokens, train.chosen) if self._rates.total else None
        self.n_batches = math.ceil(len(train) / settings.batch_size)

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Batch, Wanted]]:
        """Each batch, with its `rows` as places in `train`, and what is wanted of it."""
        order = rng.permutation(len(self._train))
        for start in range(0, len(order), POOL * self._batch_size):
            pool = order[start : start + POOL * self._batch_size]
            chosen = self._train.chosen[pool]
            clean = self._train.tokens[chosen], np.asarray(self._train.lengths[chosen])
            batches = self._cut(*self._noisy(*clean, rng))
            sorted_rows = np.concatenate([batch.rows for batch in batches])
            twins = self._cut(*self._noisy(*clean, rng), sorted_rows) if self._twins else [None] * len(batches)
            sorted_rows = pool[sorted_rows]
            targets = torch.from_numpy(self._train.labels[sorted_rows]).to(self._device, torch.float32)
            weights = torch.from_numpy(self._train.weights[sorted_rows]).to(self._device)
            for i in rng.permutation(len(batches)):
                part = slice(i * self._batch_size, (i + 1) * self._batch_size)
                wanted = Wanted(targets[part], weights[part], twins[i])
                yield batches[i]._replace(rows=sorted_rows[part]), wanted

    def _noisy(
        self, tokens: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._alphabet is not None:
            tokens, lengths = pad(*corrupt(*unpad(tokens, lengths), self._rates, rng, self._alphabet), tokens.shape[1])
        if self._denoiser:
            (tokens,) = self._denoiser(tokens, lengths, [rng.choice(self._denoiser.settings.views)])
        return tokens, lengths

    def _cut(self, tokens: np.ndarray, lengths: np.ndarray, order: np.ndarray | None = None) -> list[Batch]:
        return length_batches(tokens, lengths, self._batch_size, self._device, self._multiple, order)


def noise_rates(settings: Noise) -> NoiseRates:
    return NoiseRates(**settings.model_dump())


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
