"""Pieces that every encoder shares."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def valid_positions(lengths: Tensor, width: int) -> Tensor:
    """lengths (B,) -> bool (B, width), true inside each report."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


class SpatialDropout(nn.Module):
    """Drops whole embedding dimensions of a report (Tompson et al. 2015): a dropped cue is gone at every position."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        if not self.training or self.p == 0:
            return x
        kept = torch.empty(x.shape[0], 1, x.shape[2], device=x.device).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p)).to(x.dtype)


class Pooling(nn.Module):
    """Features (B, T, D) -> (B, size), over the real positions only."""

    def __init__(self, kind: str, feature_size: int, backward_size: int = 0):
        """`backward_size`: how many of the last features read right to left, so that `last` takes them at the start."""
        super().__init__()
        self.kind = kind
        self.forward_size = feature_size - backward_size
        self.size = 2 * feature_size if kind == "maxmean" else feature_size
        if kind == "attention":
            self.score = nn.Sequential(
                nn.Linear(feature_size, feature_size), nn.Tanh(), nn.Linear(feature_size, 1, bias=False)
            )

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        valid = valid_positions(lengths, features.shape[1])[:, :, None]  # (B, T, 1)
        if self.kind == "last":
            ends = features[torch.arange(len(features), device=features.device), lengths - 1]
            return torch.cat([ends[:, : self.forward_size], features[:, 0, self.forward_size :]], dim=1)
        if self.kind == "attention":
            weights = self.score(features).masked_fill(~valid, -torch.inf).softmax(dim=1)
            return (weights * features.masked_fill(~valid, 0)).sum(dim=1)
        pooled = []
        if self.kind in ("max", "maxmean"):
            pooled.append(features.masked_fill(~valid, -torch.inf).amax(dim=1))
        if self.kind in ("mean", "maxmean"):
            pooled.append(features.masked_fill(~valid, 0).sum(dim=1) / lengths[:, None].to(features.dtype))
        return torch.cat(pooled, dim=1)
