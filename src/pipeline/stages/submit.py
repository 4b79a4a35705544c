"""./run.sh submit [RUN]: one |,| CSV for each test file, read again and checked after writing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.core import storage, versions
from src.core.language import _, joined, word
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import info, result, warn
from src.data import sources
from src.data.submission_files import write_submission
from src.ensemble.submission_log import Submission, SubmissionLog
from src.evaluation import label_shift
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Progress, Stage, run_lock


class Submit(Stage):
    name = "submit"
    needs = ("blend",)

    def __init__(self, run: str | None = None):
        """`run`: the run to submit (default: the pipeline's blend)."""
        self._run = run

    def names(self, workspace: Workspace) -> list[str]:
        return [self._run or ""]

    def result(self, workspace: Workspace, name: str) -> Path:
        return next(iter(workspace.output.root.glob("submission_*")), workspace.output.root / "submission_")

    def targets(self, workspace: Workspace) -> list[Target]:
        """One target for all test files: the log notes each file as made from what is there now. None without tests."""
        run, files = self.source(workspace), self.files(workspace)
        if not files:
            return []
        log = SubmissionLog(workspace.output.submissions)
        submissions = log.submissions_for(workspace.dataset.test_texts)
        done = [
            test
            for test, path in files.items()
            if path.exists()
            and _is_noted(submissions, test, storage.file_sha256(path), made_from(workspace, run, test))
        ]
        first, *_ = files.values()
        return [Target(self._run or "", first, str(len(files)), tuple(files.values()), lambda path: str(len(done)))]

    def source(self, workspace: Workspace) -> RunFolder:
        _ = workspace.splits  # what is missing first is told first
        run = workspace.run(self._run or "blend", scored=workspace.settings.submit.label_shift)
        workspace.check_unbroken([run])
        workspace.check_fits([run], noisy_copies=workspace.settings.submit.label_shift)
        return run

    def files(self, workspace: Workspace) -> dict[str, Path]:
        """Submission file of each test file."""
        return {test: workspace.output.submission(test, self._run) for test in workspace.dataset.test_files}

    def reads(self, workspace: Workspace) -> set[str]:
        return super().reads(workspace) | ({run_lock(self._run)} if self._run else set())

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        done, total = int(target.noted(target.result)), int(target.fingerprint)
        return Progress(_("{n} of {all} files").format(n=done, all=total), done, total)

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return joined(
            "\n", [_("submit: up to date ({path})").format(path=path) for path in self.files(workspace).values()]
        )

    def show(self, workspace: Workspace) -> None:
        settings, known = workspace.settings, workspace.dataset.test_files
        if not known:
            result(
                _("submit: nothing to do, no file in the input folder matches paths.test ({test})").format(
                    test=settings.paths.test
                )
            )
        files = sources.find_files(settings) if settings.paths.input.is_dir() else None
        names = [sources.source_of(settings).name(path) for path in files.test] if files else []
        new = [name for name in names if name not in known]
        if new:
            remedy = workspace.command("pipeline")
            warn(
                _("{new} came after the last run and gets no submission. Run: ./run.sh {remedy}").format(
                    new=", ".join(new), remedy=remedy
                )
            )

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        source, settings, task = self.source(workspace), workspace.settings.submit, workspace.task
        for test, path in self.files(workspace).items():
            logits = source.test_logits(test)
            if settings.label_shift:
                logits = _moved(workspace, source, test, logits)
            ids, predictions = workspace.whole_test_file(test, task.decode(logits))
            write_submission(path, ids, predictions, settings.eps, task)
            noted = SubmissionLog(workspace.output.submissions).made(
                path,
                sha := storage.file_sha256(path),
                test=test,
                test_text=workspace.dataset.test_texts[test],
                run=source.name,
                fingerprint=source.fingerprint,
                how=_how(workspace),
                made_from=made_from(workspace, source, test),
            )
            result(
                _("submit: {path} ({n:,} {noun} x {predicted}, run {name}, sha256 {sha}…, noted as {id})").format(
                    path=path,
                    n=len(ids),
                    noun=word(task.noun),
                    predicted=task.predicted,
                    name=source.name,
                    sha=sha[:8],
                    id=noted.id,
                )
            )


STAGE = Submit()


def made_from(workspace: Workspace, run: RunFolder, test: str) -> str:
    """Fingerprint of everything that the submission of a test file depends on."""
    settings, manifest = workspace.settings, workspace.dataset.manifest
    shifted = [settings.select_on, workspace.validation_sets.fingerprint] if settings.submit.label_shift else None
    return fingerprint(
        {
            "run": run.fingerprint,
            "test": [file for file in manifest["files"] if file["name"] == test],
            "settings": settings.submit.model_dump(),
            "label_shift": shifted,
            "version": versions.SUBMIT,
            **workspace.task.version,
        }
    )


def _is_noted(submissions: Sequence[Submission], test: str, sha256: str, stamp: str) -> bool:
    """Returns True if the log has these bytes, for this test file, made from what `stamp` stands for."""
    return any(
        one.test == test and one.sha256 == sha256 and any(maker["made_from"] == stamp for maker in one.makers())
        for one in submissions
    )


def _how(workspace: Workspace) -> dict[str, Any]:
    return {"label_shift": workspace.settings.submit.label_shift}


def _moved(workspace: Workspace, source: RunFolder, test: str, logits: np.ndarray) -> np.ndarray:
    """Logits moved to the label rates that the test file speaks for."""
    rows = workspace.validation_for([source], test=workspace.validation_sets.target(test))
    oof = rows.logits(source.oof(), source.copies(test))
    moved, known, rates = label_shift.adapt(workspace.task, oof, workspace.labels[rows.rows], rows.weights, logits)
    info(
        _("submit: label rates of {test} moved by up to {most:.3f} (submit.label_shift)").format(
            test=test, most=np.abs(rates - known).max()
        )
    )
    return moved
