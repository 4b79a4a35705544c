"""Adversarial weights: a step also learns from where the loss is worse nearby.

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
"""Usual sizes of each kind."""


@contextlib.contextmanager
def moved(model: nn.Module, kind: str, size: float | None = None) -> Iterator[None]:
    """Within it, weights of `model` stand where the loss of their gradients is higher; afterwards where they stood.

    To be entered after backward() of the plain loss; a second forward pass inside then sees the attack, and its
    backward() adds to the gradients. fgm moves model.embedding by `size` in all, awp each matrix by `size` times its
    norm; without a `size`, by that of SIZES. A gradient of zero moves nothing.
    """
    size = SIZES[kind] if size is None else size
    with torch.no_grad():
        targets = [model.embedding.weight] if kind == "fgm" else [w for w in model.parameters() if w.ndim >= 2]
        targets = [weight for weight in targets if weight.grad is not None]
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
