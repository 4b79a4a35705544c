"""Series for tests: small stays with gaps, and small images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from src.data.inputs import InputShape

STEPS = 12
STAYS = InputShape(
    "series",
    steps=STEPS,
    parameters=("HR", "Temp", "Lactate", "Dopamine", "MechVent"),
    kinds=("vital", "vital", "examination", "drug", "device"),
    statics=("Age", "Height"),
)
IMAGES = InputShape("series", steps=6, parameters=tuple(f"x{i}" for i in range(4)), kinds=("pixel",) * 4)
LENGTHS = torch.tensor([1, 7, 3, 12, 12, 5])


def stays(n: int = 6, seed: int = 0, lengths: Tensor | None = None, rate: float = 0.4) -> dict[str, np.ndarray]:
    """`n` stays, NaN where nothing was observed and beyond their lengths."""
    rng = np.random.default_rng(seed)
    scale, centre = np.array([10, 1, 2, 5, 1]), np.array([80, 37, 0, 0, 0])
    values = rng.normal(size=(n, STEPS, 5)) * scale + centre
    values[:, :, 2] = np.exp(values[:, :, 2] / 2)
    values[:, :, 3] = values[:, :, 3].clip(0)
    values[:, :, 4] = values[:, :, 4] > 0
    values[rng.random(values.shape) > rate] = np.nan
    if lengths is not None:
        values[np.arange(STEPS) >= lengths.numpy()[:, None]] = np.nan
    statics = rng.normal(size=(n, 1, 2)) * [10, 5] + [60, 170]
    statics[rng.random(statics.shape) < 0.3] = np.nan
    return {"values": values.astype(np.float32), "statics": statics.astype(np.float32)}


def images(n: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    return {"values": np.random.default_rng(seed).random((n, 6, 4), dtype=np.float32)}


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}
