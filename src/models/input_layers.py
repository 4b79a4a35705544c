"""Family of input layers: the first part of a model, and the only one that knows what the inputs are.

An input layer takes the `inputs` of a Batch, a dictionary of tensors (B, T, ...), and returns (B, T, embedding_size).
Where its `context_size` is not 0, context(inputs) returns (B, context_size) that stands beside the pooled features.
To add one: a class and a line in INPUT_LAYERS.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.core.errors import unknown
from src.core.run_settings import Features, Model
from src.data.corpus import N_SPECIAL, PAD
from src.data.inputs import InputShape
from src.models.layers import SpatialDropout, words_and_shares
from src.models.series_input import SeriesInput


class TokenEmbedding(nn.Module):
    """Embedding of `tokens`: int32 word indices (B, T), or mixtures (B, T, K) of K words a place (layers.mixture)."""

    context_size = 0

    def __init__(self, settings: Model, shape: InputShape, vectors: Tensor | None = None):
        """`vectors` (shape.size, embedding_size) replace the random start."""
        super().__init__()
        self.embedding = nn.Embedding(shape.size, settings.embedding_size, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PAD] = 0
            if vectors is not None:
                self.embedding.weight.copy_(vectors)
        self.spatial_dropout = SpatialDropout(settings.spatial_dropout)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.spatial_dropout(self.embed(inputs))

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """Embeds without dropout: (B, T, embedding_size)."""
        tokens = inputs["tokens"]
        if tokens.dim() == 2:
            return self.embedding(tokens)  # (64, 41) -> (64, 41, 128)
        words, shares = words_and_shares(tokens.flatten(0, 1))
        bags = functional.embedding_bag(words, self.embedding.weight, per_sample_weights=shares, mode="sum")
        return bags.view(*tokens.shape[:2], -1)

    def baseline(self) -> Tensor:
        """Mean embedding of all words (embedding_size,): stands for a place that carries no information."""
        return self.embedding.weight[N_SPECIAL:].mean(dim=0)


INPUT_LAYERS = {"tokens": TokenEmbedding, "series": SeriesInput}


def build_input_layer(
    settings: Model, shape: InputShape, vectors: Tensor | None = None, features: Features | None = None
) -> nn.Module:
    """Builds the input layer for `shape`; an unknown kind raises a UserError that lists the family."""
    if shape.kind not in INPUT_LAYERS:
        raise unknown("input layer", shape.kind, INPUT_LAYERS)
    own = vectors if shape.kind == "tokens" else features or Features()
    return INPUT_LAYERS[shape.kind](settings, shape, own)
