"""Sample data of a task, where its own input folder holds no files of the user's."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from src.core.errors import UserError
from src.core.language import _, word
from src.core.settings import CLINICAL, Config
from src.core.targets import Target
from src.core.terminal import duration, info, result
from src.data import sources
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Stage


class SampleData(Stage):
    name = "sample"
    is_automatic = True

    def names(self, workspace: Workspace) -> list[str]:
        try:
            is_needed = sources.is_default(workspace.settings) and sources.find_files(workspace.settings) is None
        except UserError:  # the stage prepare says it
            return []
        return [""] if is_needed else []

    def result(self, workspace: Workspace, name: str) -> Path:
        settings = workspace.settings
        return sources.sample_folder(settings) / sources.source_of(settings).synthetic.NOTE

    def targets(self, workspace: Workspace) -> list[Target]:
        if not self.names(workspace):
            return []
        settings, folder = workspace.settings, sources.sample_folder(workspace.settings)
        synthetic = sources.source_of(settings).synthetic
        # Sample data of other settings is used unless the settings ask for something in particular.
        is_usual = not any(word.startswith("sample.") for word in settings.overrides) and settings.task in (
            "auto",
            *CLINICAL,
        )
        is_wanted = is_usual or synthetic.was_made_with(folder, **synthetic.arguments(settings))
        files = tuple(folder / name for name in synthetic.FILES)
        return [
            Target("", self.result(workspace, ""), "", files, lambda path: "", lambda: is_wanted),
        ]

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        noun = sources.source_of(workspace.settings).noun
        info(
            _("no {noun} in {input}: making sample data").format(noun=word(noun), input=workspace.settings.paths.input)
        )
        make_from(workspace.settings)

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        if not targets:
            return ""
        folder, synthetic = sources.sample_folder(workspace.settings), sources.source_of(workspace.settings).synthetic
        if not synthetic.was_made_with(folder, **synthetic.arguments(workspace.settings)):
            info(
                _("sample data of other settings is in {folder} and is used; ./run.sh sample makes the usual").format(
                    folder=folder
                )
            )
        return ""


STAGE = SampleData()


def make_from(settings: Config) -> None:
    """Makes the sample data of some settings in the input folder, says so, and how to read them there."""
    folder, synthetic = sources.sample_folder(settings), sources.source_of(settings).synthetic
    given = synthetic.arguments(settings)
    started = time.perf_counter()
    described = synthetic.described(**given)
    info(_("sample: making {described}").format(described=described))
    synthetic.make_sample(folder, **given)
    result(
        _("sample: {described} in {folder} ({time})").format(
            described=described, folder=folder, time=duration(time.perf_counter() - started)
        )
    )
    if not _is_read(settings):
        result(_("sample: to read it, name its folder: {command}").format(command=_reader(settings)))


def _is_read(settings: Config) -> bool:
    """Returns True if commands with these settings read the sample data: those of the default folder without others."""
    try:
        return sources.is_default(settings) and sources.find_files(settings) is None
    except UserError:
        return False


def _reader(settings: Config) -> str:
    """Command line of the pipeline on the sample data."""
    unneeded = ("sample.", "paths.input=", "task=")
    task = ["--task", settings.task] if settings.task != "auto" else []
    words = [word for word in settings.overrides if not word.startswith(unneeded)]
    folder = sources.sample_folder(settings)
    return shlex.join(["./run.sh", *task, "--preset", "sample", *words, f"paths.input={folder}"])
