"""Does it stay linear in time and bounded in memory? The stages on ten thousand to ten million generated reports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.bench.data import synthetic
from src.bench.measure import Contender, compare
from src.core.settings import ROOT
from src.core.settings_loader import load_config
from src.data.report_reader import write_reports

PIECE = 20_000
"""Reports that are generated and written at a time. Few, as a child's peak memory counts its parent's at the start."""
SMALLEST = 10_000
TEST_ROWS = 1_000_000
"""The test file has a tenth of the reports of train, but no more than this."""
BATCHES = 96
PREDICTED = 100_000
STAGES = ("prepare", "folds", "shift")


def sizes(largest: int) -> list[int]:
    """10,000, 100,000 and so on, and the largest."""
    found, size = [], SMALLEST
    while size < largest:
        found.append(size)
        size *= 10
    return [*found, largest]


def measure(rows: int, folder: Path, info: Callable[[str], None]) -> dict[str, Any]:
    """Seconds and peak memory in MB (1e6 bytes) of each stage, and reports a second in training and prediction."""
    inputs, output = folder / "in", folder / "out"
    inputs.mkdir(parents=True)
    write(inputs / "train.csv", rows, labelled=True)
    write(inputs / "test.csv", min(rows // 10, TEST_ROWS), labelled=False)
    found: dict[str, Any] = {"megabytes": (inputs / "train.csv").stat().st_size / 1e6}
    for stage in STAGES:  # each does those before it as well, which then are up to date
        found[stage] = run([stage, "--preset", "quick", f"paths.input={inputs}", f"paths.output={output}"])
        info(f"bench: {rows:,} reports: {stage} {found[stage]['seconds']:.1f} s")
    run_settings = load_config("quick", models=["lstm"]).runs["lstm"].model_dump(mode="json")
    given = {"run": run_settings, "corpus": str(output / "data/train")}
    for name in ("train", "predict"):
        contender = Contender(name, name, f"src.bench.ours:{name}_corpus", given, product=True)
        figures = compare([contender], repeats=1)[name]
        found[name] = {
            "reports_per_second": 1 / figures["seconds"]["median"],
            "peak_megabytes": figures["peak_megabytes"]["max"],
        }
    return found


def write(path: Path, rows: int, labelled: bool) -> None:
    """A file of generated reports, a piece at a time."""
    part = path.with_suffix(".part")
    with path.open("wb") as file:
        for start in range(0, rows, PIECE):
            piece = synthetic(min(PIECE, rows - start), seed=start)
            piece = replace(piece, ids=np.arange(start, start + len(piece)).astype(np.bytes_))
            write_reports(part, piece if labelled else replace(piece, labels=None, task=None))
            file.write(part.read_bytes())
    part.unlink()


def run(arguments: list[str]) -> dict[str, float]:
    """A command of the product: its seconds, and the peak memory of its largest process in MB."""
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
    return {"seconds": time.perf_counter() - started, "peak_megabytes": usage.ru_maxrss * 1024 / 1e6}
