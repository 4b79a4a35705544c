"""Layers that several models share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FULL = 0x7FFF
"""Integer that stands for a share of 1 in a mixture."""

WINDOW = 8
"""Tokens of a window of hierarchical pooling, about a phrase."""


def valid_positions(lengths: Tensor, width: int) -> Tensor:
    """Mask of real positions from lengths (B,): bool (B, width)."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def closed(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask for scores: 0 where `valid` is true, -inf in the padding."""
    return torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill_(~valid, -torch.inf)


def mixture(words: Tensor, shares: Tensor) -> Tensor:
    """Packs words and their shares of a place, both (..., K), into one int32 each: mixtures are stored like tokens."""
    return (shares * FULL).round().int() << 16 | words.int()


def words_and_shares(mixed: Tensor) -> tuple[Tensor, Tensor]:
    """Unpacks mixture(): words int32 and shares float32, exact to 1 / FULL."""
    return mixed & 0xFFFF, (mixed >> 16).float() / FULL


def weighted_sum(weights: Tensor, features: Tensor) -> Tensor:
    """Weights (B, T) and features (B, T, D) -> (B, D), as a matrix product."""
    return torch.bmm(weights[:, None, :].to(features.dtype), features)[:, 0]


def attention(scores: Tensor, features: Tensor, valid: Tensor) -> Tensor:
    """Scores (B, T, K), features (B, T, D), valid (B, T) -> (B, K, D): K means of the features, each weighted by the
    softmax of its scores over the valid positions."""
    weights = (scores + closed(valid, features.dtype)[:, :, None]).softmax(dim=1)
    return torch.bmm(weights.transpose(1, 2).to(features.dtype), features)


def scorer(size: int) -> nn.Module:
    """Features (B, T, D) -> scores (B, T, 1), by one hidden layer and a learned query (Yang et al. 2016)."""
    return nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, 1, bias=False))


class Convolution(nn.Conv1d):
    """Features (B, T, D) and valid (B, T) -> (B, T, filters): one output a token, and padding counts as zero, as what
    lies beyond either end does.

    As a convolution, not as a product with unfolded inputs: on a CPU that is slower from three tokens on.
    """

    def __init__(self, inputs: int, filters: int, width: int, dilation: int = 1):
        reach = dilation * (width - 1)
        super().__init__(inputs, filters, width, padding=(reach + 1) // 2, dilation=dilation)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        masked = x * valid[:, :, None].to(x.dtype)
        # An even width cannot be centred: padded alike at both ends, it gives one position too many.
        return super().forward(masked.transpose(1, 2))[:, :, : x.shape[1]].transpose(1, 2)


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
    """Features (B, T, D) -> (B, size), over the real positions only; kind `label` -> (B, n_labels, size).

    hierarchical: hierarchical attention (Yang et al. 2016), tokens to windows and windows to the report. Desensitised
    text shows no ends of sentences, so windows of WINDOW tokens stand for them. Windows have no encoder of their own,
    because the encoder reads across them. They are counted from the first token, so padding moves none of them.
    label: attention with one query for each label (CAML, Mullenbach et al. 2018).
    """

    def __init__(self, kind: str, feature_size: int, backward_size: int = 0, n_labels: int = 1):
        """The last `backward_size` features read right to left: pooling `last` and `lastmaxmean` take them at the first
        token.
        `n_labels`: number of queries of pooling `label`."""
        super().__init__()
        self.kind = kind
        self.forward_size = feature_size - backward_size
        self.size = feature_size * {"maxmean": 2, "lastmaxmean": 3}.get(kind, 1)
        if kind in ("attention", "hierarchical"):
            self.score = scorer(feature_size)
        if kind == "hierarchical":
            self.window_score = scorer(feature_size)
        if kind == "label":
            self.score = nn.Linear(feature_size, n_labels, bias=False)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        if self.kind == "last":
            return self._last(features, lengths)
        valid = valid_positions(lengths, features.shape[1])  # (B, T)
        if self.kind == "hierarchical":
            return self._over_windows(features, valid)
        if self.kind in ("attention", "label"):
            attended = attention(self.score(features), features, valid)  # (B, 1 or n_labels, D)
            return attended if self.kind == "label" else attended[:, 0]
        pooled = [self._last(features, lengths)] if self.kind == "lastmaxmean" else []
        if self.kind in ("max", "maxmean", "lastmaxmean"):
            # Adding -inf to the padding is several times faster than filling it, most of all in the backward pass.
            pooled.append((features + closed(valid, features.dtype)[:, :, None]).amax(dim=1))
        if self.kind in ("mean", "maxmean", "lastmaxmean"):
            pooled.append(weighted_sum(valid, features) / lengths[:, None].to(features.dtype))
        return torch.cat(pooled, dim=1)

    def _last(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, D) that have read the whole report: of its last token, and backwards of its first."""
        ends = features[torch.arange(features.shape[0], device=features.device), lengths - 1]
        return torch.cat([ends[:, : self.forward_size], features[:, 0, self.forward_size :]], dim=1)

    def _over_windows(self, features: Tensor, valid: Tensor) -> Tensor:
        batch, width, size = features.shape
        missing = -width % WINDOW
        tokens = functional.pad(features, (0, 0, 0, missing)).reshape(-1, WINDOW, size)
        valid = functional.pad(valid, (0, missing)).reshape(-1, WINDOW)
        real = valid.any(dim=1)
        # A window of padding alone would give 0 / 0; it has no weight in the report.
        windows = attention(self.score(tokens), tokens, valid | ~real[:, None]).view(batch, -1, size)
        return attention(self.window_score(windows), windows, real.view(batch, -1))[:, 0]


class LabelHead(nn.Linear):
    """Linear layer in which each label has its own features: (B, n_labels, D) -> logits (B, n_labels)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(dim=2) + self.bias
