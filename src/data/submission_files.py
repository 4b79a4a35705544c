"""Reader and writer of submission files: the writer is atomic, the reader as strict as that of reports."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.data.file_kinds import open_bytes, show
from src.data.line_parser import DELIMITER, Errors, read_id, repeated_ids, split_fields
from src.data.tasks import ROUND1, Task

BLOCK = 1 << 14
"""Lines written or read at a time: a large file's numbers as Python objects would fill the memory."""
SUBMISSION_LAYOUT = "id|,|p0 p1 …"
_NUMBER = re.compile(rb"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def write_submission(path: Path | str, ids: np.ndarray, predictions: np.ndarray, eps: float, task: Task) -> None:
    """Writes one line a row, as the task says, with probabilities clipped to [eps, 1 - eps].

    `ids` (N,), `predictions` (N, n) as task.decode makes them. Numbers have at least nine significant digits, and
    enough to distinguish 1 - eps from 1; those of a regression are not clipped. The file gets its name only after it
    was read back and holds these ids and values. Raises UserError for anything but predictions of this kind.
    """
    path, names, values = Path(path), np.asarray(ids).astype(np.bytes_), np.asarray(predictions, np.float64)
    if not 0 <= eps < 0.5:
        raise UserError(
            _("{path} was not written: eps is {eps}, expected a number from 0 to below 0.5").format(path=path, eps=eps)
        )
    if values.ndim != 2 or not values.size or names.shape != values.shape[:1]:
        raise UserError(
            _("{path} was not written: ids of shape {ids} and predictions of {predictions}").format(
                path=path, ids=names.shape, predictions=values.shape
            )
        )
    low, high = (eps, 1 - eps) if task.has_classes else (0.0, math.inf)
    if len(bad := np.argwhere(~((values >= 0) & (values <= 1 if task.has_classes else np.isfinite(values))))):
        row, column = bad[0].tolist()
        where = f"column {column} of {task.noun.removesuffix('s')} {names[row].decode()}"
        expected = "a probability" if task.has_classes else f"a finite number of {task.unit}, at least 0"
        raise UserError(
            _("{path} was not written: {where} is {value}, expected {expected}").format(
                path=path, where=where, value=values[row, column], expected=expected
            )
        )
    digits = 9
    if task.has_classes:
        digits = min(17, max(9, 3 + math.ceil(-math.log10(eps)))) if eps else 17

    def blocks() -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(names), BLOCK):
            rows = slice(start, start + BLOCK)
            yield rows, np.clip(values[rows], low, high)

    def write(file: IO[bytes]) -> None:
        if task.header:
            file.write(task.header.encode() + b"\n")
        for rows, clipped in blocks():
            for name, row in zip(names[rows].tolist(), clipped.tolist(), strict=True):
                numbers = task.separator.join([f"{p:.{digits}g}" for p in row])
                line = task.line_format.format(id=name.decode(errors="surrogateescape"), values=numbers)
                file.write(line.encode(errors="surrogateescape") + b"\n")

    def check(written: Path) -> None:
        names_back, values_back = read_submission(written, task)
        same = np.array_equal(names_back, names) and values_back.shape == values.shape
        inside = not eps or not task.has_classes or bool(((values_back > 0) & (values_back < 1)).all())
        near = {"rtol": 10.0 ** (1 - digits), "atol": 0}
        if not (same and inside and all(np.allclose(values_back[rows], clipped, **near) for rows, clipped in blocks())):
            raise UserError(
                _("{path} was not written: the file read back differs. Check the disk and run it again.").format(
                    path=path
                )
            )

    storage.write_atomic(path, write, check)


def read_submission(path: Path | str, task: Task = ROUND1) -> tuple[np.ndarray, np.ndarray]:
    """Reads ids (N,) bytes and predictions (N, n) float64 in the form of the task's submissions.

    The files of all tasks on reports have one form; their lines may have any one number of values. Blanks around values
    do not matter. Raises UserError that lists the errors with their lines, like `read_reports`.
    """
    path, errors = Path(path), Errors()
    layout, delimiter = (task.header, b",") if task.header else (SUBMISSION_LAYOUT, DELIMITER)
    expected = "numbers from 0 to 1" if task.has_classes else f"numbers of {task.unit}, at least 0,"
    expected += f" with {'blanks' if task.separator == ' ' else repr(task.separator)} between them"
    largest = 1.0 if task.has_classes else sys.float_info.max
    names, values, width = [], [], 0  # names and values: one array a block
    with open_bytes(path) as file:
        lines = enumerate(file)
        if task.header:
            line = next(lines, (0, b""))[1]
            if line.removesuffix(b"\n").removesuffix(b"\r") != task.header.encode():
                errors.add(
                    0, _("the header {value}, expected {header}").format(value=show(line.rstrip()), header=task.header)
                )
        while not errors.is_full and (block := list(itertools.islice(lines, BLOCK))):
            ids, rows = [], []
            for number, line in block:
                messages: list[str] = []
                fields = split_fields(line.removesuffix(b"\n").removesuffix(b"\r"), layout, messages, delimiter)
                ids.append(read_id(fields[0], messages) if fields else b"")
                words = _words(fields, delimiter)
                if fields and not words:
                    messages.append(_("no values, expected {expected}").format(expected=expected))
                odd = next((word for word in words if not _NUMBER.fullmatch(word) or float(word) > largest), None)
                if odd is not None:
                    messages.append(_("value {odd}, expected {expected}").format(odd=show(odd), expected=expected))
                elif words:
                    width = width or len(words)
                    if len(words) == width:
                        rows.append([float(word) for word in words])
                    else:
                        count = f"{len(words)} value{'s' * (len(words) > 1)}"
                        messages.append(
                            _("{count}, expected {width} as in the lines before").format(count=count, width=width)
                        )
                for message in messages:
                    errors.add(number, message)
            names.append(np.array(ids, np.bytes_))
            values.append(np.array(rows, np.float64).reshape(len(rows), width))
    kind = "predictions" if task.header else "submission"
    if not names or errors.is_full:
        errors.throw(path, kind)
        raise UserError(_("{path} is empty; expected lines of the form {layout}").format(path=path, layout=layout))
    header_lines = int(bool(task.header))
    errors.extend(repeated_ids(np.concatenate(names), header_lines), header_lines)
    errors.throw(path, kind)
    return np.concatenate(names), np.concatenate(values)


def _words(fields: list[bytes], delimiter: bytes) -> list[bytes]:
    """Returns the numbers of a line of these fields, without the blanks around them."""
    if delimiter != DELIMITER:
        return [word.strip(b" ") for word in fields[1:]]
    return [word for field in fields[1:] for word in field.split(b" ") if word]
