"""Masked language model for pretraining: an encoder that predicts which word belongs at a place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.data.corpus import N_SPECIAL
from src.models.classifier import Classifier


class MaskedLanguageModel(nn.Module):
    """Input layer and encoder of a classifier of tokens, with two heads: one predicts words, one detects replacements.

    The word head shares its output matrix with the embedding (Press and Wolf 2017), so that what it learns about words
    stays in the embedding when pretraining is over and the heads are dropped.
    """

    def __init__(self, body: Classifier):
        super().__init__()
        self.input_layer = body.input_layer
        self.encoder = body.encoder
        n_words, size = self.input_layer.embedding.weight.shape
        self.transform = nn.Sequential(nn.Linear(self.encoder.size, size), nn.GELU(), nn.LayerNorm(size))
        self.bias = nn.Parameter(torch.zeros(n_words - N_SPECIAL))
        self.detect = nn.Linear(self.encoder.size, 1)

    def forward(self, inputs: dict[str, Tensor], lengths: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inputs {"tokens": (B, T)}, lengths (B,) and places (K,) in the flattened (B * T), None for all -> logits
        (K, V) of the words at these places, without the reserved indices, and logits (B, T) of each token being
        replaced."""
        features = self.encoder(self.input_layer(inputs), lengths)
        asked = features.flatten(0, 1)
        asked = self.transform(asked if places is None else asked.index_select(0, places))
        words = nn.functional.linear(asked, self.input_layer.embedding.weight[N_SPECIAL:], self.bias)
        return words, self.detect(features)[:, :, 0]
