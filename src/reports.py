"""The `|,|` text format: a strict, fast reader of reports; writers that read back what they wrote.

A line is `id|,|description` or `id|,|description|,|label`. A description is decimal integers separated by blanks
(0 is a real word), usually with a trailing blank. A label field is `3 4` in round 1 (regions, possibly none) and
`3 4,0 2` in round 2 (regions, types). Lines end in LF or CRLF; the last one may lack its end.

Two parsers read this format. `_parse_lines` is plain, goes line by line and words every error. `_parse_block` does
the same for a whole block of lines with some forty NumPy operations, and declines a block in which anything is
unusual. So the first is the definition, the second is the speed, and the tests hold them equal.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.errors import UserError
from src.task import TASKS, Task

DELIMITER = b"|,|"
LARGEST_TOKEN = int(np.iinfo(np.uint16).max)
LONGEST_ID = 256
BLOCK = 512 << 10
"""Bytes parsed at a time: the dozen arrays made of a block stay in the cache, and NumPy's cost per call is small."""
THREADS = 2
"""NumPy lets go of the interpreter while it computes. Blocks are put together in file order, whoever finishes first."""
SHOWN = 20
"""Errors spelt out in a message; the others are counted."""
LAYOUTS = {2: "id|,|description", 3: "id|,|description|,|label"}
SUBMISSION_LAYOUT = "id|,|p0 p1 …"
TASK_OF_FORM = {len(task.groups): task for task in TASKS.values()}
"""A label field names its task by its number of groups: no comma is round 1, one comma is round 2."""
MARKS = {2: {b"|,|\n": 0}, 3: {b"|,|" b"|,|" + b"," * (n - 1) + b"\n": n for n in TASK_OF_FORM}}
"""What is left of a line without digits and blanks, and how many label groups that means; by number of fields."""


@dataclass(frozen=True, eq=False)
class Reports:
    """A file of N reports, in file order."""

    path: Path
    ids: np.ndarray
    """(N,) bytes, as written: 007 stays 007."""
    tokens: np.ndarray
    """(sum of lengths,) uint16, all reports end to end, as written: 0 is a word."""
    offsets: np.ndarray
    """(N + 1,) int64: report i is tokens[offsets[i]:offsets[i + 1]]."""
    labels: np.ndarray | None
    """(N, n_labels) uint8, 0 or 1; None for a file without labels."""
    task: Task | None
    """Recognised by the form of the label fields; None for a file without labels."""
    sha256: str = ""
    """Of the file's bytes."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> np.ndarray:
        """The tokens of one report, (length,) uint16, a view."""
        row = range(len(self))[row]
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64, tokens in each report, at least 1."""
        return np.diff(self.offsets)

    def labels_for(self, task: Task) -> np.ndarray:
        """(N, task.n_labels) uint8, a view: the leading groups of this file's labels that `task` asks for.

        Round 2's file serves round 1. UserError if this file has no labels or lacks a group.
        """
        if self.labels is None or self.task is None:
            raise UserError(f"{self.path} has no labels; {task.title} needs a file of the form {LAYOUTS[3]}")
        wanted = [(group.name, group.size) for group in task.groups]
        if wanted != [(group.name, group.size) for group in self.task.groups][: len(wanted)]:
            raise UserError(f"{self.path} holds the labels of {self.task.title}, which do not cover {task.title}")
        return self.labels[:, : task.n_labels]


@dataclass
class _Errors:
    """Errors in the order of their lines: (line, counted from 0, and message) of the first ones, and how many."""

    first: list[tuple[int, str]] = field(default_factory=list)
    total: int = 0

    def add(self, line: int, message: str) -> None:
        self.total += 1
        if len(self.first) < SHOWN:
            self.first.append((line, message))

    def extend(self, other: _Errors, line: int = 0) -> None:
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
class _Part:
    """What a block of n lines holds. Lines with errors have an empty id, or length 0, or form 0."""

    ids: np.ndarray  # (n,) bytes
    tokens: np.ndarray  # (sum of lengths,) uint16
    lengths: np.ndarray  # (n,) int64
    labels: np.ndarray  # (n, n_labels) uint8, no columns without labels
    forms: np.ndarray  # (n,) int8, number of groups in the label field
    errors: _Errors


_Parser = Callable[[bytes, int], _Part]
_NUMBER = re.compile(rb"\d+(\.\d+)?(e[+-]\d+)?")


def read_reports(path: Path | str, labelled: bool | None = None) -> Reports:
    """Read a file of reports.

    `labelled` says whether there must be a label field; None recognises it by the first line. Anything irregular is
    a UserError that names file and line; all errors of a file are told together. Memory is that of the result and
    a few blocks.
    """
    return _read(Path(path), labelled, _parse)


def _read(path: Path, labelled: bool | None, parse: _Parser) -> Reports:
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        n_fields = _number_of_fields(path, file.readline() + file.read(1 << 16), labelled)
        file.seek(0)
        # Made as large as a valid file of this size could need, because arrays as large as this get large pages, and
        # pages that are never written to cost nothing. Appending would touch twice the memory, which is slow.
        tokens = np.empty(size // 2 + 1, np.uint16)
        offsets = np.zeros(size // len("0|,|0\n") + 3, np.int64)
        labels = None
        digest, errors, ids, forms, n_rows, n_tokens = hashlib.sha256(), _Errors(), [], [], 0, 0
        for part in _in_order(lambda block: parse(block, n_fields), _blocks(file, digest)):
            errors.extend(part.errors, line=n_rows)
            ids.append(part.ids)
            forms.append(part.forms)
            if labels is None:
                labels = np.empty((len(offsets), part.labels.shape[1]), np.uint8)
            rows, words = slice(n_rows, n_rows + len(part.ids)), slice(n_tokens, n_tokens + len(part.tokens))
            n_rows, n_tokens = rows.stop, words.stop
            if not errors.total and labels.shape[1] == part.labels.shape[1]:  # else there is no result to fill
                tokens[words] = part.tokens
                offsets[rows.start + 1 : rows.stop + 1] = words.start + np.cumsum(part.lengths)
                labels[rows] = part.labels
    ids, forms = np.concatenate(ids), np.concatenate(forms)
    errors.extend(_mixed_forms(forms))
    errors.extend(_repeated_ids(ids))
    errors.throw(path)
    for array, shape in ((tokens, n_tokens), (offsets, n_rows + 1), (labels, (n_rows, labels.shape[1]))):
        array.resize(shape, refcheck=False)  # in place
    task = TASK_OF_FORM[int(forms[0])] if n_fields == 3 else None
    return Reports(path, ids, tokens, offsets, labels if task else None, task, digest.hexdigest())


def _open(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'no file'}, a file was expected")
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _number_of_fields(path: Path, head: bytes, labelled: bool | None) -> int:
    """2 or 3, from the beginning of a file. UserError where reading line by line would make no sense."""
    if not head:
        raise UserError(f"{path} is empty, lines of the form {LAYOUTS[2]} or {LAYOUTS[3]} were expected")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16 (it begins with a byte order mark); save it as plain ASCII, without BOM")
    # The last line of `head` may be cut, the first is whole.
    counts = [line.count(DELIMITER) + 1 for line in (head.split(b"\n")[:-1] or [head])]
    if labelled is None:
        return next((n for n in counts if n in LAYOUTS), 2)
    needed, other = (3, 2) if labelled else (2, 3)
    if set(counts) == {other}:
        what = "no labels, but labels are needed" if labelled else "labels, but a file without labels is needed"
        raise UserError(f"{path} has {what}: its lines are {LAYOUTS[other]}, expected {LAYOUTS[needed]}")
    return needed


def _blocks(file: BinaryIO, digest: hashlib._Hash) -> Iterator[bytes]:
    """Whole lines, BLOCK bytes and the rest of a line at a time; `digest` sees every byte."""
    # glibc hands memory back to the system when much of it is free, so that every block pays for fresh pages, which
    # doubles the time. Freeing one large array raises that threshold for good. Elsewhere this does nothing.
    np.empty(31 << 20, np.uint8)
    while block := file.read(BLOCK):
        block += file.readline()
        digest.update(block)
        yield block


def _in_order(work: Callable[[bytes], _Part], blocks: Iterable[bytes]) -> Iterator[_Part]:
    """`map(work, blocks)` on THREADS threads, with no more than a few blocks in memory."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = deque()
        for block in blocks:
            waiting.append(pool.submit(work, block))
            if len(waiting) > 2 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _parse(block: bytes, n_fields: int) -> _Part:
    """The lines of a block, the fast way where it can be gone."""
    return _parse_block(block, n_fields) or _parse_lines(block, n_fields)


def _parse_block(block: bytes, n_fields: int) -> _Part | None:
    """The lines of a block, or None if any is not of the common kind, whether it is wrong or just unusual.

    Common are ids of digits only, single blanks, and words of at most four digits.
    """
    block = block.replace(b"\r\n", b"\n") if b"\r" in block else block
    text = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    # digits[at - k] for every `at` of an array is taken from before[k], so that no array of places is ever shifted.
    padded = np.empty(5 + len(text), np.uint8)
    padded[:5] = 255
    before = [padded[5 - k :] for k in range(5)]
    digits = np.subtract(text, ord("0"), out=before[0])  # (bytes,) 0..9; what is no digit wraps to more
    # Every byte that is no digit is a stop; it ends the number before it, if there is one.
    stops = np.flatnonzero(digits > 9)  # (S,) places in text
    stop_bytes = text.take(stops)
    is_token = stop_bytes == ord(" ")  # (S,) whether this stop ends a token, corrected below
    # Stops other than blanks must spell the same marks in every line.
    marks = np.flatnonzero(~is_token)
    spelt = stop_bytes.take(marks)
    width = spelt[:16].tobytes().find(b"\n") + 1
    form = MARKS[n_fields].get(spelt[:width].tobytes())
    if form is None or len(marks) % width or not np.array_equal(spelt[width:], spelt[:-width]):
        return None
    marks = np.ascontiguousarray(marks.reshape(-1, width).T)  # (width, n) places in stops, one row a mark
    places = stops[marks]  # (width, n) places in text
    for bar in range(0, 3 * (n_fields - 1), 3):
        if (places[bar + 2] - places[bar] != 2).any():
            return None

    # Ids: from the beginning of a line to its first mark, without a stop between.
    starts = np.concatenate(([0], places[-1, :-1] + 1))
    id_lengths = places[0] - starts
    if marks[0, 0] or (marks[0, 1:] - marks[-1, :-1] != 1).any():
        return None
    if id_lengths.min() < 1 or id_lengths.max() > LONGEST_ID:
        return None
    ids = _cut(text, starts, id_lengths)
    # Digits not yet accounted for. It must come down to none: then every number was as short as it was taken to be.
    left = len(text) - len(stops) - int(id_lengths.sum())

    # Descriptions: a blank ends a token, and so does the next mark if it follows a digit.
    bare_end = digits[places[3] - 1] < 10
    lengths = marks[3] - marks[2] - 1 + bare_end
    is_token[marks[3]] = bare_end

    # Labels: the k-th label of all lines at once, for k = 0, 1, …
    labels = np.zeros((len(ids), TASK_OF_FORM[form].n_labels if form else 0), np.uint8)
    n_labels, column = 0, 0
    for at, group in enumerate(TASK_OF_FORM[form].groups if form else ()):
        stop = marks[5 + at] + 1
        last = marks[6 + at] - (digits[places[6 + at] - 1] > 9)
        rows = np.flatnonzero(stop <= last)
        stop, last = stop[rows], last[rows]
        while len(rows):
            is_token[stop] = False
            place = stops[stop]
            units, tens = before[1].take(place), before[2].take(place)
            has_tens = tens < 10
            values = units + 10 * tens * has_tens
            if units.max() > 9 or values.max() >= group.size:
                return None
            labels[rows, column + values] = 1
            n_labels += len(rows)
            left -= len(rows) + np.count_nonzero(has_tens)
            more = np.flatnonzero(stop < last)
            rows, stop, last = rows[more], stop[more] + 1, last[more]
        column += group.size
    if np.count_nonzero(labels) != n_labels:  # a label was given twice
        return None

    ends = stops[is_token]  # (T,) places in text just after a token
    digit = before[1].take(ends)
    if lengths.min() < 1 or digit.max() > 9:
        return None
    tokens = digit.astype(np.uint16)
    left -= len(tokens)
    going_on = True  # whether the token reaches to the digit at hand
    for k in (2, 3, 4):
        if not left:
            break
        digit = before[k].take(ends)
        going_on &= digit < 10
        left -= np.count_nonzero(going_on)
        digit *= going_on
        tokens += np.multiply(digit, 10 ** (k - 1), dtype=np.uint16)
    if left:
        return None
    return _Part(ids, tokens, lengths, labels, np.full(len(ids), form, np.int8), _Errors())


def _cut(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(n,) bytes: `lengths` bytes of `text` from each of `starts` on. All strings of one length are copied at once."""
    cut = np.zeros(len(starts), f"S{lengths.max()}")
    for length in np.flatnonzero(np.bincount(lengths)).tolist():
        rows = np.flatnonzero(lengths == length)
        windows = np.ndarray(len(text) - length + 1, f"S{length}", text, strides=(1,))  # one from every byte on
        cut[rows] = windows[starts[rows]]
    return cut


def _parse_lines(block: bytes, n_fields: int) -> _Part:
    """The lines of a block, one by one: the format's definition, and the words for what is wrong."""
    ids, tokens, lengths, forms, columns, errors = [], [], [], [], [], _Errors()
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n")):
        wrong: list[str] = []
        name, words, form, ones = b"", [], 0, []
        if fields := _split(line.removesuffix(b"\r"), LAYOUTS[n_fields], wrong):
            name = _id(fields[0], wrong)
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
    return _Part(np.array(ids, np.bytes_), np.array(tokens, np.uint16), counts, labels, kinds, errors)


def _split(line: bytes, layout: str, wrong: list[str]) -> list[bytes]:
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
        wrong.append(f"a torn delimiter {_show(torn[0])}, expected '|,|' between the fields of {layout}: {_show(line)}")
    elif len(fields) != layout.count("|,|") + 1:
        found = f"{len(fields)} field{'s' * (len(fields) > 1)}"
        wrong.append(f"{found}, expected {layout.count('|,|') + 1} ({layout}): {_show(line)}")
    else:
        return fields
    return []


def _id(name: bytes, wrong: list[str]) -> bytes:
    if not name:
        wrong.append("an empty id")
    elif len(name.split()) != 1 or name.strip() != name:
        wrong.append(f"whitespace in the id {_show(name)}")
    elif len(name) > LONGEST_ID:
        wrong.append(f"an id of {len(name):,} characters, expected at most {LONGEST_ID}: {_show(name)}")
    else:
        return name
    return b""


def _numbers(text: bytes, largest: int, what: str, wrong: list[str]) -> list[int]:
    """Decimal integers separated by blanks; none if one of them is something else."""
    words = [word for word in text.split(b" ") if word]
    for word in words:
        # int() refuses thousands of digits.
        if not word.isdigit() or len(word.lstrip(b"0")) > 5 or int(word.lstrip(b"0") or 0) > largest:
            wrong.append(f"{what} {_show(word)}, expected an integer from 0 to {largest}")
            return []
    return [int(word) for word in words]


def _labels(text: bytes, wrong: list[str]) -> tuple[int, list[int]]:
    """The form of a label field and its columns; (0, []) if anything is wrong."""
    groups, before, columns = text.split(b","), len(wrong), []
    task = TASK_OF_FORM.get(len(groups))
    if task is None:
        wrong.append(f"{len(groups) - 1} commas in the label field {_show(text)}, expected none or one")
        return 0, []
    for group, part in zip(task.groups, groups, strict=True):
        values = _numbers(part, group.size - 1, f"among the {group.name}, label", wrong)
        columns += [task.columns[group.name].start + value for value in values]
        if twice := [value for value in values if values.count(value) > 1]:
            wrong.append(f"among the {group.name}, label {twice[0]} is given twice")
    return (len(groups), columns) if len(wrong) == before else (0, [])


def _show(text: bytes, longest: int = 40) -> str:
    shown = text[:longest].decode("ascii", "backslashreplace")
    return repr(shown + "…" * (len(text) > longest))


def _mixed_forms(forms: np.ndarray) -> _Errors:
    """One error for each line whose label field is of the rarer form."""
    errors, lines = _Errors(), {form: np.flatnonzero(forms == form) for form in TASK_OF_FORM}
    common = max(lines, key=lambda form: (len(lines[form]), form == forms[0]))
    told = f"{len(lines[common]):,} line{'s have' if len(lines[common]) > 1 else ' has'} that of"
    for form in TASK_OF_FORM.keys() - {common}:
        for line in lines[form].tolist():
            form_of, others = TASK_OF_FORM[form].title, TASK_OF_FORM[common].title
            errors.add(line, f"a label field in the form of {form_of}, while {told} {others}; a file has one form")
    return errors


def _repeated_ids(ids: np.ndarray) -> _Errors:
    """One error for each line whose id an earlier line has. `ids` (N,) bytes; empty ones stand for unreadable lines."""
    errors = _Errors()
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
                errors.add(line, f"the id {_show(name)} stands in line {first[name] + 1} already")
    return errors


def write_reports(path: Path | str, reports: Reports) -> None:
    """Write `reports` as the competition's files are: a blank after every token and label, lines end in LF.

    The file appears whole or not at all, after it was read back and found the same; otherwise UserError.
    """
    words = [b"%d " % word for word in range(int(reports.tokens.max(initial=0)) + 1)]
    columns = reports.task.columns.values() if reports.task else ()
    known: dict[bytes, bytes] = {}

    def label_field(row: np.ndarray) -> bytes:
        groups = (b"".join(b"%d " % label for label in np.flatnonzero(row[part])) for part in columns)
        return known.setdefault(row.tobytes(), DELIMITER + b",".join(groups))

    def line(row: int) -> bytes:
        text = reports.ids[row] + DELIMITER + b"".join([words[token] for token in reports[row].tolist()])
        if reports.labels is not None:
            text += known.get(reports.labels[row].tobytes()) or label_field(reports.labels[row])
        return text + b"\n"

    def is_same(written: Path) -> bool:
        back = read_reports(written, labelled=reports.labels is not None)
        names = ("ids", "tokens", "offsets", "labels")
        return all(np.array_equal(getattr(back, name), getattr(reports, name)) for name in names)

    _write_checked(Path(path), (line(row) for row in range(len(reports))), is_same)


def write_submission(path: Path | str, ids: np.ndarray, probabilities: np.ndarray, eps: float) -> None:
    """Write `id|,|p0 p1 …`, one line a report, with the probabilities clipped to [eps, 1 - eps].

    `ids` (N,), `probabilities` (N, n). At least nine significant digits are written, and as many as tell 1 - eps
    from 1 well. UserError for anything but probabilities. The file appears whole or not at all, after it was read
    back and found to hold these ids and values.
    """
    path, names, values = Path(path), np.asarray(ids).astype(np.bytes_), np.asarray(probabilities, np.float64)
    if not 0 <= eps < 0.5:
        raise UserError(f"{path} was not written: eps is {eps}, expected a number from 0 to below 0.5")
    if values.ndim != 2 or not values.size or names.shape != values.shape[:1]:
        raise UserError(f"{path} was not written: ids of shape {names.shape} and probabilities of {values.shape}")
    if len(bad := np.argwhere(~((values >= 0) & (values <= 1)))):
        row, column = bad[0].tolist()
        where = f"column {column} of report {names[row].decode()}"
        raise UserError(f"{path} was not written: {where} is {values[row, column]}, expected a probability")
    values = np.clip(values, eps, 1 - eps)
    digits = min(17, max(9, 3 + math.ceil(-math.log10(eps)))) if eps else 17

    def is_same(written: Path) -> bool:
        names_back, values_back = read_submission(written)
        same = np.array_equal(names_back, names) and values_back.shape == values.shape
        inside = not eps or bool(((values_back > 0) & (values_back < 1)).all())
        return same and inside and np.allclose(values_back, values, rtol=10.0 ** (1 - digits), atol=0)

    rows = zip(names.tolist(), values.tolist(), strict=True)
    lines = (name + DELIMITER + " ".join([f"{p:.{digits}g}" for p in row]).encode() + b"\n" for name, row in rows)
    _write_checked(path, lines, is_same)


def read_submission(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Ids (N,) bytes and probabilities (N, n) float64. As strict as `read_reports`, and single blanks only."""
    path, rows, names, errors = Path(path), [], [], _Errors()
    with _open(path) as file:
        text = file.read()
    if not text:
        raise UserError(f"{path} is empty, lines of the form {SUBMISSION_LAYOUT} were expected")
    for number, line in enumerate(text.removesuffix(b"\n").split(b"\n")):
        wrong: list[str] = []
        fields = _split(line.removesuffix(b"\r"), SUBMISSION_LAYOUT, wrong)
        names.append(_id(fields[0], wrong) if fields else b"")
        words = fields[1].split(b" ") if fields else []
        odd = next((word for word in words if not _NUMBER.fullmatch(word) or float(word) > 1), None)
        if odd is not None:
            wrong.append(f"value {_show(odd)}, expected numbers from 0 to 1 with single blanks between them")
        elif words:
            rows.append([float(word) for word in words])
            if len(words) != len(rows[0]):
                found = f"{len(words)} value{'s' * (len(words) > 1)}"
                wrong.append(f"{found}, expected {len(rows[0])} as in the lines before")
        for message in wrong:
            errors.add(number, message)
    errors.extend(_repeated_ids(np.array(names, np.bytes_)))
    errors.throw(path)
    return np.array(names, np.bytes_), np.array(rows, np.float64)


def _write_checked(path: Path, lines: Iterable[bytes], is_same: Callable[[Path], bool]) -> None:
    """Write `lines` beside `path`, have `is_same` read them back, and only then give the file its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        if not is_same(Path(name)):
            raise UserError(f"{path} was not written: read back, it is not what was meant")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except UserError as error:
        raise UserError(str(error).replace(name, str(path)).replace(Path(name).name, path.name)) from None
    finally:
        Path(name).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # flushed too, so that the new name survives a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
