"""How fast and in how much memory the reader of reports works, next to pandas: run() prints and returns the figures.

All figures of a table come from one run, in turns, each from a process of its own: so the machine's mood strikes all
alike, and no method inherits another's memory. Compare ratios, not seconds of different runs.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from src import artifacts
from src.console import say, show_table
from src.errors import UserError
from src.reports import Reports, read_reports, write_reports
from src.task import ROUND1

ROOT = Path(__file__).parents[2]
VOCABULARY = 858
OURS = "reports"
METHODS = {
    OURS: "read_reports: all of it, checked",
    "columns": "pandas, columns of text",
    "tokens": "pandas, then tokens to integers",
}
"""`columns` and `tokens` are functions of bench_baselines."""
CHILD = "import sys; from src.stages.bench import child; child(sys.argv[1], sys.argv[2])"


def run(rows: int = 1_000_000, repeats: int = 3, output: Path | None = None) -> dict:
    """Benchmark in a temporary folder; print the table and write the figures to `output` if it is given."""
    with tempfile.TemporaryDirectory() as folder:
        result = read_benchmark(rows, repeats, Path(folder))
    print_table(result)
    if output is not None:
        artifacts.write_json(Path(output), result)
        say(f"bench: figures are in {output}")
    return result


def read_benchmark(rows: int, repeats: int, folder: Path) -> dict:
    """Time all METHODS on one synthetic file of so many `rows`, made in `folder` and removed at the end.

    Returns seconds (wall clock and processor), peak memory in MB (1e6 bytes) with what the process took before, and
    how many times as long as read_reports each method takes, by medians. The slowest method runs less often.
    """
    if rows < 1 or repeats < 1:
        raise UserError(f"the benchmark needs rows and repeats of at least 1, not {rows} and {repeats}")
    path = folder / "synthetic.csv"
    reports = synthetic(rows)
    write_reports(path, reports)
    expected = {"rows": rows, "tokens": len(reports.tokens), "sum": int(reports.tokens.sum(dtype=np.int64))}
    load = os.getloadavg()[0]
    taken: dict[str, list[dict]] = {method: [] for method in METHODS}
    for repeat in range(repeats):
        for method in METHODS:
            if method != "tokens" or repeat < max(1, repeats // 3):
                taken[method].append(_in_a_process_of_its_own(method, path, expected))
    size = path.stat().st_size
    path.unlink()
    figures = {method: _summary(runs) for method, runs in taken.items()}
    ours = figures[OURS]["seconds"]["median"]
    return {
        "rows": rows,
        "tokens": expected["tokens"],
        "megabytes": size / 1e6,
        "repeats": repeats,
        "methods": figures,
        "times_as_long": {method: figure["seconds"]["median"] / ours for method, figure in figures.items()},
        "load_before": load,
        "processors": os.cpu_count(),
        "versions": {"python": platform.python_version(), "numpy": version("numpy"), "pandas": version("pandas")},
    }


def synthetic(rows: int, seed: int = 0) -> Reports:
    """Reports of the real files' shape (mean length 42, 0 to a few regions), drawn at random."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.gamma(5, 42 / 5, rows).round().astype(np.int64), 4, 104)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    tokens = rng.integers(0, VOCABULARY, offsets[-1], dtype=np.uint16)
    labels = (rng.integers(0, 100, (rows, ROUND1.n_labels), dtype=np.uint8) < 8).astype(np.uint8)
    return Reports(Path("synthetic"), np.arange(rows).astype(np.bytes_), tokens, offsets, labels, ROUND1)


def child(method: str, path: str) -> None:
    """One measurement, printed as JSON; imports are not timed."""
    read = _read_ours if method == OURS else getattr(importlib.import_module("src.stages.bench_baselines"), method)
    print(json.dumps(_measure(read, Path(path))))


def _read_ours(path: Path) -> dict[str, int]:
    found = read_reports(path)
    return {"rows": len(found), "tokens": len(found.tokens), "sum": int(found.tokens.sum(dtype=np.int64))}


def _measure(read: Callable[[Path], dict[str, int]], path: Path) -> dict:
    base = _peak_megabytes()
    started, started_cpu = time.perf_counter(), time.process_time()
    found = read(path)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - started_cpu,
        "peak_megabytes": _peak_megabytes(),
        "base_megabytes": base,
        "found": found,
    }


def _peak_megabytes() -> float:
    """Most memory this process has held. (getrusage's figure would include the parent's, up to the exec.)"""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        raise UserError("the benchmark measures memory by /proc, so it needs Linux") from None
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def _in_a_process_of_its_own(method: str, path: Path, expected: dict[str, int]) -> dict:
    command = [sys.executable, "-c", CHILD, method, str(path.absolute())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the benchmark of {METHODS[method]} failed:\n{done.stderr.strip()}")
    measured = json.loads(done.stdout)
    found = measured.pop("found")
    if any(expected[name] != value for name, value in found.items()):
        raise UserError(f"{METHODS[method]} found {found} in {path}, where {expected} was written")
    return measured


def _summary(runs: list[dict]) -> dict:
    def spread(name: str) -> dict:
        values = [one[name] for one in runs]
        return {"min": min(values), "median": statistics.median(values), "max": max(values), "n": len(values)}

    return {name: spread(name) for name in runs[0]}


def print_table(result: dict) -> None:
    """A line a method: median seconds with their spread, processor seconds, peak memory, ratio."""
    title = f"Reading {result['rows']:,} reports, {result['megabytes']:,.0f} MB"
    lines = []
    for method, figure in result["methods"].items():
        seconds = figure["seconds"]
        lines.append(
            [
                METHODS[method],
                f"{seconds['median']:.2f} ({seconds['min']:.2f}–{seconds['max']:.2f})",
                f"{figure['cpu_seconds']['median']:.2f}",
                f"{figure['peak_megabytes']['max']:,.0f}",
                f"{result['times_as_long'][method]:.1f}x",
            ]
        )
    show_table(title, ["method", "seconds", "cpu s", "peak MB", "time"], lines)
