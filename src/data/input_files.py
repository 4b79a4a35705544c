"""Train, test and extra files of the input folder, what else lies there, and checksums of the published files."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from src.core.errors import UserError
from src.core.language import _, word
from src.core.settings import CLINICAL, Paths
from src.data.file_kinds import SHEET, open_bytes
from src.data.line_parser import DELIMITER

KNOWN = {
    "5158ae58c8235d42833fbf122ccaa6cbf50c4dfb2432f23db9433e03146a3a6f": "track1_round1_train_20210222.csv",
    "f906ae729b853ebeaf8dbcb38a1ff9b43c53f60293979efa21eae7eed0c8d2c8": "track1_round1_train_20210222.csv (LF)",
    "74a036e17ffc7122aa2e65ede1dc738d47d4a5a8a43a84f46dc00d19c3e49caf": "track1_round1_testA_20210222.csv",
    "8eddbe72daae48797f7389225498d433852b2ffb8efe3345aea445149a6e7b3e": "track1_round1_testA_20210222.csv (LF)",
    "21736149bc2eb714000b4182e75ef5dabbc7cf73ad767d3d15d81c9fdb201a81": "track1_round1_testB.csv",
    "6df8957e6f020e8886254bacf950acaad6ea7bc6a0a1c41ab4ba7f1c667c8d9c": "track1_round1_testB.csv (LF)",
}
"""Name of each published file by its sha256, for the versions with CRLF and with LF line ends."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
"""Endings of archives and of compressed files."""
OTHER_ENDINGS = ("", ".txt", ".tsv", ".dat", ".xls", ".xlsx", ".et", ".csv~")
"""Endings that tables have beside .csv."""
WORKBOOKS = (".xls", ".xlsx", ".et")
"""Endings of workbooks of Excel and WPS."""
OWN_FOLDERS = {"sample", *CLINICAL.values()}
"""Folders in the project's input folder that are not for reports."""
LONGEST_NAME = 160
"""Bytes of a file's name: names of results are longer, and file systems take 255."""
LOOKED_AT = 1000
"""Entries of an inner folder that are looked at."""
ANSWERS = "answers"
"""Start of the names of files with the labels of a test, which commands read that name them; sample data has some."""
FIRST_BYTES = 4096
"""Bytes of a file of another name that are looked at, at most."""


@dataclass(frozen=True)
class InputFiles:
    """Paths of the input files by role, sorted by name. A set of stays may be a folder."""

    train: list[Path]
    test: list[Path]
    extra: list[Path] = field(default_factory=list)
    outcomes: dict[Path, Path] = field(default_factory=dict)
    """File of outcomes of each set of stays that has one."""
    overlooked: list[str] = field(default_factory=list)
    """A sentence about each entry of the folder that looks like input and is not read."""
    told: list[str] = field(default_factory=list)
    """A sentence about train files whose part depends on the others, see rounds.py."""
    rows: dict[str, Path] = field(default_factory=dict)
    """File of paths.exclude and of paths.weights, where there is one."""

    @property
    def roles(self) -> dict[str, list[Path]]:
        rows = {role: [path] for role, path in self.rows.items()}
        outcomes = list(self.outcomes.values())
        return {"train": self.train, "test": self.test, "extra": self.extra, "outcomes": outcomes, **rows}


def find_files(paths: Paths) -> InputFiles | None:
    """Returns the train, test and extra files of the input folder, sorted by name; None if nothing there looks like a
    file of reports.

    Test files are optional: without them models are trained and scored. Raises UserError for a missing folder, for test
    or extra files without train files, for two files of one role whose results would have one name, for a file that two
    globs match, for what a glob matches and cannot be read, and where the output folder is the input folder.
    """
    folder = paths.input
    if paths.output.resolve() == folder.resolve():
        raise UserError(
            _(
                "paths.output and paths.input are both {folder}, where a submission would be taken for a test file. "
                "Take another output folder, such as paths.output={other}"
            ).format(folder=folder, other=folder / "output")
        )
    globs = {"train": paths.train, "test": paths.test, "extra": paths.extra}
    entries = list_folder(folder)
    by_role = {role: sorted(folder.glob(glob)) for role, glob in globs.items()}
    known = {path.relative_to(folder).parts[0] for paths in by_role.values() for path in paths}
    known |= {name for name in entries if folder / name in (paths.output, *paths.output.parents)}
    unknown = [name for name in entries if name not in known]
    overlooked = _overlooked(folder, unknown, _globs(paths))
    for role, found in by_role.items():
        by_role[role], more = readable(found)
        overlooked += [sentence for sentence in more if sentence not in overlooked]
    tables = [path for path in _tables(folder, unknown, paths) if not path.name.startswith(ANSWERS)]
    beside = _unnamed(filter(_holds_reports, tables))
    files = InputFiles(**by_role, overlooked=overlooked + beside)
    others = files.test + files.extra
    if not files.train and not others:
        overlooked += _unnamed(_tables(folder, unknown, paths))
        return none_of(folder, f"{paths.train} or {paths.test} (paths.train, paths.test)", overlooked)
    for path in files.train + others:
        roles = [role for role in by_role if path in by_role[role]]
        if len(roles) > 1:
            keys = " and ".join(f"paths.{role} ({globs[role]})" for role in roles)
            raise UserError(_("{path} matches {keys}. Rename the file or narrow a glob.").format(path=path, keys=keys))
    if not files.train:
        raise UserError(
            "\n".join(
                [
                    f"no file in {folder} matches paths.train ({paths.train}), but {others[0].name} is there. "
                    "Add the train file or set paths.train.",
                    *overlooked,
                ]
            )
        )
    for role, results in (("train", "reports"), ("test", "submissions"), ("extra", "arrays")):
        names = [path.name if role == "train" else path.stem for path in by_role[role]]
        for name in names:
            if names.count(name) > 1:
                what = "name" if role == "train" else "stem"
                raise UserError(
                    _(
                        "{folder}: two {role} files have the {what} {name}, so their {results} could not be told "
                        "apart. Rename one."
                    ).format(folder=folder, role=role, what=what, name=name, results=word(results))
                )
    return files


def none_of(folder: Path, wanted: str, overlooked: list[str]) -> None:
    """Raises a UserError that lists what is `overlooked` in a folder without any file that is `wanted`; without such,
    sample data takes the files' place."""
    if overlooked:
        raise UserError("\n".join([f"no file in {folder} matches {wanted}:", *(f"  {one}" for one in overlooked)]))


def list_folder(folder: Path) -> list[str]:
    """Returns the names in an input folder, sorted. Raises UserError where it is missing or cannot be read."""
    if not folder.is_dir():
        raise UserError(_("paths.input: there is no folder {folder}").format(folder=folder))
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(
            _("paths.input: {folder} cannot be read: {reason}").format(folder=folder, reason=error.strerror)
        ) from error


def readable(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Returns the files among `paths`, and a sentence about each hidden file and each folder, which are not read.

    Raises UserError for a link that leads nowhere, a pipe, a file without permission, and a name that cannot be part of
    the names of results.
    """
    files, left = [], []
    for path in paths:
        if is_hidden(path.name):
            left.append(_("{path} is a hidden file and is not read").format(path=path))
        elif path.is_dir():
            left.append(_("{path} is a folder and is not read").format(path=path))
        else:
            check_name(path)
            open_bytes(path).close()
            files.append(path)
    return files, left


def is_hidden(name: str) -> bool:
    """Returns True for the names of hidden files, such as macOS's ._train.csv, and of locks of Office and WPS."""
    return name.startswith((".", "~$"))


def check_name(path: Path) -> None:
    """Raises UserError for a file whose name is not UTF-8, has control characters, or is too long for results."""
    try:
        size = len(path.name.encode())
    except UnicodeEncodeError:
        raise UserError(
            _("the name of {path} is not UTF-8. Rename the file.").format(path=repr(os.fsencode(path)))
        ) from None
    if not path.name.isprintable():
        raise UserError(
            _("the name of {path} has characters that cannot be printed. Rename the file.").format(path=repr(str(path)))
        )
    if size > LONGEST_NAME:
        raise UserError(
            _("the name of {path} has {size} bytes, expected at most {most}. Rename the file.").format(
                path=path, size=size, most=LONGEST_NAME
            )
        )


def _overlooked(folder: Path, entries: Iterable[str], globs: Iterable[str]) -> list[str]:
    """Returns a sentence about each of some entries of a folder, which no glob matches, that looks like a file of
    reports: in other letters, with another ending, in an archive or in an inner folder."""
    left = []
    for name in entries:
        path = folder / name
        if is_hidden(name) or name in OWN_FOLDERS:
            continue
        if not path.is_dir():
            if why := _looks_like_input(name, globs):
                left.append(_("{path} is not read: {why}").format(path=path, why=why))
        elif inner := next(filter(lambda name: _is_input(name, globs), first_names(path)), None):
            left.append(
                _("{path} is a folder and is not read, but holds {inner}. Move that up, or paths.input={path}").format(
                    path=path, inner=inner
                )
            )
    return left


def _tables(folder: Path, entries: Iterable[str], paths: Paths) -> list[Path]:
    """Returns the CSV files among some entries of a folder, which no glob matches, in whatever letters."""
    rows, globs = {path.resolve() for path in (paths.exclude, paths.weights) if path is not None}, _globs(paths)
    found = [folder / name for name in entries if name.endswith(".csv") and not is_hidden(name)]
    found = [path for path in found if not _looks_like_input(path.name, globs)]
    return [path for path in found if path.is_file() and path.resolve() not in rows]


def _globs(paths: Paths) -> list[str]:
    """Returns the globs that name files of the folder itself, not of inner folders."""
    return [glob for glob in (paths.train, paths.test, paths.extra) if "/" not in glob]


def _unnamed(tables: Iterable[Path]) -> list[str]:
    """Returns a sentence about each of some CSV files that no glob matches."""
    why = _("no setting matches its name. If it is a file of reports, put train or test into the name")
    return [_("{path} is not read: {why}").format(path=path, why=why) for path in tables]


def _holds_reports(path: Path) -> bool:
    """Returns True where a file starts like one of reports: an id, the delimiter, tokens. Submissions have numbers with
    a point there."""
    try:
        with path.open("rb") as file:
            fields = file.readline(FIRST_BYTES).split(DELIMITER)
    except OSError:
        return False
    return len(fields) > 1 and bool(fields[1].split()) and all(token.isdigit() for token in fields[1].split())


def _looks_like_input(name: str, globs: Iterable[str]) -> str:
    """Returns why a file is not read that looks like input; empty where it does not look so."""
    if name.lower().endswith(ARCHIVES):
        return _("it is an archive. Unpack it")
    for glob in globs:
        if fnmatch.fnmatchcase(name.lower(), glob.lower()):
            return _("{glob} tells capital letters from small ones. Rename it").format(glob=glob)
        is_other = PurePath(name).suffix.lower() in OTHER_ENDINGS or ".csv." in name.lower()
        if is_other and fnmatch.fnmatchcase(name.lower(), f"{PurePath(glob).stem.lower()}*"):
            if PurePath(name).suffix.lower() in WORKBOOKS:
                return _("it is a workbook. {sheet}").format(sheet=SHEET)
            return _("{glob} wants another ending. Rename it if it is a file of reports").format(glob=glob)
    return ""


def _is_input(name: str, globs: Iterable[str]) -> bool:
    return not is_hidden(name) and any(fnmatch.fnmatchcase(name.lower(), glob.lower()) for glob in globs)


def first_names(folder: Path) -> list[str]:
    """Returns the first names in an inner folder; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry, _ in zip(entries, range(LOOKED_AT), strict=False))
    except OSError:
        return []


def describe_known(path: Path, sha256: str) -> str:
    """Returns the published name of a file with this checksum, or the checksum; warns if only the name is known."""
    if sha256 in KNOWN:
        return f"the published {KNOWN[sha256]}"
    if path.name in KNOWN.values():
        return f"sha256 {sha256[:8]}… differs from the published file of this name: changed, or a broken download?"
    return f"sha256 {sha256[:8]}…"
