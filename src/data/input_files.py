"""The competition's files in the input folder: which they are, and which of the known ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from src.core.errors import UserError
from src.core.settings import ROOT, Paths

KNOWN = {
    "5158ae58c8235d42833fbf122ccaa6cbf50c4dfb2432f23db9433e03146a3a6f": "track1_round1_train_20210222.csv",
    "f906ae729b853ebeaf8dbcb38a1ff9b43c53f60293979efa21eae7eed0c8d2c8": "track1_round1_train_20210222.csv (LF)",
    "74a036e17ffc7122aa2e65ede1dc738d47d4a5a8a43a84f46dc00d19c3e49caf": "track1_round1_testA_20210222.csv",
    "8eddbe72daae48797f7389225498d433852b2ffb8efe3345aea445149a6e7b3e": "track1_round1_testA_20210222.csv (LF)",
    "21736149bc2eb714000b4182e75ef5dabbc7cf73ad767d3d15d81c9fdb201a81": "track1_round1_testB.csv",
    "6df8957e6f020e8886254bacf950acaad6ea7bc6a0a1c41ab4ba7f1c667c8d9c": "track1_round1_testB.csv (LF)",
}
"""sha256 of the published files, as they circulate: with CRLF and with LF line ends."""


@dataclass(frozen=True)
class InputFiles:
    train: list[Path]
    test: list[Path]
    extra: list[Path]


def find_files(paths: Paths) -> InputFiles | None:
    """The train, test and extra files of the input folder, by name; None where no glob matches anything.

    Without test files there is nothing to submit, but models can be trained and scored. Raises UserError for a folder
    that does not exist, for other files without train files, for two test or two extra files of one name, and for a
    file that two globs match.
    """
    folder = paths.input
    if not folder.is_dir():
        raise UserError(f"paths.input: {folder} is not a folder")
    globs = {"train": paths.train, "test": paths.test, "extra": paths.extra}
    found = {role: sorted(path for path in folder.glob(glob) if path.is_file()) for role, glob in globs.items()}
    files = InputFiles(**found)
    others = files.test + files.extra
    if not files.train and not others:
        return None
    for path in files.train + others:
        roles = [role for role in found if path in found[role]]
        if len(roles) > 1:
            told = " and ".join(f"paths.{role} ({globs[role]})" for role in roles)
            raise UserError(f"{path} matches {told}. Rename it or narrow a glob.")
    if not files.train:
        raise UserError(f"no file in {folder} matches paths.train ({paths.train}), though {others[0].name} is there")
    for role, results in (("test", "submissions"), ("extra", "arrays")):
        stems = [path.stem for path in found[role]]
        for stem in stems:
            if stems.count(stem) > 1:
                raise UserError(f"two {role} files are called {stem}: their {results} would get in each other's way")
    return files


def describe_known(path: Path, sha256: str) -> str:
    """Says whether the file is one of the published ones, by its content or, with other content, by its name."""
    if sha256 in KNOWN:
        return f"the published {KNOWN[sha256]}"
    if path.name in KNOWN.values():
        return f"sha256 {sha256[:8]}…, not that of the published file of this name: changed, or a broken download?"
    return f"sha256 {sha256[:8]}…"


def is_default(paths: Paths) -> bool:
    """Whether the user has left the input folder where it is: only there the project puts sample data."""
    return paths.input == ROOT / "input"
