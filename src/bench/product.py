"""Contenders that call the product, by the functions of its stages."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.bench.data import VOCABULARY, encoded, synthetic
from src.data.corpus import N_SPECIAL
from src.data.inputs import token_shape
from src.data.tasks import ROUND1


def read(path: str) -> Callable[[], dict]:
    from src.data.report_reader import read_reports

    def once() -> dict:
        reports = read_reports(Path(path))
        total = int(reports.tokens.sum(dtype=np.int64))
        return {"work": len(reports), "rows": len(reports), "tokens": len(reports.tokens), "sum": total}

    return once


def built(run: dict) -> Any:
    """Returns the run's model with fixed random weights, in evaluation mode."""
    import torch

    from src.core.run_settings import Run
    from src.models.classifier import build_model

    torch.manual_seed(0)
    return build_model(Run.model_validate(run).model, token_shape(VOCABULARY + N_SPECIAL), ROUND1.n_labels).eval()


def random_rows(count: int, seed: int) -> Any:
    """Returns Rows of `count` random reports, each with the weight 1."""
    from src.training.rows import Rows

    tokens, lengths, labels = encoded(count, seed)
    return Rows(
        inputs={"tokens": tokens},
        lengths=lengths,
        labels=labels,
        ids=np.arange(count).astype("S"),
        weights=np.ones(count, np.float32),
        domain=np.zeros(count, np.uint8),
        n_domains=1,
        chosen=np.arange(count),
    )


def epoch(run: dict, rows: int, valid_rows: int, precision: str) -> tuple[Callable[[], dict], dict]:
    """Times fit() for an epoch of `rows` reports with validation and checkpoint; turns continue the training.

    The info has the floating-point operations of a report's matrix products, forwards and backwards, with padding.
    """
    import torch

    from src.core.run_settings import Run
    from src.training.classification import Classification
    from src.training.devices import pick_precision
    from src.training.epoch_reader import EpochReader
    from src.training.loop import fit

    cpu = torch.device("cpu")
    settings = Run.model_validate(run)
    train_settings = settings.train.model_copy(update={"epochs": 1})
    train, valid = random_rows(rows, seed=1), random_rows(valid_rows, seed=2)
    model = built(run).train()
    picked = pick_precision(precision, cpu)
    reader = EpochReader(train, train_settings, cpu)
    batches = [batch for batch, _ in reader.batches(np.random.default_rng(0))]
    operations = flops(model, batches) * 3  # the backward pass has two products for each

    def once() -> dict:
        with tempfile.TemporaryDirectory() as folder:
            objective = Classification(ROUND1, model, train, valid, train_settings, cpu, picked)
            fit(objective, (0, 0), Path(folder), lambda news: None)
        return {"work": rows}

    return once, {"flops": operations * (1 + valid_rows / rows / 3), "precision": picked}


def train_corpus(run: dict, corpus: str) -> Callable[[], dict]:
    """Times training steps on a prepared corpus, without fit()'s clipping and averages and an epoch's set-up."""
    import itertools

    import torch

    from src.bench.scale import BATCHES
    from src.core.run_settings import Run
    from src.data.corpus import Corpus
    from src.training.devices import autocast, pick_precision
    from src.training.epoch_reader import EpochReader
    from src.training.optimizers import make_optimizer
    from src.training.rows import Rows

    cpu, settings, loaded = torch.device("cpu"), Run.model_validate(run).train, Corpus.load(Path(corpus))
    model = built(run).train()
    optimizer, precision = make_optimizer(model, settings), pick_precision("auto", cpu)
    reader = EpochReader(Rows.of(loaded, np.arange(len(loaded))), settings, cpu)
    epochs = itertools.chain.from_iterable(reader.batches(np.random.default_rng(i)) for i in itertools.count())
    next(epochs)

    def once() -> dict:
        done = 0
        for batch, wanted in itertools.islice(epochs, BATCHES):
            with autocast(precision, cpu):
                logits = model(batch.inputs, batch.lengths)
            loss = ROUND1.loss(logits.float(), wanted.targets, wanted.weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += len(batch.rows)
        return {"work": done}

    return once


def predict_corpus(run: dict, corpus: str) -> Callable[[], dict]:
    """Times predict_logits on a prepared corpus, or on PREDICTED random reports of a larger one."""
    import torch

    from src.bench.scale import PREDICTED
    from src.data.corpus import Corpus
    from src.training.inference import predict_logits

    cpu, model, loaded = torch.device("cpu"), built(run), Corpus.load(Path(corpus))
    rows = np.sort(np.random.default_rng(0).permutation(len(loaded))[:PREDICTED])

    def once() -> dict:
        predict_logits(model, {"tokens": loaded.tokens}, loaded.lengths, cpu, rows)
        return {"work": len(rows)}

    return once


def predict_stays(fold: str, output: str, corpus: str) -> Callable[[], dict]:
    """Times a trained fold on a prepared corpus, or on its first PREDICTED stays."""
    import torch

    from src.bench.scale import PREDICTED
    from src.data.corpus import Corpus
    from src.training.inference import mean_logits
    from src.training.trained_fold import TrainedFold

    cpu, folder = torch.device("cpu"), Path(corpus)
    trained = TrainedFold.load(Path(fold), cpu, Path(output))
    lengths = Corpus.load(folder).lengths
    rows = np.arange(min(len(lengths), PREDICTED))

    def once() -> dict:
        mean_logits(trained.model, trained.views(folder), lengths, cpu, rows)
        return {"work": len(rows)}

    return once


def write_predictions(path: str, corpus: str) -> Callable[[], dict]:
    """Times the file of predictions of a corpus of stays, with the check that reads it back."""
    from src.data.corpus import Corpus
    from src.data.submission_files import write_submission
    from src.data.tasks import get_task

    ids = Corpus.load(Path(corpus)).ids
    predictions = np.random.default_rng(0).random((len(ids), 1))

    def once() -> dict:
        write_submission(Path(path), ids, predictions, 1e-6, get_task("icu"))
        return {"work": len(ids)}

    return once


def batches(rows: int, batch_size: int) -> Callable[[], dict]:
    """Times the batches of an epoch with replacement noise, without a model."""
    import torch

    from src.core.run_settings import Train
    from src.training.epoch_reader import EpochReader

    settings = Train(batch_size=batch_size, noise={"replacement": 0.1})
    reader = EpochReader(random_rows(rows, seed=0), settings, torch.device("cpu"))

    def once() -> dict:
        total = sum(wanted.targets.sum().item() for _, wanted in reader.batches(np.random.default_rng(0)))
        return {"work": rows, "labels": float(total)}

    return once


def predict(run: dict, rows: int, check_rows: list[int]) -> tuple[Callable[[], dict], dict]:
    """Times predict_logits; facts are the mean logits, also on `check_rows` reports for other contenders."""
    import torch

    from src.training.batching import length_batches
    from src.training.inference import BATCH_SIZE, predict_logits

    cpu = torch.device("cpu")
    model = built(run)
    tokens, lengths, _ = encoded(rows)
    inputs = {"tokens": tokens}
    firsts = {}
    for count in check_rows:  # separate random files: the size changes the drawn reports
        first_tokens, first_lengths, _ = encoded(count)
        mean = np.abs(predict_logits(model, {"tokens": first_tokens}, first_lengths, cpu)).mean()
        firsts[f"logits of {count}"] = float(mean)

    def once() -> dict:
        logits = predict_logits(model, inputs, lengths, cpu)
        return {"work": rows, **firsts, f"logits of {rows}": float(np.abs(logits).mean())}

    return once, {"flops": flops(model, length_batches(inputs, lengths, BATCH_SIZE, cpu)[::4]), "precision": "fp32"}


def flops(model: Any, batches: list) -> float:
    """Counts the floating-point operations of a report's matrix products, forwards, as a mean over `batches`.

    oneDNN's recurrence and fused attention are switched off, since torch cannot count their operations.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")  # is about GPUs of Intel
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH), counter:
        for batch in batches:
            model(batch.inputs, batch.lengths)
    return counter.get_total_flops() / sum(len(batch.rows) for batch in batches)


def tfidf(rows: int) -> Callable[[], dict]:
    from src.data.near_duplicates import tfidf

    reports = synthetic(rows)

    def once() -> dict:
        (vectors,) = tfidf([(reports.tokens, reports.offsets)], max_n=3, min_df=2)
        return {"work": rows, "features": vectors.shape[1], "values": vectors.nnz, "sum": float(vectors.sum())}

    return once


def blend(rows: int, members: int) -> Callable[[], dict]:
    """Times the choice and fit of a blend of `members` runs, once for each fold, like the blend stage."""
    from src.ensemble import blending

    rng = np.random.default_rng(0)
    labels = synthetic(rows).labels
    logits = (rng.normal(size=(members, rows, 17)) + 4 * labels - 3).astype(np.float32)
    folds = rng.integers(0, 5, rows)

    def once() -> dict:
        blending.fit_folds(blending.Evidence.of(list(logits), labels, folds), ROUND1, "auto")
        return {"work": rows}

    return once


def start(arguments: list[str]) -> Callable[[], dict]:
    """Times a command of the product, from the start of the interpreter to its end."""
    import subprocess
    import sys

    def once() -> dict:
        subprocess.run([sys.executable, "-m", "src", *arguments], check=True, stdout=subprocess.DEVNULL)
        return {"work": 1}

    return once


def products(size: int, precision: str) -> Callable[[], dict]:
    """Times floating-point operations in products of square matrices that fit the caches (the machine's limit)."""
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = (torch.randn(size, size).to(kind) for _ in range(2))

    def once() -> dict:
        for _ in range(20):
            left @ right
        return {"work": 20 * 2 * size**3}

    once()
    return once


def copies(megabytes: int) -> Callable[[], dict]:
    """Times bytes read and written in copying an array that fits no cache (the machine's memory bandwidth)."""
    source = np.zeros(megabytes * 125_000)
    target = np.ones_like(source)

    def once() -> dict:
        for _ in range(4):
            np.copyto(target, source)
        return {"work": 4 * 2 * source.nbytes}

    return once
