"""TextCNN (Kim 2014): convolutions of several widths side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.core.run_settings import TextCNN
from src.models.layers import Convolution, valid_positions


class TextCNNEncoder(nn.Module):
    """Embedded reports (B, T, E) -> features (B, T, widths * filters).

    The paper keeps only the maximum of each filter. Here that is a pooling, and the encoder keeps features per token.
    """

    def __init__(self, settings: TextCNN):
        super().__init__()
        self.size = settings.filters * len(settings.widths)
        self.backward_size = 0
        self.convolutions = nn.ModuleList(
            Convolution(settings.embedding_size, settings.filters, width) for width in settings.widths
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        valid = valid_positions(lengths, x.shape[1])
        return torch.cat([convolution(x, valid) for convolution in self.convolutions], dim=2).relu()
