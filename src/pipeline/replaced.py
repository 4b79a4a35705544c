"""Runs that are replaced: their score and date before, how the score changes, and which results become stale.

A trained run keeps the folds of its earlier settings until ./run.sh clean --superseded: the command that made it brings
it back without training.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.core.names import BLEND
from src.core.targets import Target
from src.core.terminal import is_dependency, result, warn
from src.ensemble.submission_log import SubmissionLog
from src.evaluation import metrics, runs
from src.evaluation.figures import estimate_text
from src.evaluation.run_comparison import paired_gain
from src.evaluation.runs import RunFolder
from src.evaluation.validation_sets import as_they_are
from src.evaluation.workspace import Workspace


@dataclass(frozen=True)
class Replaced:
    """A finished run as it was before another one takes its name."""

    run: RunFolder
    """Its `record` is that of before; its files are not."""
    command: str
    """The command that made it."""
    score: dict
    made: datetime
    oof: np.ndarray

    @property
    def told(self) -> str:
        """Score and date in words."""
        figure = runs.figure_of(self.score, self.run.config.metric)
        return f"{estimate_text(figure)} (made {date_text(self.made)})"

    @property
    def comes_back(self) -> bool:
        """True where the command of before makes the same again: for a blend, while its members are the same; not where
        it reads files that others write: predictions from elsewhere, or a preset in the output folder."""
        if (
            self.run.record["kind"] == "imported"
            or self.run.config.paths.output in Path(self.run.record["preset"]).parents
        ):
            return False
        try:
            self.run.check_members()
        except UserError:
            return False
        return True


def made_at(run: RunFolder) -> datetime:
    """Time at which a finished run was put together."""
    return datetime.fromtimestamp(run.result.stat().st_mtime)


def date_text(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def find(workspace: Workspace, target: Target) -> Replaced | None:
    """The run that the target of a run is about to replace; None where there is none, or one of the same inputs and
    settings, or one that is damaged."""
    folder = target.result.parent
    if not target.result.exists():
        return None
    try:
        run = RunFolder.load(folder, workspace.settings)
        if run.score["fingerprint"] == target.fingerprint:
            return None
        return Replaced(run, run.remedy, run.score, made_at(run), np.array(run.oof()))
    except UserError:
        return None  # Target.is_current warns of a damage


def announce(workspace: Workspace, target: Target, folds: Collection[str]) -> None:
    """Warns, before the training of `folds` (names of their folders), of the run that will be replaced by it. A run
    that keeps its models and gets further seeds is not replaced."""
    before = find(workspace, target)
    if before is None or set(before.run.record.get("fold_folders", ())) <= set(folds):
        return
    keep = "" if is_dependency() else " To keep both, name the new one: --name NAME"
    warn(_("this replaces run {name}, {told}.{keep}").format(name=target.name, told=before.told, keep=keep))


def tell(workspace: Workspace, before: Replaced | None) -> None:
    """Tells, once a run was replaced, how its score changed, what is stale now, and how the run before comes back."""
    if before is None:
        return
    name, after = before.run.name, workspace.run(before.run.name)
    oof = after.oof()
    if oof.shape == before.oof.shape and np.array_equal(oof, before.oof, equal_nan=True):
        return
    result(_("{name} was {told}; {after}").format(name=name, told=before.told, after=_change(workspace, before, after)))
    if stale := resting_on(workspace, name):
        result(_("stale now, made of {name} as it was: {stale}").format(name=name, stale=", ".join(stale)))
    if before.comes_back and _would_be_made_of_the_same(before.run, after):
        result(_("{name} as it was comes back with: ./run.sh {command}").format(name=name, command=before.command))


def _are_on_the_same_rows(before: RunFolder, after: RunFolder) -> bool:
    return all(before.record.get(key) == after.record[key] for key in ("train", "folds", "task"))


def _would_be_made_of_the_same(before: RunFolder, after: RunFolder) -> bool:
    """Returns False where other rows or folds are read by the same settings: input files, or folds.csv, were changed,
    and no command brings them back."""
    reading = ("paths", "task", "data", "grid", "folds", "domains")
    return _are_on_the_same_rows(before, after) or any(
        getattr(before.config, name) != getattr(after.config, name) for name in reading
    )


def _change(workspace: Workspace, before: Replaced, after: RunFolder) -> str:
    """The new score in words, and its paired difference from the one before where both are of the same rows."""
    now = estimate_text(runs.figure_of(after.score, workspace.settings.metric))
    if not _are_on_the_same_rows(before.run, after):
        return f"it is {now}, on other rows or folds"
    rows = as_they_are(workspace.splits).only(workspace.splits.scored)
    gain = paired_gain(workspace, rows, *(rows.logits(oof, None) for oof in (after.oof(), before.oof)))
    return f"it is {now}, {metrics.gain_text(workspace.task, gain)} on the same rows, out of fold"


def resting_on(workspace: Workspace, name: str) -> list[str]:
    """Results that were made of a run as it was before: runs with their score, submission files and bundles.

    Within the pipeline, which makes them next, its own blend and submissions are left out.
    """
    settings, output = workspace.settings, workspace.output
    stamps = {run.name: run.score["fingerprint"] for run in _records(workspace)}
    for run in _records(workspace):
        if run.name != name and _rests_on(run, name):
            stamps[run.name] = ""  # it is stale, and so is all that was made of it
    ours = {BLEND} if is_dependency() else set()
    told = [
        f"run {other} ({estimate_text(runs.figure_of(workspace.run(other).score, settings.metric))})"
        for other, stamp in sorted(stamps.items())
        if not stamp and other not in ours
    ]
    found = {other for other, stamp in stamps.items() if not stamp or other == name} - ours
    try:
        made = {
            one.file
            for one in SubmissionLog(output.submissions).submissions()
            if one.run in found and one.test and all(maker["fingerprint"] != stamps[one.run] for maker in one.makers())
            if _is_as_noted(output.root / one.file, one.sha256)
        }
    except UserError as error:
        workspace.leave_out("the log of submissions", error)
        made = set()
    return [*told, *sorted(made), *_bundles(workspace, {one: stamps[one] for one in found})]


def _rests_on(run: RunFolder, name: str) -> bool:
    """Returns True for a blend of a run as it was before, for a student of it, and for what takes its encoder."""
    if run.is_blend:
        try:
            run.check_members()
        except UserError:
            return name in run.ancestors()
        return False
    return run.is_model and (run.record.get("teacher") == name or name in run.settings.rests_on)


def _records(workspace: Workspace) -> list[RunFolder]:
    """Finished runs, damaged ones left out."""
    found = []
    for name in workspace.output.run_names():
        try:
            found.append(workspace.run(name))
        except UserError as error:
            workspace.leave_out(f"run {name}", error)
    return found


def _is_as_noted(path: Path, sha256: str) -> bool:
    return path.exists() and storage.file_sha256(path) == sha256


def _bundles(workspace: Workspace, stamps: Mapping[str, str]) -> list[str]:
    """Names of the bundles that were made of these runs, but not as they are now, by their fingerprints."""
    from src.serving.bundle import Bundle

    found = []
    for path in sorted(workspace.output.root.glob("*.bundle")):
        try:
            made_from = Bundle.open(path).record["made_from"]
            if stamps.get(made_from["run"], made_from["fingerprint"]) != made_from["fingerprint"]:
                found.append(path.name)
        except UserError as error:
            workspace.leave_out(path.name, error)
    return found
