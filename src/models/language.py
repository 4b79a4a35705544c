"""The language model of pretraining: an encoder that is asked which word belongs at a place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.data.corpus import N_SPECIAL
from src.models.classifier import Classifier


class MaskedLanguageModel(nn.Module):
    """Embedding and encoder of a classifier, with heads that predict words and tell which words are out of place.

    The word head ends in the embedding itself (Press and Wolf 2017), so that what it learns about words stays when the
    heads go.
    """

    def __init__(self, body: Classifier):
        super().__init__()
        self.embedding = body.embedding
        self.spatial_dropout = body.spatial_dropout
        self.encoder = body.encoder
        size = self.embedding.embedding_dim
        self.transform = nn.Sequential(nn.Linear(self.encoder.size, size), nn.GELU(), nn.LayerNorm(size))
        self.bias = nn.Parameter(torch.zeros(self.embedding.num_embeddings - N_SPECIAL))
        self.detect = nn.Linear(self.encoder.size, 1)

    def forward(self, tokens: Tensor, lengths: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T), lengths (B,) and places (K,) in the flattened (B * T) -> logits of the words at these places
        alone, (K, V) without the reserved indices, and of each token being out of place, (B, T).
        """
        embedded = self.spatial_dropout(self.embedding(tokens))
        features = self.encoder(embedded, lengths)
        asked = self.transform(features.flatten(0, 1).index_select(0, places))
        return nn.functional.linear(asked, self.embedding.weight[N_SPECIAL:], self.bias), self.detect(features)[:, :, 0]
