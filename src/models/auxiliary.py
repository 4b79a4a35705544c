"""Auxiliary heads of models of series: what else training may ask for, so that the encoder learns more of each stay.

Forecasting: from each step's features, the values that are observed in the next step; in the manner of Tipirneni and
Reddy 2022 (STraTS), who pretrain so. Further outcomes: from the pooled features, numbers that are known of training
rows alone, such as severity scores. Predictions use neither.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class AuxiliaryHeads(nn.Module):
    def __init__(self, feature_size: int, pooled_size: int, n_parameters: int, n_outcomes: int):
        """`n_parameters` and `n_outcomes` may be 0: no head."""
        super().__init__()
        self.forecast = nn.Linear(feature_size, n_parameters) if n_parameters else None
        self.outcomes = nn.Linear(pooled_size, n_outcomes) if n_outcomes else None

    def forecast_loss(self, features: Tensor, values: Tensor) -> Tensor:
        """Mean squared error of the forecasts over what is observed: features (B, T, D) must look back only, values
        (B, T, P) are standardised, with NaN where nothing was observed."""
        return masked_mean(functional.mse_loss, self.forecast(features[:, :-1]), values[:, 1:])

    def outcome_loss(self, pooled: Tensor, outcomes: Tensor) -> Tensor:
        """Mean smooth absolute error over the known outcomes: pooled (B, D), outcomes (B, K) standardised, with NaN
        where unknown."""
        return masked_mean(functional.smooth_l1_loss, self.outcomes(pooled), outcomes)


def masked_mean(loss: Callable[..., Tensor], predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean loss of the cells whose wanted value is not NaN; 0 where there is none."""
    known = ~wanted.isnan()
    cells = loss(predicted, torch.where(known, wanted, predicted.detach()), reduction="sum")
    return cells / known.sum().clamp_min(1)
