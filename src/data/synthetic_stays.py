"""Synthetic ICU stays in the format of PhysioNet 2012, to run everything without a download.

A stay has a severity, which moves vital signs and laboratory values a little, how often they are measured, the length
of stay and the risk of death. A part of the stays has a crisis of some hours: blood pressure falls, heart rate and
lactate rise, and the risk of death is much higher. Stays, parameters and hours of the crises are known (truth.csv), so
an explanation can be checked. set-b is older, sicker and measured less often. No value is from a real stay: the
constants below are textbook values and rough rates.

    make_sample(Path("input/icu/sample"), rows=1500, test_rows=500, seed=0)
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from src.core import storage
from src.core.errors import UserError
from src.core.settings import Config
from src.data.packed_zip import PackedZip
from src.data.plausible import SERIES
from src.data.series_reader import HEADER, OUTCOMES_HEADER

HOURS = 48
TEXT = "S8"
BLOCK = 2000
"""Stays made at a time; bounds the memory."""
FIRST_RECORD = {"a": 10_000_001, "b": 20_000_001}
"""RecordID of the first stay of each set; those of the challenge have six digits."""
SET_B = {"years": 6.0, "severity": 0.3, "frequency": 0.75}
"""Differences of set-b from set-a: older, sicker, measured less often."""

CRISIS_SHARE, CRISIS_HOURS = 0.25, (6, 14)
"""Share of the stays that have a crisis, and its shortest and longest duration."""
DEATH = {"start": -3.9, "severity": 1.0, "crisis": 3.2, "decades": 0.25}
"""Logit of death at severity 0 and 65 years, and what a unit adds."""


class _Signal(NamedTuple):
    """Time series of a parameter."""

    mean: float
    spread: float
    """Standard deviation between stays."""
    noise: float
    """Standard deviation between values of a stay."""
    severity: float
    """Added for each unit of severity."""
    crisis: float
    """Added at the height of a crisis."""
    rate: float
    """Chance of a value in an hour at severity 0."""
    decimals: int


SIGNALS = {
    "HR": _Signal(84, 10, 4, 3, 32, 0.9, 0),
    "SysABP": _Signal(122, 11, 6, -3, -42, 0.9, 0),
    "DiasABP": _Signal(60, 7, 4, -1, -16, 0.9, 0),
    "MAP": _Signal(81, 8, 4, -2, -26, 0.9, 0),
    "NISysABP": _Signal(121, 11, 7, -3, -42, 0.7, 0),
    "NIDiasABP": _Signal(59, 7, 5, -1, -16, 0.7, 0),
    "NIMAP": _Signal(79, 8, 5, -2, -26, 0.7, 2),
    "RespRate": _Signal(18, 2.5, 2, 0.8, 0, 0.35, 0),
    "Temp": _Signal(37, 0.4, 0.2, 0.05, 0, 0.3, 1),
    "GCS": _Signal(12.5, 2, 0.7, -1, 0, 0.25, 0),
    "Urine": _Signal(110, 40, 50, -15, 0, 0.6, 0),
    "FiO2": _Signal(0.45, 0.08, 0.03, 0.04, 0, 0.15, 2),
    "Weight": _Signal(81, 0, 0.4, 0, 0, 0.1, 1),
    "Lactate": _Signal(1.6, 0.4, 0.15, 0.15, 4.5, 0.1, 1),
    "pH": _Signal(7.39, 0.03, 0.02, -0.01, 0, 0.1, 2),
    "PaCO2": _Signal(40, 4, 2, 0, 0, 0.1, 0),
    "PaO2": _Signal(130, 30, 25, -6, 0, 0.1, 0),
    "SaO2": _Signal(97, 1, 0.6, -0.3, 0, 0.05, 0),
    "BUN": _Signal(22, 7, 1, 4, 0, 0.07, 0),
    "Creatinine": _Signal(1.1, 0.3, 0.05, 0.2, 0, 0.07, 1),
    "Glucose": _Signal(135, 20, 15, 6, 0, 0.07, 0),
    "HCO3": _Signal(24, 2, 1, -0.8, 0, 0.07, 0),
    "HCT": _Signal(31, 4, 0.8, -0.5, 0, 0.08, 1),
    "K": _Signal(4.1, 0.35, 0.2, 0.05, 0, 0.07, 1),
    "Mg": _Signal(2, 0.2, 0.1, 0, 0, 0.06, 1),
    "Na": _Signal(139, 3, 1, 0, 0, 0.07, 0),
    "Platelets": _Signal(200, 60, 8, -12, 0, 0.07, 0),
    "WBC": _Signal(11, 3, 0.8, 0.8, 0, 0.06, 1),
    "Albumin": _Signal(3.1, 0.4, 0.1, -0.15, 0, 0.012, 1),
    "ALP": _Signal(90, 25, 4, 5, 0, 0.015, 0),
    "ALT": _Signal(45, 15, 3, 6, 0, 0.015, 0),
    "AST": _Signal(60, 18, 4, 8, 0, 0.015, 0),
    "Bilirubin": _Signal(1, 0.3, 0.1, 0.2, 0, 0.015, 1),
    "Cholesterol": _Signal(155, 30, 3, 0, 0, 0.002, 0),
    "TroponinI": _Signal(2, 0.6, 0.2, 0.2, 0, 0.003, 1),
    "TroponinT": _Signal(0.3, 0.08, 0.03, 0.05, 0, 0.01, 2),
}
"""Parameters with numbers; MechVent is 1 while a stay is ventilated."""
LINES = {"SysABP": "NISysABP", "DiasABP": "NIDiasABP", "MAP": "NIMAP"}
"""Pressures of an arterial line, and what is measured without one."""
CAUSES = ("HR", *LINES, *LINES.values(), "Lactate")
"""Parameters that truth.csv names for a crisis, if they are measured in it."""
IMPLAUSIBLE = {"Temp": "0", "HR": "0", "SysABP": "0", "pH": "735"}
"""Values that some lines have, as in the published files."""
IMPLAUSIBLE_RATE, BLANK_RATE, UNKNOWN_HEIGHT, UNKNOWN_WEIGHT, EMPTY = 0.001, 0.02, 0.47, 0.08, 0.001

NOTE = "README.md"  # written last, so that a folder with this file is complete
TRUTH, ANSWERS = "truth.csv", "answers/Outcomes-b.txt"
ORIGIN = "SYNTHETIC stays, of no patient"
FILES = ("set-a.zip", "Outcomes-a.txt", "set-b.zip", ANSWERS, TRUTH)
TRUTH_HEADER = "set,RecordID,probability_of_death,parameter,from_hour,to_hour"


@dataclass(frozen=True, eq=False)
class _Stays:
    """Some synthetic stays, n."""

    records: np.ndarray  # (n,) int64
    texts: list[bytes]
    outcomes: list[str]  # lines
    truth: list[str]  # lines


def _draw(records: np.ndarray, letter: str, rng: np.random.Generator) -> _Stays:
    """Draws the stays of `records`, (n,), of set-`letter`."""
    n, shift = len(records), SET_B if letter == "b" else dict.fromkeys(SET_B, 0.0) | {"frequency": 1.0}
    severity = rng.normal(shift["severity"], 1, n)
    age = np.clip(rng.normal(65 + shift["years"], 15, n), 16, 90).round()
    has_crisis = rng.random(n) < CRISIS_SHARE * expit(0.8 * severity) * 2
    length = rng.integers(CRISIS_HOURS[0], CRISIS_HOURS[1] + 1, n)
    start = rng.integers(8, HOURS - length + 1)
    risk = DEATH["start"] + DEATH["severity"] * severity + DEATH["crisis"] * has_crisis
    risk = expit(risk + DEATH["decades"] * (age - 65) / 10)
    died = rng.random(n) < risk

    # Course of a crisis: a rise in the first two hours, a plateau, a fall in the last two.
    hour = np.arange(HOURS)
    course = np.clip(np.minimum(hour - start[:, None] + 1, (start + length)[:, None] - hour) / 2, 0, 1)
    course = course * has_crisis[:, None]  # (n, 48)
    has_line = rng.random(n) < expit(0.4 + 0.5 * severity)
    is_ventilated = rng.random(n) < expit(-0.3 + 0.6 * severity)
    is_empty = rng.random(n) < EMPTY
    weight = np.clip(rng.normal(SIGNALS["Weight"].mean, 18, n), 40, 180).round(1)
    frequency = shift["frequency"] * np.exp(0.25 * severity) * ~is_empty

    events, truth_of = [], [[] for _ in range(n)]
    for number, parameter in enumerate(SERIES):
        signal = SIGNALS.get(parameter.name)
        rate = np.broadcast_to((signal.rate if signal else 0.15) * frequency, (n,))
        rate = np.where(_is_measured(parameter.name, has_line, is_ventilated), rate, 0)[:, None]
        if parameter.name == "Lactate":
            rate = rate * (1 + 2 * course)
        seen = rng.random((n, HOURS)) < np.minimum(rate, 0.95)
        stay, at = np.nonzero(seen)
        if signal:
            level = signal.mean + signal.severity * severity + rng.normal(0, signal.spread, n)
            level = weight if parameter.name == "Weight" else level
            value = level[stay] + signal.crisis * course[stay, at] + rng.normal(0, signal.noise, len(stay))
            texts = _numbers(np.clip(value, *_limits(parameter.low, parameter.high, signal)), signal.decimals)
        else:
            texts = np.full(len(stay), b"1", TEXT)
        minute = at * 60 + rng.integers(0, 60, len(stay))
        minute[(at == HOURS - 1) & (minute % 60 == 59)] = HOURS * 60
        if parameter.name in IMPLAUSIBLE:
            texts[rng.random(len(texts)) < IMPLAUSIBLE_RATE] = IMPLAUSIBLE[parameter.name].encode()
        events.append((stay, minute, np.full(len(stay), number), texts))
        if parameter.name in CAUSES:
            for i in np.flatnonzero((seen & (course > 0)).any(axis=1)).tolist():
                truth_of[i].append(parameter.name)

    blanks = np.flatnonzero(rng.random(n) < BLANK_RATE)
    events.append((blanks, rng.integers(0, HOURS * 60, len(blanks)), np.full(len(blanks), len(SERIES)), b"-1"))
    stay, minute, number, texts = (
        np.concatenate([np.broadcast_to(event[i], event[0].shape) for event in events]) for i in range(4)
    )
    order = np.lexsort((number, minute, stay))
    limits = np.searchsorted(stay[order], np.arange(n + 1))
    lines = [
        b"%s,%s,%s\n" % parts
        for parts in zip(*_words(minute[order], number[order]), texts[order].tolist(), strict=True)
    ]

    height = np.where(rng.random(n) < UNKNOWN_HEIGHT, -1, rng.normal(170, 10, n).round(1))
    height[rng.random(n) < 10 * IMPLAUSIBLE_RATE] = 13
    weight[rng.random(n) < UNKNOWN_WEIGHT] = -1
    gender = np.where(rng.random(n) < 0.003, -1, rng.random(n) < 0.56)
    icu = rng.choice(4, n, p=[0.15, 0.21, 0.37, 0.27]) + 1
    texts = []
    for i, record in enumerate(records.tolist()):
        head = f"{HEADER.decode()}\n00:00,RecordID,{record}\n00:00,Age,{age[i]:g}\n00:00,Gender,{gender[i]}\n"
        head += f"00:00,Height,{height[i]:g}\n00:00,ICUType,{icu[i]}\n00:00,Weight,{weight[i]:g}\n"
        texts.append(head.encode() + b"".join(lines[limits[i] : limits[i + 1]]))

    days = np.exp(1.9 + 0.3 * severity + 0.35 * has_crisis + rng.normal(0, 0.35, n)).round().clip(2)
    days_known = np.where(rng.random(n) < 0.015, -1, days)
    saps = np.clip((14 + 3 * severity + 3 * has_crisis + rng.normal(0, 3, n)).round(), 0, 34)
    sofa = np.clip((6 + 2 * severity + 2 * has_crisis + rng.normal(0, 2, n)).round(), 0, 22)
    for scores in (saps, sofa):
        scores[rng.random(n) < 0.02] = -1
    later = np.where(rng.random(n) < 0.3, days + rng.integers(1, 900, n), -1)
    survival = np.where(died, days, later)
    columns = np.stack([records, saps, sofa, days_known, survival, died], axis=1).astype(np.int64)
    outcomes = [",".join(map(str, row)) for row in columns.tolist()]
    truth = []
    for i, record in enumerate(records.tolist()):
        hours = f"{start[i]},{start[i] + length[i]}" if has_crisis[i] else ","
        truth += [f"set-{letter},{record},{risk[i]:.6f},{parameter},{hours}" for parameter in truth_of[i] or [""]]
    return _Stays(records, texts, outcomes, truth)


def _is_measured(name: str, has_line: np.ndarray, is_ventilated: np.ndarray) -> np.ndarray:
    """Returns in which stays a parameter can be measured, (n,) bool."""
    if name in LINES:
        return has_line
    if name in LINES.values():
        return ~has_line
    if name in ("MechVent", "FiO2"):
        return is_ventilated
    return np.ones(len(has_line), bool)


def _numbers(value: np.ndarray, decimals: int) -> np.ndarray:
    """Returns rounded values as texts, (R,) bytes; each different text is made once."""
    found, place = np.unique(np.rint(value * 10**decimals).astype(np.int64), return_inverse=True)
    return np.array([b"%.9g" % (number / 10**decimals) for number in found.tolist()], TEXT)[place]


def _limits(low: float, high: float, signal: _Signal) -> tuple[float, float]:
    """Returns limits of synthetic values: plausible, and not far from the usual values."""
    return max(low, signal.mean * 0.1), min(high, signal.mean * 4)


def _words(minute: np.ndarray, number: np.ndarray) -> Iterator[list[bytes]]:
    """Yields the times and the names of values, both (R,), as texts."""
    times = [b"%02d:%02d" % divmod(minute, 60) for minute in range(HOURS * 60 + 1)]
    names = [parameter.name.encode() for parameter in SERIES] + [b""]
    for words, places in ((times, minute), (names, number)):
        yield [words[place] for place in places.tolist()]


def arguments(settings: Config) -> dict[str, Any]:
    """Arguments of make_sample that settings name."""
    return settings.sample.model_dump()


def is_complete(folder: Path) -> bool:
    """Returns True if `folder` holds all files of a sample."""
    return all((folder / name).is_file() for name in (*FILES, NOTE))


def was_made_with(folder: Path, *, rows: int, test_rows: int, seed: int) -> bool:
    """Returns True if `folder` holds the complete sample that make_sample writes with these arguments."""
    return is_complete(folder) and (folder / NOTE).read_text(encoding="utf-8") == _note(rows, test_rows, seed)


def described(*, rows: int, test_rows: int, seed: int) -> str:
    """Says what make_sample makes."""
    return f"{rows:,} + {test_rows:,} synthetic stays"


def make_sample(folder: Path, *, rows: int, test_rows: int, seed: int) -> list[Path]:
    """Writes FILES and a README.md to `folder` and returns their paths; equal arguments give equal bytes.

    `rows` stays with outcomes in set-a, `test_rows` in set-b, whose outcomes lie in `answers`. Files are moved to
    `folder` after all were written. Memory is that of BLOCK stays and
    100 bytes a stay. Raises UserError for a size below 1 or a negative
    seed.
    """
    if min(rows, test_rows) < 1 or seed < 0:
        raise UserError(f"a sample needs rows, test_rows >= 1 and a seed >= 0, not {rows}, {test_rows} and {seed}")
    unfinished = folder / ".unfinished"
    for name in FILES:
        (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
    with (unfinished / TRUTH).open("w", encoding="utf-8") as truth:
        truth.write(TRUTH_HEADER + "\n")
        for number, (letter, n, name) in enumerate((("a", rows, FILES[1]), ("b", test_rows, ANSWERS))):
            with (
                PackedZip(unfinished / f"set-{letter}.zip", "w") as archive,
                (unfinished / name).open("w", encoding="utf-8") as outcomes,
            ):
                outcomes.write(OUTCOMES_HEADER + "\n")
                for block, first in enumerate(range(0, n, BLOCK)):
                    records = FIRST_RECORD[letter] + np.arange(first, min(first + BLOCK, n))
                    stays = _draw(records, letter, np.random.default_rng([seed, number, block]))
                    outcomes.writelines(line + "\n" for line in stays.outcomes)
                    truth.writelines(line + "\n" for line in stays.truth)
                    for record, text in zip(records.tolist(), stays.texts, strict=True):
                        member = zipfile.ZipInfo(f"set-{letter}/{record}.txt")  # with a fixed date
                        archive.writestr(member, text, zipfile.ZIP_DEFLATED, compresslevel=1)
    (folder / NOTE).unlink(missing_ok=True)
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        os.replace(unfinished / name, folder / name)
    shutil.rmtree(unfinished)
    storage.write_text(folder / NOTE, _note(rows, test_rows, seed))
    return [folder / name for name in (*FILES, NOTE)]


def _note(rows: int, test_rows: int, seed: int) -> str:
    return f"""# Synthetic ICU stays

Made by `src/data/synthetic_stays.py`; no value is from a real stay. {rows:,} stays with outcomes, {test_rows:,} test
stays; seed {seed}. Format of the PhysioNet/Computing in Cardiology Challenge 2012.

- `set-a.zip`, `Outcomes-a.txt`: training. `set-b.zip`: test, older, sicker and measured less often; its outcomes are in
  `{ANSWERS}`.
- A severity moves all values a little, how often they are measured, the length of stay and the risk of death. Some
  stays have a crisis: blood pressure falls, heart rate and lactate rise for some hours, and more of them die.
- `truth.csv`: the probability of death of each stay, and for a stay with a crisis its hours (from, up to but not
  including) and each parameter that was measured in it and shows it; without a crisis the fields are empty.
"""
