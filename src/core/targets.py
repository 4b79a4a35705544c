"""Target: one result of a stage, the files that hold it, and the fingerprint of what it is made from.

Whether a result is current, how far it is, and who may write it is decided here alone: stages, jobs, `status` and the
locks all ask a Target.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.core import array_files, storage
from src.core.errors import Damaged
from src.core.language import _
from src.core.terminal import warn_once

STATES = ("done", "running", "interrupted", "damaged", "stale", "missing", "unsure")
"""interrupted: begun, and the same command goes on from there; damaged: a file is not as it was written; stale: made
from other inputs, settings or code; unsure: it is there, but what it is made from is not."""
CHECKSUMS = "checksums"
"""Key of a result under which the checksums of its files are noted, by their paths from its folder."""


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

    def write(self, value: dict[str, Any], further: Iterable[Path] = ()) -> None:
        """Writes the result: the fingerprint, `value`, and the checksums of the files and of `further` ones."""
        folder = self.result.parent
        checksums = {os.path.relpath(path, folder): checksum(path) for path in (*self.files, *further)}
        storage.write_json(self.result, {"fingerprint": self.fingerprint, **value, CHECKSUMS: checksums})

    def is_current(self) -> bool:
        """Returns True if the result is made of what `fingerprint` stands for, and all files are as they were written.

        Warns of a damaged file.
        """
        try:
            return (
                self.fingerprint is not None
                and self.result.exists()
                and all(path.exists() for path in self.files)
                and self.noted(self.result) == self.fingerprint
                and self.is_whole()
                and self._is_sound()
            )
        except Damaged as error:
            warn_once(_("{what}. It counts as missing").format(what=error.what))
            return False

    def _is_sound(self) -> bool:
        """Returns False where a noted file is missing; raises Damaged where one is not as it was written."""
        return self.result.suffix != ".json" or check_files(self.result)

    def damage(self) -> str | None:
        """Describes the first damaged file; None where none is, or where the result is missing."""
        try:
            if self.result.exists():
                self._is_sound()
        except Damaged as error:
            return error.what
        return None

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
        if self.damage():
            return "damaged"
        return "stale" if self.result.exists() else "missing"


def checksum(path: Path, remedy: str = "") -> str:
    """Checksum of a file. Raises Damaged for an array that is not as it was written; `remedy`: the command that makes
    it."""
    return array_files.checksum(path, remedy) if path.suffix in (".npy", ".npz") else storage.file_sha256(path)


def check_files(result: Path, remedy: str = "") -> bool:
    """Compares the files that a result notes with their checksums; returns False where one is missing.

    Raises Damaged for the first that is not as it was written; `remedy`: the command, without ./run.sh, that makes it.
    """
    noted = storage.read_json(result, remedy).get(CHECKSUMS, {})
    files = {Path(os.path.normpath(result.parent / name)): expected for name, expected in noted.items()}
    for path, expected in files.items():
        if path.exists() and checksum(path, remedy) != expected:
            raise Damaged(path, _("its checksum is not the one that {file} notes").format(file=result), remedy)
    return all(path.exists() for path in files)


def check_file(path: Path, result: Mapping[str, Any], remedy: str) -> None:
    """Raises Damaged for a file that is not as the content of its `result` notes it; `remedy`: as for check_files()."""
    noted = result.get(CHECKSUMS, {}).get(path.name)
    if noted and checksum(path, remedy) != noted:
        raise Damaged(path, _("its checksum is not the one that {file} notes").format(file="its result.json"), remedy)


def made_by(result: Path) -> list[str]:
    """Words of the command that a result notes as its maker; none where it is missing or damaged, or notes none."""
    with contextlib.suppress(Damaged):
        return storage.read_json(result).get("made_by", []) if result.exists() else []
    return []
