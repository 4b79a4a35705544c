"""./run.sh report: all that the output folder tells, as one HTML page; ./run.sh eda: the part before any model."""

from __future__ import annotations

import time
from pathlib import Path

from src import artifacts
from src.artifacts import Output
from src.config import Config
from src.console import duration, say
from src.page import Section, render
from src.prepared import Prepared
from src.sections import Findings


def run(config: Config) -> None:
    from src.sections import (
        blend,
        data,
        environment,
        errors,
        explanations,
        scores,
        shift,
        submissions,
        training,
        tuning,
    )

    started = time.perf_counter()
    output = Output(config.paths.output)
    findings = Findings.load(config)
    parts = [shift, training, scores, blend, errors, explanations, tuning, submissions, environment]
    sections = [data.section(findings.prepared), *(part.section(findings) for part in parts)]
    if findings.best is not None:
        artifacts.write_text(output.suspicious, errors.suspicious_table(findings))
    best = findings.best
    what = f"; {best.name}: {best.score['overall']['score']['value']:.4f} out of fold" if best else ""
    _write(output.report, findings.prepared, f"{findings.prepared.task.title}{what}", sections)
    _say(output.report, started)


def run_eda(config: Config) -> None:
    """The data part alone."""
    from src.sections import data

    started = time.perf_counter()
    output = Output(config.paths.output)
    prepared = Prepared.load(output)
    _write(output.eda, prepared, f"{prepared.task.title}: the data", [data.section(prepared)])
    _say(output.eda, started)


def _write(path: Path, prepared: Prepared, subtitle: str, sections: list[Section]) -> None:
    artifacts.write_text(path, render("CT report anomaly detection", subtitle, sections))


def _say(path: Path, started: float) -> None:
    size, seconds = path.stat().st_size / 1e6, time.perf_counter() - started
    say(f"{path.stem}: {path} ({size:.1f} MB, {duration(seconds)})")
