"""Pre-norm Transformer encoder with rotary or relative positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.core.run_settings import Transformer
from src.models.layers import closed, valid_positions

FARTHEST = 32
"""Distance in tokens beyond which relative positions share one bias."""


class TransformerEncoder(nn.Module):
    """Embedded reports (B, T, D) -> features (B, T, D)."""

    def __init__(self, settings: Transformer):
        super().__init__()
        self.size = settings.embedding_size
        self.backward_size = 0
        self.head_size = settings.head_size or self.size // settings.heads
        self.rotary = settings.positions == "rotary"
        self.enter = nn.LayerNorm(self.size)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.leave = nn.LayerNorm(self.size)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        keys = closed(valid_positions(lengths, x.shape[1]), torch.float32)[:, None, None, :]  # (B, 1, 1, T)
        turns = rotary_turns(x.shape[1], self.head_size, x.device) if self.rotary else None
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, keys, turns)
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
        self.attention = SelfAttention(size, settings.heads, settings.positions, settings.head_size)
        self.feedforward_norm = nn.LayerNorm(size)
        self.feedforward = nn.Sequential(
            nn.Linear(size, settings.feedforward_size),
            nn.GELU(),
            nn.Linear(settings.feedforward_size, size),
        )
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, keys: Tensor, turns: Tensor | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), keys, turns))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class SelfAttention(nn.Module):
    """Multi-head attention over the real positions, with relative positions."""

    def __init__(self, size: int, heads: int, positions: str, head_size: int | None = None):
        """`head_size`: dimensions of a head (default: size / heads)."""
        super().__init__()
        self.heads, self.head_size = heads, head_size or size // heads
        self.project_in = nn.Linear(size, 3 * heads * self.head_size)
        self.project_out = nn.Linear(heads * self.head_size, size)
        if positions == "relative":
            self.bias = nn.Embedding(2 * FARTHEST + 1, heads)
            nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, keys: Tensor, turns: Tensor | None) -> Tensor:
        """`keys` (B, 1, 1, T) is added to the scores; `turns` are rotary_turns, or None for relative positions."""
        batch, width, _ = x.shape
        projected = self.project_in(x).view(batch, width, 3, self.heads, self.head_size)
        turned, value = projected.split([2, 1], dim=2)
        if turns is None:
            # Learned per head and clipped distance, as in T5 (Raffel 2020).
            keys = keys + self._relative_bias(width, x.device)
        else:
            turned = rotate(turned, turns).to(value.dtype)
        query, key, value = (part.transpose(1, 2) for part in (*turned.unbind(2), value[:, :, 0]))  # (B, H, T, D / H)
        attended = attend(query, key, value, keys)
        return self.project_out(attended.transpose(1, 2).reshape(batch, width, -1))

    def _relative_bias(self, width: int, device: torch.device) -> Tensor:
        positions = torch.arange(width, device=device)
        distances = (positions[None, :] - positions[:, None]).clamp(-FARTHEST, FARTHEST) + FARTHEST
        return self.bias(distances).permute(2, 0, 1)[None]  # (1, H, T, T)


def attend(query: Tensor, key: Tensor, value: Tensor, keys: Tensor) -> Tensor:
    """Softmax attention: each (B, H, T, D), `keys` (B, 1 or H, 1 or T, T) added to the scores -> (B, H, T, D)."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # Two products and a float32 softmax between them: PyTorch's fused bfloat16 kernel takes six times as long
        # backwards on a CPU, and its float32 kernel two and a half times.
        scores = query * query.shape[3] ** -0.5 @ key.transpose(2, 3)
        return (scores.float() + keys).softmax(dim=3).to(value.dtype) @ value
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=keys.to(value.dtype))


def rotary_turns(width: int, size: int, device: torch.device) -> Tensor:
    """Rotary positions (Su et al. 2021) as complex numbers of length one: complex64 (T, size / 2); for ONNX, which has
    no complex numbers, their real and imaginary parts (T, size / 2, 2)."""
    frequencies = 10000 ** (-torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    angles = torch.arange(width, device=device, dtype=torch.float32)[:, None] * frequencies
    if torch.onnx.is_in_onnx_export():
        return torch.stack([angles.cos(), angles.sin()], dim=2)
    return torch.complex(angles.cos(), angles.sin())


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """x (B, T, 2, H, D), each pair of neighbouring dimensions turned by position * frequency: float32.

    One complex product, where the usual products and concatenation of halves take six passes over memory.
    """
    if torch.onnx.is_in_onnx_export():
        first, second = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        cosine, sine = turns[:, None, None].unbind(-1)
        return torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1).flatten(-2)
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[:, None, None, :]).flatten(-2)
