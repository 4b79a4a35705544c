"""./run.sh report: all that the output folder tells, as one HTML page; ./run.sh eda: the part before any model."""

from __future__ import annotations

import time
from pathlib import Path

from src import artifacts
from src.artifacts import Output
from src.config import Config
from src.console import conclude, duration, say
from src.errors import UserError
from src.page import Section, render
from src.prepared import Prepared
from src.sections import Findings
from src.shifted import ShiftFolder, fitting_runs


@artifacts.marked("report")
def run(config: Config) -> None:
    from src.sections import blend, data, environment, errors, scores, shift, submissions, training, tuning

    started = time.perf_counter()
    say("report: draws what the output folder holds")
    output = Output(config.paths.output)
    findings = _findings(config, output)
    parts = [shift, training, scores, blend, errors, tuning, submissions, environment]
    sections = [data.section(findings.prepared), *(part.section(findings) for part in parts)]
    if findings.best is not None:
        artifacts.write_text(output.suspicious, errors.suspicious_table(findings))
    best = findings.best
    what = f"; {best.name}: {best.score['overall']['score']['value']:.4f} out of fold" if best else ""
    _write(output.report, findings.prepared, f"{findings.prepared.task.title}{what}", sections)
    _say(output.report, started)


@artifacts.marked("eda")
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
    conclude(f"{path.stem}: {path} ({size:.1f} MB, {duration(seconds)})")


def _findings(config: Config, output: Output) -> Findings:
    prepared = Prepared.load(output)
    folds = prepared.load_folds() if output.folds.exists() else None
    try:
        shift = ShiftFolder.load(prepared, config) if folds is not None else None
    except UserError:
        shift = None
    fitting, others = fitting_runs(config, prepared, folds, shift) if folds is not None else ([], [])
    runs = {one.name: one for one in fitting}
    target = shift.target(config.target) if shift is not None else None

    def worth(name: str) -> float:
        boards = runs[name].boards()
        if target is not None and target.name in boards:
            return boards[target.name]["validations"][config.select_on]["value"]
        return runs[name].score["overall"]["score"]["value"]

    return Findings(config, prepared, folds, shift, {name: runs[name] for name in sorted(runs, key=worth)}, others)
