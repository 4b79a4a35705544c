"""The family of models: encoder -> masked pooling -> linear head. Logits out; the sigmoid happens elsewhere, once.

To add a model: a settings class in core/settings.py, an encoder in a file of this folder, a line in ENCODERS, and
a YAML file in presets/models/.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.core.errors import unknown
from src.core.settings import Model
from src.data.corpus import PAD
from src.models.dpcnn import DPCNNEncoder
from src.models.layers import LabelHead, Pooling, SpatialDropout, words_and_shares
from src.models.rcnn import RCNNEncoder
from src.models.recurrent import RecurrentEncoder
from src.models.textcnn import TextCNNEncoder
from src.models.transformer import TransformerEncoder

ENCODERS = {
    "recurrent": RecurrentEncoder,
    "transformer": TransformerEncoder,
    "textcnn": TextCNNEncoder,
    "dpcnn": DPCNNEncoder,
    "rcnn": RCNNEncoder,
}
BODY = ("embedding", "encoder")
"""What a classifier has in common with the language model of its pretraining."""


class Classifier(nn.Module):
    """Tokens (B, T) and lengths (B,) -> logits (B, n_labels).

    Tokens may also be (B, T, K): at each place a mixture of K words, see layers.mixture.

    T may be any length that holds the longest report of the batch: padding, batch mates and their order change no
    logit beyond rounding. In training the head's dropout is drawn `dropout_samples` times and the logits averaged.
    Inoue (2019) averages the losses of the draws; the mean of logits has less noise the more are drawn, and so is the
    milder dropout.
    """

    def __init__(self, encoder: nn.Module, vocabulary_size: int, n_labels: int, settings: Model):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_size, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PAD] = 0
        self.spatial_dropout = SpatialDropout(settings.spatial_dropout)
        self.encoder = encoder
        self.pooling = Pooling(settings.pooling, encoder.size, encoder.backward_size, n_labels)
        self.dropout = nn.Dropout(settings.head_dropout)
        self.dropout_samples = settings.dropout_samples
        self.head = (LabelHead if settings.pooling == "label" else nn.Linear)(self.pooling.size, n_labels)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T), or mixtures (B, T, K) -> (B, T, embedding_size)."""
        if tokens.dim() == 2:
            return self.embedding(tokens)
        words, shares = words_and_shares(tokens.flatten(0, 1))
        bags = functional.embedding_bag(words, self.embedding.weight, per_sample_weights=shares, mode="sum")
        return bags.view(*tokens.shape[:2], -1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        embedded = self.spatial_dropout(self.embed(tokens))  # (64, 41, 128)
        features = self.encoder(embedded, lengths)  # (64, 41, 256)
        pooled = self.pooling(features, lengths)  # (64, 512), or (64, 17, 256) of labels
        draws = self.dropout_samples if self.training else 1
        return torch.stack([self.head(self.dropout(pooled)) for _ in range(draws)]).mean(dim=0)  # (64, 17)


def build_model(settings: Model, vocabulary_size: int, n_labels: int, vectors: Tensor | None = None) -> Classifier:
    """A model with fresh weights; `vectors` (vocabulary_size, embedding_size) start its embedding."""
    if settings.encoder not in ENCODERS:
        raise unknown("encoder", settings.encoder, ENCODERS)
    model = Classifier(ENCODERS[settings.encoder](settings), vocabulary_size, n_labels, settings)
    if vectors is not None:
        with torch.no_grad():
            model.embedding.weight.copy_(vectors)
    return model
