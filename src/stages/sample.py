"""./run.sh sample [--rows N]: make synthetic reports in input/sample, so that anyone can run everything."""

from __future__ import annotations

import time

from src import sample
from src.config import Config
from src.console import duration, say
from src.task import get_task


def run(config: Config) -> None:
    folder = config.paths.input / "sample"
    started = time.perf_counter()
    settings = config.sample
    task = get_task("round1" if config.task == "auto" else config.task)
    sample.make_sample(folder, rows=settings.rows, test_rows=settings.test_rows, task=task, seed=settings.seed)
    took = duration(time.perf_counter() - started)
    say(f"sample: {settings.rows:,} + 2 x {settings.test_rows:,} synthetic reports in {folder} ({task.title}, {took})")
