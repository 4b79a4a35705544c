"""./run.sh report: everything in the output folder as one HTML page, and output/suspicious.csv."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src.core import language, storage, versions
from src.core.language import _, word
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import duration, info, result
from src.data.tasks import Task
from src.evaluation.workspace import Workspace
from src.pipeline.stage import STAGES, Progress, Stage, get_stage, run_lock
from src.reporting.html_page import TEMPLATES, render
from src.reporting.sections import Findings
from src.reporting.terms import terms

TITLE = _("CT report anomaly detection")
"""Title of a page on reports; other tasks have their own."""
READ = (
    *("data/manifest.json", "folds.csv", "folds.json", "shift/shift.json", "baselines/*/score.json", "runs/*/*.json"),
    *("runs/*/config.yaml", "tune/*/best.yaml"),
    *("domains/domains.json", "domains/judged.json", "domains/adapted.json", "domains/views.json"),
    *("runs/*/history.csv", "tune/*/trials.csv", "tune/*/importances.json", "tune/*/study.json", "submissions.jsonl"),
)
"""Files of the output folder that the page is made from, beside the submissions of the blend. A test checks that the
report opens no other text."""


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
        return _("report: up to date ({report})").format(report=workspace.output.report)

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        from src.reporting.sections import (
            alarms,
            blend,
            data,
            domains,
            environment,
            errors,
            explanations,
            pipeline,
            scores,
            shift,
            submissions,
            summary,
            training,
            tuning,
        )

        started, output = time.perf_counter(), workspace.output
        (target,) = missing  # its stamp is older than what is read below: what changes meanwhile makes the page stale
        info(_("report: draws what the output folder holds"))
        findings = Findings.load(workspace)
        found = [part.section(findings) for part in (summary, scores, shift)]
        further = [part.section(findings) for part in (training, blend, errors, explanations, alarms, domains, tuning)]
        graph = {name: get_stage(name).needs for name in STAGES if not get_stage(name).is_optional}
        further = [data.section(findings.dataset), *further, submissions.section(findings)]
        further += [pipeline.section(findings, graph), environment.section(findings)]
        sections = [*found, *(replace(section, folded=True) for section in further)]
        storage.write_text(output.suspicious, errors.suspicious_table(findings))
        given = {"task": word(workspace.task.title), "preset": workspace.settings.preset}
        subtitle = _("{task}, preset {preset}").format(**given)
        page = render(title_of(workspace.task), subtitle, sections, terms(workspace.task))
        storage.write_text(output.report, page)
        target.write({})
        say_page(output.report, started)


STAGE = Report()


def made_from(workspace: Workspace) -> str:
    """Fingerprint of everything in the page. Arrays are not read: the files written after them stand for them."""
    output, settings = workspace.output, workspace.settings
    files = {path for pattern in READ for path in output.root.glob(pattern)}
    files = sorted(files.union(workspace.submission_files().values()))
    pipeline = storage.read_json(output.seconds, workspace.command("pipeline")) if output.seconds.exists() else {}
    return fingerprint(
        {
            "files": {str(path.relative_to(output.root)): storage.file_sha256(path) for path in files},
            "settings": [
                settings.target,
                settings.select_on,
                settings.metric,
                settings.preset,
                settings.overrides,
                settings.leaderboard.board,
                {name: run.model_dump(mode="json") for name, run in settings.runs.items()},
            ],
            "command": pipeline.get("command"),
            "input": workspace.input_checksums,
            **({} if language.chosen() == "en" else {"language": language.chosen()}),
            "version": [versions.REPORT, versions.MISSINGNESS],
            **workspace.dataset.task.version,
            "templates": [storage.file_sha256(template) for template in TEMPLATES],
            "translations": storage.file_sha256(language.CATALOGUE.with_suffix(".mo")),
            "libraries": storage.libraries("matplotlib", "jinja2", "numpy"),
        }
    )


def title_of(task: Task) -> str:
    """Title of a page on the task."""
    if task.input_kind == "reports":
        return TITLE
    titles = {"icu": _("ICU mortality"), "los": _("Length of stay")}
    return titles.get(task.name) or _("Images of {n} classes").format(n=task.n_labels)


def say_page(path: Path, started: float) -> None:
    """Says where a page is, how large, and how long it took since `started`."""
    size, seconds = path.stat().st_size / 1e6, time.perf_counter() - started
    result(
        _("{stem}: {path} ({size:.1f} MB, {time})").format(stem=path.stem, path=path, size=size, time=duration(seconds))
    )
