"""./run.sh report: everything in the output folder as one HTML page, and output/suspicious.csv."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from src.core import language, storage, versions
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import duration, info, result
from src.data.tasks import Task
from src.evaluation.runs import figure_of
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Progress, Stage, run_lock
from src.reporting.html_page import TEMPLATES, render
from src.reporting.sections import Findings

TITLE = "CT report anomaly detection"
"""Title of a page on reports; other tasks have their own."""
READ = (
    *("data/manifest.json", "folds.csv", "folds.json", "shift/shift.json", "baselines/*/score.json", "runs/*/*.json"),
    *("runs/*/history.csv", "tune/*/trials.csv", "tune/*/importances.json", "tune/*/study.json", "submissions.jsonl"),
)
"""Files of the output folder that the page is made from. A test checks that the report opens no other text."""


class Report(Stage):
    name = "report"
    needs = ("baselines", "train", "blend", "submit", "leaderboard", "explain", "alarms")

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.pages / "report.json"

    def reads(self, workspace: Workspace) -> set[str]:
        return super().reads(workspace) | set(map(run_lock, workspace.output.run_names()))

    def targets(self, workspace: Workspace) -> list[Target]:
        output = workspace.output
        return [Target("", self.result(workspace, ""), made_from(workspace), (output.report, output.suspicious))]

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        page = workspace.output.report
        return Progress(str(page) if page.exists() else "")

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return f"report: up to date ({workspace.output.report})"

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        from src.reporting.sections import (
            alarms,
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

        started, output = time.perf_counter(), workspace.output
        (target,) = missing  # its stamp is older than what is read below: what changes meanwhile makes the page stale
        info("report: draws what the output folder holds")
        findings = Findings.load(workspace)
        parts = [shift, training, scores, blend, errors, explanations, alarms, tuning, submissions, environment]
        sections = [data.section(findings.dataset), *(part.section(findings) for part in parts)]
        storage.write_text(output.suspicious, errors.suspicious_table(findings))
        best = findings.best
        score = (
            f"; {best.name}: {figure_of(best.score, workspace.settings.metric)['value']:.4f} out of fold"
            if best
            else ""
        )
        subtitle = f"{workspace.task.title}{score}"
        storage.write_text(output.report, render(title_of(workspace.task), subtitle, sections))
        target.write({})
        say_page(output.report, started)


STAGE = Report()


def made_from(workspace: Workspace) -> str:
    """Fingerprint of everything in the page. Arrays are not read: the files written after them stand for them."""
    output, settings = workspace.output, workspace.settings
    files = sorted({path for pattern in READ for path in output.root.glob(pattern)})
    pipeline = storage.read_json(output.seconds, workspace.command("pipeline")) if output.seconds.exists() else {}
    return fingerprint(
        {
            "files": {str(path.relative_to(output.root)): storage.file_sha256(path) for path in files},
            "settings": [
                settings.target,
                settings.select_on,
                settings.metric,
                [word for word in settings.overrides if word.startswith("paths.")],
            ],
            "command": pipeline.get("command"),
            **({} if language.chosen() == "en" else {"language": language.chosen()}),
            "version": [versions.REPORT, versions.MISSINGNESS],
            "templates": [storage.file_sha256(template) for template in TEMPLATES],
            "libraries": storage.libraries("matplotlib", "jinja2", "numpy"),
        }
    )


def title_of(task: Task) -> str:
    """Title of a page on the task."""
    return TITLE if task.input_kind == "reports" else f"{task.title[0].upper()}{task.title[1:]}"


def say_page(path: Path, started: float) -> None:
    """Says where a page is, how large, and how long it took since `started`."""
    size, seconds = path.stat().st_size / 1e6, time.perf_counter() - started
    result(f"{path.stem}: {path} ({size:.1f} MB, {duration(seconds)})")
