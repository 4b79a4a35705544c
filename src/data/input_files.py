"""Train, test and extra files of the input folder, and checksums of the published files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from src.core.errors import UserError
from src.core.settings import Paths

KNOWN = {
    "5158ae58c8235d42833fbf122ccaa6cbf50c4dfb2432f23db9433e03146a3a6f": "track1_round1_train_20210222.csv",
    "f906ae729b853ebeaf8dbcb38a1ff9b43c53f60293979efa21eae7eed0c8d2c8": "track1_round1_train_20210222.csv (LF)",
    "74a036e17ffc7122aa2e65ede1dc738d47d4a5a8a43a84f46dc00d19c3e49caf": "track1_round1_testA_20210222.csv",
    "8eddbe72daae48797f7389225498d433852b2ffb8efe3345aea445149a6e7b3e": "track1_round1_testA_20210222.csv (LF)",
    "21736149bc2eb714000b4182e75ef5dabbc7cf73ad767d3d15d81c9fdb201a81": "track1_round1_testB.csv",
    "6df8957e6f020e8886254bacf950acaad6ea7bc6a0a1c41ab4ba7f1c667c8d9c": "track1_round1_testB.csv (LF)",
}
"""Name of each published file by its sha256, for the versions with CRLF and with LF line ends."""


@dataclass(frozen=True)
class InputFiles:
    """Paths of the input files by role, sorted by name. A set of stays may be a folder."""

    train: list[Path]
    test: list[Path]
    extra: list[Path] = field(default_factory=list)
    outcomes: dict[Path, Path] = field(default_factory=dict)
    """File of outcomes of each set of stays that has one."""

    @property
    def roles(self) -> dict[str, list[Path]]:
        return {"train": self.train, "test": self.test, "extra": self.extra, "outcomes": list(self.outcomes.values())}


def find_files(paths: Paths) -> InputFiles | None:
    """Returns the train, test and extra files of the input folder, sorted by name; None if no glob matches a file.

    Test files are optional: without them models are trained and scored. Raises UserError for a missing folder, for test
    or extra files without train files, for two test or two extra files of one stem, and for a file that two globs
    match.
    """
    folder = paths.input
    if not folder.is_dir():
        raise UserError(f"paths.input: there is no folder {folder}")
    globs = {"train": paths.train, "test": paths.test, "extra": paths.extra}
    by_role = {role: sorted(path for path in folder.glob(glob) if path.is_file()) for role, glob in globs.items()}
    files = InputFiles(**by_role)
    others = files.test + files.extra
    if not files.train and not others:
        return None
    for path in files.train + others:
        roles = [role for role in by_role if path in by_role[role]]
        if len(roles) > 1:
            keys = " and ".join(f"paths.{role} ({globs[role]})" for role in roles)
            raise UserError(f"{path} matches {keys}. Rename the file or narrow a glob.")
    if not files.train:
        raise UserError(
            f"no file in {folder} matches paths.train ({paths.train}), but {others[0].name} is there. "
            "Add the train file or set paths.train."
        )
    for role, results in (("test", "submissions"), ("extra", "arrays")):
        stems = [path.stem for path in by_role[role]]
        for stem in stems:
            if stems.count(stem) > 1:
                raise UserError(
                    f"{folder}: two {role} files have the stem {stem}, so their {results} would overwrite each other. "
                    "Rename one."
                )
    return files


def describe_known(path: Path, sha256: str) -> str:
    """Returns the published name of a file with this checksum, or the checksum; warns if only the name is known."""
    if sha256 in KNOWN:
        return f"the published {KNOWN[sha256]}"
    if path.name in KNOWN.values():
        return f"sha256 {sha256[:8]}… differs from the published file of this name: changed, or a broken download?"
    return f"sha256 {sha256[:8]}…"
