"""Adversarial training: a step also learns from weights moved to where the loss is higher.

FGM: Miyato, Dai and Goodfellow (2017), "Adversarial training methods for semi-supervised text classification": the
embedding is moved along its gradient. AWP: Wu, Xia and Wang (2020), "Adversarial weight perturbation helps robust
generalization": all matrices are, each in proportion to its own length.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

SIZES = {"fgm": 0.5, "awp": 0.005}
"""Default size of each kind."""


@contextlib.contextmanager
def moved(model: nn.Module, kind: str, size: float | None = None) -> Iterator[None]:
    """Moves weights of `model` to where the loss of their gradients is higher, and back on leaving.

    Enter after backward() of the plain loss: a second forward pass inside sees the moved weights, and its backward()
    adds to the gradients. fgm moves each matrix of the input layer (of tokens: the embedding) by a distance of `size`,
    awp each matrix of the model by `size` times its norm. SIZES holds the defaults. A gradient of zero moves nothing.
    """
    size = SIZES[kind] if size is None else size
    with torch.no_grad():
        part = model.input_layer if kind == "fgm" else model
        targets = [weight for weight in part.parameters() if weight.ndim >= 2 and weight.grad is not None]
        kept = [weight.clone() for weight in targets]
        for weight in targets:
            length = size if kind == "fgm" else size * weight.norm()
            weight.add_(_direction(weight.grad) * length)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(targets, kept, strict=True):
                weight.copy_(before)


def _direction(gradient: Tensor) -> Tensor:
    return gradient / gradient.norm().clamp_min(1e-12)
