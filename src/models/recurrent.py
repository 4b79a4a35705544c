"""LSTM, GRU or plain recurrent encoder, in one or both directions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from src.core.run_settings import Recurrent

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class RecurrentEncoder(nn.Module):
    """Embedded reports (B, T, E) -> features (B, T, D), left-to-right features first.

    Each direction is a recurrence of its own: the right-to-left one reads the report reversed *within its length*, so
    that it starts at the last real token. A bidirectional module over a padded batch would start in the padding, and a
    packed sequence costs twice the time on a CPU.
    """

    def __init__(self, settings: Recurrent):
        super().__init__()
        directions = 2 if settings.bidirectional else 1
        self.size = settings.hidden_size * directions
        self.backward_size = settings.hidden_size if settings.bidirectional else 0
        cell = CELLS[settings.cell]
        inputs = [settings.embedding_size, *[self.size] * (settings.layers - 1)]
        self.forwards = nn.ModuleList(cell(size, settings.hidden_size, batch_first=True) for size in inputs)
        self.backwards = nn.ModuleList(
            cell(size, settings.hidden_size, batch_first=True) for size in (inputs if settings.bidirectional else [])
        )
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mirrored = mirror(lengths, x.shape[1])  # (B * T,)
        for i, forwards in enumerate(self.forwards):
            if i:
                x = self.dropout(x)
            features = [forwards(x)[0]]
            if self.backwards:
                features.append(take(self.backwards[i](take(x, mirrored))[0], mirrored))
            x = torch.cat(features, dim=2)
        return x


def mirror(lengths: Tensor, width: int) -> Tensor:
    """Rows (B * T,) of a flattened (B, T) that reverse each report within its length and leave padding where it is."""
    positions = torch.arange(width, device=lengths.device)
    within = torch.where(positions < lengths[:, None], lengths[:, None] - 1 - positions, positions)
    return (within + width * torch.arange(lengths.shape[0], device=lengths.device)[:, None]).flatten()


def take(x: Tensor, rows: Tensor) -> Tensor:
    """x (B, T, D) with its B * T vectors in the order of `rows`, which must be its own inverse, as a mirror's is."""
    if torch.onnx.is_in_onnx_export():  # a function of its own has no form in ONNX
        return x.reshape(-1, x.shape[2]).index_select(0, rows).view(x.shape)
    return _Take.apply(x, rows)


class _Take(torch.autograd.Function):
    """Copies whole vectors, forwards and backwards: a gather along T and its scatter take ten times as long."""

    @staticmethod
    def forward(context: Any, x: Tensor, rows: Tensor) -> Tensor:
        context.save_for_backward(rows)
        return x.reshape(-1, x.shape[2]).index_select(0, rows).view(x.shape)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = context.saved_tensors
        return _Take.apply(gradient, rows), None
