"""Stage: a step of the pipeline that declares what it needs and what it makes. make() runs it where that is missing.

To add a stage: a file in pipeline/stages/ with a subclass of Stage and an instance STAGE, and its name in STAGES below.
The pipeline's order, `status`, the commands that remedies name and the locks follow from these declarations.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core import locks, storage
from src.core.errors import UserError
from src.core.language import _
from src.core.names import check_name
from src.core.targets import Target
from src.core.terminal import dependency, result
from src.evaluation.workspace import Workspace

STAGES = (
    "sample", "prepare", "folds", "shift", "baselines", "pretrain", "train", "blend", "submit", "score", "leaderboard",
    "explain", "alarms", "domains", "report", "eda",
)  # fmt: skip
"""All stages, each behind those that it needs."""
TRIES = 3
"""Times that a stage is begun anew because another command changed what it needs."""


@dataclass(frozen=True)
class Progress:
    """Progress of a target, for `status`."""

    note: str = ""
    done: int | None = None
    """Folds, baselines, runs or epochs that are done, of so many:"""
    total: int | None = None
    is_begun: bool = False
    """A part of the target is done and kept: the same command goes on from there."""
    is_running: bool = False
    """A job of the target runs."""


class Stage(abc.ABC):
    """A step of the pipeline. Its class attributes and methods are all that the graph, `status` and the locks know."""

    name: str
    needs: tuple[str, ...] = ()
    """Stages whose results it reads."""
    counted = ""
    """Unit of the one row that `status` shows for all targets, such as baselines; empty: a row for each target."""
    is_optional = False
    """Not part of the pipeline: `status` shows it, but does not ask for it."""
    is_automatic = False
    """Made without being asked for, where another stage needs it and it is missing."""

    def names(self, workspace: Workspace) -> list[str]:
        """Names of the targets, as far as they are known where an input is missing."""
        return [""]

    @abc.abstractmethod
    def targets(self, workspace: Workspace) -> list[Target]:
        """The targets under the present settings. Raises UserError, with the command, where an input is missing."""

    @abc.abstractmethod
    def result(self, workspace: Workspace, name: str) -> Path:
        """File of a target that is written last, known also where an input is missing."""

    @abc.abstractmethod
    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        """Makes the `missing` targets and says what it made."""

    def show(self, workspace: Workspace) -> None:  # noqa: B027 - most stages have nothing to show
        """Shows the results, whether they were just made or not."""

    def label(self, name: str) -> str:
        """Name of a target for people: empty where the stage's own name says it."""
        return name

    def command_words(self, name: str) -> list[str]:
        """Words behind the verb that make the target `name` alone."""
        return []

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        """Message if nothing is missing."""
        return f"{self.name}: up to date"

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        """Progress of a target whose inputs are all there."""
        return Progress()

    def lock_names(self, names: Sequence[str]) -> list[str]:
        """Locks that are held exclusively while the targets `names` are made, one for each or one for all."""
        return [f"{self.name}.{name}" if name else self.name for name in names]

    def read_locks(self, workspace: Workspace) -> list[str]:
        """Locks that are held shared by whoever reads the targets."""
        return self.lock_names(self.names(workspace))

    def reads(self, workspace: Workspace) -> set[str]:
        """Locks of all that the stage reads."""
        return {lock for name in all_needs(self.name) for lock in get_stage(name).read_locks(workspace)}


@functools.cache
def get_stage(name: str) -> Stage:
    return importlib.import_module(f"src.pipeline.stages.{name}").STAGE


def all_needs(name: str) -> list[str]:
    """Stages that a stage rests on, directly or not, in the order of STAGES."""
    waiting, found = list(get_stage(name).needs), set()
    while waiting:
        need = waiting.pop()
        if need not in found:
            found.add(need)
            waiting += get_stage(need).needs
    return [one for one in STAGES if one in found]


def make(workspace: Workspace, stage: Stage) -> bool:
    """Makes what is missing of a stage, and before it what is missing of the automatic stages that it needs. Returns
    True if something of the stage itself was missing.

    No other command writes what the stage reads or makes meanwhile. Raises UserError, with the command, where a stage
    that must be asked for is missing.
    """
    for _try in range(TRIES):
        _make_needs(workspace, stage)
        targets = _targets(workspace, stage)
        if all(target.is_current() for target in targets):
            if told := stage.current(workspace, targets):
                result(told)
            stage.show(workspace)
            return False
        with holding(workspace, stage, [target.name for target in targets]):
            workspace.refresh()  # another command may have written while this one waited
            if _needs_are_current(workspace, stage):
                if missing := [target for target in _targets(workspace, stage) if not target.is_current()]:
                    workspace.tell_preset()
                    stage.run(workspace, missing)
                workspace.refresh()
                stage.show(workspace)
                return bool(missing)
        workspace.made.clear()
    raise UserError(
        _(
            "{name}: another command with other settings works in {root} and changes what this "
            "one needs. Wait for it, or give one of them another folder: paths.output=DIR"
        ).format(name=stage.name, root=workspace.output.root)
    )


def _targets(workspace: Workspace, stage: Stage) -> list[Target]:
    """The targets of a stage. Raises UserError where they would rest on input files that have changed since."""
    if "prepare" in all_needs(stage.name):
        workspace.check_input()
    return stage.targets(workspace)


def _make_needs(workspace: Workspace, stage: Stage) -> None:
    with dependency():
        for need in stage.needs:
            if get_stage(need).is_automatic and need not in workspace.made:
                make(workspace, get_stage(need))
                workspace.made.add(need)


def _needs_are_current(workspace: Workspace, stage: Stage) -> bool:
    """Returns True if what _make_needs made is still current, now that nobody else may write it."""
    waiting, needs = [stage], {}
    while waiting:
        for name in waiting.pop().needs:
            if get_stage(name).is_automatic and name not in needs:
                needs[name] = get_stage(name)
                waiting.append(needs[name])
    return all(target.is_current() for need in needs.values() for target in need.targets(workspace))


@contextlib.contextmanager
def holding(workspace: Workspace, stage: Stage, names: Sequence[str]) -> Iterator[None]:
    """Holds the targets `names` of a stage exclusively, and what the stage reads against being written meanwhile."""
    command = workspace.command(stage.name)
    with locks.hold(workspace.output.locks, stage.lock_names(names), stage.reads(workspace), command):
        storage.sweep(workspace.output)
        yield


@contextlib.contextmanager
def reading(workspace: Workspace, verb: str, reads: Iterable[str] = ()) -> Iterator[None]:
    """Holds what training reads, and further locks, against being written, for a command that is no stage."""
    with locks.hold(
        workspace.output.locks, [], {*get_stage("train").reads(workspace), *reads}, workspace.command(verb)
    ):
        workspace.refresh()  # another command may have written before the locks were held
        yield


def run_lock(name: str) -> str:
    """Lock of the files of a run's folder."""
    return f"run.{check_name('run', name)}"


def is_running(workspace: Workspace, stage: Stage, name: str) -> bool:
    """Returns True while another command makes the target `name` of a stage."""
    (lock,) = stage.lock_names([name])
    return locks.is_held(workspace.output.locks / f"{lock}.lock")
