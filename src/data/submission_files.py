"""Reader and writer of submission files: the writer is atomic, the reader as strict as that of reports."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.data.line_parser import Errors, open_bytes, read_id, repeated_ids, show, split_fields
from src.data.tasks import LINE_FORMAT

BLOCK = 1 << 14
"""Lines written or read at a time: a large file's numbers as Python objects would fill the memory."""
SUBMISSION_LAYOUT = "id|,|p0 p1 …"
_NUMBER = re.compile(rb"\d+(\.\d+)?(e[+-]\d+)?")


def write_submission(
    path: Path | str, ids: np.ndarray, probabilities: np.ndarray, eps: float, line_format: str = LINE_FORMAT
) -> None:
    """Writes one line a report, as Task.line_format says, with the probabilities clipped to [eps, 1 - eps].

    `ids` (N,), `probabilities` (N, n). Numbers have at least nine significant digits, and enough to distinguish 1 - eps
    from 1. The file gets its name only after it was read back and holds these ids and values. Raises UserError for
    anything but probabilities.
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
    digits = min(17, max(9, 3 + math.ceil(-math.log10(eps)))) if eps else 17

    def blocks() -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(names), BLOCK):
            rows = slice(start, start + BLOCK)
            yield rows, np.clip(values[rows], eps, 1 - eps)

    def write(file: IO[bytes]) -> None:
        for rows, clipped in blocks():
            for name, row in zip(names[rows].tolist(), clipped.tolist(), strict=True):
                numbers = " ".join([f"{p:.{digits}g}" for p in row])
                line = line_format.format(id=name.decode(errors="surrogateescape"), values=numbers)
                file.write(line.encode(errors="surrogateescape") + b"\n")

    def check(written: Path) -> None:
        names_back, values_back = read_submission(written)
        same = np.array_equal(names_back, names) and values_back.shape == values.shape
        inside = not eps or bool(((values_back > 0) & (values_back < 1)).all())
        near = {"rtol": 10.0 ** (1 - digits), "atol": 0}
        if not (same and inside and all(np.allclose(values_back[rows], clipped, **near) for rows, clipped in blocks())):
            raise UserError(f"{path} was not written: the file read back differs. Check the disk and run it again.")

    storage.write_atomic(path, write, check)


def read_submission(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Reads ids (N,) bytes and probabilities (N, n) float64, which single blanks separate.

    Raises UserError that lists the errors with their lines, like `read_reports`.
    """
    path, errors = Path(path), Errors()
    names, values, width = [], [], 0  # names and values: one array a block
    with open_bytes(path) as file:
        lines = enumerate(file)
        while block := list(itertools.islice(lines, BLOCK)):
            ids, rows = [], []
            for number, line in block:
                messages: list[str] = []
                fields = split_fields(line.removesuffix(b"\n").removesuffix(b"\r"), SUBMISSION_LAYOUT, messages)
                ids.append(read_id(fields[0], messages) if fields else b"")
                words = fields[1].split(b" ") if fields else []
                odd = next((word for word in words if not _NUMBER.fullmatch(word) or float(word) > 1), None)
                if odd is not None:
                    messages.append(f"value {show(odd)}, expected numbers from 0 to 1 with single blanks between them")
                elif words:
                    width = width or len(words)
                    if len(words) == width:
                        rows.append([float(word) for word in words])
                    else:
                        count = f"{len(words)} value{'s' * (len(words) > 1)}"
                        messages.append(f"{count}, expected {width} as in the lines before")
                for message in messages:
                    errors.add(number, message)
            names.append(np.array(ids, np.bytes_))
            values.append(np.array(rows, np.float64).reshape(len(rows), width))
    if not names:
        raise UserError(f"{path} is empty; expected lines of the form {SUBMISSION_LAYOUT}")
    errors.extend(repeated_ids(np.concatenate(names)))
    errors.throw(path)
    return np.concatenate(names), np.concatenate(values)
