"""Definition of the `|,|` text format: a parser of single lines with its error messages.

A line is `id|,|description` or `id|,|description|,|label`. A description is decimal integers separated by blanks
(0 is a real word), usually with a trailing blank. A label field is `3 4` in round 1 (regions, possibly none) and
`3 4,0 2` in round 2 (regions, types). Lines end in LF or CRLF; the last one may lack its end.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from src.core.errors import UserError
from src.core.language import _, joined
from src.data.file_kinds import refuse_other_kinds, show
from src.data.tasks import REPORT_TASKS

DELIMITER = b"|,|"
LARGEST_TOKEN = int(np.iinfo(np.uint16).max)
LONGEST_ID = 256
SHOWN = 20
"""Number of errors listed in a message; further errors are counted."""
COUNTED = 1000
"""Number of errors after which a file is read no further."""
SEPARATORS = b"\"'`,;|"
"""Bytes that no id may have: boards split and quote by them."""
LAYOUTS = {2: "id|,|description", 3: "id|,|description|,|label"}
TASK_OF_FORM = {len(task.groups): task for task in REPORT_TASKS.values()}
"""Task by the number of groups in a label field: no comma is round 1, one comma is round 2."""


@dataclass
class Errors:
    """The first SHOWN errors as (line from 0, message), sorted by line, and the number of all errors up to COUNTED."""

    first: list[tuple[int, str]] = field(default_factory=list)
    total: int = 0

    def add(self, line: int, message: str) -> None:
        self.total += 1
        if len(self.first) < SHOWN:
            self.first.append((line, message))

    def extend(self, other: Errors, line: int = 0) -> None:
        """Adds the errors of `other`, whose line 0 is line `line` here."""
        self.total += other.total
        merged = self.first + [(line + at, message) for at, message in other.first]
        self.first = sorted(merged, key=lambda error: error[0])[:SHOWN]

    @property
    def is_full(self) -> bool:
        """Returns True where further errors need not be looked for."""
        return self.total >= COUNTED

    def throw(self, path: Path, expected: str | None = None) -> None:
        """Raises a UserError that lists the errors, if there are errors, and says what the file looks like if it is not
        `expected`, a key of file_kinds.EXPECTED; None: any text will do."""
        if self.total:
            if expected:
                refuse_other_kinds(path, expected)
            place = _("  {file}, line {line}: {text}")
            places = [place.format(file=path.name, line=at + 1, text=text) for at, text in self.first]
            raise UserError(joined("\n", [joined(": ", [str(path), count_errors(self.total)]), *places]))


def count_errors(total: int) -> str:
    """Returns the head of a list of errors: `82 errors, the first 20:`."""
    if total >= COUNTED:
        return _("{counted:,} errors or more, after which it was read no further; the first {shown}:").format(
            counted=COUNTED, shown=SHOWN
        )
    if total > SHOWN:
        return _("{total:,} errors, the first {shown}:").format(total=total, shown=SHOWN)
    return _("{total:,} errors:").format(total=total) if total > 1 else _("1 error:")


@dataclass
class Part:
    """Contents of a block of n lines. A line with errors has an empty id, length 0 or form 0, and one without a
    description length 0."""

    ids: np.ndarray  # (n,) bytes
    tokens: np.ndarray  # (sum of lengths,) uint16
    lengths: np.ndarray  # (n,) int64
    labels: np.ndarray  # (n, n_labels) uint8, no columns without labels
    forms: np.ndarray  # (n,) int8, number of groups in the label field
    errors: Errors


def parse_lines(block: bytes, n_fields: int, may_be_empty: bool = False) -> Part:
    """Parses the lines of a block one at a time; this function defines the format and its error messages.

    `may_be_empty`: an empty description is no error, and the line has length 0.
    """
    ids, tokens, lengths, forms, columns, errors = [], [], [], [], [], Errors()
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n")):
        if errors.is_full:
            break
        messages: list[str] = []
        name, words, form, positive = b"", [], 0, []
        if fields := split_fields(line.removesuffix(b"\r"), LAYOUTS[n_fields], messages):
            name = read_id(fields[0], messages)
            words = _numbers(fields[1], LARGEST_TOKEN, "token", messages)
            if not may_be_empty and not fields[1].strip(b" "):
                messages.append(_("an empty description, expected at least one token"))
            if n_fields == 3:
                form, positive = _labels(fields[2], messages)
        ids.append(name)
        tokens += words
        lengths.append(len(words))
        forms.append(form)
        columns.append(positive)
        for message in messages:
            errors.add(number, message)
    labels = np.zeros((len(ids), TASK_OF_FORM[max(forms)].n_labels if max(forms) else 0), np.uint8)
    for row, positive in enumerate(columns):
        labels[row, positive] = 1
    counts, kinds = np.array(lengths, np.int64), np.array(forms, np.int8)
    return Part(np.array(ids, np.bytes_), np.array(tokens, np.uint16), counts, labels, kinds, errors)


def split_fields(line: bytes, layout: str, messages: list[str], delimiter: bytes = DELIMITER) -> list[bytes]:
    """Splits a line into the fields of `layout`; returns [] and appends to `messages` if the line has other fields."""
    if line.startswith(b"\xef\xbb\xbf"):
        messages.append(_("a UTF-8 byte order mark; save the file without BOM"))
        line = line[3:]
    fields, n_fields = line.split(delimiter), layout.count(delimiter.decode()) + 1
    if odd := re.search(rb"[^\t\r\x20-\x7e]", line):
        byte = "a NUL byte" if odd[0] == b"\0" else f"the byte 0x{odd[0].hex()}"
        messages.append(
            _("{byte} at column {column}, expected printable ASCII").format(byte=byte, column=odd.start() + 1)
        )
    elif not line.strip():
        messages.append(_("a blank line; remove it"))
    elif delimiter == DELIMITER and (torn := re.search(rb"\|,|,\|", b"\n".join(fields))):
        messages.append(
            _("a torn delimiter {torn}, expected '|,|' between the fields of {layout}: {line}").format(
                torn=show(torn[0]), layout=layout, line=show(line)
            )
        )
    elif len(fields) != n_fields:
        count = f"{len(fields)} field{'s' * (len(fields) > 1)}"
        messages.append(
            _("{count}, expected {n_fields} ({layout}): {line}").format(
                count=count, n_fields=n_fields, layout=layout, line=show(line)
            )
        )
    else:
        return fields
    return []


def read_id(name: bytes, messages: list[str]) -> bytes:
    """Returns an id that a board takes unchanged; returns b"" and appends to `messages` on an error."""
    if odd := next((byte for byte in name if byte in SEPARATORS), 0):
        messages.append(
            _("{sign} in the id {name}: no board takes quotation marks and separators in ids").format(
                sign=chr(odd), name=show(name)
            )
        )
        return b""
    return read_name(name, messages)


def read_name(name: bytes, messages: list[str]) -> bytes:
    """Returns the name of a row without whitespace unchanged; returns b"" and appends to `messages` on an error."""
    if not name:
        messages.append(_("an empty id"))
    elif len(name.split()) != 1 or name.strip() != name:
        messages.append(_("whitespace in the id {name}").format(name=show(name)))
    elif len(name) > LONGEST_ID:
        messages.append(
            _("an id of {n:,} characters, expected at most {most}: {name}").format(
                n=len(name), most=LONGEST_ID, name=show(name)
            )
        )
    else:
        return name
    return b""


def _numbers(text: bytes, largest: int, what: str, messages: list[str]) -> list[int]:
    """Parses decimal integers separated by blanks; returns [] and appends to `messages` on an error."""
    words = [word for word in text.split(b" ") if word]
    for word in words:
        # int() refuses thousands of digits.
        if not word.isdigit() or len(word.lstrip(b"0")) > 5 or int(word.lstrip(b"0") or 0) > largest:
            messages.append(
                _("{what} {word}, expected an integer from 0 to {largest}").format(
                    what=what, word=show(word), largest=largest
                )
            )
            return []
    return [int(word) for word in words]


def _labels(text: bytes, messages: list[str]) -> tuple[int, list[int]]:
    """Parses a label field into its form and columns; returns (0, []) and appends to `messages` on an error."""
    groups, before, columns = text.split(b","), len(messages), []
    task = TASK_OF_FORM.get(len(groups))
    if task is None:
        messages.append(
            _("{n} commas in the label field {text}, expected none or one").format(n=len(groups) - 1, text=show(text))
        )
        return 0, []
    for group, part in zip(task.groups, groups, strict=True):
        values = _numbers(part, group.size - 1, f"among the {group.name}, label", messages)
        columns += [task.columns[group.name].start + value for value in values]
        if len(times := Counter(values)) < len(values):
            twice = next(value for value in values if times[value] > 1)
            messages.append(_("among the {name}, label {twice} is repeated").format(name=group.name, twice=twice))
    return (len(groups), columns) if len(messages) == before else (0, [])


def id_hashes(ids: np.ndarray) -> np.ndarray:
    """Returns a hash of each id (N,) bytes, uint64 (N,), whatever the width of the array; 0 for an empty id. Ids of up
    to eight bytes are their own hash."""
    eights = max(1, -(-ids.dtype.itemsize // 8))
    columns = ids.astype(f"S{8 * eights}").view(">u8").reshape(len(ids), eights).T.astype(np.uint64)
    hashes, factor = columns[0], 1
    for column in columns[1:]:
        factor = factor * 0x9E3779B97F4A7C15 % 2**64
        hashes += column * np.uint64(factor)
    return hashes


def repeated_hashes(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first COUNTED lines (K,) whose hash, of `hashes` (N,) of ids, an earlier line has, ascending, and the
    first line (K,) that has it. Both are empty where no hash is repeated."""
    order = np.argsort(hashes, kind="stable")
    in_order = hashes[order]
    is_first = np.concatenate([[True], in_order[1:] != in_order[:-1]])
    repeats = np.flatnonzero(~is_first & (in_order != 0))
    if len(repeats) > COUNTED:
        repeats = repeats[np.argpartition(order[repeats], COUNTED - 1)[:COUNTED]]
    starts = np.flatnonzero(is_first)
    firsts = order[starts[np.searchsorted(starts, repeats, side="right") - 1]]
    ascending = np.argsort(order[repeats])
    return order[repeats][ascending], firsts[ascending]


def repeated_id(name: bytes, first: int) -> str:
    """Returns the message for an id that line `first`, from 0, already has."""
    return _("the id {name} repeats that of line {line}").format(name=show(name), line=first + 1)


def repeated_ids(ids: np.ndarray, header_lines: int = 0) -> Errors:
    """Returns an error for each line that repeats an earlier id. `ids` (N,) bytes; empty ids are unreadable lines.
    Messages count `header_lines` before the first id."""
    errors = Errors()
    # Ids usually ascend; as big-endian numbers they then ascend in a few runs, which a stable sort merges fast.
    hashes = np.sort(id_hashes(ids), kind="stable")
    if (hashes[1:] == hashes[:-1]).any():  # rare: an id is repeated, or two long ids share a hash
        first: dict[bytes, int] = {}
        for line, name in enumerate(ids.tolist()):
            if name and first.setdefault(name, line) != line:
                errors.add(line, repeated_id(name, first[name] + header_lines))
                if errors.is_full:
                    break
    return errors
