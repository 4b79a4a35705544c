"""run_job(): what every job of training does around its objective. A kill at any moment only delays the job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from src.core import locks, storage, temporaries
from src.core.run_settings import Run
from src.training import checkpoints, devices
from src.training.job_specs import TrainingJob
from src.training.objective import History

MORE = ("valid_logits.npy",)
"""Files that some jobs leave beside those of every job."""


@dataclass(frozen=True)
class Work:
    """A job that is ready to be fitted."""

    model: nn.Module
    train: Callable[[], History]
    """Trains the model in place."""
    finish: Callable[[History], dict[str, Any]]
    """Writes the job's own files after training and returns what result.json says beyond the facts of every job."""


def run_job(job: TrainingJob, prepare: Callable[[Run, torch.device], Work]) -> None:
    """Trains a job and saves last.safetensors, history.csv and, written last, result.json; returns at once if they are
    current. Other processes with the same job wait."""
    with locks.lock(job.path / "job.lock"):
        if job.is_done():
            return
        device = torch.device(job.device)
        devices.set_up(device)
        work = prepare(Run.model_validate(job.run), device)
        temporaries.sweep(job.path)
        earlier, started = checkpoints.spent(job.path), time.perf_counter()
        history = work.train()
        checkpoints.save_weights(job.path / "last.safetensors", work.model)
        facts = work.finish(history)
        storage.write_text(job.path / "history.csv", pd.DataFrame(history).to_csv(index=False))
        checkpoints.remove_all(job.path)
        job.target().write(
            {
                "run": job.run,
                "inputs": job.inputs,
                **facts,
                "epochs": history[-1]["epoch"],
                "last_train_loss": history[-1]["train_loss"],
                "last_valid_loss": history[-1]["valid_loss"],
                "seconds_since_last_start": (since := round(time.perf_counter() - started, 2)),
                "seconds": round(earlier + since, 2),
                "environment": storage.environment(devices.name_of(device), job.precision),
            },
            [path for name in MORE if (path := job.path / name).exists()],
        )
