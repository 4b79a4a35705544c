"""Description of a file that is not the kind a reader expects: one sentence, with what to do about it.

Readers call refuse_other_kinds() for a file that they cannot read; files that they can read are never looked at here.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from src.core.errors import UserError
from src.core.language import _, joined

HEAD = 1 << 16
"""Bytes of a file that are looked at."""
FEWEST_LINES, FEWEST_BYTES = 3, 20
"""Lines from which on what is common to them tells a kind, and bytes that are no ASCII from which on they tell one: of
less, the reader's own list of errors says more."""
LONGEST_LINE = 2000
"""Bytes of a line that are compared with patterns, some of which take the square of their number."""
EXPECTED = {
    "reports": _("lines of the form id|,|description or id|,|description|,|label"),
    "submission": _("lines of the form id|,|p0 p1 …"),
    "predictions": _("a header and lines of numbers with commas between them"),
    "outcomes": _("the header RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death and lines of six numbers"),
    "set": _("a folder, a zip or a tar of stays as downloaded"),
    "images": _("a .npz file of images and labels"),
    "rows": _("lines that begin with the id of a training row, such as 17 or 17,0.5"),
}
"""Words for the kinds of files that readers expect."""
FILE = "{file}"
"""Stands for the file's path in a command that mends it."""
SHEET = _("Take the original file, or save the sheet as CSV and run again: what to do with a CSV is told then")
MAGIC: list[tuple[int, bytes, str]] = [
    (0, b"\x1f\x8b", _("is compressed with gzip. Unpack it (gunzip)")),
    (0, b"BZh", _("is compressed with bzip2. Unpack it (bunzip2)")),
    (0, b"\xfd7zXZ\0", _("is compressed with xz. Unpack it (unxz)")),
    (0, b"\x28\xb5\x2f\xfd", _("is compressed with zstd. Unpack it (unzstd)")),
    (0, b"7z\xbc\xaf\x27\x1c", _("is a 7z archive. Unpack it and take the file inside")),
    (0, b"Rar!\x1a\x07", _("is a RAR archive. Unpack it and take the file inside")),
    (257, b"ustar", _("is a tar archive. Unpack it and take the file inside")),
    (
        0,
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        _("is a workbook of Excel or WPS (.xls, .et). {sheet}").format(sheet=SHEET),
    ),
    (0, b"%PDF-", _("is a PDF document. Take the original file")),
    (0, b"\x89PNG", _("is a picture (PNG). Take the original file")),
    (0, b"\xff\xd8\xff", _("is a picture (JPEG). Take the original file")),
    (0, b"PAR1", _("is a Parquet table. Write it as text")),
    (0, b"ARROW1", _("is a Feather table. Write it as text")),
    (0, b"\x89HDF", _("is an HDF5 file. Write it as text")),
    (0, b"SQLite format 3\0", _("is an SQLite database. Write it as text")),
    (0, b"\x93NUMPY", _("is one NumPy array (.npy). Write it as text")),
    (0, b"\x80\x04", _("is a Python pickle, which is never opened here. Write it as text")),
    (0, b"\x80\x05", _("is a Python pickle, which is never opened here. Write it as text")),
    (0, b"version https://git-lfs", _("is a Git LFS pointer, not the file it stands for. Get that with: git lfs pull")),
    (0, b"\xff\xfe\0\0", _("is UTF-32 (it begins with a byte order mark). Save it as plain ASCII, without BOM")),
    (0, b"\xff\xfe", _("is UTF-16 (it begins with a byte order mark). Save it as plain ASCII, without BOM")),
    (0, b"\xfe\xff", _("is UTF-16 (it begins with a byte order mark). Save it as plain ASCII, without BOM")),
]
"""First bytes of files (offset, bytes) and what such a file is."""
ZIPS: list[tuple[bytes, str]] = [
    (b"xl/", _("is a workbook of Excel or WPS (.xlsx). {sheet}").format(sheet=SHEET)),
    (b"word/", _("is a Word document (.docx). Take the original file")),
    (b"[Content_Types].xml", _("is a document of Office or WPS. Take the original file")),
    (b".npy", _("is a .npz file of NumPy arrays. Write it as text")),
    (b"", _("is a zip archive. Unpack it and take the file inside")),
]
"""Names that a zip holds and what such a zip is, the first that fits."""
READ = {"set": ("gzip", "bzip2", "xz", "tar archive", "zip archive"), "images": ("zip archive", ".npz")}
"""Words of the kinds that a reader opens itself: such a file is damaged, and its reader says how."""

_REPORT = re.compile(rb"[^|]+\|,\|[0-9 ]*(\|,\|[0-9 ,]*)?")
_SUBMISSION = re.compile(rb"[^|]+\|,\|[0-9eE+. -]*")
_POINT = re.compile(rb"[^|]+\|,\| *[01]?\.[0-9][0-9eE+. -]*")
_LABELLED = re.compile(rb"[^|]+\|,\|[0-9 ]+\|,\|[0-9 ,]*|[^|]+\|,\|([0-9]+ +)*[0-9]{2,}( +[0-9]+)* *")
_NUMBERED = re.compile(rb"[0-9]+,[^|,]+\|,\|.*")
_ROUND2 = re.compile(rb"[^,]+,[0-9 ]+,[0-9 ]*,[0-9 ]*")
_OTHER_BAR = re.compile(rb"[^|]*\|([;\t:]|, | ,| , )\|.*")
_CLINICAL = {
    b"Time,Parameter,Value": ("set", _("is the file of one stay")),
    b"RecordID,SAPS-I": ("outcomes", _("is a file of outcomes")),
    b"RecordID,In-hospital_death": ("predictions", _("is a submission of stays")),
    b"RecordID,Length_of_stay": ("predictions", _("is a submission of stays")),
}
"""First bytes of clinical files, the kind in EXPECTED that takes them, and what they are."""


def open_bytes(path: Path) -> BinaryIO:
    """Opens a file for reading, and never waits for a pipe. Raises UserError if it is missing, no regular file, or
    unreadable."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            is_folder = stat.S_ISDIR(mode)
            told = (
                _("{path} is a folder; expected a file")
                if is_folder
                else _("{path} is no regular file; expected a file")
            )
            raise UserError(told.format(path=path))
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(
                _("{path} is a link to {target}, which is not there").format(path=path, target=os.readlink(path))
            ) from None
        raise UserError(_("there is no file {path}").format(path=path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(
            _("{path} cannot be read: {error}").format(path=path, error=getattr(error, "strerror", error))
        ) from error


def refuse_other_kinds(path: Path, expected: str) -> None:
    """Raises a UserError that says what the file is, if it is recognised as something else than `expected`, a key of
    EXPECTED."""
    with open_bytes(path) as file:
        head = file.read(HEAD)
    if what := other_kind(head, expected):
        told = what.replace(FILE, shlex.quote(str(path)))
        raise UserError(
            _("{path} {told}; expected {expected}").format(path=path, told=told, expected=EXPECTED[expected])
        )


def other_kind(head: bytes, expected: str) -> str:
    """Returns what a file is that begins with `head`, to be read behind its name; empty where it may well be what is
    `expected`."""
    if not head:
        return _("is empty")
    if not head.strip(b"\0"):
        return _("holds nothing but NUL bytes: a broken download or disk. Download it again")
    found = next((what for at, magic, what in MAGIC if head.startswith(magic, at)), "")
    if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
        found = next(what for name, what in ZIPS if name in head)
    if found:
        return "" if any(word in found for word in READ.get(expected, ())) else found
    return _text_kind(head, expected)


def _text_kind(head: bytes, expected: str) -> str:
    """Returns what a file without magic bytes is, like other_kind()."""
    start = head.lstrip().removeprefix(b"\xef\xbb\xbf").lstrip()[:2000].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")) or b"<html" in start:
        return _("is a web page (HTML or XML), perhaps of a login or an error. Download the file again")
    if start.startswith((b"{", b"[")) and b"|,|" not in start:
        return _("is JSON. Write it as lines of text")
    if head[1::2].count(0) > len(head) // 3 or head[::2].count(0) > len(head) // 3:
        return _("is UTF-16. Save it as plain ASCII")
    if b"\r" in head[:-1] and b"\n" not in head:
        return _("has line ends of CR alone. Save it with LF or CRLF")
    known = next((known for begin, known in _CLINICAL.items() if start.startswith(begin.lower())), None)
    if known and known[0] != expected:
        return known[1]
    if (n := len(re.findall(rb"[\x80-\xff]", head))) >= FEWEST_BYTES and n * 10 > len(head):
        return _encoded(head)
    whole = head if len(head) < HEAD else head[: head.rfind(b"\n") + 1] or head
    lines = [line.removesuffix(b"\r")[:LONGEST_LINE] for line in whole.removesuffix(b"\n").split(b"\n")]
    return _line_kind(lines, expected) if expected not in ("set", "images") else ""


def _encoded(head: bytes) -> str:
    """Names the encoding of a text that is not ASCII."""
    for encoding, name in (("utf-8", "UTF-8"), ("gb18030", "GBK")):
        try:
            text = head[: head.rfind(b"\n") + 1 or len(head)].decode(encoding)
        except UnicodeDecodeError:
            continue
        sample = re.sub(r"[\x00-\xa0]+", "", text)[:12]
        return _(
            "holds text in {encoding} ({sample} …), where numbers in ASCII belong. Take the file with token ids"
        ).format(encoding=name, sample=sample)
    return _("is binary")


def _line_kind(lines: list[bytes], expected: str) -> str:
    """Returns what a text of these lines is, like other_kind(): of what is common to half of them or more."""

    def share(fits: Callable[[bytes], object]) -> float:
        return sum(bool(fits(line)) for line in lines) / len(lines)

    first, rest = lines[0].removeprefix(b"\xef\xbb\xbf"), lines[1:20]
    good = {"reports": _REPORT, "submission": _SUBMISSION}.get(expected)
    if good is not None and rest and not good.fullmatch(first) and all(good.fullmatch(line) for line in rest):
        if re.search(rb"[A-Za-z\x80-\xff]{2}", first) and not re.search(rb"[0-9]{2}", first):
            return _("has a header in line 1, {first}. Remove that line").format(first=_shown(first))
    if len(lines) < FEWEST_LINES:
        return ""
    if share(lambda line: b'"' in line) >= 0.5:
        mended = _mended(lines, b";\t|,", expected) or _("Write it without")
        return _("has quotation marks around fields, as spreadsheets and CSV libraries write them. {mended}").format(
            mended=mended
        )
    if first.startswith((b",", b"Unnamed: 0,")) or share(_NUMBERED.fullmatch) > 0.5:
        return _("begins with a column of row numbers, as pandas writes its index. Write it with index=False")
    if good is None:
        return _separated(lines, b";\t", expected)
    if share(_OTHER_BAR.fullmatch) >= 0.5:
        bar = next(found[1] for line in lines if (found := _OTHER_BAR.fullmatch(line)))
        return _("has {delimiter} between its fields, as a spreadsheet exports it. Take the original file").format(
            delimiter=_shown(b"|" + bar + b"|")
        )
    if share(lambda line: b"|,|" in line and line.endswith(b",,")) >= 0.5:
        return _("has empty columns (,,) behind its lines, as a spreadsheet saves them. Take the original file")
    if expected == "reports" and share(_POINT.fullmatch) >= 0.5:
        return _("is a submission (numbers from 0 to 1), no reports")
    if expected == "submission" and share(_LABELLED.fullmatch) >= 0.5:
        return _("holds reports, no submission")
    return _separated(lines, b";\t|,", expected) if share(lambda line: b"|," in line or b",|" in line) < 0.1 else ""


def _separated(lines: list[bytes], separators: bytes, expected: str) -> str:
    """Recognises an ordinary CSV: at least two lines in three have one number of separators."""
    names = {ord(","): "commas", ord(";"): "semicolons", ord("\t"): "tabs", ord("|"): "bars"}
    for separator in separators:
        if count := _usual_count(lines, separator):
            mended = _mended(lines, bytes([separator]), expected)
            told = _("is an ordinary CSV of {n} columns between {separators}")
            what = told.format(n=count + 1, separators=names[separator])
            return joined(". ", [what, mended]) if mended else what
    return ""


def _usual_count(lines: list[bytes], separator: int) -> int:
    """Returns the number of separators that at least two lines in three have; 0 where there is none."""
    count, times = Counter(line.count(separator) for line in lines).most_common(1)[0]
    return count if times * 3 >= len(lines) * 2 else 0


def _mended(lines: list[bytes], separators: bytes, expected: str) -> str:
    """Returns the command that makes a file of reports, or a submission, of an ordinary CSV; empty where there is none.

    Reports have two or three fields; the label of round 2 has a comma of its own. Of a submission the first field is
    the id, and the others are probabilities.
    """
    bare = [line.replace(b'"', b"") for line in lines]
    for separator in separators:
        count = _usual_count(bare, separator)
        if separator == ord(",") and count == 3 and sum(map(bool, map(_ROUND2.fullmatch, bare))) * 3 >= len(bare) * 2:
            count = 2
        if not 1 <= count <= {"reports": 2, "submission": 10_000}.get(expected, 0):
            continue
        shown = {ord("\t"): "\\t", ord("|"): "[|]"}.get(separator, chr(separator))
        has_header = re.search(rb"[A-Za-z\x80-\xff]{2}", bare[0]) and not re.search(rb"[0-9]{2}", bare[0])
        steps = ["1d"] if has_header else []
        steps += ['s/"//g'] if bare != lines else []
        # From the last to the first, for what is put in has a comma itself.
        fields = [f"s/{shown}/|,|/{place}" for place in range(count, 0, -1)]
        steps += fields if count <= 2 else [f"s/{shown}/ /g", "s/ /|,|/"]
        told = _("Write it with |,| between the fields: {command}")
        return told.format(command=f"sed '{'; '.join(steps)}' {FILE} > NEW.csv")
    return ""


def _shown(line: bytes) -> str:
    """Quotes a piece of a text in any encoding."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode("gb18030", "backslashreplace")
    return repr(text[:60] + "…" * (len(text) > 60))


def show(text: bytes, longest: int = 40) -> str:
    """Quotes the first `longest` bytes of a text for a message."""
    shown = repr(text[:longest])[1:]  # without the b
    return f"{shown[:-1]}…{shown[-1]}" if len(text) > longest else shown
