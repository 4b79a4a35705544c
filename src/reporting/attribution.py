"""Attribution: how much each token of a report contributes to the logit of a label.

Integrated gradients (Sundararajan, Taly and Yan 2017): the mean gradient along the straight line from a baseline to the
report, times the difference of the embeddings. The contributions add up to the difference of the logits. The baseline
has the mean embedding of all words in each place. Zeros, the usual baseline, fail here: a layer norm maps small and
large embeddings to the same values, so that all change would lie in the first step.

Occlusion is the check that needs no gradients: how far the logit falls when the token is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from src.models.classifier import Classifier

STEPS = 32
"""Points on the line, each in the middle of one of as many equal parts. Transformers are the least smooth: with 32, the
sum misses the change of the logit by a few hundredths."""


def integrated_gradients(model: Classifier, tokens: np.ndarray, labels: Sequence[int], steps: int = STEPS) -> Tensor:
    """Contribution of each place to the logit of each of `labels`: (len(labels), T), for one report without padding,
    tokens (T,) or mixtures (T, K)."""
    model.eval()
    with torch.no_grad():
        nothing, whole = _ends(model, tokens)
    found = path_contributions([nothing], [whole], lambda parts: _logits_of_embedded(model, *parts), labels, steps)
    return torch.stack([part.sum(dim=1) for (part,) in found])


def path_contributions(
    nothing: Sequence[Tensor],
    whole: Sequence[Tensor],
    logits_of: Callable[[list[Tensor]], Tensor],
    labels: Sequence[int],
    steps: int,
) -> list[list[Tensor]]:
    """Integrated gradients along the straight line from `nothing` to `whole`, which are the parts of one row that a
    model computes its logits of: for each label the contribution of each entry of each part.

    `logits_of` maps parts with a first dimension of points on the line to logits (points, n_labels).
    """
    shares = (torch.arange(steps) + 0.5) / steps
    way = [
        torch.lerp(start, end, shares.view(-1, *[1] * end.dim())).requires_grad_()
        for start, end in zip(nothing, whole, strict=True)
    ]
    logits = logits_of(way)
    found = []
    for i, label in enumerate(labels):
        gradients = torch.autograd.grad(logits[:, label].sum(), way, retain_graph=i + 1 < len(labels))
        found.append(
            [
                gradient.mean(dim=0) * (end - start)
                for gradient, start, end in zip(gradients, nothing, whole, strict=True)
            ]
        )
    return found


def logit_without(model: Classifier, tokens: np.ndarray) -> Tensor:
    """Logits (T, n_labels) of one report with each of its tokens left out in turn. A report of one token gets those of
    the baseline."""
    model.eval()
    length = len(tokens)
    with torch.inference_mode():
        if length == 1:
            return start_and_end(model, tokens)[:1]
        kept = np.array([[j for j in range(length) if j != i] for i in range(length)])
        return model(token_inputs(tokens[kept]), torch.full((length,), length - 1))


def start_and_end(model: Classifier, tokens: np.ndarray) -> Tensor:
    """Logits (2, n_labels) of the baseline, as long as the report, and of the report itself."""
    model.eval()
    with torch.inference_mode():
        return _logits_of_embedded(model, torch.stack(_ends(model, tokens)))


def attention_weights(model: Classifier, tokens: np.ndarray) -> Tensor | None:
    """Weight of each place in an attention pooling: (1 or n_labels, T); None for other poolings.

    The weights show where the pooling looks, not what a prediction rests on (Jain and Wallace 2019): the encoder has
    mixed the places before.
    """
    return attention_of(model, token_inputs(tokens[None]))


def attention_of(model: Classifier, inputs: dict[str, Tensor]) -> Tensor | None:
    """Weights as by attention_weights() of one row without padding, inputs {name: (1, T, ...)}."""
    model.eval()
    if model.pooling.kind not in ("attention", "label"):
        return None
    with torch.inference_mode():
        embedded = model.input_layer(inputs)
        features = model.encoder(embedded, torch.tensor([embedded.shape[1]]))
        return model.pooling.score(features)[0].softmax(dim=0).T


def _ends(model: Classifier, tokens: np.ndarray) -> tuple[Tensor, Tensor]:
    """Embeddings (T, E) of the baseline and of the report."""
    whole = model.input_layer.embed(token_inputs(tokens[None]))[0]
    return model.input_layer.baseline().expand_as(whole), whole


def _logits_of_embedded(model: Classifier, embedded: Tensor) -> Tensor:
    """Logits of embeddings (B, T, E) without padding, as by forward() without dropout, with gradients."""
    lengths = torch.full((len(embedded),), embedded.shape[1])
    return model.head(model.pooling(model.encoder(embedded, lengths), lengths))


def token_inputs(tokens: np.ndarray) -> dict[str, Tensor]:
    return {"tokens": torch.from_numpy(np.array(tokens, dtype=np.int32))}  # a copy: torch gathers by no unsigned type
