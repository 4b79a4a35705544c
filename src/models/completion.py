"""Summary features for models that need a number everywhere: standardised, with flags of what is missing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from src.data.inputs import InputShape
from src.models.scaling import Scaler
from src.models.summaries import summary_names

LIMIT = 4.0
"""Standardised features are clipped to [-4, 4]."""


class Completion(nn.Module):
    """Summary features (B, F) with NaN -> (B, 2 F): standardised, 0 where missing, and a flag of each.

    One flag for each parameter is worse: by 0.003 AUROC of the linear model on set-a, five folds. Statistics that need
    several observations are missing more often.
    """

    def __init__(self, shape: InputShape):
        super().__init__()
        n_features = len(summary_names(shape))
        self.scaler = Scaler(n_features)
        self.size = 2 * n_features

    def fit(self, table: np.ndarray) -> None:
        """Fits means and scales to training rows (M, F)."""
        self.scaler.fit(table)

    def forward(self, table: Tensor) -> Tensor:
        scaled = self.scaler(table)
        return torch.cat([scaled.nan_to_num(0).clamp(-LIMIT, LIMIT), scaled.isnan().to(scaled.dtype)], dim=1)
