"""What a person sees: lines, tables of at most 80 columns off a terminal, and the progress of long work."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rich.progress import TaskID

NARROW = 80


def _console() -> Console:
    # Made at each call, so that a redirected stdout (tests, pipes) is honoured.
    return Console(width=None if sys.stdout.isatty() else NARROW, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    print(text, flush=True)


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The first column is left-aligned, the others right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _console().print()
    _console().print(table)


MARKS = 3
"""Signs behind a token where there are no colours: as many as its strength, from 0 to 1, has thirds."""


def show_heat(title: str, tokens: Iterable[tuple[str, float, bool]]) -> None:
    """A line of tokens (word, strength from -1 to 1, whether it is noise), blue where they speak for, orange where
    against, underlined noise; without colours +, - and ? behind them."""
    from rich.text import Text

    console, line = _console(), Text()
    coloured = console.is_terminal and not console.no_color
    for word, strength, noise in tokens:
        if coloured:
            red, green, blue = (61, 126, 219) if strength > 0 else (224, 138, 44)
            share = abs(strength) * 0.8
            back = "#" + "".join(f"{round(channel * share):02x}" for channel in (red, green, blue))
            line.append(word, style=f"#ffffff on {back}{' underline' if noise else ''}")
        else:
            line.append(word + ("+" if strength > 0 else "-") * round(abs(strength) * MARKS) + "?" * noise)
        line.append(" ")
    console.print()
    console.print(title, style="bold")
    console.print(line, soft_wrap=False)


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class JobProgress:
    """Progress of jobs that run side by side: bars on a terminal, a line for each finished step otherwise.

    Time left is judged from the share of work done: `work` tells how much each job is, in any unit. After a resumed
    start it is too hopeful at first, as the work done before counts.
    """

    def __init__(self, title: str, work: dict[str, float], lines: bool = True):
        """`lines` false: off a terminal, one line when all is done."""
        from rich.progress import BarColumn, Progress, TextColumn

        self._title = title
        self._work = work
        self._done = dict.fromkeys(work, 0.0)
        self._lines = lines
        self._started = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[note]}"), transient=True
        )
        self._tasks: dict[str, TaskID] = {}
        self._live = sys.stdout.isatty()

    def __enter__(self) -> JobProgress:
        if self._live:
            self._bars.start()
            self._total = self._bars.add_task(self._title, total=1.0, note="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._bars.stop()
        if kind is None and not self._lines:
            say(f"{self._title}: {len(self._work)} jobs in {duration(time.monotonic() - self._started)}")

    @property
    def is_live(self) -> bool:
        """Whether a person watches: where not, each step is a line."""
        return self._live

    @property
    def jobs(self) -> list[str]:
        return list(self._work)

    def rename(self, job: str, name: str) -> None:
        """Of one that has not begun."""
        self._work[name], self._done[name] = self._work.pop(job), self._done.pop(job)

    def step(self, job: str, share: float, note: str) -> None:
        """`job` has done `share` (0 to 1) of its work."""
        self._done[job] = share * self._work[job]
        if self._live:
            if job not in self._tasks:
                self._tasks[job] = self._bars.add_task(f"  {job}", total=1.0, note="")
            self._bars.update(self._tasks[job], completed=share, note=note)
            self._bars.update(self._total, completed=self._share(), note=self._left())
        elif self._lines:
            say(f"{job}  {note}  {self._left()}")

    def finish(self, job: str, note: str) -> None:
        self._done[job] = self._work[job]
        if self._live:
            if job in self._tasks:
                self._bars.remove_task(self._tasks.pop(job))
            if self._lines:
                self._bars.console.print(f"{job}  {note}")
            self._bars.update(self._total, completed=self._share(), note=self._left())
        elif self._lines:
            say(f"{job}  {note}  {self._left()}")

    def _share(self) -> float:
        return sum(self._done.values()) / max(sum(self._work.values()), 1e-9)

    def _left(self) -> str:
        share = self._share()
        if share >= 1:
            return ""
        left = (time.monotonic() - self._started) * (1 - share) / share if share else 0.0
        return f"({share:.0%}, {duration(left)} left)"
