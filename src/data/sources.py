"""Sources: reports, stays and images. Each finds its files in the input folder and makes sample data of the same form.

To add one: a class here, its tasks in SOURCES, and how ./run.sh prepare encodes it (pipeline/stages/prepare.py).
"""

from __future__ import annotations

import abc
import contextlib
import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.core.settings import CLINICAL, ROOT, Config, Paths
from src.data import input_files
from src.data.file_kinds import open_bytes
from src.data.input_files import InputFiles


class Source(abc.ABC):
    noun: str
    """Name of its rows."""
    sample: str
    """Module of the sample data, with FILES, NOTE, arguments(), is_complete(), was_made_with() and make_sample()."""

    @abc.abstractmethod
    def find(self, settings: Config, folder: Path) -> InputFiles | None:
        """Returns the files of `folder` by role, None where there are none. Raises UserError like find_files()."""

    @abc.abstractmethod
    def sample_rows(self, settings: Config) -> int:
        """Returns the number of rows of the sample data, train and test."""

    @abc.abstractmethod
    def count_rows(self, files: InputFiles) -> int | None:
        """Returns about how many rows the files have, in little memory and without decoding them; None where only
        reading them would tell. Broken files are no error here: ./run.sh prepare says what is wrong with them."""

    def described(self, settings: Config) -> str:
        """Names the files that it looks for."""
        files = _("{train} or {test} (paths.train, paths.test)")
        return files.format(train=settings.paths.train, test=settings.paths.test)

    def checksum(self, path: Path) -> str:
        """Returns a text that is another one if the content of an input file or folder is another."""
        return storage.file_sha256(path)

    def name(self, path: Path) -> str:
        """Returns the name of an input file in the manifest and in the names of results."""
        return path.name

    @property
    def synthetic(self) -> ModuleType:
        return importlib.import_module(self.sample)


class ReportSource(Source):
    noun, sample = "reports", "src.data.synthetic"

    def find(self, settings: Config, folder: Path) -> InputFiles | None:
        """Raises UserError, too, where train files of both rounds are there and nothing says which to predict."""
        files = input_files.find_files(settings.paths.model_copy(update={"input": folder}))
        if files is None or len(files.train) < 2 or settings.is_clinical:  # clinical: another task's files are named
            return files
        from src.data.rounds import with_parts  # NumPy: --help need not wait

        if settings.domains.rounds == "pooled":
            return files
        return with_parts(files, settings.task)

    def sample_rows(self, settings: Config) -> int:
        return settings.sample.rows + 2 * settings.sample.test_rows

    def count_rows(self, files: InputFiles) -> int | None:
        return _sum(_lines(path) for path in (*files.train, *files.test, *files.extra))


class StaySource(Source):
    noun, sample = "stays", "src.data.synthetic_stays"

    def find(self, settings: Config, folder: Path) -> InputFiles | None:
        """Sets of stays: those that match paths.train are trained on, others that match paths.test are tests."""
        from src.data.series_reader import find_sets, overlooked_sets, split_sets  # NumPy: --help need not wait

        sets = find_sets(folder)
        overlooked = overlooked_sets(folder, sets)
        if not sets:
            return input_files.none_of(folder, self.described(settings), overlooked)
        try:
            train, test = split_sets(sets, settings.paths.train, settings.paths.test)
        except UserError as error:
            raise UserError("\n".join([str(error), *overlooked])) from error
        outcomes = {one.stays: one.outcomes for one in sets.values() if one.outcomes is not None}
        chosen = [one.stays for one in train], [one.stays for one in test]
        return InputFiles(*chosen, outcomes=outcomes, overlooked=overlooked)

    def sample_rows(self, settings: Config) -> int:
        return settings.sample.rows + settings.sample.test_rows

    def count_rows(self, files: InputFiles) -> int | None:
        """Lines of the outcomes below their header, or, of a set without outcomes, its files; None with a tar."""
        from src.data.stay_files import count_stays  # NumPy: --help need not wait

        def of(path: Path) -> int | None:
            if path not in files.outcomes:
                return count_stays(path)
            lines = _lines(files.outcomes[path])
            return lines and lines - 1

        return _sum(of(path) for path in (*files.train, *files.test))

    def name(self, path: Path) -> str:
        """Returns the name of a set without its suffix: set-a."""
        return path.name.partition(".")[0]

    def described(self, settings: Config) -> str:
        return _("set-a (a folder, .zip or .tar.gz) with Outcomes-a.txt")

    def checksum(self, path: Path) -> str:
        return storage.folder_sha256(path) if path.is_dir() else storage.file_sha256(path)


class ImageSource(Source):
    noun, sample = "images", "src.data.image_reader"

    def find(self, settings: Config, folder: Path) -> InputFiles | None:
        """The .npz files of the folder; images of their test parts are test images."""
        paths, overlooked = input_files.readable(sorted(folder.glob("*.npz"))) if folder.is_dir() else ([], [])
        if not paths:
            return input_files.none_of(folder, self.described(settings), overlooked)
        return InputFiles(paths, [], overlooked=overlooked)

    def sample_rows(self, settings: Config) -> int:
        from src.data.image_reader import SAMPLE_DIGITS

        return SAMPLE_DIGITS

    def count_rows(self, files: InputFiles) -> int | None:
        from src.data.image_reader import count_images  # NumPy: --help need not wait

        return _sum(count_images(path) for path in files.train)

    def described(self, settings: Config) -> str:
        return _("one .npz file with images and labels")


SOURCES = {"icu": StaySource(), "los": StaySource(), "frames": ImageSource()}


def _sum(counts: Iterable[int | None]) -> int | None:
    """Returns the sum; None where one of the counts is not known."""
    known = list(counts)
    return None if None in known else sum(one for one in known if one is not None)


def _lines(path: Path) -> int | None:
    """Returns the number of lines of a file; None where it cannot be read."""
    number, last = 0, b"\n"
    try:
        with open_bytes(path) as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                number, last = number + block.count(b"\n"), block[-1:]
    except (OSError, UserError):
        return None
    return number + (last != b"\n")


def source_of(settings: Config) -> Source:
    """The source of the task that settings name."""
    return SOURCES.get(settings.task) or ReportSource()


def find_files(settings: Config) -> InputFiles | None:
    """Returns the files of the input folder by role; None where it holds none of any task. Raises UserError like
    Source.find(), for a folder with files of another task alone, and where there is no folder, unless it is the task's
    own, which sample data makes."""
    if is_default(settings) and not settings.paths.input.is_dir():
        return None
    try:
        found = source_of(settings).find(settings, settings.paths.input)
    except UserError as error:
        raise UserError("\n".join(filter(None, [str(error), _of_another_task(settings)]))) from None
    if found is None and (told := _of_another_task(settings)):
        raise UserError(
            _("no file matches {settings}: {told}").format(settings=source_of(settings).described(settings), told=told)
        )
    return found


def round_of(settings: Config, files: InputFiles) -> str | None:
    """Returns the round whose labels the train files of reports hold; None for other tasks, and where no first line
    tells."""
    if settings.is_clinical:
        return None
    from src.data import rounds  # NumPy: --help need not wait

    return next(filter(None, map(rounds.round_of, files.train)), None)


def row_files(settings: Config) -> dict[str, Path]:
    """Returns the files of paths.exclude and paths.weights by role. Raises UserError for one that is not there."""
    wanted = {"exclude": settings.paths.exclude, "weights": settings.paths.weights}
    found = {role: path for role, path in wanted.items() if path is not None}
    for role, path in found.items():
        try:
            open_bytes(path).close()
        except UserError as error:
            raise UserError(_("paths.{role}: {error}").format(role=role, error=error)) from None
    return found


def _of_another_task(settings: Config) -> str:
    """Returns a sentence about files of another task in the input folder; empty where there are none."""
    folder = settings.paths.input
    for tasks, source in (("icu or los", SOURCES["icu"]), ("frames", SOURCES["frames"]), ("auto", ReportSource())):
        globs = {"train": "set-a", "test": "set-*"} if source is SOURCES["icu"] else {}
        usual = settings.model_copy(update={"paths": Paths(input=folder, **globs)})
        with contextlib.suppress(UserError):
            if type(source) is not type(source_of(settings)) and (files := source.find(usual, folder)):
                names = ", ".join(path.name for path in files.train[:3])
                return f"{names} in {folder} is input of another task; choose --task {tasks}"
    return ""


def checksums(settings: Config, files: InputFiles) -> list[list[str]]:
    """Returns role, name and checksum of each input file. Every byte of them is read, for a time and a size may be the
    same for another content."""
    source = source_of(settings)
    return [[role, path.name, source.checksum(path)] for role, paths in files.roles.items() for path in paths]


def is_default(settings: Config) -> bool:
    """Returns True if the input folder is the task's own, the only folder that gets sample data."""
    own = ROOT / "input" / CLINICAL[settings.task] if settings.is_clinical else ROOT / "input"
    return settings.paths.input == own


def sample_folder(settings: Config) -> Path:
    return settings.paths.input / "sample"
