"""The parts of the report page, each from what lies in the output folder; a part whose artefacts are not there is
left out."""

from __future__ import annotations

from dataclasses import dataclass

from src.config import Config
from src.folds import Folds
from src.prepared import Prepared
from src.runs import RunFolder
from src.shifted import ShiftFolder


@dataclass(frozen=True)
class Findings:
    """What there is to report on."""

    config: Config
    prepared: Prepared
    folds: Folds | None
    shift: ShiftFolder | None
    runs: dict[str, RunFolder]
    """Finished runs of these reports, folds and noisy copies, best by select_on last."""
    others: list[str]
    """Names of finished runs that are of other ones."""

    @property
    def best(self) -> RunFolder | None:
        """The run that is looked into: the pipeline's blend, or the best."""
        return self.runs.get("blend") or (list(self.runs.values())[-1] if self.runs else None)
