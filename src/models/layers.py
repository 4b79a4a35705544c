"""Pieces that every encoder shares."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def valid_positions(lengths: Tensor, width: int) -> Tensor:
    """lengths (B,) -> bool (B, width), true inside each report."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def closed(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores to leave padding out: 0 where `valid` is true, -inf elsewhere."""
    return torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill_(~valid, -torch.inf)


def weighted_sum(weights: Tensor, features: Tensor) -> Tensor:
    """Weights (B, T) and features (B, T, D) -> (B, D), as a matrix product."""
    return torch.bmm(weights[:, None, :].to(features.dtype), features)[:, 0]


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
        if self.kind == "last":
            ends = features[torch.arange(features.shape[0], device=features.device), lengths - 1]
            return torch.cat([ends[:, : self.forward_size], features[:, 0, self.forward_size :]], dim=1)
        valid = valid_positions(lengths, features.shape[1])  # (B, T)
        if self.kind == "attention":
            weights = (self.score(features) + closed(valid, features.dtype)[:, :, None]).softmax(dim=1)  # (B, T, 1)
            return weighted_sum(weights[:, :, 0], features)
        pooled = []
        if self.kind in ("max", "maxmean"):
            # Adding -inf to the padding is several times faster than filling it, backwards above all.
            pooled.append((features + closed(valid, features.dtype)[:, :, None]).amax(dim=1))
        if self.kind in ("mean", "maxmean"):
            pooled.append(weighted_sum(valid, features) / lengths[:, None].to(features.dtype))
        return torch.cat(pooled, dim=1)
