"""Pre-norm Transformer encoder with rotary or relative positions."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.config import Transformer
from src.models.layers import valid_positions

FARTHEST = 32
"""Relative positions beyond this distance share one bias."""


class TransformerEncoder(nn.Module):
    """Embedded reports (B, T, D) -> features (B, T, D)."""

    def __init__(self, settings: Transformer):
        super().__init__()
        self.size = settings.embedding_size
        self.backward_size = 0
        self.enter = nn.LayerNorm(self.size)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.leave = nn.LayerNorm(self.size)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        keys = valid_positions(lengths, x.shape[1])[:, None, None, :]  # (B, 1, 1, T)
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, keys)
        return self.leave(x)


class Block(nn.Module):
    """Attention, then a feed-forward layer, each normalised before and added after (Xiong et al. 2020).

    Dropout falls on what is added, not on attention weights or hidden units: on a CPU, drawing it costs as much as
    the matrix products.
    """

    def __init__(self, settings: Transformer):
        super().__init__()
        size = settings.embedding_size
        self.attention_norm = nn.LayerNorm(size)
        self.attention = SelfAttention(size, settings.heads, settings.positions)
        self.feedforward_norm = nn.LayerNorm(size)
        self.feedforward = nn.Sequential(
            nn.Linear(size, settings.feedforward_size),
            nn.GELU(),
            nn.Linear(settings.feedforward_size, size),
        )
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), keys))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class SelfAttention(nn.Module):
    """Multi-head attention over the real positions; where a token stands is told relative to where it is read from."""

    def __init__(self, size: int, heads: int, positions: str):
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(size, 3 * size)
        self.project_out = nn.Linear(size, size)
        self.rotary = positions == "rotary"
        if not self.rotary:
            self.bias = nn.Embedding(2 * FARTHEST + 1, heads)
            nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        batch, width, size = x.shape
        projected = self.project_in(x).view(batch, width, 3, self.heads, size // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each (B, H, T, D / H)
        if self.rotary:
            query, key = rotate(query), rotate(key)
            mask = keys
        else:
            # Added to the scores; masked keys get -inf. Learned per head and clipped distance, as in T5 (Raffel 2020).
            mask = self._relative_bias(width, x).masked_fill(~keys, -torch.inf)
        # In full precision on a CPU: the bfloat16 kernel's backward pass is six times slower there.
        with torch.autocast("cpu", enabled=False) if x.device.type == "cpu" else contextlib.nullcontext():
            query, key, value = (part.to(x.dtype) for part in (query, key, value))
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.project_out(attended.transpose(1, 2).reshape(batch, width, size))

    def _relative_bias(self, width: int, x: Tensor) -> Tensor:
        positions = torch.arange(width, device=x.device)
        distances = (positions[None, :] - positions[:, None]).clamp(-FARTHEST, FARTHEST) + FARTHEST
        return self.bias(distances).permute(2, 0, 1)[None].to(x.dtype)  # (1, H, T, T)


def rotate(x: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): x (B, H, T, D), each pair of dimensions turned by position * frequency."""
    width, size = x.shape[2:]
    frequencies = 10000 ** (-torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size)
    angles = torch.arange(width, device=x.device, dtype=torch.float32)[:, None] * frequencies  # (T, D / 2)
    cosines, sines = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=3)
    return torch.cat([first * cosines - second * sines, first * sines + second * cosines], dim=3)
