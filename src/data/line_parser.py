"""The `|,|` text format, line by line: what a line may hold, and the words for what is wrong with it.

A line is `id|,|description` or `id|,|description|,|label`. A description is decimal integers separated by blanks
(0 is a real word), usually with a trailing blank. A label field is `3 4` in round 1 (regions, possibly none) and
`3 4,0 2` in round 2 (regions, types). Lines end in LF or CRLF; the last one may lack its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.core.errors import UserError
from src.data.tasks import TASKS

DELIMITER = b"|,|"
LARGEST_TOKEN = int(np.iinfo(np.uint16).max)
LONGEST_ID = 256
SHOWN = 20
"""Errors spelt out in a message; the others are counted."""
LAYOUTS = {2: "id|,|description", 3: "id|,|description|,|label"}
TASK_OF_FORM = {len(task.groups): task for task in TASKS.values()}
"""A label field names its task by its number of groups: no comma is round 1, one comma is round 2."""


@dataclass
class Errors:
    """Errors in the order of their lines: (line, counted from 0, and message) of the first ones, and how many."""

    first: list[tuple[int, str]] = field(default_factory=list)
    total: int = 0

    def add(self, line: int, message: str) -> None:
        self.total += 1
        if len(self.first) < SHOWN:
            self.first.append((line, message))

    def extend(self, other: Errors, line: int = 0) -> None:
        """Take in `other`, whose line 0 is this one's `line`."""
        self.total += other.total
        merged = self.first + [(line + at, message) for at, message in other.first]
        self.first = sorted(merged, key=lambda error: error[0])[:SHOWN]

    def throw(self, path: Path) -> None:
        """UserError that tells all, if there is anything to tell."""
        if self.total:
            head = f"{path}: {self.total:,} error{'s' * (self.total > 1)}"
            head += f", the first {SHOWN}:" if self.total > SHOWN else ":"
            raise UserError("\n".join([head, *(f"  {path.name}, line {at + 1}: {text}" for at, text in self.first)]))


@dataclass
class Part:
    """What a block of n lines holds. Lines with errors have an empty id, or length 0, or form 0."""

    ids: np.ndarray  # (n,) bytes
    tokens: np.ndarray  # (sum of lengths,) uint16
    lengths: np.ndarray  # (n,) int64
    labels: np.ndarray  # (n, n_labels) uint8, no columns without labels
    forms: np.ndarray  # (n,) int8, number of groups in the label field
    errors: Errors


def open_bytes(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'no file'}, a file was expected")
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def parse_lines(block: bytes, n_fields: int) -> Part:
    """The lines of a block, one by one: the format's definition, and the words for what is wrong."""
    ids, tokens, lengths, forms, columns, errors = [], [], [], [], [], Errors()
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n")):
        wrong: list[str] = []
        name, words, form, ones = b"", [], 0, []
        if fields := split_fields(line.removesuffix(b"\r"), LAYOUTS[n_fields], wrong):
            name = read_id(fields[0], wrong)
            words = _numbers(fields[1], LARGEST_TOKEN, "token", wrong)
            if not fields[1].strip(b" "):
                wrong.append("an empty description, expected at least one token")
            if n_fields == 3:
                form, ones = _labels(fields[2], wrong)
        ids.append(name)
        tokens += words
        lengths.append(len(words))
        forms.append(form)
        columns.append(ones)
        for message in wrong:
            errors.add(number, message)
    labels = np.zeros((len(ids), TASK_OF_FORM[max(forms)].n_labels if max(forms) else 0), np.uint8)
    for row, ones in enumerate(columns):
        labels[row, ones] = 1
    counts, kinds = np.array(lengths, np.int64), np.array(forms, np.int8)
    return Part(np.array(ids, np.bytes_), np.array(tokens, np.uint16), counts, labels, kinds, errors)


def split_fields(line: bytes, layout: str, wrong: list[str]) -> list[bytes]:
    """The fields of a line, none if they cannot be told apart."""
    if line.startswith(b"\xef\xbb\xbf"):
        wrong.append("a UTF-8 byte order mark; save the file without BOM")
        line = line[3:]
    fields = line.split(DELIMITER)
    if odd := re.search(rb"[^\t\r\x20-\x7e]", line):
        what = "a NUL byte" if odd[0] == b"\0" else f"the byte 0x{odd[0].hex()}"
        wrong.append(f"{what} at column {odd.start() + 1}, expected printable ASCII")
    elif not line.strip():
        wrong.append("a blank line; remove it")
    elif torn := re.search(rb"\|,|,\|", b"\n".join(fields)):
        wrong.append(f"a torn delimiter {show(torn[0])}, expected '|,|' between the fields of {layout}: {show(line)}")
    elif len(fields) != layout.count("|,|") + 1:
        found = f"{len(fields)} field{'s' * (len(fields) > 1)}"
        wrong.append(f"{found}, expected {layout.count('|,|') + 1} ({layout}): {show(line)}")
    else:
        return fields
    return []


def read_id(name: bytes, wrong: list[str]) -> bytes:
    if not name:
        wrong.append("an empty id")
    elif len(name.split()) != 1 or name.strip() != name:
        wrong.append(f"whitespace in the id {show(name)}")
    elif len(name) > LONGEST_ID:
        wrong.append(f"an id of {len(name):,} characters, expected at most {LONGEST_ID}: {show(name)}")
    else:
        return name
    return b""


def _numbers(text: bytes, largest: int, what: str, wrong: list[str]) -> list[int]:
    """Decimal integers separated by blanks; none if one of them is something else."""
    words = [word for word in text.split(b" ") if word]
    for word in words:
        # int() refuses thousands of digits.
        if not word.isdigit() or len(word.lstrip(b"0")) > 5 or int(word.lstrip(b"0") or 0) > largest:
            wrong.append(f"{what} {show(word)}, expected an integer from 0 to {largest}")
            return []
    return [int(word) for word in words]


def _labels(text: bytes, wrong: list[str]) -> tuple[int, list[int]]:
    """The form of a label field and its columns; (0, []) if anything is wrong."""
    groups, before, columns = text.split(b","), len(wrong), []
    task = TASK_OF_FORM.get(len(groups))
    if task is None:
        wrong.append(f"{len(groups) - 1} commas in the label field {show(text)}, expected none or one")
        return 0, []
    for group, part in zip(task.groups, groups, strict=True):
        values = _numbers(part, group.size - 1, f"among the {group.name}, label", wrong)
        columns += [task.columns[group.name].start + value for value in values]
        if twice := [value for value in values if values.count(value) > 1]:
            wrong.append(f"among the {group.name}, label {twice[0]} is given twice")
    return (len(groups), columns) if len(wrong) == before else (0, [])


def show(text: bytes, longest: int = 40) -> str:
    shown = text[:longest].decode("ascii", "backslashreplace")
    return repr(shown + "…" * (len(text) > longest))


def repeated_ids(ids: np.ndarray) -> Errors:
    """One error for each line whose id an earlier line has. `ids` (N,) bytes; empty ones stand for unreadable lines."""
    errors = Errors()
    eights = -(-ids.dtype.itemsize // 8)
    columns = ids.astype(f"S{8 * eights}").view(">u8").reshape(len(ids), eights).T.astype(np.uint64)
    hashes = columns[0]
    for column in columns[1:]:
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + column
    # Ids usually ascend; as big-endian numbers they then do so in a few runs, which a stable sort just merges.
    hashes = np.sort(hashes, kind="stable")
    if (hashes[1:] == hashes[:-1]).any():  # rare: either an id is repeated or two long ones share a hash
        first: dict[bytes, int] = {}
        for line, name in enumerate(ids.tolist()):
            if name and first.setdefault(name, line) != line:
                errors.add(line, f"the id {show(name)} stands in line {first[name] + 1} already")
    return errors
