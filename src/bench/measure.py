"""Timing of contenders that take turns on the same work, each in separate processes for the whole comparison.

Other load on the machine thus affects all contenders, memory is not shared, and imports and set-up are not timed.
Compare ratios within a run, not seconds of different runs.
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
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.core.executors import KEPT, THREAD_VARIABLES
from src.core.settings import ROOT

AGREE = 1e-3
"""Relative tolerance for equal results of contenders."""
TOLD = 10_000
"""Last characters of what a failed contender wrote that are told."""
CHILD = "from src.bench.measure import serve; serve()"


@dataclass(frozen=True)
class Contender:
    """Function to time, with its processes and threads."""

    name: str
    title: str
    function: str
    """`module:function` that takes the payload, does the set-up and returns the timed function. The timed function
    returns the amount of work ("work") and facts on which contenders must agree."""
    payload: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    """Number of parallel processes, each with all the work."""
    threads: int = 1
    product: bool = False
    """True to run in the environment of the product's workers."""
    rarely: bool = False
    """True for a slow contender with a single timed turn."""


def compare(contenders: Sequence[Contender], repeats: int) -> dict[str, dict[str, Any]]:
    """Times contenders in turns and returns by contender: title, set-up info, and measurements.

    Measurements are seconds and processor seconds for a unit of work and peak memory of a process in MB (1e6 bytes),
    each as min, median, max and n. Raises UserError if a contender fails or two contenders disagree.
    """
    with contextlib.ExitStack() as stack:
        crews = [stack.enter_context(_crew(contender)) for contender in contenders]
        infos = [[member.receive() for member in crew][0] for crew in crews]
        taken: list[list[dict[str, float]]] = [[] for _ in contenders]
        facts: dict[str, tuple[str, float]] = {}
        for contender, crew in zip(contenders, crews, strict=True):
            _turn(contender, crew, facts)  # warm-up, not counted
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
        member.send("go")
    answers = [member.receive() for member in crew]
    seconds = time.perf_counter() - started
    for name, value in answers[0]["facts"].items():
        other, expected = facts.setdefault(name, (contender.title, value))
        if not math.isclose(value, expected, rel_tol=AGREE):
            raise UserError(f"{contender.title}: {name} is {value}, but {expected} for {other}: the work differs")
    work = sum(answer["work"] for answer in answers)
    return {
        "seconds": seconds / work,
        "cpu_seconds": sum(answer["cpu_seconds"] for answer in answers) / work,
        "peak_megabytes": max(answer["peak_megabytes"] for answer in answers),
    }


def _summary(turns: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    def spread(values: list[float]) -> dict[str, float]:
        return {"min": min(values), "median": statistics.median(values), "max": max(values), "n": len(values)}

    return {name: spread([turn[name] for turn in turns]) for name in turns[0]}


class _Member:
    """Child process of a contender."""

    def __init__(self, contender: Contender):
        variables = dict.fromkeys(THREAD_VARIABLES, str(contender.threads))
        variables |= {"PYTHONPATH": str(ROOT), **(KEPT if contender.product else {})}
        self._title = contender.title
        # A pipe that nobody reads would stop a child that writes much.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.send(json.dumps({"function": contender.function, "payload": contender.payload}))

    def send(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died: receive() reports it
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise UserError(f"the benchmark of {self._title} failed:\n{self._errors.read().strip()[-TOLD:]}")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


@contextlib.contextmanager
def _crew(contender: Contender) -> Iterator[list[_Member]]:
    members = [_Member(contender) for _ in range(contender.processes)]
    try:
        yield members
    finally:
        for member in members:
            member.end()


def serve() -> None:
    """Runs a child process: the first line of stdin is the job, each further line starts a turn."""
    answers, sys.stdout = sys.stdout, sys.stderr  # lines printed by libraries must not mix with the answers

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
    """Runs a turn and returns its work, facts, processor seconds and the process's peak memory."""
    started = time.process_time()
    facts = once()
    cpu_seconds = time.process_time() - started
    return {
        "work": facts.pop("work"),
        "facts": facts,
        "cpu_seconds": cpu_seconds,
        "peak_megabytes": peak_megabytes(),
    }


def peak_megabytes() -> float:
    """Returns the peak memory of this process in MB. (getrusage would include the parent's memory before the exec.)"""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("the benchmark measures memory by /proc/self/status: run it on Linux") from None
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6
