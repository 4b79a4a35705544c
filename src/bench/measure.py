"""Contenders take turns on the same work, each in processes of its own that live through the whole comparison.

So the machine's mood strikes all alike, no contender inherits another's memory, and imports and set-up are not timed.
Compare the ratios of one run, not seconds of different runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.core.executors import KEPT, THREAD_VARIABLES
from src.core.settings import ROOT

AGREE = 1e-3
"""Relative difference up to which two contenders found the same."""
CHILD = "from src.bench.measure import serve; serve()"


@dataclass(frozen=True)
class Contender:
    name: str
    title: str
    function: str
    """`module:function`: takes the payload, prepares all that is not timed, and returns the timed function. That one
    returns how much it did ("work") and facts on which contenders must agree."""
    payload: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    """So many do the work side by side, each all of it."""
    threads: int = 1
    product: bool = False
    """Runs as the product's workers run."""
    rarely: bool = False
    """A slow one: a single turn counts."""


def compare(contenders: Sequence[Contender], repeats: int) -> dict[str, dict[str, Any]]:
    """By contender: seconds and processor seconds for a unit of work, peak memory of a process in MB (1e6 bytes), each
    as min, median, max and n; and what its set-up told.

    Raises UserError for a contender that fails, and where two do not find the same.
    """
    with contextlib.ExitStack() as stack:
        crews = [stack.enter_context(_crew(contender)) for contender in contenders]
        infos = [[member.hear() for member in crew][0] for crew in crews]
        taken: list[list[dict[str, float]]] = [[] for _ in contenders]
        facts: dict[str, tuple[str, float]] = {}
        for contender, crew in zip(contenders, crews, strict=True):
            _turn(contender, crew, facts)  # warms caches and is not counted
        for repeat in range(repeats):
            for contender, crew, turns in zip(contenders, crews, taken, strict=True):
                if repeat == 0 or not contender.rarely:
                    turns.append(_turn(contender, crew, facts))
    return {
        contender.name: {"title": contender.title, "info": info, **_summary(turns)}
        for contender, info, turns in zip(contenders, infos, taken, strict=True)
    }


def _turn(contender: Contender, crew: list[_Member], facts: dict[str, tuple[str, float]]) -> dict[str, float]:
    started = time.perf_counter()
    for member in crew:
        member.tell("go")
    heard = [member.hear() for member in crew]
    seconds = time.perf_counter() - started
    for name, value in heard[0]["facts"].items():
        other, expected = facts.setdefault(name, (contender.title, value))
        if not math.isclose(value, expected, rel_tol=AGREE):
            raise UserError(f"{contender.title}: {name} is {value}, but {expected} for {other}: not the same work")
    work = sum(one["work"] for one in heard)
    return {
        "seconds": seconds / work,
        "cpu_seconds": sum(one["cpu_seconds"] for one in heard) / work,
        "peak_megabytes": max(one["peak_megabytes"] for one in heard),
    }


def _summary(turns: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    def spread(values: list[float]) -> dict[str, float]:
        return {"min": min(values), "median": statistics.median(values), "max": max(values), "n": len(values)}

    return {name: spread([turn[name] for turn in turns]) for name in turns[0]}


class _Member:
    """A child process that does a contender's work when told."""

    def __init__(self, contender: Contender):
        variables = dict.fromkeys(THREAD_VARIABLES, str(contender.threads))
        variables |= {"PYTHONPATH": str(ROOT), **(KEPT if contender.product else {})}
        self._title = contender.title
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.tell(json.dumps({"function": contender.function, "payload": contender.payload}))

    def tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died: hear() tells
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"the benchmark of {self._title} failed:\n{self._process.stderr.read().strip()}")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _crew(contender: Contender) -> Iterator[list[_Member]]:
    members = [_Member(contender) for _ in range(contender.processes)]
    try:
        yield members
    finally:
        for member in members:
            member.end()


def serve() -> None:
    """The life of a child: one line says what to do, each further one starts a turn."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not stand between the answers

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    module, name = job["function"].split(":")
    once = getattr(importlib.import_module(module), name)(**job["payload"])
    once, info = once if isinstance(once, tuple) else (once, {})
    answer(info)
    for _ in sys.stdin:
        answer(timed(once))


def timed(once: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """One turn: its work, what it found, processor seconds and the most memory that this process has held."""
    started = time.process_time()
    found = once()
    cpu_seconds = time.process_time() - started
    return {
        "work": found.pop("work"),
        "facts": found,
        "cpu_seconds": cpu_seconds,
        "peak_megabytes": peak_megabytes(),
    }


def peak_megabytes() -> float:
    """Most memory this process has held. (getrusage's figure would include the parent's, up to the exec.)"""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        raise UserError("the benchmark measures memory by /proc, so it needs Linux") from None
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6
