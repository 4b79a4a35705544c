"""Mutated report files, and a plain reading of the `|,|` format that is written apart from the readers of the project.

The plain reading is slow and knows nothing of blocks: a reader must give its rows, or refuse a line that it refuses.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import UserError
from src.data.report_reader import read_reports
from tests.chaos.campaign import Verdict

ID = re.compile(rb"[!#-&(-+\-./0-:<-_a-{}~]{1,256}")
"""Printable ASCII without blanks, quotation marks and the separators , ; |"""
NUMBERS = re.compile(rb" *(?:[0-9]+(?: +[0-9]+)* *)?")
LABELS = {1: (17,), 2: (17, 12)}
"""Labels of each group of a label field, by the number of groups."""
MOST = 65_535

SEEDS = (
    b"0|,|5 12 0 \n1|,|7 \n2|,|900 3 3 4 \n",
    b"0|,|5 12 0 |,|3 16 \n1|,|7 |,|\n2|,|900 3 3 |,|0 \n3|,|1 2 |,|5 \n",
    b"10|,|5 12 |,|3 16 ,0 \n11|,|7 |,|,\n12|,|65535 0 |,|2 ,11 1 \n",
    b"a1|,|5\r\na2|,|6 7\r\na3|,|0 ",
)
BITS = (
    b"|,|", b"|", b",", b" ", b"  ", b"\n", b"\r\n", b"\r", b"\0", b"\t", b"-1", b"+1", b"65536", b"65535", b"00007",
    b"9" * 5000, b"1.0", b"1e3", b"\xef\xbb\xbf", b"\xff", "\u0663".encode(), b'"', b"'", b";", b"x" * 257, b"17 ",
    b"16 ", b"12", b"3 3", b"\x1a", b"\x0b", b"_", b"1_0", b"|,|1 |,|", b"nan", b"id|,|description\n", b"0x1",
)  # fmt: skip
"""Pieces that are put into files."""


CHANGES: tuple[Callable[[bytes, int, int, random.Random], bytes], ...] = (
    lambda data, at, to, rng: data[:at] + rng.choice(BITS) + data[at:],
    lambda data, at, to, rng: data[:at] + rng.choice(BITS) + data[to:],
    lambda data, at, to, rng: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
    lambda data, at, to, rng: data[:at] + data[at + 1 :],
    lambda data, at, to, rng: data[:at] + data[to:],
    lambda data, at, to, rng: data[:to] + data[at:],
    lambda data, at, to, rng: b"".join(rng.sample(lines := data.splitlines(keepends=True), len(lines))),
    lambda data, at, to, rng: data + rng.choice(data.splitlines(keepends=True) or [b"\n"]),
    lambda data, at, to, rng: data.replace(*rng.choice(REPLACED)),
)
"""Changes of a file, at or between two places."""
REPLACED = ((b"\n", b"\r\n"), (b"|,|", b"|, |"), (b" ", b"  "), (b"\n", b"\n\n"))


def mutate(rng: random.Random) -> bytes:
    """Returns one of SEEDS after one to four changes."""
    data = rng.choice(SEEDS)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at, to = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        data = rng.choice(CHANGES)(data, at, to, rng)
    return data


Row = tuple[bytes, tuple[int, ...], frozenset[int] | None]
"""Id, tokens, and columns of the labels or None."""


@dataclass
class Plain:
    rows: list[Row]
    bad: set[int]
    """Numbers from 1 of the lines that are no rows; a file with one is refused."""


def read_plainly(data: bytes) -> Plain:
    """Reads a file line by line, as docs/formats.md describes it."""
    lines = [line.removesuffix(b"\r") for line in data.removesuffix(b"\n").split(b"\n")]
    n_fields = next((n for n in (line.count(b"|,|") + 1 for line in lines) if n in (2, 3)), 2)
    rows: list[Row] = []
    forms: list[int] = []
    ids: dict[bytes, int] = {}
    bad = set()
    for number, line in enumerate(lines, start=1):
        fields, form = line.split(b"|,|"), 0
        rest = b"\n".join(fields)
        if len(fields) != n_fields or b"|," in rest or b",|" in rest or re.search(rb"[^\t\r -~]", line):
            bad.add(number)
            forms.append(0)
            continue
        columns: frozenset[int] | None = None
        words = _numbers(fields[1], MOST)
        if not ID.fullmatch(fields[0]) or not words:
            bad.add(number)
        if n_fields == 3:
            columns = _columns(fields[2])
            form = fields[2].count(b",") + 1 if columns is not None else 0
            if columns is None:
                bad.add(number)
        if ID.fullmatch(fields[0]) and ids.setdefault(fields[0], number) != number:
            bad.add(number)
        forms.append(form)
        rows.append((fields[0], tuple(words or ()), columns))
    counts = Counter(form for form in forms if form)
    common = max(counts, key=lambda form: (counts[form], form == forms[0]), default=0)
    bad |= {number for number, form in enumerate(forms, start=1) if form not in (0, common)}
    return Plain(rows, bad)


def _numbers(text: bytes, most: int) -> list[int] | None:
    if not NUMBERS.fullmatch(text):
        return None
    found = [int(word.lstrip(b"0") or b"0") if len(word.lstrip(b"0")) < 6 else most + 1 for word in text.split()]
    return found if all(number <= most for number in found) else None


def _columns(text: bytes) -> frozenset[int] | None:
    """Columns of a label field; None where it is none."""
    groups, columns, start = text.split(b","), set(), 0
    for group, size in zip(groups, LABELS.get(len(groups), ()), strict=False):
        values = _numbers(group, size - 1)
        if values is None or len(set(values)) < len(values):
            return None
        columns |= {start + value for value in values}
        start += size
    return frozenset(columns) if len(groups) in LABELS else None


def judge(data: bytes, path: Path) -> Verdict:
    """Reads `data` by the project's reader and plainly, and compares both."""
    path.write_bytes(data)
    plain = read_plainly(data)
    try:
        reports = read_reports(path)
    except UserError as error:
        told = str(error)
        lines = [int(number) for number in re.findall(rf"{path.name}, line (\d+):", told)]
        if not told.startswith(str(path)) or not plain.bad or (lines and lines[0] != min(plain.bad)):
            return Verdict(
                "wrong in silence", f"{data!r}: the plain reading finds {sorted(plain.bad)[:5]}; {told[:500]}"
            )
        return Verdict("refused")
    labels = reports.labels
    found = [
        (
            reports.ids[row],
            tuple(reports[row].tolist()),
            None if labels is None else frozenset(labels[row].nonzero()[0]),
        )
        for row in range(len(reports))
    ]
    if plain.bad or found != plain.rows:
        return Verdict("wrong in silence", f"{data!r}: read as {found[:5]}, plainly {plain.rows[:5]} bad {plain.bad}")
    return Verdict("fine")
