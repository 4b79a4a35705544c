"""./run.sh sample [--rows N]: make synthetic reports in input/sample, so that anyone can run everything."""

from __future__ import annotations

import time
from typing import Any

from src.core.settings import Config
from src.core.terminal import duration, info, result
from src.data import synthetic
from src.data.tasks import get_task


def run(config: Config) -> None:
    folder = config.paths.input / "sample"
    started = time.perf_counter()
    given = arguments(config)
    size = f"{config.sample.rows:,} + 2 x {config.sample.test_rows:,}"
    info(f"sample: making {size} reports")
    synthetic.make_sample(folder, **given)
    took = duration(time.perf_counter() - started)
    result(f"sample: {size} synthetic reports in {folder} ({given['task'].title}, {took})")


def arguments(config: Config) -> dict[str, Any]:
    """What make_sample is called with: the settings, and the round, which is the first unless one is named."""
    return {**config.sample.model_dump(), "task": get_task("round1" if config.task == "auto" else config.task)}
