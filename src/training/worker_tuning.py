"""How training is laid out on this machine: how many jobs side by side, with how many threads each.

Folds side by side with few threads each, folds in turn with all threads, and what lies between are timed for some
seconds, the fastest is taken and noted in the project's output/hardware, so that a machine is timed once, whatever the
output folder. Side by side must be beaten by MARGIN: another number of threads orders sums differently, and a draw
should not change last bits from day to day.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.core import storage, versions
from src.core.errors import UserError
from src.core.executors import Job, LocalProcesses, available_cores, make_executor, raise_failures
from src.core.settings import Executor as ExecutorSettings
from src.core.settings import Paths, fingerprint
from src.core.storage import Output
from src.core.terminal import info, warn
from src.training import device_cache

MARGIN = 1.25
NOTES = Output(Paths().output).hardware
MOST_ON_A_GPU = 8
SECONDS = 1.5
"""Of each timing, after a warm-up."""
LIMIT = 60.0
"""Seconds after which a worker no longer waits for the others to be ready."""


@dataclass(frozen=True)
class Layout:
    workers: int
    threads: int


def pick(settings: ExecutorSettings, device: str, precision: str, n_jobs: int) -> Layout:
    """The layout for `n_jobs` jobs. What the settings name is taken as it is; what they leave `auto` is measured, or
    read from the note of this machine.
    """
    cores = available_cores()
    if settings.threads != "auto":
        given = make_executor(settings, device)
        return Layout(given.workers, given.threads)
    if settings.workers != "auto":
        return Layout(settings.workers, max(1, cores // settings.workers))
    possible = candidates(device, cores, n_jobs)
    return possible[0] if len(possible) == 1 else _measured(possible, device, precision)


def candidates(device: str, cores: int, n_jobs: int) -> list[Layout]:
    """What is worth trying, the one to beat first: on a CPU all jobs side by side, on a GPU one by itself."""
    most = min(cores, n_jobs)
    halves = sorted({max(1, most >> i) for i in range(most.bit_length())}, reverse=True)
    if device == "cuda":
        return [Layout(workers, 1) for workers in sorted({min(workers, MOST_ON_A_GPU) for workers in halves})]
    return [Layout(workers, cores // workers) for workers in halves]


def _measured(possible: list[Layout], device: str, precision: str) -> Layout:
    stamp = fingerprint(
        {
            "machine": device_cache.signs(),
            "candidates": [asdict(layout) for layout in possible],
            "precision": precision,
            "version": versions.LAYOUT,
        }
    )
    note = NOTES / f"layout_{device}_{stamp}.json"
    if not storage.is_current(note, stamp):
        rates = [_rate(layout, device, precision) for layout in possible]
        best = 0
        for i, rate in enumerate(rates):
            if rate > MARGIN * rates[best]:
                best = i
        told = ", ".join(
            f"{layout.workers} x {layout.threads}: {rate:,.0f}" for layout, rate in zip(possible, rates, strict=True)
        )
        info(
            f"train: reports/s of jobs x threads: {told}; {possible[best].workers} x {possible[best].threads} is taken"
        )
        rows = [{**asdict(layout), "reports_per_second": rate} for layout, rate in zip(possible, rates, strict=True)]
        storage.write_json(note, {"fingerprint": stamp, "taken": best, "layouts": rows})
    found = storage.read_json(note)
    return possible[found["taken"]]


def _rate(layout: Layout, device: str, precision: str) -> float:
    """As measure(); 0 for a layout that does not run here, such as one that memory is too small for."""
    try:
        return measure(layout, device, precision)
    except UserError as error:
        warn(f"{layout.workers} jobs side by side could not be timed, so they are not tried: {error}")
        return 0.0


def measure(layout: Layout, device: str, precision: str) -> float:
    """Reports a second that this layout trains on, all workers together."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"folder": folder, "workers": layout.workers, "device": device, "precision": precision}
        jobs = [Job(f"timing {i}", f"{__name__}:steps", given | {"worker": i}) for i in range(layout.workers)]
        rates: list[float] = []
        raise_failures(LocalProcesses(layout.workers, layout.threads).run(jobs, _Listener(rates)))
    return sum(rates)


class _Listener:
    def __init__(self, rates: list[float]):
        self._rates = rates

    def step(self, job: Job, news: dict[str, Any]) -> None:
        self._rates.append(news["reports_per_second"])

    def finish(self, job: Job, failure: Any) -> None: ...


def steps(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """One worker: trains a small LSTM and a small Transformer on random reports for SECONDS, when all are ready."""
    import torch

    from src.core.settings import Recurrent, Transformer
    from src.models.classifier import build_model
    from src.training.devices import autocast

    device, size = torch.device(payload["device"]), 64
    models = [build_model(settings, 1000, 17).to(device) for settings in (Recurrent(), Transformer())]
    optimizers = [torch.optim.AdamW(model.parameters(), fused=True) for model in models]
    batches = []
    for width in (16, 32, 48, 64):
        tokens = torch.randint(3, 1000, (size, width), device=device)
        batches.append((tokens, torch.full((size,), width, device=device)))

    def round_trip() -> int:
        for batch in batches:
            for model, optimizer in zip(models, optimizers, strict=True):
                with autocast(payload["precision"], device):
                    loss = model(*batch).float().square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return size * len(batches) * len(models)

    round_trip()
    folder = Path(payload["folder"])
    (folder / f"ready_{payload['worker']}").touch()
    waited = time.monotonic()
    while len(list(folder.glob("ready_*"))) < payload["workers"]:
        if time.monotonic() - waited > LIMIT:
            raise UserError(
                f"of {payload['workers']} workers to be timed some were not ready after {LIMIT:.0f} s; "
                "executor.workers=N executor.threads=M sets a layout without timing"
            )
        time.sleep(0.01)
    started, done = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < SECONDS:
        done += round_trip()
    progress({"reports_per_second": done / taken})
