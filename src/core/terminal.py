"""Output of commands: lines, tables (80 columns unless on a terminal), progress; --quiet and --json.

Names of files, runs, labels and rows come from elsewhere: printable() takes out of them what a terminal would obey.

rich is imported only by functions that draw, so that --help is fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from src.core.language import _, english, joined
from src.core.settings import ROOT

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

NARROW = 80
GAP = 2
"""Blanks between columns."""
WIDE = 100
"""Columns from which a job has a long bar beside its name and its losses."""
EVERY = 10.0
"""Seconds between progress lines of jobs without lines of their own, off a terminal."""
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Characters that move the cursor, change colours or the direction of writing, or that UTF-8 does not have."""


def printable(text: str) -> str:
    """Returns the text with \\x1b and the like in place of control characters, except tabs and ends of lines; a message
    in the chosen language."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], str(text))


def nearby(text: str) -> str:
    """Returns the text with paths relative to the current folder: those below it, and, from within the project, those
    of the project."""
    with contextlib.suppress(OSError):  # the current folder may be gone
        here = Path.cwd()
        for folder in (here, ROOT) if here.is_relative_to(ROOT) else (here,):
            if folder != folder.parent:
                near = os.path.relpath(folder, here)
                start = rf"(?<![\w./-]){re.escape(str(folder))}"
                text = re.sub(rf"{start}/(?=[^\s/])", "" if near == "." else f"{near}/", text)
                text = re.sub(rf"{start}(?![\w/-])", near, text)
    return text


def _told(text: str) -> str:
    """Returns a text as people see it."""
    return nearby(printable(text))


def width() -> int:
    """Returns the columns of the terminal; NARROW off a terminal."""
    return shutil.get_terminal_size((NARROW, 24)).columns if sys.stdout.isatty() else NARROW


def wrapped(text: str, indent: str = "  ") -> str:
    """Returns a sentence in lines of the terminal's width, all but the first indented. No word is broken, so that
    commands and paths can be copied."""
    return textwrap.fill(_told(text), width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _fitted(text: str, stream: TextIO) -> str:
    """Returns a text as people see it; on a terminal long lines are broken between words, commands excepted."""
    text = _told(text)
    if not stream.isatty():
        return text
    size = shutil.get_terminal_size((NARROW, 24)).columns
    lines = []
    for line in text.split("\n"):
        is_whole = len(line) <= size or "./run.sh" in line
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        options = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
        lines.append(line if is_whole else textwrap.fill(line, size, **options))
    return "\n".join(lines)


def json_text(value: Any) -> str:
    """Returns a value as indented JSON, with \\u009b and the like in place of control characters."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@dataclass
class Transcript:
    """Output and written files of a command, for the document of --json."""

    lines: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    written: dict[Path, None] = field(default_factory=dict)
    """Files written by this process, without its workers."""
    values: dict[str, Any] = field(default_factory=dict)
    """Further JSON values of a verb, by name."""
    started: float = field(default_factory=time.monotonic)
    """Start of the command, of time.monotonic()."""


_transcript = Transcript()
_is_quiet = _is_json = _is_dependency = False


@contextlib.contextmanager
def output_mode(quiet: bool, as_json: bool, started: float | None = None) -> Iterator[Transcript]:
    """Sets the output mode within the context and yields its transcript.

    quiet: only results, tables, warnings and errors. as_json: stdout is reserved for the document; lines go to stderr,
    with quiet only warnings and errors. `started`: start of the command, of time.monotonic() (default: now).
    """
    global _transcript, _is_quiet, _is_json
    before = _transcript, _is_quiet, _is_json
    _transcript, _is_quiet, _is_json = Transcript(started=started or time.monotonic()), quiet, as_json
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            yield _transcript
    finally:
        _transcript, _is_quiet, _is_json = before


@contextlib.contextmanager
def dependency() -> Iterator[None]:
    """Marks stages that the verb needs but does not name: their results are printed like info."""
    global _is_dependency
    before, _is_dependency = _is_dependency, True
    try:
        yield
    finally:
        _is_dependency = before


def is_json() -> bool:
    """Returns True where stdout is to hold one JSON document (--json)."""
    return _is_json


def is_dependency() -> bool:
    """Returns True while a stage works that the verb needs but does not name, such as every stage of the pipeline."""
    return _is_dependency


def started() -> float:
    """Start of the command, of time.monotonic()."""
    return _transcript.started


def info(text: str) -> None:
    """Prints a line, except with --quiet."""
    _transcript.lines += _told(text).strip().splitlines()
    _show(text)


def result(text: str) -> None:
    """Prints the line that ends a stage: its result and the result's place."""
    _transcript.lines += _told(text).strip().splitlines()
    _show(text, is_info=_is_dependency)


def warn(text: str) -> None:
    """Prints a warning on stderr."""
    _transcript.warnings.append(_told(text))
    print(_fitted(_("warning: {text}").format(text=text), sys.stderr), file=sys.stderr, flush=True)


def warn_once(text: str) -> None:
    """Prints a warning unless this command has printed it before."""
    if _told(text) not in _transcript.warnings:
        warn(text)


def error(text: str) -> None:
    """Prints what ended the command on stderr."""
    print(_fitted(_("error: {text}").format(text=text), sys.stderr), file=sys.stderr, flush=True)


def add_json(name: str, value: Any) -> None:
    """Adds a JSON value to the document of --json."""
    _transcript.values[name] = value


def wrote(path: Path) -> None:
    """Adds a written file to the document of --json."""
    _transcript.written[path] = None


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    words: Collection[str] = (),
    best: int | None = None,
) -> None:
    """Prints a table; the first column and the columns in `words` are left-aligned, the others right-aligned.

    `best`: number of the best row, which is marked; the document of --json has the cells without the mark. No cell is
    truncated: names and words are wrapped, and columns beyond the width go into further tables, each with the first
    column.
    """
    keys = [printable(english(column)) for column in columns]
    is_left = [not i or key in map(english, words) for i, key in enumerate(keys)]
    heading, title, columns = english(title), _told(title), [printable(column) for column in columns]
    rows = [[_told(cell) for cell in row] for row in rows]
    _transcript.tables.append(
        {"title": printable(heading), "columns": keys, "rows": [dict(zip(keys, row, strict=True)) for row in rows]}
    )
    if _is_json or (_is_quiet and _is_dependency):
        return
    from rich.table import Table

    console = _console()
    style = "" if console.no_color else "bold"
    if best is not None and rows:
        rows[best] = [str(_("{name} (best)").format(name=rows[best][0])), *rows[best][1:]]
    first, parts = _parts(columns, rows, console.width, words)
    for part in parts:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style=style)
        for i in part:
            justify = "left" if is_left[i] else "right"
            table.add_column(columns[i], justify=justify, overflow="fold", max_width=None if i else first)
        for number, row in enumerate(rows):
            table.add_row(*(str(row[i]) for i in part), style=style if number == best else "")
        console.print()
        console.print(title, style=style, soft_wrap=False)
        console.print(table)


def _parts(
    columns: Sequence[str], rows: list[list[str]], width: int, words: Collection[str]
) -> tuple[int | None, list[list[int]]]:
    """Returns the width of the first column, and the numbers of the columns of each part."""
    from rich.cells import cell_len

    if words:
        return None, [list(range(len(columns)))]
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    # A long first column is wrapped to leave room for the others.
    first = min(widths[0], max(width // 2, width - sum(widths[1:]) - GAP * len(widths)))
    parts, left = [[0]], width - first
    for i, size in enumerate(widths[1:], start=1):
        if size + GAP > left and len(parts[-1]) > 1:
            parts.append([0])
            left = width - first
        parts[-1].append(i)
        left -= size + GAP
    return first, parts


def _show(text: str, is_info: bool = True) -> None:
    if not (_is_quiet and (is_info or _is_json)):
        print(_fitted(text, sys.stdout), flush=True)


def _console(soft_wrap: bool = True) -> Console:
    """Returns a console for the current stdout, which may be redirected; off a terminal it writes no escapes, even with
    FORCE_COLOR."""
    from rich.console import Console

    live = sys.stdout.isatty()
    width = None if live else NARROW
    plain = {"highlight": False, "markup": False, "force_jupyter": False}  # a notebook gets what a pipe gets
    return Console(width=width, soft_wrap=soft_wrap, force_terminal=live, **plain)


MARKS = 3
"""Number of signs behind a token of strength 1, on terminals without colours."""


def show_heat(title: str, tokens: Iterable[tuple[str, float, bool]]) -> None:
    """Prints tokens (word, strength from -1 to 1, noise flag).

    Positive strength is blue, negative orange, noise underlined; without colours the signs +, - and ? follow a token.
    """
    from rich.text import Text

    title, tokens = printable(title), [(printable(word), *rest) for word, *rest in tokens]
    columns = ("token", "strength", "noise")
    _transcript.tables.append(
        {"title": title, "columns": list(columns), "rows": [dict(zip(columns, token, strict=True)) for token in tokens]}
    )
    if _is_json:
        return
    console, line = _console(soft_wrap=False), Text()
    coloured = console.color_system is not None and not console.no_color
    for word, strength, noise in tokens:
        if coloured:
            colour = (61, 126, 219) if strength > 0 else (224, 138, 44)
            back = "".join(f"{round(channel * abs(strength) * 0.8):02x}" for channel in colour)
            line.append(word, style=f"#ffffff on #{back}{' underline' if noise else ''}")
        else:
            line.append(word + ("+" if strength > 0 else "-") * round(abs(strength) * MARKS) + "?" * noise)
        line.append(" ")
    console.print()
    console.print(title, style="bold" if coloured else "")
    console.print(line)


UNITS = {"d": _("{n} d"), "h": _("{n} h"), "min": _("{n} min"), "s": _("{n} s")}


def duration(seconds: float) -> str:
    """Words a duration by its two largest units: 0.4 s, 12 s, 1 min 20 s, 2 h 5 min, 1 d 3 h."""
    if seconds < 9.95:
        return UNITS["s"].format(n=f"{round(seconds, 1):g}")
    whole = round(seconds)
    for size, unit, below, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            large = UNITS[unit].format(n=whole // size)
            return joined(" ", [large, UNITS[small].format(n=rest)]) if rest else large
    return UNITS["s"].format(n=whole)


class JobProgress:
    """Progress of parallel jobs: bars on a terminal, a line for each finished step otherwise.

    The time left is estimated from the share of `work` done, the relative cost of each job. After a resumed start the
    estimate is too low at first, since earlier work counts.
    """

    def __init__(self, title: str, work: dict[str, float], lines: bool = True):
        """Starts without output. `lines` false: off a terminal, a line every EVERY seconds and one at the end."""
        from rich.progress import BarColumn, Progress, TextColumn

        self._title = printable(title)
        self._work = work
        self._done = dict.fromkeys(work, 0.0)
        self._finished = 0
        self._lines = lines
        self._started = self._last_shown = time.monotonic()
        console = _console(soft_wrap=False)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24 if console.width >= WIDE else 8),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._live = console.is_terminal and not console.is_dumb_terminal and not _is_quiet

    def __enter__(self) -> JobProgress:
        if self._live:
            self._bars.start()
            self._total = self._bars.add_task(self._title, total=1.0, note="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._bars.stop()
        if kind is None and not self._lines:
            taken = duration(time.monotonic() - self._started)
            told = _("{title}: {n} jobs in {time}") if len(self._work) != 1 else _("{title}: 1 job in {time}")
            _show(told.format(title=self._title, n=len(self._work), time=taken))

    @property
    def is_live(self) -> bool:
        """True on a terminal with bars; otherwise each step is a line."""
        return self._live

    @property
    def jobs(self) -> list[str]:
        return list(self._work)

    def rename(self, job: str, name: str) -> None:
        """Renames a job that has not begun."""
        self._work[name], self._done[name] = self._work.pop(job), self._done.pop(job)

    def step(self, job: str, share: float, note: str) -> None:
        """Shows that `job` has done `share` (0 to 1) of its work."""
        self._done[job] = share * self._work[job]
        if self._live:
            if job not in self._tasks:
                self._tasks[job] = self._bars.add_task(printable(f"  {self._short(job)}"), total=1.0, note="")
            self._bars.update(self._tasks[job], completed=share, note=printable(note))
            self._bars.update(self._total, completed=self._share(), note=self._left())
        else:
            self._show_line(job, note)

    def finish(self, job: str, note: str) -> None:
        self._done[job] = self._work[job]
        self._finished += 1
        if self._live:
            if job in self._tasks:
                self._bars.remove_task(self._tasks.pop(job))
            if self._lines:
                self._bars.console.print(_told(f"{self._short(job)}  {note}"))
            self._bars.update(self._total, completed=self._share(), note=self._left())
        else:
            self._show_line(job, note)

    def _short(self, job: str) -> str:
        """Returns the first word of a job's name, and of its other words those that not all jobs have."""
        first, *others = job.split(" ")
        common = set.intersection(*(set(name.split(" ")) for name in self._work)) if len(self._work) > 1 else set()
        return " ".join([first, *(word for word in others if word not in common)])

    def _show_line(self, job: str, note: str) -> None:
        """Prints a progress line, which is not in the document of --json."""
        if self._lines:
            _show(f"{job}  {note}  {self._left()}".rstrip())
        elif self._share() < 1 and time.monotonic() - self._last_shown > EVERY:
            self._last_shown = time.monotonic()
            told = _("{title}: {n} of {all} jobs {left}")
            _show(told.format(title=self._title, n=self._finished, all=len(self._work), left=self._left()))

    def _share(self) -> float:
        return sum(self._done.values()) / max(sum(self._work.values()), 1e-9)

    def _left(self) -> str:
        share = self._share()
        if share >= 1:
            return ""
        left = (time.monotonic() - self._started) * (1 - share) / share if share else 0.0
        return _("({share:.0%}, {time} left)").format(share=share, time=duration(round(left)))
