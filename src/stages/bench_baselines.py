"""What reading a file of reports costs with pandas, written as one plainly would. Used by the benchmark alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def columns(path: Path) -> dict[str, int]:
    """Columns of text; nothing is checked and the tokens are not numbers yet."""
    table = pd.read_csv(path, sep=r"\|,\|", engine="python", header=None)
    return {"rows": len(table)}


def tokens(path: Path) -> dict[str, int]:
    """The descriptions as arrays of integers, too; labels stay text, and nothing is checked."""
    table = pd.read_csv(path, sep=r"\|,\|", engine="python", header=None)
    reports = [np.array([int(token) for token in text.split()], np.uint16) for text in table[1]]
    return {"rows": len(reports), "tokens": sum(map(len, reports)), "sum": sum(int(one.sum()) for one in reports)}
