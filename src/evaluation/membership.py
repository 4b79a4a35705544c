"""Membership inference: how well the loss of a row tells whether a model was trained on it.

Yeom, Giacomelli, Fredrikson and Jha (2018), "Privacy risk in machine learning: analyzing the connection to
overfitting". The attacker knows the loss of a row and the mean loss of the training rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from src.evaluation.figures import Estimate, estimate, roc_auc


class Membership(NamedTuple):
    """Success of the attack."""

    auc: Estimate
    """Area under the ROC curve of the negative loss: 0.5 where members cannot be told."""
    advantage: Estimate
    """Share of members, less share of others, whose loss is at most the mean loss of members: 0 where nothing can be
    told, 1 where everything can."""


def membership(losses_in: np.ndarray, losses_out: np.ndarray) -> Membership:
    """Measures the attack on the losses (N,) of training rows and (M,) of rows from the same source that the model was
    not trained on. Standard errors are those of independent rows."""
    losses = np.concatenate([losses_in, losses_out])
    is_member = np.concatenate([np.ones(len(losses_in)), np.zeros(len(losses_out))])
    caught, wrong = ((part <= losses_in.mean()).mean() for part in (losses_in, losses_out))
    noise = np.sqrt(caught * (1 - caught) / len(losses_in) + wrong * (1 - wrong) / len(losses_out))
    area = estimate(roc_auc(is_member, -losses, np.ones(len(losses))))
    return Membership(area, Estimate(float(caught - wrong), float(noise)))
