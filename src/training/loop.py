"""fit(): the one training loop, of pretraining and of training.

Every epoch draws its order, noise and dropout from its seeds and its number alone, so a resumed job needs no generator
state and ends in the same bytes as one that was never killed.
"""

from __future__ import annotations

import copy
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.settings import Optimisation, Pretrain, Train
from src.training import checkpoints
from src.training.adversarial import moved
from src.training.batching import POOL, Batch

EMA_WARMUP = 10
"""The average follows the weights closely over the first steps: decay is at most (1 + step) / (10 + step)."""


class Objective(Protocol):
    """What fit() makes a model better at."""

    model: nn.Module
    """Trained in place."""
    n_batches: int
    """Of an epoch."""
    device: torch.device

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Batch, Any]]:
        """Each batch of an epoch, and what is wanted of it."""
        ...

    def loss(self, compute: Callable[..., Any], batch: Batch, wanted: Any) -> Tensor:
        """Of one batch; `compute` is the model, as it is or compiled."""
        ...

    def validate(self, model: nn.Module) -> float:
        """The loss on reports that are not trained on."""
        ...

    def named(self, rows: np.ndarray) -> np.ndarray:
        """Ids of reports, (B,) bytes, from the `rows` of a batch."""
        ...


def fit(
    objective: Objective,
    settings: Pretrain | Train,
    seeds: tuple[int, int],
    folder: Path,
    progress: Callable[[dict[str, Any]], None],
) -> list[dict[str, float]]:
    """Trains objective.model in place, from the newest sound checkpoint of `folder` if there is one.

    Returns the history: epoch, learning_rate, train_loss, valid_loss for each epoch. Afterwards the model holds the
    last weights (their moving average under ema_decay), and best.safetensors those of the lowest validation loss.
    Raises UserError for a loss that is not finite, naming the step and the reports of the batch.
    """
    model, device = objective.model, objective.device
    average = copy.deepcopy(model).eval() if settings.ema_decay else None
    optimizer = make_optimizer(model, settings)
    n_steps = settings.epochs * objective.n_batches
    # Pretraining has neither: what it is asked for differs in number from batch to batch.
    attack, compile = getattr(settings, "attack", "none"), getattr(settings, "compile", False)
    compute = compiled(model, device) if compile else model

    history = checkpoints.resume(folder, model, average, optimizer)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        if is_over(history, settings):
            break
        started = time.perf_counter()
        torch.manual_seed(seed_of(*seeds, epoch))
        model.train()
        watch = Watch(objective.n_batches, device)
        first = (epoch - 1) * objective.n_batches
        for i, (batch, wanted) in enumerate(objective.batches(np.random.default_rng([*seeds, epoch]))):
            rate = settings.learning_rate * schedule(first + i, n_steps, settings.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            if compile and device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()
            loss = objective.loss(compute, batch, wanted)
            optimizer.zero_grad()
            loss.backward()
            if attack != "none":
                with moved(model, attack, settings.attack_size):
                    objective.loss(compute, batch, wanted).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            if average is not None:
                update_average(average, model, settings.ema_decay, first + i)
            watch.see(loss, norm, batch.rows)
            if (watch.unread == POOL or i + 1 == objective.n_batches) and (broken := watch.read()):
                what, at, rows = broken
                raise UserError(_not_finite(what, epoch, first + at, objective.named(rows), settings))
        judged = average if average is not None else model
        valid_loss = objective.validate(judged)
        if not math.isfinite(valid_loss):
            what = f"validation loss became {valid_loss}"
            raise UserError(_not_finite(what, epoch, first + i, objective.named(batch.rows), settings))
        history.append({"epoch": epoch, "learning_rate": rate, "train_loss": watch.mean(), "valid_loss": valid_loss})
        if valid_loss == min(past["valid_loss"] for past in history):
            checkpoints.save_weights(folder / "best.safetensors", judged)
        checkpoints.save(folder, model, average, optimizer, history)
        progress({**history[-1], "epochs": settings.epochs, "seconds": time.perf_counter() - started})
    if average is not None:
        model.load_state_dict(average.state_dict())
    return history


def is_over(history: list[dict[str, float]], settings: Pretrain | Train) -> bool:
    """Whether training stops before its last epoch: patience of training, stop_loss of pretraining."""
    if not history:
        return False
    if isinstance(settings, Pretrain):
        return settings.stop_loss is not None and history[-1]["train_loss"] < settings.stop_loss
    losses = [epoch["valid_loss"] for epoch in history]
    return bool(settings.patience and len(losses) - 1 - losses.index(min(losses)) >= settings.patience)


def compiled(model: nn.Module, device: torch.device) -> Callable[..., Any]:
    """The model as generated code with the same weights. Raises UserError where nothing is there to generate it."""
    if device.type == "cuda":
        # Each width is compiled for itself, and the last batch of an epoch for its size. Past its usual limit of eight
        # torch would run the rest as they are, with a warning alone.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1024
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        return torch.compile(model, mode="reduce-overhead", dynamic=False)
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UserError("train.compile=true needs a C++ compiler on a CPU, such as g++, and finds none.")
    return torch.compile(model, dynamic=True)


class Watch:
    """Losses and gradient norms of an epoch, kept on the device: reading each would stop a GPU at every step."""

    def __init__(self, n_batches: int, device: torch.device):
        self._values = torch.zeros(n_batches, 2, device=device)
        self._sizes: list[int] = []
        self._unread: list[np.ndarray] = []

    @property
    def unread(self) -> int:
        return len(self._unread)

    def see(self, loss: Tensor, norm: Tensor, rows: np.ndarray) -> None:
        self._values[len(self._sizes)] = torch.stack([loss.detach(), norm])
        self._sizes.append(len(rows))
        self._unread.append(rows)

    def read(self) -> tuple[str, int, np.ndarray] | None:
        """Looks at what has come since the last time. Of the first step with a value that is not finite: what became
        of it, its number in the epoch and the rows of its batch."""
        batches, self._unread = self._unread, []
        start = len(self._sizes) - len(batches)
        values = self._values[start : len(self._sizes)].tolist()
        for i, ((loss, norm), rows) in enumerate(zip(values, batches, strict=True), start):
            if not math.isfinite(loss):
                return f"loss became {loss}", i, rows
            if not math.isfinite(norm):
                return f"gradient's norm became {norm}", i, rows
        return None

    def mean(self) -> float:
        """The mean loss of the epoch's reports."""
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        return float((self._values[:, 0].cpu().double() * sizes).sum() / sizes.sum())


def make_optimizer(model: nn.Module, settings: Optimisation) -> torch.optim.Optimizer:
    """Adam or AdamW; weight decay on exactly the parameters with two dimensions or more.

    Under layer_decay each group has the `share` of the learning rate of its depth.
    """
    decay = getattr(settings, "layer_decay", 1.0)
    depths = {name: depth_of(name) for name, _ in model.named_parameters()}
    ranks = {depth: i for i, depth in enumerate(sorted(set(depths.values()), reverse=True))}  # the head's is 0
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        below = 0 if decay == 1 else ranks[depths[name]]  # one group where there is no decay: one fused step
        groups.setdefault((below, parameter.ndim >= 2), []).append(parameter)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(
        [
            {"params": parameters, "weight_decay": settings.weight_decay * is_matrix, "share": decay**below}
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


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves every weight of `average` towards that of `model` by 1 - decay."""
    decay = min(decay, (1 + step) / (EMA_WARMUP + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _not_finite(what: str, epoch: int, step: int, ids: np.ndarray, settings: Optimisation) -> str:
    shown = ", ".join(report.decode() for report in ids[:8])
    part = "pretrain" if isinstance(settings, Pretrain) else "train"
    return (
        f"the {what} at step {step} (epoch {epoch}), in the batch with reports {shown}, … "
        f"({len(ids)} in all). Try a lower {part}.learning_rate, a lower {part}.clip_norm or a longer {part}.warmup."
    )
