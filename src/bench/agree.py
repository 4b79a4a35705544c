"""Does the fast path learn as much as the textbook loop? One fold, several seeds, both ways, the same rows to judge."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.core import storage
from src.data.corpus import Corpus

WAYS = {"fit": "auto", "fit_fp32": "fp32", "textbook": "fp32"}
"""Way of training, and its precision. The first is what users get."""


def train(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """One job: trains a run on a fold in one way with one seed, writes the logits of its validation rows."""
    import torch

    from src.bench.plain import Textbook
    from src.core.settings import Run
    from src.models.classifier import build_model
    from src.training.classification import Classification
    from src.training.devices import pick_precision
    from src.training.inference import predict_logits
    from src.training.loop import fit
    from src.training.rows import Rows

    corpus, cpu = Corpus.load(Path(payload["corpus"])), torch.device("cpu")
    rows, seed = (np.load(payload[name]) for name in ("train_rows", "valid_rows")), payload["seed"]
    train_rows, valid_rows = (Rows.of(corpus, one) for one in rows)
    settings, way = Run.model_validate(payload["run"]), payload["way"]
    n_labels = train_rows.labels.shape[1]
    if way == "textbook":
        arrays = [
            (np.asarray(one.inputs["tokens"][one.chosen]), np.asarray(one.lengths[one.chosen]), one.labels)
            for one in (train_rows, valid_rows)
        ]
        loop = Textbook(payload["run"], *arrays, n_labels, payload["vocabulary_size"], WAYS[way], seed)
        for epoch in range(1, settings.train.epochs + 1):
            loss = loop.train_epoch()
            progress({"epoch": epoch, "epochs": settings.train.epochs, "train_loss": loss})
        logits = loop.predict()
    else:
        torch.manual_seed(seed)
        model = build_model(settings.model, payload["vocabulary_size"], n_labels)
        precision = pick_precision(WAYS[way], cpu)
        with tempfile.TemporaryDirectory() as folder:
            objective = Classification(model, train_rows, valid_rows, settings.train, cpu, precision)
            fit(objective, settings.train, (seed, 0), Path(folder), progress)
        logits = predict_logits(model, {"tokens": corpus.tokens}, corpus.lengths, cpu, valid_rows.chosen)
    storage.write_npy(Path(payload["out"]), logits)
