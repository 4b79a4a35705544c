"""Head that has learned nothing by gradients: it answers with the labels of the training reports that are most alike.

A network that is trained on noisy and joined reports forgets how single reports are labelled; this head remembers them
(Khandelwal et al. 2020, "Generalization through memorization", does so for the next word). Alone it is a weak model. It
is made to be stacked on a blend of others (blend.stack).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from src.core.threads import one_thread
from src.models.scaling import Fitted

SHARPNESS = 40.0
"""Rate at which a training report counts more the more it is alike: exp(SHARPNESS * (similarity - MIDDLE)). Chosen, as
PRIOR, on another pool than the labelled proxy test's, see docs/score.md."""
MIDDLE = 0.5
"""Similarity at which a training report counts once."""
PRIOR = 0.01
"""Number of reports that the labels' rates in training count as; they answer where no training report is alike."""
RIDGE = 0.01
"""Share of the mean variance that is added to the variance of every direction before whitening: directions in which
training reports do not differ must not decide."""

CHUNK = 65_536
"""Training reports that a batch is compared with at a time."""


class NeighbourHead(Fitted):
    """Pooled features (B, D) of reports -> logits (B, n_labels).

    The similarity of two reports is the cosine of their features, whitened by the training reports (so that common
    directions do not hide rare ones). The answer is the log-odds of the labels' mean over all training reports, each
    weighted by its similarity. Labels that are unknown do not count.
    """

    sized = ("memory", "found", "missing")

    def __init__(self, size: int, n_labels: int):
        super().__init__()
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("whitening", torch.eye(size))
        self.register_buffer("memory", torch.zeros(0, size))  # (N, D), whitened, of length 1
        self.register_buffer("found", torch.zeros(0, n_labels))  # (N, L): weight of a report that has the label
        self.register_buffer("missing", torch.zeros(0, n_labels))  # (N, L): weight of one that has it not
        self.register_buffer("rates", torch.full((n_labels,), 0.5))

    def forward(self, features: Tensor) -> Tensor:
        asked, found, missing = self._whitened(features), PRIOR * self.rates, PRIOR * (1 - self.rates)
        for part in zip(*(kept.split(CHUNK) for kept in (self.memory, self.found, self.missing)), strict=True):
            near = torch.exp(SHARPNESS * (asked @ part[0].T - MIDDLE))  # (B, N)
            found, missing = found + near @ part[1], missing + near @ part[2]
        return found.log() - missing.log()

    def _whitened(self, features: Tensor) -> Tensor:
        return functional.normalize((features.float() - self.centre) @ self.whitening, dim=-1)

    @torch.no_grad()
    def fit(self, features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> None:
        """Remembers training reports: pooled features (N, D), labels (N, L) that are probabilities or NaN, weights
        (N,)."""
        with one_thread():
            features = features.astype(np.float64)
            centre = np.average(features, axis=0, weights=weights)
            variances, directions = np.linalg.eigh(np.cov(features.T, aweights=weights, ddof=0))
        ridge = RIDGE * variances.mean() + np.finfo(np.float64).tiny
        self.put("centre", centre)
        self.put("whitening", directions / np.sqrt(np.maximum(variances, 0) + ridge))
        self.put("memory", self._whitened(torch.from_numpy(features).to(self.centre)))
        known, labels = ~np.isnan(labels), np.nan_to_num(labels.astype(np.float64))
        self.put("found", weights[:, None] * labels)
        self.put("missing", weights[:, None] * (known - labels))
        # A label that no training report has is unlikely, not impossible: half a report more has it, and half has not.
        self.put("rates", (labels.sum(axis=0) + 0.5) / (known.sum(axis=0) + 1))
