"""Target: one result of a stage, the files that hold it, and the fingerprint of what it is made from.

Whether a result is current, how far it is, and who may write it is decided here alone: stages, jobs, `status` and the
locks all ask a Target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.core import storage

STATES = ("done", "running", "interrupted", "stale", "missing", "unsure")
"""interrupted: begun, and the same command goes on from there; stale: made from other inputs, settings or code; unsure:
it is there, but what it is made from is not."""


def json_fingerprint(result: Path) -> str | None:
    """The fingerprint noted in a JSON result."""
    return storage.read_json(result).get("fingerprint")


@dataclass(frozen=True)
class Target:
    name: str
    """Part of the stage, such as the run's name; empty where a stage has one result."""
    result: Path
    """File that is written last and notes the fingerprint."""
    fingerprint: str | None
    """Stands for all inputs, settings and the VERSION; None where an input is missing."""
    files: tuple[Path, ...] = ()
    """Files that belong to the result and are written before it."""
    noted: Callable[[Path], str | None] = json_fingerprint
    """Reads the fingerprint from the result."""
    is_whole: Callable[[], bool] = lambda: True
    """A further condition, asked only of a result with the right fingerprint."""

    def is_current(self) -> bool:
        return (
            self.fingerprint is not None
            and self.result.exists()
            and all(path.exists() for path in self.files)
            and self.noted(self.result) == self.fingerprint
            and self.is_whole()
        )

    def state(self, is_running: bool = False, is_begun: bool = False) -> str:
        """One of STATES; `is_running`: a process writes it now; `is_begun`: a part of it is done and kept."""
        if self.is_current():
            return "done"
        if is_running:
            return "running"
        if self.fingerprint is None:
            return "unsure" if self.result.exists() else "missing"
        if is_begun:
            return "interrupted"
        return "stale" if self.result.exists() else "missing"
