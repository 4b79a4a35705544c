"""Comparison of scores by the product's training and by the textbook loop, on one fold with several seeds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files
from src.data.corpus import Corpus
from src.data.tasks import get_task

WAYS = {"fit": "auto", "fit_fp32": "fp32", "textbook": "fp32"}
"""Precision of each way of training; the first is the default of the product."""


def train(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Trains a run on a fold in one way with one seed, and writes the logits of the validation rows (a job)."""
    import torch

    from src.bench.plain import Textbook
    from src.core.run_settings import Run
    from src.data.inputs import token_shape
    from src.models.classifier import build_model
    from src.training.classification import Classification
    from src.training.devices import pick_precision
    from src.training.inference import predict_logits
    from src.training.loop import fit
    from src.training.rows import Rows

    corpus, cpu = Corpus.load(Path(payload["corpus"])), torch.device("cpu")
    rows, seed = (np.load(payload[name]) for name in ("train_rows", "valid_rows")), payload["seed"]
    train_rows, valid_rows = (Rows.of(corpus, part) for part in rows)
    settings, way = Run.model_validate(payload["run"]), payload["way"]
    task = get_task(payload["task"])
    if way == "textbook":
        arrays = [
            (np.asarray(part.inputs["tokens"][part.chosen]), np.asarray(part.lengths[part.chosen]), part.labels)
            for part in (train_rows, valid_rows)
        ]
        loop = Textbook(payload["run"], *arrays, task.n_labels, payload["vocabulary_size"], WAYS[way], seed)
        for epoch in range(1, settings.train.epochs + 1):
            loss = loop.train_epoch()
            progress({"epoch": epoch, "epochs": settings.train.epochs, "train_loss": loss})
        logits = loop.predict()
    else:
        torch.manual_seed(seed)
        model = build_model(settings.model, token_shape(payload["vocabulary_size"]), task.n_labels)
        precision = pick_precision(WAYS[way], cpu)
        with tempfile.TemporaryDirectory() as folder:
            objective = Classification(task, model, train_rows, valid_rows, settings.train, cpu, precision)
            fit(objective, (seed, 0), Path(folder), progress)
        logits = predict_logits(model, {"tokens": corpus.tokens}, corpus.lengths, cpu, valid_rows.chosen)
    array_files.write_npy(Path(payload["out"]), logits)
