"""Logits of a corpus from a trained model, each row exactly once, in the corpus's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.data.corpus import CHUNK
from src.models.classifier import Classifier
from src.training.batching import length_batches
from src.training.devices import autocast
from src.training.views import mean_of_views

BATCH_SIZE = 256
CHUNK_BYTES = 64 << 20
"""Maximum number of bytes of the inputs that are sorted by length together. So a file of any size takes the memory of
one chunk and of the answer."""


def mean_logits(
    model: Classifier, views: Sequence[Mapping[str, np.ndarray]], *args: Any, doubt: float = 0.0, **settings: Any
) -> np.ndarray:
    """Averages predict_logits() over several views of the same reports, see mean_of_views().

    Raises UserError for logits that are not finite: nothing that is made of them would be.
    """
    logits = [predict_logits(model, inputs, *args, **settings) for inputs in views]
    mean = mean_of_views(logits, doubt)
    if broken := int((~np.isfinite(mean)).any(axis=1).sum()):
        raise UserError(
            _(
                "the trained model has no finite output for {broken:,} of {n:,} rows. Train it "
                "again with a lower train.learning_rate or a lower train.clip_norm"
            ).format(broken=broken, n=len(mean))
        )
    return mean


def predict_logits(
    model: Classifier,
    inputs: Mapping[str, np.ndarray],
    lengths: np.ndarray,
    device: torch.device,
    rows: np.ndarray | None = None,
    precision: str = "fp32",
    batch_size: int = BATCH_SIZE,
    chunk: int = CHUNK,
) -> np.ndarray:
    """Predicts logits (N, n_labels) float32 of padded inputs {name: (N, max_len, ...)} and lengths (N,), which may be
    memory maps.

    `rows` (M,) predicts only these, in their order: (M, n_labels). `chunk`: number of rows that are sorted by length
    together, or half of it and so on, until their inputs fit CHUNK_BYTES: cuts at its multiples change no batch.
    """
    model.eval()
    size = len(lengths) if rows is None else len(rows)
    row = sum(array[np.arange(min(1, len(lengths)))].nbytes for array in inputs.values())
    step = chunk
    while step > batch_size and step * row > CHUNK_BYTES:
        step //= 2
    logits = np.full((size, model.n_labels), np.nan, dtype=np.float32)
    with torch.inference_mode(), autocast(precision, device):
        for start in range(0, size, step):
            here = slice(start, start + step) if rows is None else rows[start : start + step]
            part = {name: array[here] for name, array in inputs.items()}
            batches = length_batches(part, np.asarray(lengths[here]), batch_size, device)
            found = torch.cat([model(batch.inputs, batch.lengths) for batch in batches]).float().cpu().numpy()
            logits[start + np.concatenate([batch.rows for batch in batches])] = found
            for array in inputs.values():
                storage.release_pages(array)
    return logits
