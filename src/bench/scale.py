"""Time and memory of the stages on ten thousand to ten million random reports, or synthetic stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.bench.data import synthetic
from src.bench.measure import Contender, compare
from src.core.settings import ROOT, Config
from src.core.settings_loader import load_config
from src.core.storage import Output, size_of
from src.data.report_reader import write_reports

PIECE = 20_000
"""Reports drawn and written at a time; few, since a child's peak memory includes its parent's at the start."""
SMALLEST = 10_000
TEST_ROWS = 1_000_000
"""Maximum size of the test file, which has a tenth of the reports of train."""
BATCHES = 96
"""Number of timed training batches."""
PREDICTED = 100_000
"""Maximum number of predicted reports."""
STAGES = ("prepare", "folds", "shift")
TRAINED = 1000
"""Stays that the models are trained on, once for all sizes."""
MODELS = ("gru", "boosting")


def sizes(largest: int) -> list[int]:
    """Returns SMALLEST, ten times SMALLEST and so on, and `largest`."""
    result, size = [], SMALLEST
    while size < largest:
        result.append(size)
        size *= 10
    return [*result, largest]


def measure(rows: int, folder: Path, info: Callable[[str], None]) -> dict[str, Any]:
    """Measures seconds and peak MB (1e6 bytes) of the stages, and reports a second in training and prediction."""
    inputs, output = folder / "in", folder / "out"
    inputs.mkdir(parents=True)
    write(inputs / "train.csv", rows, labelled=True)
    write(inputs / "test.csv", min(rows // 10, TEST_ROWS), labelled=False)
    result: dict[str, Any] = {"megabytes": (inputs / "train.csv").stat().st_size / 1e6}
    for stage in STAGES:  # each finds the stages before it up to date
        result[stage] = run([stage, "--preset", "quick", f"paths.input={inputs}", f"paths.output={output}"])
        info(f"bench: {rows:,} reports: {stage} {result[stage]['seconds']:.1f} s")
    run_settings = load_config("quick", models=["lstm"]).runs["lstm"].model_dump(mode="json")
    given = {"run": run_settings, "corpus": str(output / "data/train")}
    for name in ("train", "predict"):
        contender = Contender(name, name, f"src.bench.product:{name}_corpus", given, product=True)
        figures = compare([contender], repeats=1)[name]
        result[name] = {
            "reports_per_second": 1 / figures["seconds"]["median"],
            "peak_megabytes": figures["peak_megabytes"]["max"],
        }
    return result


def measure_stays(
    counts: Sequence[int], settings: Config, folder: Path, info: Callable[[str], None]
) -> dict[int, dict[str, Any]]:
    """Measures sets of so many synthetic stays: made, read and put on a grid, predicted and written.

    Models of the preset quick are trained once on other stays. Returns for each size and step seconds and processor
    seconds, stays for each of these, peak MB (1e6 bytes) of the largest process, and MB on disk. `predict` is the
    command for all models; by themselves, one fold of a model has one thread.
    """
    words = ["--preset", "quick", "--task", settings.task, f"grid.step={settings.grid.step:g}"]
    given = folder / "given"
    run(["sample", *words, "--rows", str(TRAINED), "--test-rows", "100", f"paths.input={given}"])
    trained = [*words, f"paths.input={given / 'sample'}", f"paths.output={folder / 'trained'}", "folds.k=2"]
    for stage in ("prepare", "folds", "train"):
        run([stage, *trained, *(f"--model={name}" for name in MODELS if stage == "train")])
    return {size: _measure_set(size, words, trained, folder, info) for size in counts}


def _measure_set(
    size: int, words: list[str], trained: list[str], folder: Path, info: Callable[[str], None]
) -> dict[str, Any]:
    """Measures a set of `size` stays with the trained models, and removes it."""
    result: dict[str, Any] = {}

    def measured(step: str, arguments: Sequence[str], made: Path) -> None:
        spent = run(arguments)
        rates = {f"stays_per_{name.removesuffix('s')}": size / spent[name] for name in ("seconds", "cpu_seconds")}
        result[step] = {**spent, **rates, "disk_megabytes": size_of(made) / 1e6}
        info(f"bench: {size:,} stays: {step} {result[step]['seconds']:.1f} s")

    inputs, output, models = folder / "in", folder / "out", folder / "trained"
    stays, corpus, written = inputs / "sample/set-b.zip", output / "data/test/set-b", folder / "written.csv"
    measured("sample", ["sample", *words, "--rows", "100", "--test-rows", str(size), f"paths.input={inputs}"], stays)
    measured("prepare", ["prepare", *words, f"paths.input={inputs / 'sample'}", f"paths.output={output}"], corpus)
    alone: dict[str, tuple[str, dict[str, str]]] = {"write": ("write_predictions", {"path": str(written)})}
    for name in MODELS:
        fold = next((models / "runs" / name).glob("*/result.json")).parent
        alone[name] = "predict_stays", {"fold": str(fold), "output": str(models)}
    for step, (function, given) in alone.items():
        given["corpus"] = str(corpus)
        contender = Contender(step, step, f"src.bench.product:{function}", given, product=True)
        figures = compare([contender], repeats=1)[step]
        result[step] = {
            "stays_per_second": 1 / figures["seconds"]["median"],
            "stays_per_cpu_second": 1 / figures["cpu_seconds"]["median"],
            "peak_megabytes": figures["peak_megabytes"]["max"],
        }
        info(f"bench: {size:,} stays: {step} {result[step]['stays_per_second']:,.0f} stays a second")
    result["write"]["disk_megabytes"] = size_of(written) / 1e6
    shutil.rmtree(output)
    measured("predict", ["predict", *MODELS, str(stays), *trained], Output(models).prediction(MODELS[0], stays))
    shutil.rmtree(inputs)
    return result


def write(path: Path, rows: int, labelled: bool) -> None:
    """Writes a file of random reports, PIECE reports at a time."""
    part = path.with_suffix(".part")
    with path.open("wb") as file:
        for start in range(0, rows, PIECE):
            piece = synthetic(min(PIECE, rows - start), seed=start)
            piece = replace(piece, ids=np.arange(start, start + len(piece)).astype(np.bytes_))
            write_reports(part, piece if labelled else replace(piece, labels=None, task=None))
            file.write(part.read_bytes())
    part.unlink()


def run(arguments: list[str]) -> dict[str, float]:
    """Runs a command of the product; returns seconds, processor seconds and the peak MB of its largest process."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "src", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_megabytes": usage.ru_maxrss * 1024 / 1e6,
    }
