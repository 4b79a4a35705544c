"""Objective: what fit() makes a model better at. Training (Classification) and pretraining (Language) are two."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from src.core.run_settings import Optimisation
from src.training.batching import Batch
from src.training.optimizers import make_optimizer

History = list[dict[str, float | None]]
"""epoch, learning_rate, train_loss and valid_loss of each finished epoch, or of the last epoch of each round of a
federation; None: not known."""


class Validated(NamedTuple):
    """Result of a validation."""

    loss: float
    broken: np.ndarray
    """(K,) bytes: ids of the validation reports whose loss is not finite"""


class Objective(abc.ABC):
    """Batches, loss and step of a model that fit() trains in place.

    step() is what other ways of learning replace (adversarial, meta or federated training); the loop stays.
    """

    part: str
    """Section of the settings, for messages: train or pretrain."""
    n_batches: int
    """Batches of an epoch of all rows."""
    is_recordable = False
    """True where step() does the same to all batches of the same shapes, and reads nothing of them on the CPU, see
    steps.py."""

    def __init__(self, model: nn.Module, settings: Optimisation, device: torch.device):
        self.model, self.settings, self.device = model, settings, device

    @abc.abstractmethod
    def batches(self, rng: np.random.Generator, epoch: int = 1) -> Iterator[tuple[Batch, Any]]:
        """Yields each batch of an epoch, from 1, with its targets."""

    def n_batches_of(self, epoch: int) -> int:
        """Number of batches of an epoch, from 1."""
        return self.n_batches

    @abc.abstractmethod
    def loss(self, compute: Callable[..., Any], batch: Batch, wanted: Any) -> Tensor:
        """Loss of one batch; `compute` is the model, as it is, compiled, or its moving average."""

    @abc.abstractmethod
    def validate(self, model: nn.Module) -> Validated | None:
        """Loss of `model` on reports that are not trained on; None where there is none to validate on."""

    @abc.abstractmethod
    def ids(self, rows: np.ndarray) -> np.ndarray:
        """Ids (B,) bytes of the reports that a batch has in its `rows`."""

    def step(self, batch: Batch, wanted: Any) -> Tensor:
        """Adds the gradients of one batch to those of the model and returns the loss."""
        loss = self.loss(self.model, batch, wanted)
        loss.backward()
        return loss

    @property
    def has_graphs(self) -> bool:
        """True where steps are CUDA graphs, see steps.py."""
        return self.settings.cuda_graphs and self.is_recordable and self.device.type == "cuda"

    def is_over(self, history: History) -> bool:
        """Returns True if training stops before its last epoch."""
        return False

    def state(self) -> dict[str, Tensor]:
        """Returns what steps change beside the model, for a checkpoint: tensors by name."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:  # noqa: B027 - most objectives have no state
        """Goes back to where state() was called."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(self.model, self.settings)
