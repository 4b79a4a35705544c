"""GRU-D: a gated recurrent unit whose state decays between observations (Che et al. 2018, "Recurrent neural networks
for multivariate time series with missing values")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.core.run_settings import GRUD
from src.models.layers import SpatialDropout
from src.models.series_input import DAY, latest_of


class GRUDEncoder(nn.Module):
    """Columns (B, T, F) -> states (B, T, hidden_size).

    The input decay of the paper, x = m x + (1 - m) (g x_last + (1 - g) mean), is the input layer's (imputer decay).
    Here the state decays by exp(-max(0, W d + b)), d the time since each parameter's observation before this step; the
    gates read the columns, masks among them, and that state.
    """

    def __init__(self, settings: GRUD, columns: Sequence[str]):
        super().__init__()
        self.size, self.backward_size = settings.hidden_size, 0
        self.masks = [i for i, name in enumerate(columns) if name.endswith(" observed")]
        self.decay = nn.Linear(len(self.masks), self.size)
        self.dropout = SpatialDropout(settings.spatial_dropout)
        self.inputs = nn.Linear(len(columns), 3 * self.size)
        self.gates = nn.Linear(self.size, 2 * self.size, bias=False)
        self.candidate = nn.Linear(self.size, self.size, bias=False)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.states(x, self.gaps(x))

    def gaps(self, x: Tensor) -> Tensor:
        """Steps since each parameter's observation before each step, from the masks among the columns: (B, T, P)."""
        return intervals(x[:, :, self.masks] > 0.5)

    def states(self, x: Tensor, gaps: Tensor) -> Tensor:
        """States (B, T, hidden_size) of columns (B, T, F) and gaps (B, T, P)."""
        decays = (-functional.relu(self.decay(gaps / DAY)).float()).exp()  # (64, 48, 64)
        gates, candidates = self.inputs(self.dropout(x)).split([2 * self.size, self.size], dim=2)
        state = torch.zeros_like(decays[:, 0])
        states = []
        for decay, gate, candidate in zip(decays.unbind(1), gates.unbind(1), candidates.unbind(1), strict=True):
            state = decay * state
            update, reset = (gate + self.gates(state)).sigmoid().chunk(2, dim=1)
            proposed = (candidate + self.candidate(reset * state)).tanh()
            state = state + update * (proposed - state)  # no lerp: under autocast the types differ
            states.append(state)
        return torch.stack(states, dim=1)


def intervals(observed: Tensor) -> Tensor:
    """Mask (B, T, P) -> steps from the last observation *before* each step, or from the start: float32 (B, T, P)."""
    time, latest = latest_of(observed)
    before = functional.pad(latest, (0, 0, 1, 0))[:, :-1].clamp_min(0)
    return (time - before).float()
