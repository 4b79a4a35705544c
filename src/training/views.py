"""Mean of what a model says of the views of a report: as it is, and denoised in one form or another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEAR = 0.1
"""Distance of logits that is added to all, so that equal views give no temperature of 0."""


def mean_of_views(logits: Sequence[np.ndarray], doubt: float = 0.0) -> np.ndarray:
    """Averages the logits (N, L) of several views of the same reports: (N, L) float32.

    With `doubt` the mean of a report is divided by a temperature, (d + NEAR) ** doubt, where d is the distance between
    its highest and lowest logit, averaged over the labels. So a report is judged with more certainty where its views
    agree, and with less where what the denoiser takes for noise decides.
    """
    mean = np.mean(logits, axis=0, dtype=np.float32)
    if not doubt or len(logits) < 2:
        return mean
    distance = np.ptp(np.stack(logits), axis=0).mean(axis=1, keepdims=True, dtype=np.float64)
    return (mean / (distance + NEAR) ** doubt).astype(np.float32)
