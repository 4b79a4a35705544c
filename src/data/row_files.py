"""Files about single training rows: ids to leave out (paths.exclude), and weights (paths.weights).

Both are CSV with the row's id in the first column; a first line that begins with `id`, `report`, `stay` or `image` is a
header. In a file of weights the weight is the second column, or the one that the header calls `weight`. A file of ids
may have further columns, so that a shortened output/suspicious.csv is one.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src.core.errors import UserError, shortened
from src.core.language import _, word
from src.data.file_kinds import open_bytes, refuse_other_kinds
from src.data.line_parser import Errors

HEADERS = {"id", "report", "stay", "image"}
"""First fields by which a first line is a header."""
LARGEST = 1e6
"""Largest weight."""
EXPECTED = "rows"
"""Kind of these files in file_kinds.EXPECTED."""

_CONTROL = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f]")
"""Characters that no table of text has."""


@dataclass
class RowFile:
    """Ids of a file, each with its first line from 1, and, in a file of weights, its weight."""

    path: Path
    lines: dict[str, int] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def mask(self, ids: np.ndarray, noun: str) -> np.ndarray:
        """Returns which of the training rows with these ids (N,) bytes the file names, (N,) bool.

        Raises UserError, with file and line, for ids that are none of them. `noun`: what a row is.
        """
        names = [name.decode() for name in ids.tolist()]
        if unknown := self.lines.keys() - set(names):
            errors = Errors()
            for name in sorted(unknown, key=self.lines.__getitem__):
                told = _("there is no training {noun} {id}. Ids are text: 7 is not 007")
                errors.add(self.lines[name] - 1, told.format(noun=word(noun), id=shortened(name)))
            errors.throw(self.path)
        return np.array([name in self.lines for name in names], dtype=bool)

    def weights_of(self, ids: np.ndarray, noun: str, excluded: RowFile | None = None) -> np.ndarray:
        """Returns the weight of each training row, (N,) float64 with mean 1: rows that the file does not name count as
        1, and weights of rows that `excluded` names have no effect. Raises UserError like mask(), and where no row is
        left with a weight."""
        left_out = [] if excluded is None else [name.encode() for name in excluded.lines]
        self.mask(np.concatenate([ids, np.array(left_out, dtype=ids.dtype)]) if left_out else ids, noun)
        found = np.array([self.weights.get(name.decode(), 1.0) for name in ids.tolist()])
        if not found.any():
            raise UserError(_("{path}: every weight is 0, so there is nothing to learn from").format(path=self.path))
        return found / found.mean()


def read_excluded(path: Path) -> RowFile:
    """Reads ids to leave out. Raises UserError, with file and line, for what is no id, and for a file without ids."""
    return _read(path, is_weighted=False)


def read_weights(path: Path) -> RowFile:
    """Reads weights from 0 to LARGEST. Raises UserError like read_excluded(), for what is no weight, and for an id that
    stands twice."""
    return _read(path, is_weighted=True)


def _read(path: Path, is_weighted: bool) -> RowFile:
    with open_bytes(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
        if _CONTROL.search(text):
            refuse_other_kinds(path, EXPECTED)
        rows = _records(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        refuse_other_kinds(path, EXPECTED)
        raise UserError(_("{path} is no CSV of UTF-8: {error}").format(path=path, error=error)) from None
    found, errors, column = RowFile(path), Errors(), 1
    first = [name.strip().lower() for name in rows[0][1]] if rows else []
    if first and first[0] in HEADERS:
        rows = rows[1:]
        column = first.index("weight") if "weight" in first else 1
    for number, fields in rows:
        name = fields[0].strip()
        if not name:
            errors.add(number - 1, _("the id is empty"))
        elif is_weighted and name in found.lines:
            told = _("the id {id} stands on line {line} too")
            errors.add(number - 1, told.format(id=shortened(name), line=found.lines[name]))
        elif is_weighted and (weight := _weight(fields[column : column + 1])) is None:
            told = _("expected the id, a comma and a weight from 0 to {largest:,.0f}")
            errors.add(number - 1, told.format(largest=LARGEST))
        else:
            found.lines.setdefault(name, number)
            if is_weighted:
                found.weights[name] = weight
    errors.throw(path)
    if not found.lines:
        raise UserError(
            _("{path} names no row; expected lines that begin with the id of a training row").format(path=path)
        )
    return found


def _records(reader: Any) -> list[tuple[int, list[str]]]:
    """Returns the records of a csv.reader that are not empty, each with its first line, from 1."""
    found, line = [], 1
    for fields in reader:
        if any(fields):
            found.append((line, fields))
        line = reader.line_num + 1  # a quoted field may have line breaks
    return found


def _weight(fields: list[str]) -> float | None:
    try:
        value = float(*fields)
    except (ValueError, TypeError):
        return None
    if not fields or "_" in fields[0]:  # Python takes nothing for 0, and 1_0 for 10
        return None
    return value if math.isfinite(value) and 0 <= value <= LARGEST else None
