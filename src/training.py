"""fit(): the one training loop. train_fold(): one job of it, that a kill at any moment only delays.

Every epoch draws its order, noise and dropout from (seed, fold, epoch) alone, so a resumed job needs no generator
state and ends in the same bytes as one that was never killed.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from src import artifacts, checkpoints, hardware
from src.batching import POOL, Batch, length_batches
from src.config import Run, Train
from src.corpus import N_SPECIAL, Corpus, pad, unpad
from src.errors import UserError
from src.fold_job import FoldJob, is_trained
from src.hardware import autocast
from src.inference import CHUNK, predict_logits
from src.models import Classifier, build_model
from src.noise import NoiseRates, corrupt

WIDTHS = 4
"""Widths of training batches are multiples of this. Generated code is kept for each width: this keeps 300 MB less of it
and costs no more time than it saves."""
GRAPH_WIDTHS = 16
"""Where CUDA graphs are captured, widths of batches are multiples of this: seven graphs serve all batches but the last
of an epoch."""
EMA_WARMUP = 10
"""The average follows the weights closely over the first steps: decay is at most (1 + step) / (10 + step)."""


@dataclass(frozen=True)
class Rows:
    """Reports as fit() takes them: some of a corpus, whose arrays may be memory maps. Nothing of them is copied, so
    that folds side by side share one corpus of any size."""

    tokens: np.ndarray
    """(all, max_len) uint16"""
    lengths: np.ndarray
    """(all,) int32"""
    labels: np.ndarray
    """(N, n_labels) uint8, of the chosen ones"""
    ids: np.ndarray
    """(N,) bytes, of the chosen ones, to name the reports of a failing batch"""
    weights: np.ndarray
    """(N,) float32, how much a chosen one counts in a validation loss"""
    chosen: np.ndarray
    """(N,) rows of tokens and lengths"""

    def __len__(self) -> int:
        return len(self.chosen)

    @classmethod
    def of(cls, corpus: Corpus, rows: np.ndarray) -> Rows:
        labels, ids = np.asarray(corpus.labels[rows]), np.asarray(corpus.ids[rows])
        return cls(corpus.tokens, corpus.lengths, labels, ids, np.ones(len(rows), dtype=np.float32), rows)

    @classmethod
    def load(cls, path: Path, corpus: Corpus) -> Rows:
        """Of a FoldJob's `valid`."""
        with np.load(path) as file:
            rows = file["rows"]
            labels, ids = np.asarray(corpus.labels[rows]), np.asarray(corpus.ids[rows])
            weights = file["weights"].astype(np.float32)
            return cls(file["tokens"], file["lengths"], labels, ids, weights, np.arange(len(rows)))


def train_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs a FoldJob given as a dictionary. Leaves in its folder best.safetensors and last.safetensors (weights),
    logits.npy (of the predicted rows), history.csv and, written last, result.json.
    """
    job = FoldJob(**payload)
    folder = Path(job.folder)
    with artifacts.lock(folder / "job.lock"):
        if is_trained(job):
            return
        run = Run.model_validate(job.run)
        corpus = Corpus.load(Path(job.corpus))
        with np.load(job.split) as split:
            train, valid = (Rows.of(corpus, split[name]) for name in ("train_rows", "valid_rows"))
            predicted = split["predicted_rows"]
        if job.valid:
            valid = Rows.load(Path(job.valid), corpus)
        device = torch.device(job.device)
        hardware.set_up(device)
        torch.manual_seed(_seed_of(job.seed, job.fold, 0))
        vectors = torch.from_numpy(np.load(job.vectors)) if job.vectors else None
        model = build_model(run.model, job.vocabulary_size, train.labels.shape[1], vectors).to(device)
        artifacts.remove_temporaries(folder)
        started = time.perf_counter()
        history = fit(model, train, valid, run.train, (job.seed, job.fold), device, job.precision, folder, progress)
        checkpoints.save_weights(folder / "last.safetensors", model)
        if run.train.patience:
            checkpoints.load_weights(folder / "best.safetensors", model)
        logits = predict_logits(model, corpus.tokens, corpus.lengths, device, predicted)
        artifacts.write_npy(folder / "logits.npy", logits)
        artifacts.write_text(folder / "history.csv", pd.DataFrame(history).to_csv(index=False))
        best = min(history, key=lambda epoch: epoch["valid_loss"])
        checkpoints.remove_all(folder)
        artifacts.write_json(
            folder / "result.json",
            {
                "fingerprint": job.fingerprint,
                "run": job.run,
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
                "environment": artifacts.environment(hardware.name_of(device), job.precision),
            },
        )


def fit(
    model: Classifier,
    train: Rows,
    valid: Rows,
    settings: Train,
    seeds: tuple[int, int],
    device: torch.device,
    precision: str,
    folder: Path,
    progress: Callable[[dict[str, Any]], None],
) -> list[dict[str, float]]:
    """Trains `model` in place, from the newest sound checkpoint of `folder` if there is one.

    Returns the history: epoch, learning_rate, train_loss, valid_loss for each epoch. Afterwards the model holds the
    last weights (their moving average under ema_decay), and best.safetensors those of the lowest validation loss.
    Raises UserError for a loss that is not finite, naming the step and the reports of the batch.
    """
    average = copy.deepcopy(model).eval() if settings.ema_decay else None
    optimizer = make_optimizer(model, settings)
    pos_weight = positive_weight(train.labels, settings).to(device)
    reader = EpochReader(train, settings, device)
    n_steps = settings.epochs * reader.n_batches

    compute = compiled(model, device) if settings.compile else model

    history = checkpoints.resume(folder, model, average, optimizer)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        if _patience_is_over(history, settings.patience):
            break
        started = time.perf_counter()
        torch.manual_seed(_seed_of(*seeds, epoch))
        model.train()
        watch = Watch(reader.n_batches, device)
        first = (epoch - 1) * reader.n_batches
        for i, (batch, targets) in enumerate(reader.batches(np.random.default_rng([*seeds, epoch]))):
            rate = settings.learning_rate * schedule(first + i, n_steps, settings.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if settings.compile and device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()
            with autocast(precision, device):
                logits = compute(batch.tokens, batch.lengths)
            loss = functional.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=pos_weight)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            if average is not None:
                update_average(average, model, settings.ema_decay, first + i)
            watch.see(loss, norm, batch.rows)
            if (watch.unread == POOL or i + 1 == reader.n_batches) and (broken := watch.read()):
                what, at, rows = broken
                raise UserError(_not_finite(what, epoch, first + at, train.ids[rows]))
        judged = average if average is not None else model
        logits = predict_logits(judged, valid.tokens, valid.lengths, device, valid.chosen, precision)
        valid_loss = weighted_loss(logits, valid)
        if not math.isfinite(valid_loss):
            what = f"validation loss became {valid_loss}"
            raise UserError(_not_finite(what, epoch, first + i, train.ids[batch.rows]))
        history.append({"epoch": epoch, "learning_rate": rate, "train_loss": watch.mean(), "valid_loss": valid_loss})
        if valid_loss == min(past["valid_loss"] for past in history):
            checkpoints.save_weights(folder / "best.safetensors", judged)
        checkpoints.save(folder, model, average, optimizer, history)
        progress({**history[-1], "epochs": settings.epochs, "seconds": time.perf_counter() - started})
    if average is not None:
        model.load_state_dict(average.state_dict())
    return history


def compiled(model: Classifier, device: torch.device) -> Callable[..., Tensor]:
    """The model as generated code with the same weights. Raises UserError where nothing is there to generate it."""
    if device.type == "cuda":
        # Each width is compiled for itself, and the last batch of an epoch for its size. Past its usual limit of eight
        # torch would run the rest as they are, with a warning alone.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1024
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        return torch.compile(model, mode="reduce-overhead", dynamic=False)
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UserError("train.compile=true needs a C++ compiler on a CPU, such as g++, and finds none.")
    return torch.compile(model, dynamic=True)


class EpochReader:
    """The batches of an epoch: reports in a new order, with new noise, POOL batches at a time.

    Of the texts only one pool is in memory; what grows with the file is the order alone, eight bytes a report.
    """

    def __init__(self, train: Rows, settings: Train, device: torch.device):
        self._train = train
        self._batch_size = settings.batch_size
        self._device = device
        self._multiple = GRAPH_WIDTHS if settings.compile and device.type == "cuda" else WIDTHS
        self._rates = NoiseRates(**settings.noise.model_dump())
        self._alphabet = _alphabet(train) if self._rates.total else None
        self.n_batches = math.ceil(len(train) / settings.batch_size)

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch, with its `rows` as places in `train`, and its targets (B, n_labels) float32."""
        order = rng.permutation(len(self._train))
        for start in range(0, len(order), POOL * self._batch_size):
            pool = order[start : start + POOL * self._batch_size]
            chosen = self._train.chosen[pool]
            tokens, lengths = self._train.tokens[chosen], np.asarray(self._train.lengths[chosen])
            if self._alphabet is not None:
                noisy = corrupt(*unpad(tokens, lengths), self._rates, rng, self._alphabet)
                tokens, lengths = pad(*noisy, tokens.shape[1])
            batches = length_batches(tokens, lengths, self._batch_size, self._device, self._multiple)
            sorted_rows = pool[np.concatenate([batch.rows for batch in batches])]
            targets = torch.from_numpy(self._train.labels[sorted_rows]).to(self._device, torch.float32)
            for i in rng.permutation(len(batches)):
                part = slice(i * self._batch_size, (i + 1) * self._batch_size)
                yield batches[i]._replace(rows=sorted_rows[part]), targets[part]


class Watch:
    """Losses and gradient norms of an epoch, kept on the device: reading each would stop a GPU at every step."""

    def __init__(self, n_batches: int, device: torch.device):
        self._values = torch.zeros(n_batches, 2, device=device)
        self._sizes: list[int] = []
        self._unread: list[np.ndarray] = []

    @property
    def unread(self) -> int:
        return len(self._unread)

    def see(self, loss: Tensor, norm: Tensor, rows: np.ndarray) -> None:
        self._values[len(self._sizes)] = torch.stack([loss.detach(), norm])
        self._sizes.append(len(rows))
        self._unread.append(rows)

    def read(self) -> tuple[str, int, np.ndarray] | None:
        """Looks at what has come since the last time. Of the first step with a value that is not finite: what became
        of it, its number in the epoch and the rows of its batch."""
        batches, self._unread = self._unread, []
        start = len(self._sizes) - len(batches)
        values = self._values[start : len(self._sizes)].tolist()
        for i, ((loss, norm), rows) in enumerate(zip(values, batches, strict=True), start):
            if not math.isfinite(loss):
                return f"loss became {loss}", i, rows
            if not math.isfinite(norm):
                return f"gradient's norm became {norm}", i, rows
        return None

    def mean(self) -> float:
        """The mean loss of the epoch's reports."""
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        return float((self._values[:, 0].cpu().double() * sizes).sum() / sizes.sum())


def _alphabet(rows: Rows) -> np.ndarray:
    """The words that occur in them, in order."""
    seen = np.zeros(np.iinfo(rows.tokens.dtype).max + 1, dtype=bool)
    for start in range(0, len(rows), CHUNK):
        seen[rows.tokens[rows.chosen[start : start + CHUNK]]] = True
    return (N_SPECIAL + np.flatnonzero(seen[N_SPECIAL:])).astype(rows.tokens.dtype)


def make_optimizer(model: nn.Module, settings: Train) -> torch.optim.Optimizer:
    """Adam or AdamW; weight decay on exactly the parameters with two dimensions or more."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(groups, lr=settings.learning_rate, fused=True)


def schedule(step: int, n_steps: int, warmup: float) -> float:
    """Factor of the learning rate at `step` (from 0): linear warm-up, then a cosine that ends just above zero."""
    rising = max(1, round(warmup * n_steps)) if warmup else 0
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, n_steps - rising)))


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


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves every weight of `average` towards that of `model` by 1 - decay."""
    decay = min(decay, (1 + step) / (EMA_WARMUP + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def _patience_is_over(history: list[dict[str, float]], patience: int) -> bool:
    losses = [epoch["valid_loss"] for epoch in history]
    return bool(patience and losses and len(losses) - 1 - losses.index(min(losses)) >= patience)


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _not_finite(what: str, epoch: int, step: int, ids: np.ndarray) -> str:
    shown = ", ".join(report.decode() for report in ids[:8])
    return (
        f"the {what} at step {step} (epoch {epoch}), in the batch with reports {shown}, … "
        f"({len(ids)} in all). Try a lower train.learning_rate, a lower train.clip_norm or a longer train.warmup."
    )
