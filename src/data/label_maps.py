"""Label maps (domains.labels): labels of files that number them otherwise are renumbered as they are read.

A CSV file with the columns file, label, means: label 3 of b.csv is label 5 of ours. Labels are numbered from 0 in the
order of the task's columns. Labels of a file that are not named stay; two labels may mean one.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from src.core.errors import UserError, shortened
from src.core.language import _
from src.data.line_parser import Errors
from src.data.report_reader import Reports

COLUMNS = ("file", "label", "means")


def renumbered(path: Path, files: Sequence[Reports]) -> list[Reports]:
    """Renumbers the labels of the labelled `files` by the label map in `path`. Raises UserError, with the line, for a
    file or label that is not there."""
    known = {file.path.name: file for file in files if file.labels is not None}
    means: dict[str, dict[int, int]] = {}
    errors = Errors()
    for line, row in enumerate(_rows(path)):
        if not line and tuple(row) == COLUMNS or not row:
            continue
        if len(row) != len(COLUMNS):
            errors.add(line, _("expected file,label,means"))
            continue
        name, *numbers = row
        if name not in known:
            told = _("no labelled train or extra file is called {name}. Known: {names}")
            errors.add(line, told.format(name=shortened(name), names=", ".join(known)))
            continue
        size = known[name].labels.shape[1]
        if wrong := [one for one in numbers if not (one.isdecimal() and len(one) < 5 and int(one) < size)]:
            told = _("{label} is no label of {name}, which has 0 to {last}")
            errors.add(line, told.format(label=shortened(wrong[0]), name=name, last=size - 1))
            continue
        label, meant = map(int, numbers)
        if label in means.setdefault(name, {}):
            errors.add(line, _("label {label} of {name} is named a second time").format(label=label, name=name))
        means[name][label] = meant
    errors.throw(path)
    if not means:
        raise UserError(_("domains.labels: {path} maps no label; expected lines file,label,means").format(path=path))
    return [
        replace(file, labels=_moved(file.labels, means[file.path.name])) if file.path.name in means else file
        for file in files
    ]


def checksum(path: Path) -> str:
    """Checksum of a label map. Raises UserError where it cannot be read."""
    return hashlib.sha256(_text(path).encode()).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(_("domains.labels: {path} cannot be read ({error})").format(path=path, error=error)) from error


def _rows(path: Path) -> list[list[str]]:
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(_text(path)))]
    except csv.Error as error:
        raise UserError(_("domains.labels: {path} cannot be read ({error})").format(path=path, error=error)) from error


def _moved(labels: np.ndarray, means: dict[int, int]) -> np.ndarray:
    """Labels (N, L) under their own numbers; a label that several mean is there where one of them is."""
    found = labels.copy()
    found[:, list(means)] = 0
    for label, meant in means.items():
        found[:, meant] = np.maximum(found[:, meant], labels[:, label])
    return found
