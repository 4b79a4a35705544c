"""Fitted modules: what they learn without gradients lies in buffers, which are saved with the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TAILS = (0.005, 0.995)
"""Quantiles of the training values to which values are clipped."""

Statistics = Mapping[str, np.ndarray]
"""Statistics of some rows, by name."""


class Fitted(nn.Module):
    """Module whose buffers are set by fitting; loading takes the shapes of those in `sized` from the file."""

    sized: tuple[str, ...] = ()
    """Names of the buffers whose shape fitting decides."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in self.sized:
            if (loaded := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def put(self, name: str, content: Any) -> None:
        """Sets a buffer, on its device and in its type; its layout is that of a loaded one, on which the last bits of
        products depend."""
        buffer = getattr(self, name)
        content = torch.as_tensor(content).to(buffer).contiguous()
        if name in self.sized:
            setattr(self, name, content)
        else:
            buffer.copy_(content)


class Scaler(Fitted):
    """Columns (..., F) with NaN -> clipped, logarithmic where that lessens the skewness, standardised; NaN remains.

    A column that was never observed in fitting becomes 0; one with a single value becomes 1.
    """

    def __init__(self, size: int):
        super().__init__()
        for name, value in {"low": 0, "high": 0, "offset": torch.nan, "mean": 0, "scale": 1}.items():
            self.register_buffer(name, torch.full((size,), float(value)))

    def fit(self, table: np.ndarray) -> None:
        """Fits to the rows of `table` (M, F)."""
        self.fit_to([self.statistics(table)])

    @staticmethod
    def statistics(table: np.ndarray) -> Statistics:
        """Computes what fit_to() needs to know of the rows of `table` (M, F): {name: (F,) float64}, NaN where a column
        has none."""
        columns = [_statistics_of(column[~np.isnan(column)].astype(np.float64)) for column in table.T]
        return {name: np.array([column[name] for column in columns]) for name in columns[0]} if columns else {}

    def fit_to(self, parts: Sequence[Statistics]) -> None:
        """Fits to rows in several places, by their statistics. Of one part it is the exact fit. Of several the clip is
        the widest of theirs; means and scales are those of all rows, but for what lies between the parts' clips and
        logarithms of their own."""
        for column in range(len(self.low)):
            found = [one for part in parts if (one := {name: part[name][column] for name in part})["count"]]
            if found:
                self._fit_column(column, found)

    def _fit_column(self, column: int, parts: Sequence[dict[str, float]]) -> None:
        total = sum(part["count"] for part in parts)
        shares = [part["count"] / total for part in parts]
        low, high = min(part["low"] for part in parts), max(part["high"] for part in parts)
        offset = np.nan
        mean, variance, skewness = _united(parts, shares, "")
        if low >= 0 and high > low and all(np.isfinite(part["offset"]) for part in parts):
            logarithmic = _united(parts, shares, "log_")
            if abs(logarithmic[2]) < abs(skewness):
                mean, variance, _ = logarithmic
                offset = sum(share * part["offset"] for share, part in zip(shares, parts, strict=True))
        deviation = np.sqrt(variance)
        is_constant = deviation < 1e-6 * max(1, abs(mean))
        self.low[column], self.high[column], self.offset[column] = float(low), float(high), float(offset)
        self.mean[column] = mean - 1 if is_constant else mean
        self.scale[column] = 1 if is_constant else deviation

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(self.low, self.high)
        is_linear = self.offset.isnan()
        logarithm = (x + self.offset.nan_to_num(0)).clamp_min(1e-12).log()  # clamped for the columns that do not use it
        return (torch.where(is_linear, x, logarithm) - self.mean) / self.scale

    def inverse(self, x: Tensor) -> Tensor:
        """Computes the values that forward() maps to `x`, in their unit; clipped ones stay clipped."""
        x = x * self.scale + self.mean
        return torch.where(self.offset.isnan(), x, x.exp() - self.offset.nan_to_num(0))


def _statistics_of(values: np.ndarray) -> dict[str, float]:
    """Statistics of the values of a column, float64 without NaN: their number; the quantiles they are clipped to; mean,
    variance and third central moment of the clipped ones, and of their logarithms after `offset` is added, where these
    have one."""
    names = "low", "high", "mean", "variance", "third", "offset", "log_mean", "log_variance", "log_third"
    found = {"count": float(len(values)), **dict.fromkeys(names, np.nan)}
    if not len(values):
        return found
    low, high = np.quantile(values, TAILS).astype(np.float32)
    values = values.clip(low, high)
    found |= {"low": float(low), "high": float(high), **_moments(values, "")}
    if low >= 0 and high > 0:
        # Zeros have no logarithm: what is added is small beside the usual values.
        offset = np.float32(0.0 if low > 0 else np.quantile(values[values > 0], 0.05))
        if low + offset > 0:
            found |= {"offset": float(offset), **_moments(np.log(values + offset), "log_")}
    return found


def _moments(values: np.ndarray, kind: str) -> dict[str, float]:
    mean = values.mean()
    return {
        f"{kind}mean": mean,
        f"{kind}variance": values.var(),
        f"{kind}third": ((values - mean) ** 3).mean(),
    }


def _united(parts: Sequence[dict[str, float]], shares: Sequence[float], kind: str) -> tuple[float, float, float]:
    """Mean, variance and skewness of the rows of several parts, by the moments of each (Chan et al. 1979)."""
    moments = [(part[f"{kind}mean"], part[f"{kind}variance"], part[f"{kind}third"]) for part in parts]
    mean = sum(share * own for share, (own, _, _) in zip(shares, moments, strict=True))
    variance = third = 0.0
    for share, (own, spread, skew) in zip(shares, moments, strict=True):
        distance = own - mean
        variance += share * (spread + distance**2)
        third += share * (skew + 3 * distance * spread + distance**3)
    return mean, variance, float(third / np.sqrt(variance) ** 3) if variance > 0 else 0.0
