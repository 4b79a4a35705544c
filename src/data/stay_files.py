"""Files of a set of stays, in the order of their RecordID, from a folder, a zip or a tar as downloaded.

Nothing is unpacked to disk. Memory is that of the list of files and of one file, for a tar also BUDGET bytes: a tar up
to this size is read once, a larger one twice, or, if it is not in order, once for each BUDGET bytes.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from src.core.errors import UserError
from src.data.line_parser import SHOWN, open_bytes, show

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
    """The first SHOWN errors of the files of a set, and the number of all errors."""

    path: Path
    first: list[str] = field(default_factory=list)
    total: int = 0

    def add(self, place: str, message: str, line: int | None = None) -> None:
        """Adds an error of the file `place`, in `line` from 1."""
        self.total += 1
        if len(self.first) < SHOWN:
            place = place.encode(errors="backslashreplace").decode()  # a name of a file may be no valid Unicode
            self.first.append(f"  {place}{'' if line is None else f', line {line}'}: {message}")

    def throw(self) -> None:
        """Raises a UserError that lists the errors, if there are errors."""
        if self.total:
            head = f"{self.path}: {self.total:,} error{'s' * (self.total > 1)}"
            head += f", the first {SHOWN}:" if self.total > SHOWN else ":"
            raise UserError("\n".join([head, *self.first]))


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
        what = str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read ({what}). Download it again.") from error


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
    what = "no archive" if head else "empty"
    raise UserError(f"{path} is {what}; expected a folder, a zip or a tar of stays as downloaded")


def _record(place: str, errors: FileErrors) -> int | None:
    """Returns the RecordID in the name of a file; None for a file that is left out."""
    parts = PurePosixPath(place).parts
    if not parts or any(part.startswith(".") and part not in (".", "..") or part == "__MACOSX" for part in parts):
        return None
    if found := NAME.fullmatch(parts[-1]):
        return int(found[1])
    if "0" <= parts[-1][0] <= "9":
        errors.add(show(place.encode(errors="replace"), 200), "expected a name like 132539.txt, the RecordID")
    return None


def _in_order(found: list[tuple[int, str, int]], errors: FileErrors) -> list[tuple[int, str, int]]:
    """Returns (RecordID, place, number of the file) in order, each RecordID once."""
    found.sort()
    kept = []
    for one in found:
        if kept and kept[-1][0] == one[0]:
            errors.add(one[1], f"the stay {one[0]} is in {kept[-1][1]} too; remove one of the files")
        else:
            kept.append(one)
    return kept


def _text(file: BinaryIO) -> bytes:
    """Returns the text of a file, at most one byte more than a file may have."""
    with file:
        return file.read(LARGEST_FILE + 1)


def _checked(text: bytes, place: str, record: int, errors: FileErrors) -> Iterator[StayFile]:
    if len(text) > LARGEST_FILE:
        errors.add(place, f"more than {LARGEST_FILE:,} bytes, too many for the 48 hours of a stay")
    else:
        yield StayFile(place, record, text)


def _from_folder(path: Path, errors: FileErrors) -> Iterator[StayFile]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error

    found = []
    for folder, folders, names in os.walk(path, onerror=refuse):
        folders.sort()
        inner = os.path.relpath(folder, path)
        for name in names:
            place = name if inner == "." else f"{inner}/{name}"
            if (record := _record(place, errors)) is not None:
                found.append((record, place, 0))
    for record, place, _ in _in_order(found, errors):
        yield from _checked(_text(open_bytes(path / place)), place, record, errors)


def _from_zip(path: Path, errors: FileErrors) -> Iterator[StayFile]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        found = []
        for number, member in enumerate(members):
            if not member.is_dir() and (record := _record(member.filename, errors)) is not None:
                found.append((record, member.filename, number))
        for record, place, number in _in_order(found, errors):
            yield from _checked(_text(archive.open(members[number])), place, record, errors)


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
    found, sizes, held, size = [], [], {}, 0
    for number, (member, archive) in enumerate(_members(path)):
        sizes.append(min(member.size, LARGEST_FILE))
        if member.isdir() or (record := _record(member.name, errors)) is None:
            continue
        if not member.isreg():
            errors.add(member.name, "a link or a special file, expected a file")
            continue
        found.append((record, member.name, number))
        size += sizes[-1]
        if size <= BUDGET:
            held[number] = _text(archive.extractfile(member))
        else:
            held.clear()
    found = _in_order(found, errors)
    if size <= BUDGET:
        for record, place, number in found:
            yield from _checked(held.pop(number), place, record, errors)
        return
    numbers = [number for _, _, number in found]
    if numbers == sorted(numbers):
        yield from _gathered(path, found, errors)
        return
    for part in _parts(found, sizes):
        files = list(_gathered(path, sorted(part, key=lambda one: one[2]), errors))
        yield from sorted(files, key=lambda file: file.record)


def _gathered(path: Path, wanted: list[tuple[int, str, int]], errors: FileErrors) -> Iterator[StayFile]:
    """Yields the `wanted` files of a tar, which are in the order of the archive."""
    at = 0
    for number, (member, archive) in enumerate(_members(path)):
        if at < len(wanted) and number == wanted[at][2]:
            record, place, _ = wanted[at]
            at += 1
            yield from _checked(_text(archive.extractfile(member)), place, record, errors)


def _parts(found: list[tuple[int, str, int]], sizes: list[int]) -> Iterator[list[tuple[int, str, int]]]:
    """Cuts a list of files where the files would be more than BUDGET bytes."""
    part, size = [], 0
    for one in found:
        size += sizes[one[2]]
        if part and size > BUDGET:
            yield part
            part, size = [], sizes[one[2]]
        part.append(one)
    if part:
        yield part
