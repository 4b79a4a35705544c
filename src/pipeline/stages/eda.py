"""./run.sh eda: the data itself as one HTML page, before any training; missing values of stays also on the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from src.core import storage, versions
from src.core.language import _, joined
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import result, show_table
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Progress, Stage
from src.pipeline.stages.report import say_page, title_of
from src.reporting.html_page import TEMPLATES, render

MOST = 8
"""Parameters of each kind in the table on the terminal."""


class Eda(Stage):
    name = "eda"
    needs = ("prepare",)
    is_optional = True

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.pages / "eda.json"

    def targets(self, workspace: Workspace) -> list[Target]:
        stamp = fingerprint(
            {
                "data": workspace.dataset.manifest["fingerprint"],
                "version": [versions.REPORT, versions.MISSINGNESS],
                "templates": [storage.file_sha256(template) for template in TEMPLATES],
            }
        )
        return [Target("", self.result(workspace, ""), stamp, (workspace.output.eda,))]

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        page = workspace.output.eda
        return Progress(str(page) if page.exists() else "")

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return _("eda: up to date ({eda})").format(eda=workspace.output.eda)

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        from src.reporting.sections import data

        started, dataset = time.perf_counter(), workspace.dataset
        title, sections = title_of(dataset.task), [data.section(dataset)]
        page = render(title, f"{dataset.task.title}: the data", sections)
        storage.write_text(workspace.output.eda, page)
        missing[0].write({})
        say_page(workspace.output.eda, started)

    def show(self, workspace: Workspace) -> None:
        """Prints what is known of missing values, of tasks that have some."""
        dataset = workspace.dataset
        if dataset.shape.kind != "series":
            return
        from src.evaluation import missingness
        from src.reporting.sections import series_data

        facts = missingness.of_dataset(dataset)
        if "parameters" in facts:
            table = series_data.missing_table(facts, dataset.task, MOST)
            show_table(_("The most informative and the most seldom observed parameters"), table.columns, table.rows)
        result(joined("\n", ["", *missingness.sentences(facts, dataset.task)]))


STAGE = Eda()
