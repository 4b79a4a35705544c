"""Files of a set of stays, in the order of their RecordID, from a folder, a zip or a tar as downloaded.

Nothing is unpacked to disk. Memory is that of the list of files, some 100 bytes a file, and of one file, for a tar also
BUDGET bytes: a tar up to this size is read once, a larger one twice, or, if it is not in order, once for each BUDGET
bytes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.core.errors import UserError
from src.core.language import _
from src.data.file_kinds import EXPECTED, open_bytes, refuse_other_kinds, show
from src.data.line_parser import COUNTED, SHOWN, count_errors
from src.data.packed_zip import PackedZip, Texts

LARGEST_FILE = 4 << 20
"""Bytes of a stay's file; a value a minute of all parameters would be 2 MB."""
BUDGET = 128 << 20
"""Bytes of a tar's files held at a time."""
NAME = re.compile(r"([0-9]{1,15})\.txt")
OPENERS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open,
}  # fmt: skip
"""Decompressor by the first bytes of a file."""
BROKEN = (
    OSError, EOFError, ValueError, RuntimeError, LookupError, struct.error, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
"""Errors that the libraries raise for broken archives."""


@dataclass
class FileErrors:
    """The first SHOWN errors of the files of a set, and the number of all errors up to COUNTED."""

    path: Path
    first: list[str] = field(default_factory=list)
    total: int = 0

    def add(self, place: str, message: str, line: int | None = None) -> None:
        """Adds an error of the file `place`, in `line` from 1."""
        self.total += 1
        if len(self.first) < SHOWN:
            place = place.encode(errors="backslashreplace").decode()  # a name of a file may be no valid Unicode
            self.first.append(f"  {place}{'' if line is None else f', line {line}'}: {message}")

    @property
    def is_full(self) -> bool:
        """Returns True where further errors need not be looked for."""
        return self.total >= COUNTED

    def throw(self) -> None:
        """Raises a UserError that lists the errors, if there are errors."""
        if self.total:
            raise UserError("\n".join([f"{self.path}: {count_errors(self.total)}", *self.first]))


@dataclass(frozen=True)
class StayFile:
    """File of one stay."""

    place: str
    """Path inside the set, for messages."""
    record: int
    text: bytes


def stay_files(path: Path, errors: FileErrors) -> Iterator[StayFile]:
    """Yields the files of a set in the order of their RecordID, each once; adds what is wrong with a name to `errors`.

    Hidden files (macOS writes a `._` file beside each file), `__MACOSX` and files that begin with no digit are left
    out. Raises UserError for a path that is no folder and no archive, and for a broken archive.
    """
    try:
        yield from _reader(path)(path, errors)
    except BROKEN as error:
        if not path.is_dir():
            refuse_other_kinds(path, "set")
        what = str(error) or type(error).__name__
        raise UserError(_("{path} cannot be read ({what}). Download it again.").format(path=path, what=what)) from error


def _reader(path: Path) -> Callable[[Path, FileErrors], Iterator[StayFile]]:
    """Returns the reader of this form of a set. Raises UserError for what is no folder and no archive."""
    if path.is_dir():
        return _from_folder
    with open_bytes(path) as file:
        head = file.read(512)
    if head.startswith(b"PK"):
        return _from_zip
    if head.startswith((*OPENERS,)) or head[257:262] == b"ustar":
        return _from_tar
    refuse_other_kinds(path, "set")
    raise UserError(_("{path} is no archive; expected {set}").format(path=path, set=EXPECTED["set"]))


def count_stays(path: Path) -> int | None:
    """Returns the number of files of stays in a folder or a zip, by their names alone; None for a tar, whose names are
    only found by unpacking it, and for what cannot be read."""
    errors = FileErrors(path)
    try:
        if path.is_dir():
            places = (name for _folder, _folders, names in os.walk(path) for name in names)
            return sum(_record(place, errors) is not None for place in places)
        if _reader(path) is _from_zip:
            with PackedZip(path) as archive:
                return sum(_record(member.filename, errors) is not None for member in archive.filelist)
    except (UserError, *BROKEN):
        pass
    return None


def _record(place: str, errors: FileErrors) -> int | None:
    """Returns the RecordID in the name of a file; None for a file that is left out."""
    # No PurePosixPath, which keeps all names ever seen in memory.
    parts = [part for part in place.split("/") if part not in ("", ".")]
    if not parts or any(part.startswith(".") and part != ".." or part == "__MACOSX" for part in parts):
        return None
    if found := NAME.fullmatch(parts[-1]):
        return int(found[1])
    if "0" <= parts[-1][0] <= "9":
        errors.add(show(place.encode(errors="replace"), 200), _("expected a name like 132539.txt, the RecordID"))
    return None


class _Listing:
    """RecordID, place in the set and number in the archive of each file of a set, some 50 bytes a file."""

    def __init__(self) -> None:
        self.records, self.numbers, self.places = array("q"), array("q"), Texts()

    def add(self, record: int, place: str, number: int) -> None:
        self.records.append(record)
        self.numbers.append(number)
        self.places.append(place)

    def in_order(self, errors: FileErrors) -> np.ndarray:
        """Returns the files in the order of their RecordID, each RecordID once, as places in the listing."""
        records = np.array(self.records, np.int64)
        order = np.argsort(records, kind="stable")
        if not (np.diff(records[order]) == 0).any():
            return order
        order = np.array(sorted(order.tolist(), key=lambda file: (records[file], self.places[file])))
        kept = np.flatnonzero(np.diff(records[order], prepend=-1))
        for at in np.setdiff1d(np.arange(len(order)), kept).tolist():
            first = order[kept[np.searchsorted(kept, at) - 1]]
            other = f"the stay {records[first]} is in {self.places[first]} too; remove one of the files"
            errors.add(self.places[order[at]], other)
        return order[kept]


def _text(file: BinaryIO) -> bytes:
    """Returns the text of a file, at most one byte more than a file may have."""
    with file:
        return file.read(LARGEST_FILE + 1)


def _checked(text: bytes, place: str, record: int, errors: FileErrors) -> Iterator[StayFile]:
    if len(text) > LARGEST_FILE:
        errors.add(
            place,
            _("more than {most:,} bytes, too many for the 48 hours of a stay").format(most=LARGEST_FILE),
        )
    else:
        yield StayFile(place, record, text)


def _from_folder(path: Path, errors: FileErrors) -> Iterator[StayFile]:
    def refuse(error: OSError) -> None:
        raise UserError(
            _("{filename} cannot be read: {strerror}").format(filename=error.filename, strerror=error.strerror)
        ) from error

    found = _Listing()
    for folder, folders, names in os.walk(path, onerror=refuse):
        folders.sort()
        inner = os.path.relpath(folder, path)
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                errors.add(name if inner == "." else f"{inner}/{name}", _("a link to a folder, which is not followed"))
        for name in names:
            place = name if inner == "." else f"{inner}/{name}"
            if (record := _record(place, errors)) is not None:
                found.add(record, place, 0)
    for file in found.in_order(errors):
        place = found.places[file]
        try:
            text = _text(open_bytes(path / place))
        except UserError as error:  # a link that leads nowhere, a pipe, no permission
            errors.add(place, str(error))
            continue
        yield from _checked(text, place, found.records[file], errors)


def _from_zip(path: Path, errors: FileErrors) -> Iterator[StayFile]:
    with PackedZip(path) as archive:
        found = _Listing()
        for number, member in enumerate(archive.filelist):
            if not member.is_dir() and (record := _record(member.filename, errors)) is not None:
                found.add(record, member.filename, number)
        for file in found.in_order(errors):
            text = _text(archive.open(archive.filelist[found.numbers[file]]))
            yield from _checked(text, found.places[file], found.records[file], errors)


class _Counted:
    """Stream that knows how many bytes it gave and where the last byte lies that is not 0."""

    def __init__(self, stream: BinaryIO):
        self.stream, self.size, self.end = stream, 0, 0

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        if used := len(data.rstrip(b"\0")):
            self.end = self.size + used
        self.size += len(data)
        return data


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Yields the members of a tar in the order of the archive. Raises tarfile.ReadError for one without its end."""
    with open_bytes(path) as raw:
        opener = next((opener for head, opener in OPENERS.items() if raw.peek(8).startswith(head)), None)
        stream = _Counted(opener(raw) if opener else raw)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            while member := archive.next():
                yield member, archive
                archive.members = []  # otherwise tarfile keeps all members
        while stream.read(1 << 20):
            pass
        # tarfile takes a broken header and a missing end for the end of the archive.
        if stream.end > archive.offset or stream.size < archive.offset + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("truncated or damaged: the end of the archive is not where its members end")


def _from_tar(path: Path, errors: FileErrors) -> Iterator[StayFile]:
    found, sizes, held, size = _Listing(), array("q"), {}, 0
    for number, (member, archive) in enumerate(_members(path)):
        if member.isdir() or (record := _record(member.name, errors)) is None:
            continue
        if not member.isreg():
            errors.add(member.name, _("a link or a special file, expected a file"))
            continue
        sizes.append(min(member.size, LARGEST_FILE))
        size += sizes[-1]
        if size <= BUDGET:
            held[len(found.records)] = _text(archive.extractfile(member))
        else:
            held.clear()
        found.add(record, member.name, number)
    files = found.in_order(errors)
    if size <= BUDGET:
        for file in files:
            yield from _checked(held.pop(file), found.places[file], found.records[file], errors)
        return
    if (np.diff(files) > 0).all():
        yield from _gathered(path, found, files, errors)
        return
    part_of = np.cumsum(np.array(sizes)[files]) // BUDGET
    for part in np.split(files, np.flatnonzero(np.diff(part_of)) + 1):
        texts = list(_gathered(path, found, np.sort(part), errors))
        yield from sorted(texts, key=lambda file: file.record)


def _gathered(path: Path, found: _Listing, wanted: np.ndarray, errors: FileErrors) -> Iterator[StayFile]:
    """Yields the `wanted` files of a tar, which are places in the listing in the order of the archive."""
    at = 0
    for number, (member, archive) in enumerate(_members(path)):
        if at < len(wanted) and number == found.numbers[wanted[at]]:
            record, place = found.records[wanted[at]], found.places[wanted[at]]
            at += 1
            yield from _checked(_text(archive.extractfile(member)), place, record, errors)
