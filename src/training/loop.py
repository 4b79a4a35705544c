"""fit(): the one training loop, of pretraining and of training.

The order, noise and dropout of an epoch are drawn from the job's seeds and the epoch's number alone, so a job that was
killed goes on from its last epoch and ends in the same bytes as one that never was. A job that is told to end keeps its
state amid an epoch.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.core import interrupts
from src.core.errors import UserError
from src.core.language import _
from src.training import checkpoints
from src.training.batching import POOL
from src.training.objective import History, Objective
from src.training.optimizers import schedule
from src.training.steps import steps_of

EMA_WARMUP = 10
"""The average follows the weights closely over the first steps: decay is at most (1 + step) / (10 + step)."""


def fit(
    objective: Objective,
    seeds: tuple[int, ...],
    folder: Path,
    progress: Callable[[dict[str, Any]], None],
    epochs: range | None = None,
) -> History:
    """Trains objective.model in place, from the newest sound checkpoint of `folder` if there is one.

    `epochs`: numbers of the epochs of this call, all by default; they decide on order, noise and learning rate.
    Returns the history of all epochs. Afterwards the model holds the last weights (their moving average under
    ema_decay), and best.safetensors those of the lowest validation loss. Raises UserError for a loss that is not
    finite, with the step and the reports of the batch, or with the validation reports that have it.
    """
    model, settings = objective.model, objective.settings
    average = copy.deepcopy(model).eval() if settings.ema_decay else None
    optimizer = objective.make_optimizer()
    lengths = (objective.n_batches_of(epoch) for epoch in range(1, settings.epochs + 1))
    ends = list(itertools.accumulate(lengths, initial=0))  # ends[i]: steps of the first i epochs
    n_steps = ends[-1]

    # The seconds of a damaged state were spent all the same.
    began = time.perf_counter() - checkpoints.spent(folder)
    history, midway, state = checkpoints.resume(folder, model, average, optimizer)
    if state:
        objective.restore(state)
    steps = steps_of(objective, optimizer)
    for epoch in (epochs or range(1, settings.epochs + 1))[len(history) :]:
        if objective.is_over(history):
            break
        with interrupts.waiting():
            started = time.perf_counter()
            torch.manual_seed(seed_of(*seeds, epoch))
            model.train()
            first, n_batches = ends[epoch - 1], ends[epoch] - ends[epoch - 1]
            watch = Watch(n_batches, objective.device)
            done = watch.restore(midway) if midway else 0
            midway = None
            for i, (batch, wanted) in enumerate(objective.batches(np.random.default_rng([*seeds, epoch]), epoch)):
                rate = settings.learning_rate * schedule(first + i, n_steps, settings.warmup)
                if i < done:
                    watch.skip(batch.rows)
                else:
                    values = steps.take(batch, wanted, rate)
                    if average is not None:
                        update_average(average, model, settings.ema_decay, first + i)
                    watch.see(values, batch.rows)
                if (watch.unread == POOL or i + 1 == n_batches) and (broken := watch.read()):
                    what, at, rows = broken
                    where = f"at step {first + at} (epoch {epoch}), in the batch with rows"
                    raise _not_finite(objective, f"{what} {where}", objective.ids(rows))
                if interrupts.is_asked():
                    seconds = time.perf_counter() - began
                    state = objective.state()
                    checkpoints.save(folder, model, average, optimizer, history, seconds, watch.midway(), state)
                    return history  # never received: leaving the context raises Stopped
            judged = average if average is not None else model
            history.append({"epoch": epoch, "learning_rate": rate, "train_loss": watch.mean()})
            if (valid := objective.validate(judged)) is not None:
                if not math.isfinite(valid.loss):
                    what = f"validation loss became {valid.loss} (epoch {epoch}), by the validation rows"
                    raise _not_finite(objective, what, valid.broken)
                history[-1]["valid_loss"] = valid.loss
                if valid.loss == min(past["valid_loss"] for past in history):
                    checkpoints.save_weights(folder / "best.safetensors", judged)
            seconds = time.perf_counter() - began
            checkpoints.save(folder, model, average, optimizer, history, seconds, further=objective.state())
            news = {"epochs": settings.epochs, "share": ends[epoch] / n_steps}
            progress({**history[-1], **news, "seconds": time.perf_counter() - started})
    if average is not None:
        model.load_state_dict(average.state_dict())
    return history


class Watch:
    """Losses and gradient norms of an epoch, kept on the device: reading each would stop a GPU at every step."""

    def __init__(self, n_batches: int, device: torch.device):
        self._values = torch.zeros(n_batches, 2, device=device)
        self._sizes: list[int] = []
        self._unread: list[np.ndarray] = []

    @property
    def unread(self) -> int:
        return len(self._unread)

    def see(self, values: Tensor, rows: np.ndarray) -> None:
        """Keeps the loss and the gradients' norm, `values` (2,), of a batch of `rows`."""
        self._values[len(self._sizes)] = values
        self._sizes.append(len(rows))
        self._unread.append(rows)

    def skip(self, rows: np.ndarray) -> None:
        """Passes over a batch whose loss and norm came from restore()."""
        self._sizes.append(len(rows))
        self._unread.append(rows)

    def midway(self) -> dict[str, Tensor]:
        """Returns what restore() needs: losses and norms of the epoch so far, and the state of dropout's generator."""
        on_gpu = self._values.device.type == "cuda"
        random = torch.cuda.get_rng_state(self._values.device) if on_gpu else torch.get_rng_state()
        return {"values": self._values[: len(self._sizes)].clone(), "random": random}

    def restore(self, midway: dict[str, Tensor]) -> int:
        """Goes back to where midway() was called. Returns the number of batches that were done."""
        done = len(midway["values"])
        self._values[:done] = midway["values"].to(self._values.device)
        if self._values.device.type == "cuda":
            torch.cuda.set_rng_state(midway["random"], self._values.device)
        else:
            torch.set_rng_state(midway["random"])
        return done

    def read(self) -> tuple[str, int, np.ndarray] | None:
        """Returns the first step since the last call whose loss or norm is not finite: a text with the value, the
        step's number in the epoch and the rows of its batch."""
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


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves every weight of `average` towards that of `model` by 1 - decay."""
    decay = min(decay, (1 + step) / (EMA_WARMUP + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def seed_of(*numbers: int) -> int:
    """Mixes several numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _not_finite(objective: Objective, what: str, ids: np.ndarray) -> UserError:
    shown = ", ".join(report.decode() for report in ids[:8]) + (", …" if len(ids) > 8 else "")
    part = objective.part
    return UserError(
        _(
            "the {what} {shown} ({n} in all). Try a lower {part}.learning_rate, a lower "
            "{part}.clip_norm or a longer {part}.warmup."
        ).format(what=what, shown=shown, n=len(ids), part=part)
    )
