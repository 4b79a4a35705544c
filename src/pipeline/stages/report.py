"""./run.sh report: all that the output folder tells, as one HTML page; ./run.sh eda: the part before any model."""

from __future__ import annotations

import importlib.metadata
import re
import time
from pathlib import Path

from src.core import storage, versions
from src.core.settings import Config, fingerprint
from src.core.storage import Output
from src.core.terminal import duration, info, result
from src.data.dataset import Dataset
from src.reporting.html_page import TEMPLATES, Section, render
from src.reporting.sections import Findings

READ = (
    *("data/manifest.json", "folds.csv", "folds.json", "shift/shift.json", "baselines/*/score.json", "runs/*/*.json"),
    *("runs/*/history.csv", "tune/*/trials.csv", "tune/*/importances.json", "submissions.jsonl"),
)
"""What the page is made from, in the output folder: a test holds that a report opens no other text."""
STAMP = re.compile(r'name="made-from" content="(\w+)"')


@storage.marked("report")
def run(config: Config) -> None:
    from src.reporting.sections import (
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
    stamp = made_from(config, output)  # before anything is read, so that what comes meanwhile is not taken for known
    if _has(output, stamp):
        result(f"report: up to date ({output.report})")
        return
    info("report: draws what the output folder holds")
    findings = Findings.load(config)
    parts = [shift, training, scores, blend, errors, explanations, tuning, submissions, environment]
    sections = [data.section(findings.dataset), *(part.section(findings) for part in parts)]
    storage.write_text(output.suspicious, errors.suspicious_table(findings))
    best = findings.best
    what = f"; {best.name}: {best.score['overall']['score']['value']:.4f} out of fold" if best else ""
    _write(output.report, findings.dataset, f"{findings.dataset.task.title}{what}", sections, stamp)
    _say(output.report, started)


@storage.marked("eda")
def run_eda(config: Config) -> None:
    """The data part alone."""
    from src.reporting.sections import data

    started = time.perf_counter()
    output = Output(config.paths.output)
    dataset = Dataset.load(output)
    _write(output.eda, dataset, f"{dataset.task.title}: the data", [data.section(dataset)])
    _say(output.eda, started)


def is_current(config: Config, output: Output) -> bool:
    return _has(output, made_from(config, output))


def _has(output: Output, stamp: str) -> bool:
    return output.suspicious.exists() and _stamp_of(output.report) == stamp


def made_from(config: Config, output: Output) -> str:
    """Stands for all that is in the page. Arrays are not read: the files that were written after them tell of them."""
    files = sorted({path for pattern in READ for path in output.root.glob(pattern)})
    pipeline = storage.read_json(output.seconds) if output.seconds.exists() else {}
    return fingerprint(
        {
            "files": {str(path.relative_to(output.root)): storage.file_sha256(path) for path in files},
            "settings": [
                config.target,
                config.select_on,
                [word for word in config.overrides if word.startswith("paths.")],
            ],
            "command": pipeline.get("command"),
            "version": versions.REPORT,
            "templates": [storage.file_sha256(template) for template in TEMPLATES],
            "libraries": [importlib.metadata.version(name) for name in ("matplotlib", "jinja2", "numpy")],
        }
    )


def _stamp_of(page: Path) -> str | None:
    """What is noted at its top."""
    if not page.exists():
        return None
    with page.open() as file:
        noted = STAMP.search(file.read(1000))
    return noted and noted[1]


def _write(path: Path, dataset: Dataset, subtitle: str, sections: list[Section], stamp: str = "") -> None:
    storage.write_text(path, render("CT report anomaly detection", subtitle, sections, stamp))


def _say(path: Path, started: float) -> None:
    size, seconds = path.stat().st_size / 1e6, time.perf_counter() - started
    result(f"{path.stem}: {path} ({size:.1f} MB, {duration(seconds)})")
