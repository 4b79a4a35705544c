"""Logits of a corpus from a trained model, each row exactly once, in the corpus's order."""

from __future__ import annotations

import numpy as np
import torch

from src.batching import collate, sorted_batches
from src.models import Classifier

BATCH_SIZE = 256


def predict_logits(
    model: Classifier, tokens: np.ndarray, lengths: np.ndarray, device: torch.device, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """Padded tokens (N, max_len) and lengths (N,) -> logits (N, n_labels) float32."""
    model.eval()
    logits = np.full((len(lengths), model.head.out_features), np.nan, dtype=np.float32)
    with torch.inference_mode():
        for rows in sorted_batches(lengths, batch_size):
            logits[rows] = model(*collate(tokens, lengths, rows, device)).float().cpu().numpy()
    return logits
