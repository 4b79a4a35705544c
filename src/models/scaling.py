"""Fitted modules: what they learn without gradients lies in buffers, which are saved with the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TAILS = (0.005, 0.995)
"""Quantiles of the training values to which values are clipped."""


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
        """Sets a buffer, on its device and in its type."""
        buffer = getattr(self, name)
        content = torch.as_tensor(content).to(buffer)
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
        for column in range(table.shape[1]):
            values = table[:, column]
            values = values[~np.isnan(values)].astype(np.float64)
            if len(values):
                self._fit_column(column, values)

    def _fit_column(self, column: int, values: np.ndarray) -> None:
        low, high = np.quantile(values, TAILS).astype(np.float32)
        values = values.clip(low, high)
        offset = np.nan
        if low >= 0 and high > low:
            # Zeros have no logarithm: what is added is small beside the usual values.
            added = 0.0 if low > 0 else np.quantile(values[values > 0], 0.05)
            if abs(_skewness(np.log(values + added))) < abs(_skewness(values)):
                offset = np.float32(added)
                values = np.log(values + offset)
        deviation = values.std()
        is_constant = deviation < 1e-6 * max(1, abs(values.mean()))
        self.low[column], self.high[column], self.offset[column] = float(low), float(high), float(offset)
        self.mean[column] = values.mean() - 1 if is_constant else values.mean()
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


def _skewness(values: np.ndarray) -> float:
    deviation = values.std()
    return float(((values - values.mean()) ** 3).mean() / deviation**3) if deviation > 0 else 0.0
