"""RCNN (Lai et al. 2015): each token beside what a recurrence read to its left and to its right."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.core.run_settings import RCNN, Recurrent
from src.models.layers import valid_positions
from src.models.recurrent import RecurrentEncoder


class RCNNEncoder(nn.Module):
    """Embedded reports (B, T, E) -> features (B, T, size) = tanh of a linear layer over left context, embedding, right
    context.

    A context ends before the token itself, as in the paper; at the ends of a report it is zero.
    """

    def __init__(self, settings: RCNN):
        super().__init__()
        self.size = settings.size
        self.backward_size = 0
        self.contexts = RecurrentEncoder(
            Recurrent(embedding_size=settings.embedding_size, cell=settings.cell, hidden_size=settings.hidden_size)
        )
        self.linear = nn.Linear(settings.embedding_size + 2 * settings.hidden_size, self.size)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        # The right-to-left recurrence leaves states in the padding too: the last token must not take one for context.
        states = self.contexts(x, lengths) * valid_positions(lengths, x.shape[1])[:, :, None]
        left, right = states.chunk(2, dim=2)
        before = functional.pad(left, (0, 0, 1, -1))
        after = functional.pad(right, (0, 0, -1, 1))
        return self.linear(torch.cat([before, x, after], dim=2)).tanh()
