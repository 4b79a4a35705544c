"""Reader of ICU stays and their outcomes as published by the PhysioNet/Computing in Cardiology Challenge 2012.

A stay is a file RecordID.txt of lines `Time,Parameter,Value`, 00:00 to 48:00. The descriptors stand at 00:00 and -1 is
unknown. A set is a folder, a zip or a tar of such files, set-a, with its outcomes in Outcomes-a.txt.

    facts = Facts()
    for block in read_stays(Path("input/icu/set-a.zip"), facts=facts):
        print(block.ids, block.minute, block.parameter, block.value)
    print(facts.describe())

Lines of the common kind are parsed by some forty NumPy operations a block; `parse_line` parses every other line and
defines the format and its error messages.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from src.core.errors import UserError, unknown
from src.core.language import _
from src.data.file_kinds import open_bytes, show
from src.data.input_files import ARCHIVES, OWN_FOLDERS, check_name, first_names, is_hidden, list_folder
from src.data.line_parser import SHOWN, Errors
from src.data.plausible import CATEGORIES, DESCRIPTORS, LOST_POINT, RECORD_ID, SERIES
from src.data.stay_files import LARGEST_FILE, FileErrors, StayFile, stay_files

HEADER = b"Time,Parameter,Value"
LAST_MINUTE = 48 * 60
STAYS = 1000
"""Stays of a block."""
BLOCK_BYTES = 16 << 20
"""Bytes of text after which a block ends early."""

# Codes of parameters: the series, then the descriptors that are no series, then the RecordID and the blank name.
_NAMES = [parameter.name for parameter in SERIES]
_NAMES += [parameter.name for parameter in DESCRIPTORS if parameter.name not in _NAMES] + [RECORD_ID, ""]
_CODES = {name.encode(): code for code, name in enumerate(_NAMES)}
_N_SERIES, _WEIGHT, _RECORD, _BLANK = len(SERIES), _NAMES.index("Weight"), _NAMES.index(RECORD_ID), _NAMES.index("")
_PARAMETERS = {parameter.name: parameter for parameter in (*SERIES, *DESCRIPTORS)}
_LOW = np.array([_PARAMETERS[name].low if name in _PARAMETERS else -np.inf for name in _NAMES])
_HIGH = np.array([_PARAMETERS[name].high if name in _PARAMETERS else np.inf for name in _NAMES])
_IS_CATEGORY = np.array([name in CATEGORIES for name in _NAMES])

# Names as two little-endian numbers of eight bytes each, sorted by a mixture that differs for all names.
_WIDTH, _MIX = 16, np.uint64(0x9E3779B97F4A7C15)
_WORDS = np.array([name.encode() for name in _NAMES[:_BLANK]], f"S{_WIDTH}").view("<u8").reshape(-1, 2)
_ORDER = np.argsort(_WORDS[:, 0] * _MIX + _WORDS[:, 1])
_KEYS = (_WORDS[:, 0] * _MIX + _WORDS[:, 1])[_ORDER]
_MASKS = np.array([b"\xff" * n for n in range(_WIDTH + 1)], f"S{_WIDTH}").view("<u8").reshape(-1, 2)
"""Bytes of a name of each length."""

_NUMBER = re.compile(rb"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TIME = re.compile(rb"([0-9]{2}):([0-5][0-9])")
_LONGEST_VALUE = 8
_OWN_RECORD = re.compile(rb"^00:00,RecordID,([0-9]{1,15})\r?$", re.MULTILINE)

KNOWN_STAYS = {"ac8a8d13105cefc873b69a70581d156575b4c9de6d2a0c7307b14ced9954621b": "set-a"}
"""Name of each published set by the checksum of its stays."""
KNOWN_OUTCOMES = {"2613ea60ccda29f87571a7d6b09ad130858a8ccd66325bd073365925026883c2": "Outcomes-a.txt"}
"""Name of each published file of outcomes by its sha256."""


@dataclass
class Facts:
    """Counts of the stays that were read."""

    stays: int = 0
    rows: int = 0
    """Lines after the headers, also those that were dropped."""
    without_series: int = 0
    """Stays that have descriptors alone."""
    blank: int = 0
    """Dropped lines with a blank name of a parameter."""
    values: Counter[str] = field(default_factory=Counter)
    """Lines of each parameter."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Values of -1 of each parameter."""
    implausible: Counter[str] = field(default_factory=Counter)
    """Values outside the plausible range of each parameter."""
    repaired: Counter[str] = field(default_factory=Counter)
    """Values of each parameter whose lost decimal point was put back."""
    sha256: str = ""
    """Checksum of names and contents of the files, the same for a folder, a zip and a tar; set after the last block."""

    @property
    def parameters(self) -> int:
        """Number of parameters that occur, with the descriptors and the RecordID."""
        return len(self.values)

    def describe(self) -> str:
        """Returns the counts in words, and which published set it is."""
        words = [f"{self.stays:,} stays", f"{self.rows:,} rows", f"{self.parameters} parameters"]
        for count, what in (
            (self.without_series, "stays without any series"),
            (self.blank, "rows with a blank parameter dropped"),
            (sum(self.unknown.values()), "values unknown (-1)"),
            (sum(self.implausible.values()), "implausible values made missing"),
            (sum(self.repaired.values()), "values repaired, their decimal point was lost"),
        ):
            words += [f"{count:,} {what}"] * (count > 0)
        return f"{', '.join(words)}; {describe_known(self.sha256, KNOWN_STAYS)}"


def describe_known(sha256: str, known: dict[str, str]) -> str:
    """Returns the published name of what has this checksum, or the checksum."""
    return f"the published {known[sha256]}" if sha256 in known else f"sha256 {sha256[:8]}…"


@dataclass(frozen=True, eq=False)
class StayBlock:
    """Some stays of a set, n, in the order of their RecordID, with the R values of their time series."""

    ids: np.ndarray
    """RecordIDs, (n,) bytes, without leading zeros."""
    descriptors: np.ndarray
    """Values of DESCRIPTORS, (n, 5) float32, NaN where unknown or implausible."""
    stay: np.ndarray
    """Stay of each value, (R,) int32 in 0..n-1; values are sorted by stay and minute, else in the order of the file."""
    minute: np.ndarray
    """Minutes since 00:00, (R,) int32 in 0..2880."""
    parameter: np.ndarray
    """Places in SERIES, (R,) uint8."""
    value: np.ndarray
    """Values, (R,) float32; unknown and implausible values are left out."""

    def __len__(self) -> int:
        return len(self.ids)


def read_stays(path: Path | str, block: int = STAYS, facts: Facts | None = None) -> Iterator[StayBlock]:
    """Yields the stays of a set in the order of their RecordID, `block` stays at a time; adds counts to `facts`.

    `path` is a folder, a zip or a tar. Memory is that of the list of files and of one block. After the first error no
    block is yielded: the rest is checked, and one UserError lists the errors with file and line. So a caller must use
    no block before the last one was read.
    """
    path, facts = Path(path), Facts() if facts is None else facts
    errors, digest = FileErrors(path), hashlib.sha256()
    for files in _batches(stay_files(path, errors), block):
        for file in files:
            digest.update(b"%d.txt\0%d\0" % (file.record, len(file.text)))
            digest.update(file.text)
        found = _parse(files, errors, facts)
        if not errors.total:
            yield found
        if errors.is_full:
            break
    errors.throw()
    if not facts.stays:
        raise UserError(
            _("{path} holds no stays; expected files like 132539.txt, one for each RecordID").format(path=path)
        )
    facts.sha256 = digest.hexdigest()


def parse_stays(texts: Sequence[bytes]) -> StayBlock:
    """Parses the texts of the files of some stays, in their order; the RecordID is that of the text.

    Raises one UserError that lists the errors by number of the stay and line.
    """
    errors, files = FileErrors(Path("stays")), []
    for number, text in enumerate(texts, start=1):
        found = _OWN_RECORD.search(text)
        if len(text) > LARGEST_FILE:
            errors.add(
                f"stay {number}",
                _("more than {most:,} bytes, too many for the 48 hours of a stay").format(most=LARGEST_FILE),
            )
        elif found is None:
            errors.add(f"stay {number}", _("no line 00:00,RecordID,N with the number of the stay"))
        else:
            files.append(StayFile(f"stay {number}", int(found[1]), text))
    errors.throw()
    block = _parse(files, errors, Facts())
    errors.throw()
    return block


def _batches(files: Iterator[StayFile], size: int) -> Iterator[list[StayFile]]:
    batch, n_bytes = [], 0
    for file in files:
        batch.append(file)
        n_bytes += len(file.text)
        if len(batch) == size or n_bytes >= BLOCK_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _parse(files: list[StayFile], errors: FileErrors, facts: Facts) -> StayBlock:
    """Parses the files of a block; adds what is wrong to `errors` and the counts to `facts`."""
    texts = [_lines(file, errors) for file in files]
    counts = np.array([text.count(b"\n") for text in texts])
    first = np.concatenate(([0], np.cumsum(counts)))  # (n + 1,) first line of each file
    stay = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    lines = b"".join(texts)
    minute, code, value, irregular = _parse_common(lines)
    wrong = Errors()
    if len(irregular):
        ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
        starts = np.concatenate(([0], ends[:-1] + 1))
        for at in irregular.tolist():
            messages: list[str] = []
            minute[at], code[at], value[at] = parse_line(lines[starts[at] : ends[at]], messages)
            for message in messages:
                wrong.add(at, message)
            if wrong.is_full:
                break

    value = _repaired(code, value, facts)
    known = _known(code, value, facts)
    descriptors, is_series = _descriptors(files, stay, minute, code, np.where(known, value, np.nan), wrong)
    records = np.flatnonzero((code == _RECORD) & (minute == 0))
    others = records[value[records] != np.array([files[i].record for i in stay[records].tolist()], float)]
    told = "the RecordID {:.0f} differs from {}, that of the stay"
    wrong.extend(_errors(others, lambda at: told.format(value[at], files[stay[at]].record)))
    for at, message in wrong.first:
        owner = int(stay[at])
        errors.add(files[owner].place, message, int(at - first[owner]) + 2)
    errors.total += wrong.total - len(wrong.first)
    for owner in np.flatnonzero((np.bincount(stay[records], minlength=len(files)) == 0) & (counts > 0)).tolist():
        errors.add(files[owner].place, _("no line 00:00,RecordID,{record}").format(record=files[owner].record))

    facts.stays += len(files)
    facts.rows += len(code)
    facts.blank += int((code == _BLANK).sum())
    facts.without_series += int((np.bincount(stay[is_series], minlength=len(files)) == 0).sum())
    rows = np.flatnonzero(is_series & known)
    when = stay[rows] * np.int64(LAST_MINUTE + 1) + minute[rows]
    if (when[1:] < when[:-1]).any():
        rows = rows[np.argsort(when, kind="stable")]
    ids = np.array([b"%d" % file.record for file in files])
    series = code[rows].astype(np.uint8), value[rows].astype(np.float32)
    return StayBlock(ids, descriptors, stay[rows], minute[rows], *series)


def _descriptors(
    files: list[StayFile], stay: np.ndarray, minute: np.ndarray, code: np.ndarray, value: np.ndarray, wrong: Errors
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the descriptors, (n, 5) float32, and which lines belong to time series, (R,) bool; adds to `wrong`."""
    is_descriptor, at_start = (code >= _N_SERIES) & (code < _BLANK), minute == 0
    late = np.flatnonzero(is_descriptor & ~at_start)
    wrong.extend(_errors(late, lambda at: f"{_NAMES[code[at]]} at another time, expected 00:00"))
    weights = np.flatnonzero((code == _WEIGHT) & at_start)
    weights = weights[np.diff(stay[weights], prepend=-1) > 0]  # further weights at 00:00 belong to the series
    is_descriptor[weights] = True
    places = np.flatnonzero(is_descriptor & at_start)
    descriptors = np.full((len(files), len(DESCRIPTORS)), np.nan, np.float32)
    columns = {_NAMES.index(parameter.name): column for column, parameter in enumerate(DESCRIPTORS)}
    for wanted in (*columns, _RECORD):
        rows = places[code[places] == wanted]
        again = rows[np.diff(stay[rows], prepend=-1) == 0]
        wrong.extend(_errors(again, lambda at: f"{_NAMES[code[at]]} is there twice at 00:00"))
        if wanted in columns:
            descriptors[stay[rows], columns[wanted]] = value[rows]
    return descriptors, (code < _N_SERIES) & ~is_descriptor


def _errors(lines: np.ndarray, message: Callable[[int], str]) -> Errors:
    """Returns an error for each of some lines, (k,)."""
    return Errors([(at, message(at)) for at in lines[:SHOWN].tolist()], len(lines))


def _lines(file: StayFile, errors: FileErrors) -> bytes:
    """Returns the lines after the header; every line ends in LF."""
    text = file.text.replace(b"\r\n", b"\n") if b"\r" in file.text else file.text
    header, _end, rest = text.partition(b"\n")
    if header != HEADER:
        if not text:
            errors.add(file.place, _("an empty file, expected the header {example}").format(example=HEADER.decode()))
        else:
            what = (
                "a byte order mark; save the file without BOM" if header.startswith(b"\xef\xbb\xbf") else show(header)
            )
            errors.add(file.place, f"{what}; expected the header {HEADER.decode()}", 1)
    elif not rest:
        errors.add(file.place, _("no line 00:00,RecordID,{record}").format(record=file.record))
    return rest if not rest or rest.endswith(b"\n") else rest + b"\n"


def _repaired(code: np.ndarray, value: np.ndarray, facts: Facts) -> np.ndarray:
    """Puts lost decimal points back into values (R,), see LOST_POINT; counts them by parameter."""
    for name, divisors in LOST_POINT.items():
        low, high = _PARAMETERS[name].low, _PARAMETERS[name].high
        for at in np.flatnonzero((code == _NAMES.index(name)) & (value > high)).tolist():
            mended = [value[at] / divisor for divisor in divisors if low <= value[at] / divisor <= high]
            if mended:
                value[at] = mended[0]
                facts.repaired[name] += 1
    return value


def _known(code: np.ndarray, value: np.ndarray, facts: Facts) -> np.ndarray:
    """Returns which values are known and plausible, (R,) bool; counts values by parameter."""
    with np.errstate(invalid="ignore"):
        is_unknown = value == -1
        outside = (value < _LOW[code]) | (value > _HIGH[code]) | _IS_CATEGORY[code] & (value != np.floor(value))
    outside &= ~is_unknown
    for counter, chosen in (
        (facts.values, code),
        (facts.unknown, code[is_unknown]),
        (facts.implausible, code[outside]),
    ):
        found = np.bincount(chosen, minlength=len(_NAMES))[:_BLANK]
        counter.update({_NAMES[i]: int(found[i]) for i in np.flatnonzero(found).tolist()})
    return ~(is_unknown | outside)


def _parse_common(lines: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Parses lines of the common kind: `HH:MM,name,value` with a known name and a value of at most eight digits.

    Returns minute (R,) int32, code (R,) int64, value (R,) float64 and the numbers of the other lines.
    """
    text = np.frombuffer(lines + b"\0" * _WIDTH, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    commas = np.flatnonzero(text == ord(","))
    before = np.searchsorted(commas, np.concatenate((starts, [len(text)])))
    minute, code = np.zeros(len(ends), np.int32), np.full(len(ends), _BLANK)
    value, is_common = np.full(len(ends), np.nan), np.zeros(len(ends), bool)

    rows = np.flatnonzero(np.diff(before) == 2)
    rows = rows[commas[before[rows]] - starts[rows] == 5]
    start, end, comma = starts[rows], ends[rows], commas[before[rows] + 1]
    hour_10, hour_1, minute_10, minute_1 = (text[start + at] - np.uint8(ord("0")) for at in (0, 1, 3, 4))
    minutes = (hour_10 * np.int32(10) + hour_1) * 60 + minute_10 * np.int32(10) + minute_1
    good = (hour_10 <= 4) & (hour_1 <= 9) & (minute_10 <= 5) & (minute_1 <= 9) & (minutes <= LAST_MINUTE)
    good &= text[start + 2] == ord(":")

    length = comma - start - 6
    good &= (length > 0) & (length <= _WIDTH)
    windows = np.lib.stride_tricks.sliding_window_view(text, _WIDTH)
    words = windows[start + 6].view("<u8") & _MASKS[np.minimum(length, _WIDTH)]
    found = np.minimum(np.searchsorted(_KEYS, words[:, 0] * _MIX + words[:, 1]), len(_KEYS) - 1)
    codes = _ORDER[found]
    good &= (_WORDS[codes] == words).all(axis=1)

    size = end - comma - 1
    good &= (size > 0) & (size <= _LONGEST_VALUE)
    number, decimals = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    has_digit, has_point = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    longest = int(min(size.max(initial=0), _LONGEST_VALUE))
    for at in range(longest):
        byte = text[comma + 1 + at]
        inside = at < size
        digit = byte - np.uint8(ord("0"))
        is_digit, is_point = inside & (digit <= 9), inside & (byte == ord("."))
        good &= is_digit | (is_point & ~has_point) | ~inside
        number = np.where(is_digit, number * 10 + digit, number)
        decimals += is_digit & has_point
        has_point |= is_point
        has_digit |= is_digit
    good &= has_digit
    kept = rows[good]
    minute[kept], code[kept] = minutes[good], codes[good]
    value[kept] = number[good] / 10.0 ** decimals[good]  # both are exact, so this is the float nearest to the decimal
    is_common[kept] = True
    return minute, code, value, np.flatnonzero(~is_common)


def parse_line(line: bytes, messages: list[str]) -> tuple[int, int, float]:
    """Parses `Time,Parameter,Value`; returns (minute, code, value), or appends what is wrong to `messages`.

    A line with a blank parameter is valid whatever its value is. A wrong line has the code of the blank parameter.
    """
    nothing = 0, _BLANK, np.nan
    fields = line.split(b",")
    if len(fields) != 3:
        what = "a blank line; remove it" if not line.strip() else f"{len(fields)} fields, expected {HEADER.decode()}"
        messages.append(what + (f": {show(line)}" if line.strip() else ""))
        return nothing
    time, name, text = fields
    before = len(messages)
    found = _TIME.fullmatch(time)
    minute = int(found[1]) * 60 + int(found[2]) if found else LAST_MINUTE + 1
    if minute > LAST_MINUTE:
        messages.append(_("the time {time}, expected 00:00 to 48:00").format(time=show(time)))
    if not name.strip():
        return nothing
    if name not in _CODES:
        known = (name.decode() for name in _CODES if name)
        messages.append(str(unknown("parameter", name[:40].decode("ascii", "backslashreplace"), known)))
    if not _NUMBER.fullmatch(text):
        messages.append(_("the value {text}, expected a number").format(text=show(text)))
    elif not np.isfinite(value := float(text)):
        messages.append(_("the value {text}, expected a finite number").format(text=show(text)))
    if len(messages) > before:
        return nothing
    return minute, _CODES[name], value


OUTCOMES_HEADER = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"
_OUTCOME = re.compile(rb"([0-9]{1,15})" + rb",(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)" * 5)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Outcomes of n stays, in the order of the file."""

    path: Path
    ids: np.ndarray
    """RecordIDs, (n,) bytes, without leading zeros."""
    columns: dict[str, np.ndarray]
    """Columns of OUTCOMES_HEADER after the RecordID, (n,) float64 each, NaN where unknown (-1)."""
    sha256: str

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Row of each RecordID (n,) bytes: (n,) int64, -1 for a stay without outcome."""
        places = np.searchsorted(self.ids, ids, sorter=self._order)
        rows = self._order[np.minimum(places, len(self) - 1)]
        return np.where(self.ids[rows] == ids, rows, -1)

    def describe(self) -> str:
        """Returns the counts in words, and which published file it is."""
        died, days = self.columns["In-hospital_death"], self.columns["Length_of_stay"]
        deaths, known = int(np.nansum(died)), int(np.isfinite(died).sum())
        words = f"{len(self):,} outcomes, {deaths:,} deaths ({deaths / max(known, 1):.2%})"
        words += f", length of stay known for {np.isfinite(days).sum():,}"
        return f"{words}; {describe_known(self.sha256, KNOWN_OUTCOMES)}"


def read_outcomes(path: Path | str) -> Outcomes:
    """Reads a file of outcomes. Raises one UserError that lists all irregular lines with file and line number."""
    path = Path(path)
    with open_bytes(path) as file:
        text = file.read()
    errors, names = Errors(), OUTCOMES_HEADER.split(",")[1:]
    lines = io.BytesIO(text.replace(b"\r\n", b"\n"))
    header = lines.readline().removesuffix(b"\n")
    if header != OUTCOMES_HEADER.encode():
        errors.add(
            0,
            _("{shown}, expected the header {header}").format(shown=show(header, 80), header=OUTCOMES_HEADER),
        )
    numbers, places = array("d"), array("q")
    for at, line in enumerate((line.removesuffix(b"\n") for line in lines), start=1):
        if found := _OUTCOME.fullmatch(line):
            numbers.extend(map(float, found.groups()))
            places.append(at)
        else:
            errors.add(
                at,
                _("{shown}, expected a line of six numbers: {header}").format(
                    shown=show(line, 80), header=OUTCOMES_HEADER
                ),
            )
            if errors.is_full:
                break
    rows = np.array(numbers).reshape(-1, 1 + len(names))

    _ids, first, owner = np.unique(rows[:, 0], return_index=True, return_inverse=True)
    first = first[owner]  # (n,) first row with the same RecordID
    again = np.flatnonzero(first < np.arange(len(rows)))
    told = [
        (places[row], f"the RecordID {rows[row, 0]:.0f} repeats that of line {places[first[row]] + 1}")
        for row in again[:SHOWN].tolist()
    ]
    errors.extend(Errors(told, len(again)))
    for column, name in enumerate(names, start=1):
        value = rows[:, column]
        right, expected = (np.isin(value, (0, 1)), "0, 1") if name == names[-1] else (value >= 0, "a number from 0")
        wrong = np.flatnonzero(~right & (value != -1))
        told = [
            (places[row], f"{name} is {value[row]:g}, expected {expected}, or -1 for unknown")
            for row in wrong[:SHOWN].tolist()
        ]
        errors.extend(Errors(told, len(wrong)))
    errors.throw(path, "outcomes")
    if not len(rows):
        raise UserError(
            _("{path} holds no outcomes; expected lines of six numbers: {header}").format(
                path=path, header=OUTCOMES_HEADER
            )
        )
    rows[rows == -1] = np.nan
    ids = np.array([b"%d" % int(record) for record in rows[:, 0].tolist()])
    columns = {name: rows[:, 1 + i].copy() for i, name in enumerate(names)}
    return Outcomes(path, ids, columns, hashlib.sha256(text).hexdigest())


@dataclass(frozen=True, eq=False)
class Joined:
    """Stays and outcomes of equal RecordID."""

    ids: np.ndarray
    """RecordIDs of the stays, (n,) bytes."""
    outcomes: Outcomes
    rows: np.ndarray
    """Row of the outcomes for each stay, (n,) int64, -1 for a stay without outcome."""

    @property
    def without_outcome(self) -> np.ndarray:
        """RecordIDs of the stays without outcome, (k,) bytes."""
        return self.ids[self.rows < 0]

    @property
    def without_stay(self) -> np.ndarray:
        """RecordIDs of the outcomes without stay, (k,) bytes."""
        is_used = np.zeros(len(self.outcomes), bool)
        is_used[self.rows[self.rows >= 0]] = True
        return self.outcomes.ids[~is_used]

    def require_outcomes(self, outcomes: Path) -> None:
        """Raises a UserError that lists the first stays without outcome, if there are any."""
        missing = self.without_outcome
        if n := len(missing):
            if n == len(self.rows):
                raise UserError(
                    _("{outcomes} has no line for any of {n:,} stays: it is for other stays").format(
                        outcomes=outcomes, n=n
                    )
                )
            first = ", ".join(record.decode() for record in missing[:5].tolist())
            raise UserError(
                _(
                    "{outcomes} has no line for {n:,} of {all:,} stays: {first}{more}. A labelled "
                    "set needs an outcome for each stay: add the lines or remove the files of these "
                    "stays."
                ).format(outcomes=outcomes, n=n, all=len(self.rows), first=first, more=" …" * (n > 5))
            )


def join(ids: np.ndarray, outcomes: Outcomes) -> Joined:
    """Finds the outcome of each stay. `ids` (n,) bytes, all stays of a set or a block of them."""
    return Joined(ids, outcomes, outcomes.rows_of(ids))


@dataclass(frozen=True)
class StaySet:
    """Set of stays in an input folder."""

    name: str
    """Name without suffix: set-a."""
    stays: Path
    outcomes: Path | None


_OUTCOMES_FILE = re.compile(r"outcomes-(.*)\.txt", re.IGNORECASE)
_SET = re.compile(r"(set-([^.]+))(\.zip|\.tar(\.gz|\.xz|\.bz2)?|\.tgz)?")


def find_sets(folder: Path) -> dict[str, StaySet]:
    """Returns the sets of a folder by name, sorted; empty if there are none.

    A set is set-X, a folder, or set-X.zip or set-X.tar (.gz, .xz, .bz2); its outcomes are Outcomes-X.txt. Raises
    UserError for a set that is there twice, for one that cannot be read, and for outcomes without any set.
    """
    stays: dict[str, Path] = {}
    for path in map(folder.joinpath, list_folder(folder)):
        found = _SET.fullmatch(path.name)
        if not found or bool(found[3]) == path.is_dir():
            continue
        if other := stays.get(found[1]):
            raise UserError(
                _("{folder}: {found} is there twice, as {name} and as {other}. Remove one.").format(
                    folder=folder, found=found[1], name=other.name, other=path.name
                )
            )
        check_name(path)
        if not path.is_dir():
            open_bytes(path).close()
        stays[found[1]] = path
    outcomes = {f"set-{path.stem.partition('-')[2]}": path for path in sorted(folder.glob("Outcomes-*.txt"))}
    if outcomes and not stays:
        name, path = next(iter(outcomes.items()))
        raise UserError(
            _("{folder} holds {name} but no stays. Add {wanted}, a folder, {wanted}.zip or {wanted}.tar.gz.").format(
                folder=folder, name=path.name, wanted=name
            )
        )
    for path in outcomes.values():
        open_bytes(path).close()
    return {name: StaySet(name, stays[name], outcomes.get(name)) for name in sorted(stays)}


def overlooked_sets(folder: Path, sets: dict[str, StaySet]) -> list[str]:
    """Returns a sentence about each entry of an input folder that looks like a set or its outcomes and is not read."""
    read = {path for one in sets.values() for path in (one.stays, one.outcomes)}
    left = []
    for path in map(folder.joinpath, list_folder(folder)):
        if path in read or is_hidden(path.name) or path.name in OWN_FOLDERS:
            continue
        if found := _OUTCOMES_FILE.fullmatch(path.name):
            told = _("{path} is not read: there is no set-{found} of this name beside it")
            if same := next((name for name in sets if name.lower() == f"set-{found[1]}".lower()), ""):
                told = _("{path} is not read: the outcomes of {name} are called {wanted}, in these letters")
            wanted = f"Outcomes-{same.removeprefix('set-')}.txt"
            left.append(told.format(path=path, found=found[1], name=same, wanted=wanted))
        elif path.name.lower().startswith("set-"):
            left.append(
                _("{path} is not read: a set is a folder set-a, set-a.zip or set-a.tar (.gz, .xz, .bz2)").format(
                    path=path
                )
            )
        elif path.is_dir() and (inner := next((name for name in first_names(path) if _SET.fullmatch(name)), None)):
            left.append(
                _("{path} is a folder and is not read, but holds {inner}. Move that up, or paths.input={path}").format(
                    path=path, inner=inner
                )
            )
        elif path.name.lower().endswith(ARCHIVES):
            left.append(
                _("{path} is not read: it is an archive without the name of a set, such as set-a.zip").format(path=path)
            )
    return left


def split_sets(sets: dict[str, StaySet], train: str, test: str = "*") -> tuple[list[StaySet], list[StaySet]]:
    """Returns the training sets, which match the glob `train`, and the test sets, which match `test` alone.

    Raises UserError for a glob that matches no set, and for a training set without outcomes.
    """
    chosen, others = (
        [one for name, one in sets.items() if fnmatch.fnmatchcase(name, pattern)] for pattern in (train, test)
    )
    for key, pattern, matching in (("paths.train", train, chosen), ("paths.test", test, others)):
        if not matching:
            raise UserError(
                _("{key}={pattern}: none of {sets} matches. Add such a set or name another one.").format(
                    key=key, pattern=pattern, sets=", ".join(sets)
                )
            )
    for one in chosen:
        if one.outcomes is None:
            wanted = one.stays.parent / f"Outcomes-{one.name.removeprefix('set-')}.txt"
            raise UserError(
                _("the training set {stays} has no outcomes: {wanted} is missing. Add it.").format(
                    stays=one.stays, wanted=wanted
                )
            )
    return chosen, [one for one in others if one not in chosen]
