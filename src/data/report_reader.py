"""Files of reports: a strict, fast reader, and a writer that reads back what it wrote."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.data.block_parser import parse_block
from src.data.line_parser import DELIMITER, LAYOUTS, TASK_OF_FORM, Errors, Part, open_bytes, parse_lines, repeated_ids
from src.data.tasks import Task

BLOCK = 1 << 20
"""Bytes parsed at a time: few enough for the arrays made of them to stay in the cache, and so many that neither
NumPy's cost per call nor the threads' hand-over of the interpreter counts."""
THREADS = 2
"""NumPy lets go of the interpreter while it computes. Blocks are put together in file order, whoever finishes first."""


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
    """Of the file's bytes; empty for reports that are in no file."""

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


_Parser = Callable[[bytes, int], Part]


def read_reports(path: Path | str, labelled: bool | None = None) -> Reports:
    """Read a file of reports.

    `labelled` says whether there must be a label field; None recognises it by the first line. Anything irregular is
    a UserError that names file and line; all errors of a file are told together. Memory is that of the result and
    a few blocks.
    """
    return _read(Path(path), labelled, _parse)


def _read(path: Path, labelled: bool | None, parse: _Parser) -> Reports:
    with open_bytes(path) as file:
        size = os.fstat(file.fileno()).st_size
        n_fields = _number_of_fields(path, file.readline() + file.read(1 << 16), labelled)
        file.seek(0)
        # Made as large as a valid file of this size could need, because arrays as large as this get large pages, and
        # pages that are never written to cost nothing. Appending would touch twice the memory, which is slow.
        tokens = np.empty(size // 2 + 1, np.uint16)
        offsets = np.zeros(size // len("0|,|0\n") + 3, np.int64)
        labels = None
        digest, errors, ids, forms, n_rows, n_tokens = hashlib.sha256(), Errors(), [], [], 0, 0
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
    errors.extend(repeated_ids(ids))
    errors.throw(path)
    for array, shape in ((tokens, n_tokens), (offsets, n_rows + 1), (labels, (n_rows, labels.shape[1]))):
        array.resize(shape, refcheck=False)  # in place
    task = TASK_OF_FORM[int(forms[0])] if n_fields == 3 else None
    return Reports(path, ids, tokens, offsets, labels if task else None, task, digest.hexdigest())


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


def _in_order(work: Callable[[bytes], Part], blocks: Iterable[bytes]) -> Iterator[Part]:
    """`map(work, blocks)` on THREADS threads, with no more than a few blocks in memory."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = deque()
        for block in blocks:
            waiting.append(pool.submit(work, block))
            if len(waiting) > 2 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _parse(block: bytes, n_fields: int) -> Part:
    """The lines of a block, the fast way where it can be gone."""
    return parse_block(block, n_fields) or parse_lines(block, n_fields)


def _mixed_forms(forms: np.ndarray) -> Errors:
    """One error for each line whose label field is of the rarer form."""
    errors, lines = Errors(), {form: np.flatnonzero(forms == form) for form in TASK_OF_FORM}
    common = max(lines, key=lambda form: (len(lines[form]), form == forms[0]))
    told = f"{len(lines[common]):,} line{'s have' if len(lines[common]) > 1 else ' has'} that of"
    for form in TASK_OF_FORM.keys() - {common}:
        for line in lines[form].tolist():
            form_of, others = TASK_OF_FORM[form].title, TASK_OF_FORM[common].title
            errors.add(line, f"a label field in the form of {form_of}, while {told} {others}; a file has one form")
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

    def check(written: Path) -> None:
        back = read_reports(written, labelled=reports.labels is not None)
        for name in ("ids", "tokens", "offsets", "labels"):
            if not np.array_equal(getattr(back, name), getattr(reports, name)):
                raise UserError(f"{path} was not written: read back, it is not what was meant")

    storage.write_atomic(Path(path), lambda file: file.writelines(map(line, range(len(reports)))), check)
