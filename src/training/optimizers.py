"""Optimizer and learning rates."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from src.core.run_settings import Optimisation


def make_optimizer(model: nn.Module, settings: Optimisation, layer_decay: float = 1.0) -> torch.optim.Optimizer:
    """Builds Adam or AdamW; weight decay is on exactly the parameters with two dimensions or more.

    A parameter group has a `share` of the learning rate: layer_decay to the power of its distance from the head.
    """
    depths = {name: depth_of(name) for name, _ in model.named_parameters()}
    ranks = {depth: i for i, depth in enumerate(sorted(set(depths.values()), reverse=True))}  # the head's is 0
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        below = 0 if layer_decay == 1 else ranks[depths[name]]  # one group where there is no decay: one fused step
        groups.setdefault((below, parameter.ndim >= 2), []).append(parameter)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(
        [
            {"params": parameters, "weight_decay": settings.weight_decay * is_matrix, "share": layer_decay**below}
            for (below, is_matrix), parameters in groups.items()
        ],
        lr=settings.learning_rate,
        fused=True,
    )


def depth_of(name: str) -> float:
    """Returns how far a parameter is from the inputs: 0 in the input layer, 1, 2, … in the encoder's layers, infinite
    behind the encoder.

    A layer is known by its number in one of the encoder's lists; what stands before them is counted with the first.
    """
    if name.startswith("input_layer."):
        return 0
    if not name.startswith("encoder."):
        return math.inf
    if name.startswith("encoder.leave."):  # the norm behind the last layer of a Transformer
        return math.inf
    layer = re.match(r"encoder\.(?:forwards|backwards|blocks)\.(\d+)\.", name)
    return 1 + int(layer[1]) if layer else 1


def schedule(step: int, n_steps: int, warmup: float) -> float:
    """Factor of the learning rate at `step` (from 0): linear warm-up, then a cosine that ends just above zero."""
    rising = max(1, round(warmup * n_steps)) if warmup else 0
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, n_steps - rising)))
