"""Why a model says what it says: what each token of a report adds to the logit of a label.

Integrated gradients (Sundararajan, Taly and Yan 2017): the gradients along the straight way from an empty report, whose
embeddings are zero as padding's are, to the report, times what each embedding changes. Their sum is what the logit
changes on that way. Occlusion, without gradients, is the check: how far the logit falls when the token is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from src.models import Classifier

STEPS = 32
"""Points on the way, in the middle of as many equal parts. Transformers are the least smooth: with 32 the sum misses
the change of the logit by a few hundredths."""


def integrated_gradients(model: Classifier, tokens: np.ndarray, labels: Sequence[int], steps: int = STEPS) -> Tensor:
    """One report without padding, tokens (T,) or mixtures (T, K) -> (len(labels), T): what each place adds to the logit
    of each of these labels."""
    model.eval()
    with torch.no_grad():
        whole = model.embed(_batch(tokens[None]))  # (1, T, E)
    shares = (torch.arange(steps) + 0.5) / steps
    way = (shares[:, None, None] * whole).requires_grad_()  # (steps, T, E)
    logits = _logits_of_embedded(model, way)
    found = []
    for i, label in enumerate(labels):
        (gradient,) = torch.autograd.grad(logits[:, label].sum(), way, retain_graph=i + 1 < len(labels))
        found.append((gradient.mean(dim=0) * whole[0]).sum(dim=1))
    return torch.stack(found)


def logit_without(model: Classifier, tokens: np.ndarray) -> Tensor:
    """The same report -> logits (T, n_labels) with each of its tokens left out in turn. A report of one token has
    nothing left without it: that of zero embeddings."""
    model.eval()
    length = len(tokens)
    with torch.inference_mode():
        if length == 1:
            return _logits_of_embedded(model, torch.zeros_like(model.embed(_batch(tokens[None]))))
        kept = np.array([[j for j in range(length) if j != i] for i in range(length)])
        return model(_batch(tokens[kept]), torch.full((length,), length - 1))


def start_and_end(model: Classifier, tokens: np.ndarray) -> Tensor:
    """The same report -> logits (2, n_labels) of the empty report, as long as this, and of the report itself."""
    model.eval()
    with torch.inference_mode():
        whole = model.embed(_batch(tokens[None]))
        return _logits_of_embedded(model, torch.cat([torch.zeros_like(whole), whole]))


def attention_weights(model: Classifier, tokens: np.ndarray) -> Tensor | None:
    """(1 or n_labels, T): how much each place weighs in the pooling, where that is attention; else None.

    They say where the pooling looks. That is no measure of what a prediction rests on (Jain and Wallace 2019): the
    encoder has mixed the places before.
    """
    model.eval()
    if model.pooling.kind not in ("attention", "label"):
        return None
    with torch.inference_mode():
        features = model.encoder(model.embed(_batch(tokens[None])), torch.tensor([len(tokens)]))
        return model.pooling.score(features)[0].softmax(dim=0).T


def _logits_of_embedded(model: Classifier, embedded: Tensor) -> Tensor:
    """What the model makes of embeddings (B, T, E) of reports that fill all places; as its forward() without dropout,
    with gradients."""
    lengths = torch.full((len(embedded),), embedded.shape[1])
    return model.head(model.pooling(model.encoder(embedded, lengths), lengths))


def _batch(tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(tokens, dtype=np.int32))  # torch gathers by no unsigned type
