"""Reader and writer of report files: the reader is strict and fast, the writer checks its output."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.language import _, word
from src.data.block_parser import parse_block
from src.data.empty_reports import NONE, EmptyReports
from src.data.file_kinds import open_bytes, refuse_other_kinds
from src.data.line_parser import (
    COUNTED,
    DELIMITER,
    LAYOUTS,
    TASK_OF_FORM,
    Errors,
    Part,
    id_hashes,
    parse_lines,
    repeated_hashes,
    repeated_id,
    repeated_ids,
)
from src.data.tasks import Task

BLOCK = 1 << 20
"""Bytes parsed at a time: the arrays fit the cache, and NumPy's cost per call and the threads' switches are small."""
FEWEST_JOINED = 3
"""Lines of each of two files that were joined to one."""
THREADS = 2
"""Threads that parse blocks; NumPy releases the interpreter lock while it computes."""


@dataclass(frozen=True, eq=False)
class Reports:
    """Contents of a file of N reports, in file order."""

    path: Path
    ids: np.ndarray
    """Report ids, (N,) bytes, as in the file: 007 stays 007."""
    tokens: np.ndarray
    """Tokens of all reports end to end, (sum of lengths,) uint16, as in the file: 0 is a word."""
    offsets: np.ndarray
    """Limits of the reports, (N + 1,) int64: report i is tokens[offsets[i]:offsets[i + 1]]."""
    labels: np.ndarray | None
    """Labels, (N, n_labels) uint8, 0 or 1; None for a file without labels."""
    task: Task | None
    """Task of the label fields' form; None for a file without labels."""
    sha256: str = ""
    """Checksum of the file's bytes; empty for reports that are in no file."""
    empty: EmptyReports = NONE
    """Reports of the file that have no description; they are not among the N."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> np.ndarray:
        """Returns the tokens of a report, (length,) uint16, a view."""
        row = range(len(self))[row]
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each report, (N,) int64, at least 1."""
        return np.diff(self.offsets)

    def only(self, rows: np.ndarray) -> Reports:
        """Returns the reports of some rows, (K,) ascending, under the same path and checksum."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, ids=self.ids[rows], tokens=self.tokens[places], offsets=offsets, labels=labels)

    def labels_for(self, task: Task) -> np.ndarray:
        """Returns the labels of `task`, (N, task.n_labels) uint8, a view of this file's first label groups.

        A file of round 2 also has the labels of round 1. Raises UserError if this file has no labels or lacks a group.
        """
        if self.labels is None or self.task is None:
            raise UserError(
                _("{path} has no labels; {title} needs a file of the form {layout}").format(
                    path=self.path, title=word(task.title), layout=LAYOUTS[3]
                )
            )
        wanted = [(group.name, group.size) for group in task.groups]
        if wanted != [(group.name, group.size) for group in self.task.groups][: len(wanted)]:
            raise UserError(
                _("{path} holds the labels of {own}, which do not cover {wanted}").format(
                    path=self.path, own=word(self.task.title), wanted=word(task.title)
                )
            )
        return self.labels[:, : task.n_labels]

    def known_labels(self, task: Task) -> np.ndarray:
        """Returns the labels of `task` as far as this file has them: labels_for(task), or float32 (N, task.n_labels)
        with NaN in the last label groups, which this file lacks; 0 where rows do not count for such a group, as reports
        without an abnormal region have no types. Raises UserError if this file has no labels."""
        n_lacking = task.n_labels - (self.task or task).n_labels
        if n_lacking <= 0:
            return self.labels_for(task)
        labels = np.pad(self.labels.astype(np.float32), ((0, 0), (0, n_lacking)), constant_values=np.nan)
        return np.where(np.isnan(labels) & ~task.counted_cells(labels), np.float32(0), labels)

    def truth_for(self, task: Task) -> np.ndarray:
        """Returns labels_for(task), to score against. Raises UserError, too, where every label field is empty: a test
        file that a spreadsheet gave a third column looks like that, and no board has such answers."""
        labels = self.labels_for(task)
        if not labels.any():
            raise UserError(
                _("the label field of every report of {path} is empty: there is no score without labels").format(
                    path=self.path
                )
            )
        return labels


_Parser = Callable[[bytes, int, bool], Part]


def read_reports(path: Path | str, labelled: bool | None = None, may_be_empty: bool = False) -> Reports:
    """Reads a file of reports.

    `labelled` requires (True) or forbids (False) a label field; None accepts both, by the first line. `may_be_empty`
    takes empty descriptions, which are errors otherwise, into Reports.empty. Memory is that of the result and a few
    blocks. Raises one UserError that lists all irregular lines with file and line number.
    """
    return _read(Path(path), labelled, _parse, may_be_empty)


def _read(path: Path, labelled: bool | None, parse: _Parser, may_be_empty: bool = False) -> Reports:
    with open_bytes(path) as file:
        size = os.fstat(file.fileno()).st_size
        n_fields = _number_of_fields(path, file.readline() + file.read(1 << 16), labelled)
        file.seek(0)
        # The arrays have the largest size that a valid file of this size can need: large arrays get large pages, pages
        # that are never written cost nothing, and appending would touch twice the memory.
        tokens = np.empty(size // 2 + 1, np.uint16)
        offsets = np.zeros(size // len("0|,|\n") + 3, np.int64)
        labels = None
        digest, errors, ids, forms, n_rows, n_tokens = hashlib.sha256(), Errors(), [], [], 0, 0
        for part in _in_order(lambda block: parse(block, n_fields, may_be_empty), _blocks(file, digest)):
            errors.extend(part.errors, line=n_rows)
            ids.append(part.ids)
            forms.append(part.forms)
            if labels is None:
                labels = np.empty((len(offsets), part.labels.shape[1]), np.uint8)
            rows, words = slice(n_rows, n_rows + len(part.ids)), slice(n_tokens, n_tokens + len(part.tokens))
            n_rows, n_tokens = rows.stop, words.stop
            if not errors.total and (n_tokens > len(tokens) or n_rows >= len(offsets)):
                raise UserError(
                    _("{path} has more bytes than its size says: it grows. Try again when it is complete").format(
                        path=path
                    )
                )
            if not errors.total and labels.shape[1] == part.labels.shape[1]:  # otherwise an error is raised below
                tokens[words] = part.tokens
                offsets[rows.start + 1 : rows.stop + 1] = words.start + np.cumsum(part.lengths)
                labels[rows] = part.labels
            if errors.is_full:
                errors.throw(path, "reports")
    ids, forms = np.concatenate(ids), np.concatenate(forms)
    errors.extend(_mixed_forms(forms))
    errors.extend(repeated_ids(ids))
    errors.throw(path, "reports")
    for array, shape in ((tokens, n_tokens), (offsets, n_rows + 1), (labels, (n_rows, labels.shape[1]))):
        array.resize(shape, refcheck=False)  # in place
    task = TASK_OF_FORM[int(forms[0])] if n_fields == 3 else None
    labels, empty = labels if task else None, NONE
    if len(rows := np.flatnonzero(offsets[1:] == offsets[:-1])):
        if len(rows) == n_rows:
            raise UserError(
                _("{path}: no report has a description; expected lines of the form {layout}").format(
                    path=path, layout=LAYOUTS[n_fields]
                )
            )
        empty = EmptyReports(rows, ids[rows], None if labels is None else labels[rows])
        ids, offsets = np.delete(ids, rows), np.delete(offsets, rows)
        labels = None if labels is None else np.delete(labels, rows, axis=0)
    return Reports(path, ids, tokens, offsets, labels, task, digest.hexdigest(), empty)


def read_shards(path: Path, size: int, sha256: str) -> Iterator[Reports]:
    """Reads a file of reports in shards of `size` reports with a description, the last of fewer, in the file's order.

    Reports without a description are in Reports.empty of the shard that they stand in, whose rows count from the
    shard's first line. Memory is that of a shard, of a few blocks, and nine bytes for each report of the file, by which
    repeated ids and mixed forms are found. Errors are those of read_reports(may_be_empty=True), with the lines of the
    whole file. They are raised behind the last shard: what came before counts for nothing then. Raises UserError, too,
    for a file that no longer has the checksum `sha256`.
    """
    with open_bytes(path) as file:
        n_fields = _number_of_fields(path, file.readline() + file.read(1 << 16), None)
        file.seek(0)
        changed = UserError(_("{path} changed while it was read. Run the same command again").format(path=path))
        most = os.fstat(file.fileno()).st_size // len("0|,|\n") + 2  # what is never written costs no memory
        hashes, forms = np.empty(most, np.uint64), np.empty(most, np.int8)
        digest, errors, shard, n_rows, is_described = hashlib.sha256(), Errors(), _Shard(path, size), 0, False
        for part in _in_order(lambda block: _parse(block, n_fields, True), _blocks(file, digest)):
            errors.extend(part.errors, line=n_rows)
            if errors.is_full:
                errors.throw(path, "reports")
            rows = slice(n_rows, n_rows + len(part.ids))
            if rows.stop > most:
                errors.throw(path, "reports")
                raise changed
            hashes[rows], forms[rows], n_rows = id_hashes(part.ids), part.forms, rows.stop
            is_described |= bool(part.lengths.any())
            if not errors.total and shard.takes(part):  # otherwise an error is raised below
                yield from shard.add(part)
    errors.extend(_mixed_forms(forms[:n_rows]))
    errors.extend(_repeated(path, n_fields, hashes[:n_rows]))
    errors.throw(path, "reports")
    if not is_described:
        raise UserError(
            _("{path}: no report has a description; expected lines of the form {layout}").format(
                path=path, layout=LAYOUTS[n_fields]
            )
        )
    if digest.hexdigest() != sha256:
        raise changed
    yield shard.rest()


class _Shard:
    """Reports that are read and in no shard yet."""

    def __init__(self, path: Path, size: int):
        self._path, self._size = path, size
        self._parts: list[Part] = []
        self._described = 0

    def takes(self, part: Part) -> bool:
        """Returns True if the label fields are of the same form as those before."""
        return not self._parts or self._parts[0].labels.shape[1] == part.labels.shape[1]

    def add(self, part: Part) -> Iterator[Reports]:
        """Adds the reports of a block, and yields the shards that are full: each ends before a description."""
        self._parts.append(part)
        self._described += np.count_nonzero(part.lengths)
        while self._described > self._size:
            joined = self._joined()
            end = int(np.flatnonzero(joined.lengths)[self._size])
            tokens = int(joined.lengths[:end].sum())
            yield self._reports(_cut(joined, slice(0, end), slice(0, tokens)))
            self._parts = [_cut(joined, slice(end, None), slice(tokens, None))]
            self._described -= self._size

    def rest(self) -> Reports:
        return self._reports(self._joined())

    def _joined(self) -> Part:
        if len(self._parts) > 1:
            names = ("ids", "tokens", "lengths", "labels", "forms")
            arrays = {name: np.concatenate([getattr(part, name) for part in self._parts]) for name in names}
            self._parts = [Part(**arrays, errors=Errors())]
        return self._parts[0]

    def _reports(self, part: Part) -> Reports:
        task = TASK_OF_FORM.get(int(part.forms[0]))
        labels, empty, described = part.labels if task else None, NONE, part.lengths > 0
        if len(rows := np.flatnonzero(~described)):
            empty = EmptyReports(rows, part.ids[rows], None if labels is None else labels[rows])
        offsets = np.concatenate([[0], np.cumsum(part.lengths[described])])
        labels = None if labels is None else labels[described]
        return Reports(self._path, part.ids[described], part.tokens, offsets, labels, task, "", empty)


def _cut(part: Part, rows: slice, tokens: slice) -> Part:
    return Part(part.ids[rows], part.tokens[tokens], part.lengths[rows], part.labels[rows], part.forms[rows], Errors())


def _repeated(path: Path, n_fields: int, hashes: np.ndarray) -> Errors:
    """Returns an error for each line of a file that repeats an earlier id, from the hashes of its ids (N,), which it
    sorts. If a hash is repeated, the file is read again: for the lines, and because two long ids may share a hash."""

    def ids() -> Iterator[np.ndarray]:
        with open_bytes(path) as file:
            for part in _in_order(lambda block: _parse(block, n_fields, True), _blocks(file, hashlib.sha256())):
                yield part.ids

    hashes.sort(kind="stable")  # in place
    errors = Errors()
    if not (hashes[1:] == hashes[:-1]).any():
        return errors
    lines, firsts = repeated_hashes(np.concatenate([id_hashes(block) for block in ids()]))
    names, start, wanted = {}, 0, np.unique(np.concatenate([lines, firsts]))
    for block in ids():
        here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + len(block))]
        names.update(zip(here.tolist(), block[here - start].tolist(), strict=True))
        start += len(block)
    for line, first in zip(lines.tolist(), firsts.tolist(), strict=True):
        if names.get(line) and names[line] == names.get(first):
            errors.add(line, repeated_id(names[line], first))
    return errors


def _number_of_fields(path: Path, head: bytes, labelled: bool | None) -> int:
    """Returns 2 or 3 from the beginning `head` of a file; raises UserError if the whole file has the wrong form."""
    if not head:
        refuse_other_kinds(path, "reports")
    # The last line of `head` may be cut; the first line is complete.
    counts = [line.count(DELIMITER) + 1 for line in (head.split(b"\n")[:-1] or [head])]
    if labelled is None:
        return next((n for n in counts if n in LAYOUTS), 2)
    needed, other = (3, 2) if labelled else (2, 3)
    if set(counts) == {other}:
        refuse_other_kinds(path, "reports")
        what = "no labels, but labels are needed" if labelled else "labels, but a file without labels is needed"
        raise UserError(
            _("{path} has {what}: its lines are {layout}, expected {expected}").format(
                path=path, what=what, layout=LAYOUTS[other], expected=LAYOUTS[needed]
            )
        )
    return needed


def _blocks(file: BinaryIO, digest: hashlib._Hash) -> Iterator[bytes]:
    """Yields blocks of whole lines, BLOCK bytes and the rest of a line each; adds all bytes to `digest`."""
    # glibc returns much free memory to the system, so that every block would pay for fresh pages, which doubles the
    # time. Freeing one large array raises glibc's threshold for good. With other C libraries this has no effect.
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


def _parse(block: bytes, n_fields: int, may_be_empty: bool) -> Part:
    """Parses the lines of a block, by the fast parser if it accepts the block."""
    return parse_block(block, n_fields) or parse_lines(block, n_fields, may_be_empty)


def _mixed_forms(forms: np.ndarray) -> Errors:
    """Returns an error for each line whose label field has the rarer form."""
    errors, lines = Errors(), {form: np.flatnonzero(forms == form) for form in TASK_OF_FORM}
    change = np.flatnonzero(forms[1:] != forms[:-1]) + 1
    if len(change) == 1 and FEWEST_JOINED <= change[0] <= len(forms) - FEWEST_JOINED and forms.all():
        one, other = (TASK_OF_FORM[int(form)].title for form in (forms[0], forms[-1]))
        errors.add(
            int(change[0]),
            _("two files in one: lines before are of {one}, from here on of {other}. Split them").format(
                one=word(one), other=word(other)
            ),
        )
        return errors
    common = max(lines, key=lambda form: (len(lines[form]), form == forms[0]))
    count = f"{len(lines[common]):,} line{'s have' if len(lines[common]) > 1 else ' has'} the form of"
    for form in TASK_OF_FORM.keys() - {common}:
        for line in lines[form][:COUNTED].tolist():
            title, common_title = TASK_OF_FORM[form].title, TASK_OF_FORM[common].title
            errors.add(
                line,
                _("a label field in the form of {title}; {count} {common}, expected one form a file").format(
                    title=word(title), count=count, common=word(common_title)
                ),
            )
    return errors


def write_reports(path: Path | str, reports: Reports) -> None:
    """Writes `reports` in the competition's format: a blank after every token and label, lines end in LF.

    The file gets its name only after it was read back and is equal. Raises UserError if it differs.
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
                raise UserError(
                    _("{path} was not written: the file read back differs. Check the disk and run it again.").format(
                        path=path
                    )
                )

    storage.write_atomic(Path(path), lambda file: file.writelines(map(line, range(len(reports)))), check)
