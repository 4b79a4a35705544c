"""./run.sh score: all runs beside the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.core.targets import Target
from src.core.terminal import result
from src.evaluation import runs
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Stage
from src.training.tracking import tracking_of


class Score(Stage):
    """Shows what others made and makes nothing itself."""

    name = "score"
    needs = ("train", "baselines")

    def names(self, workspace: Workspace) -> list[str]:
        return []

    def targets(self, workspace: Workspace) -> list[Target]:
        return []

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.runs

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        """Makes nothing: show() is all."""

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return ""

    def show(self, workspace: Workspace) -> None:
        """The table of all runs and baselines of the reports and folds that are there now."""
        output = workspace.output
        if not output.run_names():
            raise UserError(
                _("{runs} holds no finished run. Make one with: ./run.sh {command}").format(
                    runs=output.runs, command=workspace.command("train")
                )
            )
        now = (workspace.dataset.manifest["train"], storage.array_hash(workspace.splits.table))
        scores = self._scores(workspace)
        others = [name for name, score in scores.items() if (score.get("train"), score.get("folds_table")) != now]
        kept = {name: score for name, score in scores.items() if name not in others}
        runs.show_scores(kept, workspace.settings.metric)
        tracking = tracking_of(workspace.settings)
        for name in output.run_names():
            if name in kept:
                tracking.score(output.run(name))
        if others:
            result(
                _(
                    "left out, as they were made on other train files or folds than are there now: "
                    "{others}. Make what is of the preset anew with: ./run.sh {command}"
                ).format(others=", ".join(others), command=workspace.command("pipeline"))
            )

    def _scores(self, workspace: Workspace) -> dict[str, dict[str, Any]]:
        """The score.json of each baseline and run by its name, but of those that are damaged."""
        output, remedy = workspace.output, workspace.command("baselines")
        baselines = {path.parent.name: path for path in output.baselines.glob("*/score.json")}
        reads: dict[str, Callable[[], dict[str, Any]]] = {
            name: partial(storage.read_json, path, remedy) for name, path in baselines.items()
        }
        reads |= {name: lambda name=name: workspace.run(name).score for name in output.run_names()}
        found = {}
        for name, read in reads.items():
            try:
                found[name] = read()
            except UserError as error:
                workspace.leave_out(name, error)
        return found


STAGE = Score()
