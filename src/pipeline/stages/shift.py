"""./run.sh shift: how each test file differs from train, and train rows made like it.

pipeline/shifts/ compares: text.py token reports, series.py stays and images. shift.json is for machines, shift.md and
shift.png are for people. The other stages validate on what it leaves, see validation_sets.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.core import array_files, storage, versions
from src.core.language import _
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import duration, result
from src.evaluation import shift_pictures, shift_summary
from src.evaluation.stored_sentences import message_of
from src.evaluation.workspace import Workspace
from src.pipeline.shifts import series, text
from src.pipeline.shifts.compared import Compared
from src.pipeline.stage import Progress, Stage


class Shift(Stage):
    name = "shift"
    needs = ("folds",)
    is_automatic = True

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.shift / "shift.json"

    def targets(self, workspace: Workspace) -> list[Target]:
        folder, settings = workspace.output.shift, workspace.settings
        stamp = fingerprint(
            {
                "settings": settings.shift.model_dump(),
                "data": settings.data.model_dump(),
                **workspace.dataset.made_of(workspace.splits),
                "version": [versions.SHIFT, storage.libraries("scikit-learn", "scipy")],
            }
        )
        files = tuple(folder / name for name in ("rows.npy", "shift.md", "shift.png"))
        return [Target("", self.result(workspace, ""), stamp, files)]

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        return Progress(message_of(storage.read_json(target.result)["summary"]) if target.is_current() else "")

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return _("shift: up to date ({summary})").format(
            summary=message_of(storage.read_json(targets[0].result)["summary"])
        )

    def show(self, workspace: Workspace) -> None:
        """Raises UserError for an unknown target now, rather than after hours of training."""
        _ = workspace.target

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        _measure(workspace, missing[0])


STAGE = Shift()


def _measure(workspace: Workspace, target: Target) -> None:
    settings, output, dataset = workspace.settings.shift, workspace.output, workspace.dataset
    started = time.perf_counter()
    target.result.unlink(missing_ok=True)
    compared = Compared.choose(dataset, settings.max_rows, settings.seed)
    array_files.write_npy(output.shift / "rows.npy", compared.train)
    for name, rows in compared.tests.items():
        array_files.write_npy(output.shift_of(name) / "test_rows.npy", rows)
    found = (text if dataset.shape.kind == "tokens" else series).measure(workspace, compared)
    facts = {
        "made_of": dataset.made_of(workspace.splits),
        "settings": settings.model_dump(),
        "summary": shift_summary.headline(found),
        **found,
    }
    shift_pictures.draw_all(output.shift / "shift.png", output, facts)
    storage.write_text(output.shift / "shift.md", shift_summary.as_markdown(facts))
    target.write(facts, _files(output.shift, compared.tests))
    shift_summary.show(facts)
    result(
        _("tables and a picture: {shift} ({time})").format(
            shift=output.shift / "shift.md", time=duration(time.perf_counter() - started)
        )
    )


def _files(folder: Path, tests: Iterable[str]) -> list[Path]:
    """Arrays of the comparison; what stages keep beside the noisy copies is not among them."""
    folders = [folder / Path(name).stem for name in tests]
    return [path for below in folders for path in sorted([*below.glob("*.npy"), *below.glob("noised_*/*.npy")])]
