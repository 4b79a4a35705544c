"""Rates of training and prediction on one device, each measured in a process of its own, and the tables of all of it.

A wave of jobs sets up side by side: imports, weights, a warm-up epoch with its compilation. Then the jobs measure one
after the other, each with the device to itself; or many, then fewer of them at the same time, to see how many folds a
card trains side by side.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.bench.data import encoded
from src.bench.product import built, flops, random_rows
from src.core import locks, storage
from src.core.errors import UserError
from src.core.executors import Job
from src.core.run_settings import Run
from src.core.settings import Config
from src.data.tasks import ROUND1

PEAKS = {
    "NVIDIA H200": (66.9, 989.4),
    "NVIDIA H100 80GB HBM3": (66.9, 989.4),
    "NVIDIA H100 PCIe": (51.2, 756.0),
    "NVIDIA A100-SXM4-40GB": (19.5, 312.0),
    "NVIDIA A100-SXM4-80GB": (19.5, 312.0),
    "NVIDIA A100-PCIE-40GB": (19.5, 312.0),
    "NVIDIA A100 80GB PCIe": (19.5, 312.0),
    "NVIDIA A40": (37.4, 149.7),
    "NVIDIA A10": (31.2, 125.0),
    "NVIDIA L40S": (91.6, 362.0),
    "NVIDIA L4": (30.3, 121.0),
    "NVIDIA RTX A6000": (38.7, 154.8),
    "NVIDIA GeForce RTX 4090": (82.6, 165.2),
    "NVIDIA GeForce RTX 3090": (35.6, 71.0),
}
"""Peak of dense products in fp32 without TF32 and in bf16 with sums in fp32, in 1e12 operations a second, by the card's
name in torch: from data sheets of its maker. A card of another name, such as a part of a card, has no share."""
PRECISIONS = ("fp32", "bf16")
GRAPHS = "CUDA graphs"
VERSION = 2
"""Version of what the figures mean: in 1, CUDA graphs were those of torch.compile."""
STEP = ("batch_size", "attack", "consistency", "join", "noise")
"""Settings of training that decide how much work a step is, beside the model."""
TRAINED, PREDICTED = "train_per_second", "predict_per_second"
PATIENCE = 0.9
"""Share of a wave's time after which its jobs wait for no other: those that take turns measure without it, and those
that measure at the same time end."""
WARM_UP = 2
"""Epochs of training before measuring: after them nearly each width of batches has its CUDA graph."""
READY, ENDED = "ready", "ended"
"""Marks of a job that is set up, and of one that has ended, with or without an error."""


@dataclass(frozen=True)
class Sizes:
    """Amount of work of the measurements."""

    rows: int = 2048
    """Reports of an epoch of training, the lengths of round 1."""
    predicted: int = 4096
    seconds: float = 1.0
    """Seconds of measuring a rate."""
    side_by_side: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of folds that train at the same time; above two, as far as there are cores."""


@dataclass(frozen=True)
class Variant:
    """Way of computing that a rate is measured of."""

    precision: str
    graphs: bool = True
    """True: a step is a CUDA graph; False: each of its kernels is started by itself."""

    @property
    def name(self) -> str:
        return f"{self.precision}, {GRAPHS}" if self.graphs else self.precision


def variants() -> list[Variant]:
    return [Variant(precision, graphs) for precision in PRECISIONS for graphs in (True, False)]


def encoders(presets: Mapping[str, Config]) -> dict[str, dict[str, Any]]:
    """Returns the runs of the presets, each kind of training step once: under preset/run, the `run` and the names of
    all that have this step (`used_by`)."""
    found: dict[str, dict[str, Any]] = {}
    kinds: dict[str, str] = {}
    for preset, config in presets.items():
        for name, run in config.runs.items():
            step = run.train.model_dump(mode="json", include=set(STEP))
            key = kinds.setdefault(str((run.model.model_dump(mode="json"), step)), f"{preset}/{name}")
            found.setdefault(key, {"run": run, "used_by": []})["used_by"].append(f"{preset}/{name}")
    return found


def job(
    name: str,
    run: Run,
    variant: Variant,
    sizes: Sizes,
    device: str,
    wave: Path,
    seconds: float,
    jobs: int,
    counts: Sequence[int] = (),
) -> Job:
    """Returns the job of one rate, one of so many `jobs` of a wave, whose folder is `wave` and which has so many
    `seconds`. `counts`: numbers of jobs that measure at the same time, one number after the other; without it, one job
    measures after the other."""
    payload = {
        "run": run.model_dump(mode="json"),
        "variant": vars(variant),
        "sizes": vars(sizes),
        "device": device,
        "wave": str(wave),
        "name": name.replace("/", "."),
        "until": time.time() + PATIENCE * seconds,
        "jobs": jobs,
        "counts": list(counts),
    }
    return Job(name, "src.bench.gpu:measure", payload)


def result_of(one: Job) -> Path:
    """File of what a job has measured."""
    return Path(one.payload["wave"]) / f"{one.payload['name']}.json"


def mark(one: Mapping[str, Any], step: str) -> None:
    """Notes that a job, by its payload, has come to a step of its wave: READY, a count, or ENDED."""
    (Path(one["wave"]) / f"{one['name']}.{step}").touch()


def measure(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Measures the rates of a variant of an encoder (a job). Writes rates of training and of prediction, in reports a
    second; operations of a report's matrix products; and the card's memory at its peak. A job that measures at the same
    time as others writes its rates by their number (`together`). Raises UserError where its process had died amid the
    others' measurements."""
    import torch

    from src.training.classification import Classification
    from src.training.devices import set_up

    if payload["counts"] and (Path(payload["wave"]) / f"{payload['name']}.{READY}").exists():
        mark(payload, ENDED)
        raise UserError(f"{payload['name']}: its process ended while it measured at the same time as others")
    try:
        device, sizes, variant = (
            torch.device(payload["device"]),
            Sizes(**payload["sizes"]),
            Variant(**payload["variant"]),
        )
        set_up(device)
        run = Run.model_validate(payload["run"])
        settings = run.train.model_copy(update={"cuda_graphs": variant.graphs})
        # Whole batches: the last of an epoch would have graphs of its own size.
        size = max(1, sizes.rows // settings.batch_size) * settings.batch_size
        rows, model = random_rows(size, seed=1), built(payload["run"]).to(device)
        objective = Classification(ROUND1, model, rows, rows, settings, device, variant.precision)
        steps, predictions = _steps(objective), _predictions(model, sizes.predicted, device, variant.precision)
        found = _operations(payload["run"], rows, sizes.predicted)
        model.train()
        for _ in range(WARM_UP * objective.n_batches):
            next(steps)
        next(predictions)

        def rates() -> dict[str, float]:
            model.train()  # prediction leaves it in evaluation
            trained = _per_second(steps, sizes.seconds, device)
            return {TRAINED: trained, PREDICTED: _per_second(predictions, sizes.seconds / 2, device)}

        if payload["counts"]:
            found["together"] = _together(payload, rates)
        else:
            with _turn(payload):
                found |= rates()
        if device.type == "cuda":
            found["peak_megabytes"] = torch.cuda.max_memory_allocated(device) / 1e6
        storage.write_json(Path(payload["wave"]) / f"{payload['name']}.json", found)
    finally:
        mark(payload, ENDED)


def _meet(payload: Mapping[str, Any], step: str) -> list[str] | None:
    """Waits until each job of the wave has come to the step or has ended. Returns the names of those that came; None
    where the time was over before."""
    mark(payload, step)
    while time.time() < payload["until"]:
        marks = [path.name.rpartition(".") for path in Path(payload["wave"]).iterdir()]
        came = {name for name, _, mark in marks if mark == step}
        if len(came | {name for name, _, mark in marks if mark == ENDED}) >= payload["jobs"]:
            return sorted(came)
        time.sleep(0.01)
    return None


@contextlib.contextmanager
def _turn(payload: Mapping[str, Any]) -> Iterator[None]:
    """Waits until all jobs of the wave are set up, and holds the device against the others."""
    _meet(payload, READY)
    with locks.lock(Path(payload["wave"]) / "turn.lock"):
        yield


def _together(payload: Mapping[str, Any], rates: Callable[[], dict[str, float]]) -> dict[str, dict[str, float]]:
    """Measures, for each count in turn, at the same time as so many jobs of the wave that have not ended. Returns the
    rates by count, without those that this job did not take part in."""
    found: dict[str, dict[str, float]] = {}
    if _meet(payload, READY) is None:
        return found
    for count in payload["counts"]:
        came = _meet(payload, str(count))
        if came is None:  # some may be late, and would measure alone
            break
        if len(came) >= count and payload["name"] in came[:count]:
            found[str(count)] = rates()
    return found


def _steps(objective: Any) -> Iterator[int]:
    """Yields the number of reports of each step of training, epoch after epoch, with what fit() does in a step."""
    from src.training.steps import steps_of

    steps = steps_of(objective, objective.make_optimizer())
    for epoch in itertools.count():
        for batch, wanted in objective.batches(np.random.default_rng(epoch)):
            steps.take(batch, wanted, objective.settings.learning_rate)
            yield len(batch.rows)


def _predictions(model: Any, rows: int, device: Any, precision: str) -> Iterator[int]:
    from src.training.inference import predict_logits

    tokens, lengths, _ = encoded(rows)
    while True:
        predict_logits(model, {"tokens": tokens}, lengths, device, precision=precision)
        yield rows


def _per_second(work: Iterator[int], seconds: float, device: Any) -> float:
    """Returns the work a second, until the device has done all of it."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        done += next(work)
    wait()
    return done / (time.perf_counter() - started)


def _operations(run: dict[str, Any], rows: Any, predicted: int) -> dict[str, float]:
    """Counts the operations of a report's matrix products in training and in prediction, padding included."""
    import torch

    from src.training.batching import length_batches
    from src.training.epoch_reader import EpochReader
    from src.training.inference import BATCH_SIZE

    cpu, settings = torch.device("cpu"), Run.model_validate(run).train
    model = built(run)
    tokens, lengths, _ = encoded(predicted)
    trained = [batch for batch, _ in EpochReader(rows, settings, cpu).batches(np.random.default_rng(0))]
    passes = 3 * (2 if settings.consistency else 1) * (1 if settings.attack == "none" else 2)  # two products backwards
    return {
        "train_operations": passes * flops(model, _first_rows(trained)),
        "predict_operations": flops(model, _first_rows(length_batches({"tokens": tokens}, lengths, BATCH_SIZE, cpu))),
    }


def _first_rows(batches: Sequence[Any]) -> list[Any]:
    """Cuts batches to their first report, in the batch's width: each of its reports has as many operations."""
    return [
        batch._replace(
            inputs={k: v[:1] for k, v in batch.inputs.items()}, lengths=batch.lengths[:1], rows=batch.rows[:1]
        )
        for batch in batches
    ]


def share(card: str, precision: str, operations: float, per_second: float) -> float | None:
    """Returns the share of the card's peak; None for a card whose peak is not known."""
    if card not in PEAKS:
        return None
    return operations * per_second / (1e12 * PEAKS[card][PRECISIONS.index(precision)])


Table = tuple[str, list[str], list[list[str]]]
"""Title, columns and rows."""
NONE = "–"


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Returns the tables of what was measured; what was not has a dash, or its error."""
    result: list[Table] = []
    for name, one in found["rates"].items():
        card, measured = found["machine"]["device"], one["variants"]
        known = [variant.name for variant in variants() if variant.name in measured]
        rows = [[variant, *_cells(card, measured[variant])] for variant in known]
        columns = ["", "trained/s", "of peak", "predicted/s", "of peak", "MB", "error"]
        if rows:
            result.append((f"{name} ({', '.join(one['used_by'])})", columns, rows))
    for name, counts in found["side_by_side"].items():
        one_fold = counts.get("1", {}).get(TRAINED)
        rows = []
        for count, figures in sorted(counts.items(), key=lambda one: int(one[0])):
            cells = [_number(figures.get(TRAINED)), _number(figures.get(PREDICTED))]
            gain = figures[TRAINED] / one_fold if one_fold and TRAINED in figures else None
            rows.append([count, *cells, NONE if gain is None else f"{gain:.2f}", _error(figures)])
        title = f"Folds of {name} side by side, in {found['machine']['auto_precision']}"
        result.append((title, ["folds", "trained/s", "predicted/s", "times one fold", "error"], rows))
    for one in found["presets"].values():
        rows = [[stage, f"{seconds:.1f} s"] for stage, seconds in one["stages"].items()]
        unknown = "not known, a command was killed" if one.get("is_done") else "not finished"
        rows += [["all of it", unknown if one["seconds"] is None else f"{one['seconds']:.1f} s"]]
        if "trained" in one:
            files = ", ".join(one["train_files"])
            rows += [["pretrained", one["pretrained"]], ["folds trained", one["trained"]]]
            rows += [["train rows", f"{one['train_rows']:,} of {files}"]]
        rows += [[f"{run}, out of fold", score] for run, score in one.get("scores", {}).items()]
        rows += [["error", _error(one)]] if "error" in one else []
        result.append((f"Preset {one['command']}, executor.workers={one['workers']}", ["", "measured"], rows))
    return result


def _cells(card: str, figures: Mapping[str, Any]) -> list[str]:
    cells = []
    for rate, operations in ((TRAINED, "train_operations"), (PREDICTED, "predict_operations")):
        if rate in figures:
            reached = share(card, figures["precision"], figures[operations], figures[rate])
            cells += [_number(figures[rate]), NONE if reached is None else f"{reached:.1%}"]
        else:
            cells += [NONE, NONE]
    return [*cells, _number(figures.get("peak_megabytes")), _error(figures)]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _error(figures: Mapping[str, Any]) -> str:
    """The last line of an error: of a traceback, the error itself."""
    return figures["error"].strip().splitlines()[-1] if "error" in figures else ""


def as_markdown(found: Mapping[str, Any], missing: Sequence[str]) -> str:
    """Returns the tables as Markdown, with the machine before them and, behind, what is not measured yet."""
    lines = ["# Measured by ./run.sh bench gpu", "", "| machine | |", "|---|---|"]
    lines += [f"| {key.replace('_', ' ')} | {value} |" for key, value in found["machine"].items()]
    for title, columns, rows in tables(found):
        lines += ["", f"## {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    lines += ["", f"Not measured yet: {', '.join(missing)}." if missing else "All parts are measured."]
    return "\n".join(lines) + "\n"
