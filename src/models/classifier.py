"""Family of models: input layer -> encoder -> masked pooling -> head. Models return logits; Task.decode() makes
probabilities of them.

To add a model: a settings class in core/settings.py, an encoder in a file of this folder, a line in ENCODERS, and
a YAML file in presets/models/.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.core.errors import unknown
from src.core.settings import Model
from src.data.inputs import InputShape
from src.models.dpcnn import DPCNNEncoder
from src.models.input_layers import build_input_layer
from src.models.layers import LabelHead, Pooling
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
BODY = ("input_layer", "encoder")
"""Parts that a classifier shares with the language model of its pretraining."""


class Classifier(nn.Module):
    """Inputs {name: (B, T, ...)} and lengths (B,) -> logits (B, n_labels).

    T may be any width that holds the longest report of the batch: padding, batch mates and their order change no
    logit beyond rounding. In training, `dropout_samples` dropout masks are drawn before the head and the logits
    averaged (multi-sample dropout). Inoue (2019) averages the losses instead; the mean of logits has less noise the
    more masks are drawn, so the dropout is milder.
    """

    def __init__(self, input_layer: nn.Module, encoder: nn.Module, n_labels: int, settings: Model):
        super().__init__()
        self.input_layer = input_layer
        self.encoder = encoder
        self.pooling = Pooling(settings.pooling, encoder.size, encoder.backward_size, n_labels)
        self.dropout = nn.Dropout(settings.head_dropout)
        self.dropout_samples = settings.dropout_samples
        self.head = (LabelHead if settings.pooling == "label" else nn.Linear)(self.pooling.size, n_labels)

    def forward(self, inputs: dict[str, Tensor], lengths: Tensor) -> Tensor:
        embedded = self.input_layer(inputs)  # (64, 41, 128)
        features = self.encoder(embedded, lengths)  # (64, 41, 256)
        pooled = self.pooling(features, lengths)  # (64, 512), or (64, 17, 256) of labels
        draws = self.dropout_samples if self.training else 1
        return torch.stack([self.head(self.dropout(pooled)) for _ in range(draws)]).mean(dim=0)  # (64, 17)


def build_model(settings: Model, shape: InputShape, n_labels: int, vectors: Tensor | None = None) -> Classifier:
    """Builds a model with fresh weights for inputs of `shape`; `vectors` (shape.size, embedding_size) start the
    embedding of tokens."""
    if settings.encoder not in ENCODERS:
        raise unknown("encoder", settings.encoder, ENCODERS)
    encoder = ENCODERS[settings.encoder](settings)  # before the input layer: the order of random draws is the results'
    return Classifier(build_input_layer(settings, shape, vectors), encoder, n_labels, settings)
