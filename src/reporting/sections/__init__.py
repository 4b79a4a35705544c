"""Sections of the report page, each made from files of the output folder. A section without its data is left out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from src.core.errors import Damaged, UserError
from src.core.settings import Config
from src.data.dataset import Dataset
from src.data.splits import Splits
from src.evaluation.runs import RunFolder
from src.evaluation.validation_sets import ValidationSets
from src.evaluation.workspace import Workspace


@dataclass(frozen=True)
class Findings:
    """Contents of the report."""

    workspace: Workspace
    dataset: Dataset
    folds: Splits | None
    shift: ValidationSets | None
    runs: dict[str, RunFolder]
    """Finished runs of these reports, folds and noisy copies, sorted by select_on, the best last."""
    others: list[str]
    """Names of finished runs of other reports, folds or noisy copies."""

    @classmethod
    def load(cls, workspace: Workspace) -> Findings:
        """Raises UserError, with the command, where the input files are not prepared."""
        dataset, folds, shift, fitting, others = workspace.dataset, None, None, [], []
        if workspace.output.folds.exists():
            folds = workspace.splits
            try:
                shift = workspace.validation_sets
            except Damaged as error:
                workspace.leave_out("shift", error)
            except UserError:
                pass  # the page says that the shift was not measured
            fitting, others = workspace.ranked_runs()
        runs = {run.name: run for run in fitting}
        return cls(workspace, dataset, folds, shift, runs, others)

    @property
    def config(self) -> Config:
        return self.workspace.settings

    def of(self, name: str | None = None) -> Findings:
        """Findings of one run alone, by default the best. Raises UserError where there is no such run."""
        name = name or (self.best.name if self.best else "blend")
        if name not in self.runs:
            raise UserError(
                f"{self.workspace.output.runs} holds no finished run {name} of the files and folds that are there now "
                f"(known: {', '.join(self.runs) or 'none'}). ./run.sh makes the runs of a preset and their blend"
            )
        return replace(self, runs={name: self.runs[name]})

    @property
    def best(self) -> RunFolder | None:
        """The run that the report explains: the pipeline's blend, or the best run."""
        return self.runs.get("blend") or (list(self.runs.values())[-1] if self.runs else None)
