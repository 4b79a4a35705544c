"""Synthetic reports in input/sample, where the project's own input folder holds no files of the user's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from src.core.errors import UserError
from src.core.settings import Config, Sample
from src.core.targets import Target
from src.core.terminal import duration, info, result
from src.data import input_files, synthetic
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Stage


class SampleData(Stage):
    name = "sample"
    is_automatic = True

    def names(self, workspace: Workspace) -> list[str]:
        paths = workspace.settings.paths
        try:
            is_needed = input_files.is_default(paths) and input_files.find_files(paths) is None
        except UserError:  # the stage prepare says it
            return []
        return [""] if is_needed else []

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.settings.paths.input / "sample" / synthetic.NOTE

    def targets(self, workspace: Workspace) -> list[Target]:
        settings, folder = workspace.settings, workspace.settings.paths.input / "sample"
        # Sample data of other settings is used unless the settings ask for something in particular.
        is_usual = settings.sample == Sample() and settings.task == "auto"
        is_wanted = is_usual or synthetic.was_made_with(folder, **synthetic.arguments(settings))
        files = tuple(folder / name for name in synthetic.FILES)
        return [
            Target(name, self.result(workspace, name), "", files, lambda path: "", lambda: is_wanted)
            for name in self.names(workspace)
        ]

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        info(f"no competition files in {workspace.settings.paths.input}: making sample data")
        make_from(workspace.settings)

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        folder = workspace.settings.paths.input / "sample"
        if targets and not synthetic.was_made_with(folder, **synthetic.arguments(workspace.settings)):
            info(f"sample data of other settings is in {folder} and is used; ./run.sh sample makes the usual")
        return ""


STAGE = SampleData()


def make_from(settings: Config) -> None:
    """Makes the sample data of some settings in the input folder and says so."""
    folder, given = settings.paths.input / "sample", synthetic.arguments(settings)
    started = time.perf_counter()
    size = f"{settings.sample.rows:,} + 2 x {settings.sample.test_rows:,}"
    info(f"sample: making {size} reports")
    synthetic.make_sample(folder, **given)
    seconds = duration(time.perf_counter() - started)
    result(f"sample: {size} synthetic reports in {folder} ({given['task'].title}, {seconds})")
