"""The parts of the report page, each from what lies in the output folder; a part whose artefacts are not there is
left out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from src.core.errors import UserError
from src.core.settings import Config
from src.core.storage import Output
from src.data.dataset import Dataset
from src.data.splits import Folds
from src.evaluation.runs import RunFolder
from src.evaluation.validation_sets import ValidationSets, fitting_runs


@dataclass(frozen=True)
class Findings:
    """What there is to report on."""

    config: Config
    dataset: Dataset
    folds: Folds | None
    shift: ValidationSets | None
    runs: dict[str, RunFolder]
    """Finished runs of these reports, folds and noisy copies, best by select_on last."""
    others: list[str]
    """Names of finished runs that are of other ones."""

    @classmethod
    def load(cls, config: Config) -> Findings:
        """Raises UserError, with the command, where not even the input files were prepared."""
        output = Output(config.paths.output)
        dataset = Dataset.load(output)
        folds = dataset.load_folds() if output.folds.exists() else None
        try:
            shift = ValidationSets.load(dataset, config) if folds is not None else None
        except UserError:
            shift = None
        fitting, others = fitting_runs(config, dataset, folds, shift) if folds is not None else ([], [])
        runs = {one.name: one for one in fitting}
        target = shift.target(config.target) if shift is not None else None

        def worth(name: str) -> float:
            boards = runs[name].boards()
            if target is not None and target.name in boards:
                return boards[target.name]["validations"][config.select_on]["value"]
            return runs[name].score["overall"]["score"]["value"]

        return cls(config, dataset, folds, shift, {name: runs[name] for name in sorted(runs, key=worth)}, others)

    def of(self, name: str | None = None) -> Findings:
        """What there is to report on one run alone, by default the best. Raises UserError where it is not there."""
        name = name or (self.best.name if self.best else "blend")
        if name not in self.runs:
            raise UserError(
                f"{self.dataset.output.runs} holds no finished run {name} of the files and folds that are there now "
                f"(known: {', '.join(self.runs) or 'none'}). ./run.sh makes the runs of a preset and their blend"
            )
        return replace(self, runs={name: self.runs[name]})

    @property
    def best(self) -> RunFolder | None:
        """The run that is looked into: the pipeline's blend, or the best."""
        return self.runs.get("blend") or (list(self.runs.values())[-1] if self.runs else None)
