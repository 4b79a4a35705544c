"""Zip archives of a million members: ZipFile keeps about 700 bytes a member, PackedZip about 80."""

from __future__ import annotations

import zipfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

NUMBERS = {
    "header_offset": "q", "compress_size": "Q", "file_size": "Q", "CRC": "I", "external_attr": "I", "flag_bits": "H",
    "compress_type": "H",
}  # fmt: skip
"""Fields that are kept of a member beside its name, by type. Dates, comments and extra fields are not."""


class Texts:
    """List of texts in one piece of memory."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> str:
        start = self._ends[place - 1] if place else 0
        return self._bytes[start : self._ends[place]].decode(errors="surrogateescape")

    def append(self, text: str) -> None:
        self._bytes += text.encode(errors="surrogateescape")
        self._ends.append(len(self._bytes))


class _Members:
    """List of ZipInfo that makes them anew."""

    def __init__(self) -> None:
        self.is_complete = False
        self._names, self._numbers = Texts(), {name: array(kind) for name, kind in NUMBERS.items()}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        # While an archive is opened, some versions of Python sort all members by their place, at once.
        return map(self.__getitem__, range(len(self) if self.is_complete else 0))

    def __getitem__(self, place: int) -> zipfile.ZipInfo:
        member = zipfile.ZipInfo(self._names[place])
        for name, numbers in self._numbers.items():
            setattr(member, name, numbers[place])
        return member

    def append(self, member: zipfile.ZipInfo) -> None:
        self._names.append(member.orig_filename)
        try:
            for name, numbers in self._numbers.items():
                numbers.append(getattr(member, name))
        except OverflowError:
            raise zipfile.BadZipFile(f"{name} of {member.orig_filename!r} is {getattr(member, name)}") from None


class _NoNames(dict[str, zipfile.ZipInfo]):
    """Dictionary that stays empty: members are found by their place."""

    def __setitem__(self, name: str, member: zipfile.ZipInfo) -> None:
        pass


class PackedZip(zipfile.ZipFile):
    """ZipFile for many members without dates, which are found by their place in filelist and by no name."""

    def __init__(self, path: Path, mode: Literal["r", "w"] = "r"):
        self._members, self._no_names = _Members(), _NoNames()
        super().__init__(path, mode)
        self._members.is_complete = True

    @property
    def filelist(self) -> _Members:
        return self._members

    @filelist.setter
    def filelist(self, value: list[zipfile.ZipInfo]) -> None:
        """Ignores the list that ZipFile starts with."""

    @property
    def NameToInfo(self) -> _NoNames:  # noqa: N802, a name of ZipFile
        return self._no_names

    @NameToInfo.setter
    def NameToInfo(self, value: dict[str, zipfile.ZipInfo]) -> None:  # noqa: N802
        """Ignores the dictionary that ZipFile starts with."""
