"""Family of models: input layer -> encoder -> masked pooling -> head. Models return logits; Task.decode() makes
probabilities of them.

To add a model: a settings class in core/run_settings.py, an encoder in a file of this folder, a line in ENCODERS, and
a YAML file in presets/models/.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.core.errors import UserError, unknown
from src.core.run_settings import AnyModel, Features, Model, Train
from src.data.inputs import InputShape
from src.models.auxiliary import AuxiliaryHeads
from src.models.dpcnn import DPCNNEncoder
from src.models.grud import GRUDEncoder
from src.models.input_layers import build_input_layer
from src.models.layers import LabelHead, Pooling
from src.models.neighbours import NeighbourHead
from src.models.rcnn import RCNNEncoder
from src.models.recurrent import RecurrentEncoder
from src.models.series_input import series_columns
from src.models.summaries import hidden_statics
from src.models.tabular import TABULAR, TabularModel
from src.models.textcnn import TextCNNEncoder
from src.models.transformer import TransformerEncoder

ENCODERS = {
    "recurrent": RecurrentEncoder,
    "transformer": TransformerEncoder,
    "textcnn": TextCNNEncoder,
    "dpcnn": DPCNNEncoder,
    "rcnn": RCNNEncoder,
    "grud": GRUDEncoder,
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
        self.n_labels = n_labels
        size = self.pooling.size + input_layer.context_size
        kind = LabelHead if settings.pooling == "label" else nn.Linear
        self.head = (NeighbourHead if settings.head == "neighbours" else kind)(size, n_labels)
        self.auxiliary: AuxiliaryHeads | None = None

    def forward(self, inputs: dict[str, Tensor], lengths: Tensor) -> Tensor:
        embedded = self.input_layer(inputs)  # (64, 41, 128)
        return self.logits(
            embedded, self.input_layer.context(inputs) if self.input_layer.context_size else None, lengths
        )

    def pooled(self, inputs: dict[str, Tensor], lengths: Tensor) -> Tensor:
        """Computes the pooled features (B, F) that the head reads, of pooling=label (B, n_labels, F)."""
        context = self.input_layer.context(inputs) if self.input_layer.context_size else None
        return self._pooled(self.encoder(self.input_layer(inputs), lengths), context, lengths)

    def with_pooled(self, inputs: dict[str, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes pooled(), of pooling=label its mean over the labels, and the logits."""
        pooled = self.pooled(inputs, lengths)
        return (pooled.mean(dim=1) if pooled.dim() == 3 else pooled), self._logits(pooled)

    def logits(self, embedded: Tensor, context: Tensor | None, lengths: Tensor) -> Tensor:
        """Computes the logits of what the input layer returned."""
        return self.logits_of_features(self.encoder(embedded, lengths), context, lengths)

    def logits_of_features(self, features: Tensor, context: Tensor | None, lengths: Tensor) -> Tensor:
        """Computes the logits of what the encoder returned."""
        return self._logits(self._pooled(features, context, lengths))

    def _pooled(self, features: Tensor, context: Tensor | None, lengths: Tensor) -> Tensor:
        pooled = self.pooling(features, lengths)  # (64, 512), or (64, 17, 256) of labels
        if context is not None:
            beside = context if pooled.dim() == 2 else context[:, None].expand(-1, pooled.shape[1], -1)
            pooled = torch.cat([pooled, beside], dim=-1)
        return pooled

    def _logits(self, pooled: Tensor) -> Tensor:
        draws = self.dropout_samples if self.training else 1
        return torch.stack([self.head(self.dropout(pooled)) for _ in range(draws)]).mean(dim=0)  # (64, 17)

    def add_auxiliary(self, forecast: bool, n_outcomes: int) -> None:
        """Adds heads that only training uses, see auxiliary.py."""
        n_parameters = len(self.input_layer.shape.parameters) if forecast else 0
        self.auxiliary = AuxiliaryHeads(self.encoder.size, self.head.in_features, n_parameters, n_outcomes)

    def with_auxiliary(
        self, inputs: dict[str, Tensor], lengths: Tensor, outcomes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the logits, the loss of the forecasts and that of the `outcomes` (B, K), 0 without such a head."""
        embedded = self.input_layer(inputs)
        context = self.input_layer.context(inputs) if self.input_layer.context_size else None
        features = self.encoder(embedded, lengths)
        pooled = self._pooled(features, context, lengths)
        forecast = outcome = embedded.new_zeros(())
        if self.auxiliary.forecast is not None:
            forecast = self.auxiliary.forecast_loss(features, self.input_layer.scaled(inputs["values"], inputs))
        if self.auxiliary.outcomes is not None:
            outcome = self.auxiliary.outcome_loss(self.dropout(pooled), outcomes)
        return self._logits(pooled), forecast, outcome


def build_model(
    settings: AnyModel,
    shape: InputShape,
    n_labels: int,
    vectors: Tensor | None = None,
    features: Features | None = None,
    train: Train | None = None,
) -> Classifier | TabularModel:
    """Builds a model with fresh weights for inputs of `shape`.

    `vectors` (shape.size, embedding_size) start the embedding of tokens; `features` are the columns that are made of
    series, and `train` tells which auxiliary heads training asks for. Raises UserError for an unknown encoder and for
    one that does not read such inputs.
    """
    if settings.encoder not in {**ENCODERS, **TABULAR}:
        raise unknown("encoder", settings.encoder, {**ENCODERS, **TABULAR})
    if shape.kind == "tokens" and settings.encoder in {"grud", *TABULAR}:
        raise UserError(f"the model {settings.encoder} reads series of values; these inputs are reports of tokens")
    if settings.encoder in TABULAR:
        fitted = TABULAR[settings.encoder](settings, shape, n_labels)
        fitted.hidden = hidden_statics(shape, features.hidden if features else ())
        return fitted
    columns = [series_columns(shape, features or Features())] if settings.encoder == "grud" else []
    # The encoder comes before the input layer: results depend on the order of random draws.
    encoder = ENCODERS[settings.encoder](settings, *columns)
    model = Classifier(build_input_layer(settings, shape, vectors, features), encoder, n_labels, settings)
    if train is not None and (train.forecast_weight or train.outcome_weight):
        model.add_auxiliary(train.forecast_weight > 0, len(shape.outcomes) if train.outcome_weight else 0)
    return model
