"""Fork server: one warm process that has imported torch and the project, and forks a child for each command.

A command in a child costs some 0.1 s, a new interpreter 2 to 4 s: thousands of trials need the first. Each trial is a
process group of its own, whose workers are forked from it, and the server reaps what a trial leaves behind.

`python -m tests.chaos.server` reads trials as JSON lines on stdin and answers each with the JSON of an Outcome;
ForkServer is the other end of the pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import mmap
import os
import pkgutil
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 40.0
"""Seconds of processor time that a command may take. On a busy machine it may take AT_MOST as many of the clock."""
AT_MOST = 10
LONG = 60.0
"""Limit of commands that make a scene."""
PATIENCE = 5.0
"""Seconds that workers have to notice the end of their parent, unless a trial says otherwise."""
LIBRARIES = (
    "jinja2", "iterstrat.ml_stratifiers", "matplotlib.pyplot", "optuna", "rich.progress", "rich.table",
    "safetensors.torch", "scipy.stats", "sklearn.ensemble", "sklearn.feature_extraction.text", "sklearn.linear_model",
    "sklearn.svm", "src.serving.bundle", "src.serving.predictor", "src.serving.torch_engine", "threadpoolctl",
    "torch._dynamo", "torch.nn.functional",
)  # fmt: skip
"""Modules that commands import on use, imported once by the server."""
HEARD = ("stdout", "stderr")
"""Outputs of a trial, each through a pipe of its own: a pipe has no limit of size."""
SET_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux: orphans become children of the server, which counts them."""
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.chmod", "sqlite3.connect"}
"""Audit events that change a file system, beside open() for writing."""


@dataclass(frozen=True)
class Trial:
    """One command in a folder of its own."""

    arguments: list[str]
    folder: str
    """Current folder of the command; its temporary files go to tmp/ in it."""
    function: str = "src.__main__:main"
    """`module:function` that is called with the arguments and returns the exit status."""
    kill_at_event: int | None = None
    """Number of the write event before which the whole command is killed, counted over its processes."""
    kill_after: float | None = None
    """Seconds after which the whole command is killed."""
    signal: int = signal.SIGKILL
    alone: bool = False
    """Only the command's first process is killed: its workers have to notice."""
    limit: float = LIMIT
    patience: float = PATIENCE
    """Seconds that what the command leaves behind has to end."""
    limits: dict[str, int] = field(default_factory=dict)
    """Soft resource limits by name, such as RLIMIT_FSIZE."""


@dataclass(frozen=True)
class Outcome:
    """End of a trial."""

    status: int
    """Exit status, or minus the signal's number."""
    stdout: str
    stderr: str
    seconds: float
    events: int
    """Write events that the command had."""
    hung: bool = False
    orphans: int = 0
    """Processes that outlived the command by its patience."""


class ForkServer:
    """Client of a server process; one trial at a time."""

    def __enter__(self) -> ForkServer:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, **threads, "PYTHONPATH": paths, "PYTHONHASHSEED": "0", "MPLBACKEND": "agg"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate()

    def run(self, trial: Trial) -> Outcome:
        self._process.stdin.write(json.dumps(asdict(trial)) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Imports everything, then answers trials until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm_up()
    ctypes.CDLL(None).prctl(SET_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        outcome = _run(Trial(**json.loads(line)))
        answers.write(json.dumps(asdict(outcome)) + "\n")
        answers.flush()
    os._exit(0)  # without the seconds that libraries take to end


def _warm_up() -> None:
    import src
    from src.core import executors

    for module in pkgutil.walk_packages(src.__path__, "src."):
        if not module.name.startswith("src.serving."):
            _import_where_its_libraries_are(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # children do not write to what they share with the server by collecting garbage
    executors.START = "fork"  # workers are forked from the trial's process, which has imported what they need
    time.perf_counter = lambda: 0.0  # results that note their seconds have the same bytes each time
    os.fsync = lambda descriptor: None  # no trial cuts the power


def _import_where_its_libraries_are(name: str) -> None:
    """Leaves out a module that needs an optional library (docs/requirements-*.txt) which is not installed."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"src", "tests"}:
            raise


def _run(trial: Trial) -> Outcome:
    events, pipes = mmap.mmap(-1, 8), [os.pipe() for _ in HEARD]
    started = time.monotonic()
    child = os.fork()
    if not child:
        try:
            _be_trial(trial, events, [end for _, end in pipes])
        finally:
            os._exit(1)  # whatever happens, no second server
    for read_end, write_end in pipes:
        os.close(write_end)
        os.set_blocking(read_end, False)
    heard = [b"" for _ in HEARD]
    hung, status = False, None
    killed_at = None if trial.kill_after is None else started + trial.kill_after
    while status is None:
        done, code = os.waitpid(child, os.WNOHANG)
        heard = [before + _read(read_end) for before, (read_end, _) in zip(heard, pipes, strict=True)]
        now = time.monotonic()
        if done:
            status = os.waitstatus_to_exitcode(code)
        elif killed_at is not None and now >= killed_at:
            _kill(child, trial)
            killed_at = None
        elif now - started > AT_MOST * trial.limit or (
            now - started > trial.limit and _processor_seconds(child) > trial.limit
        ):
            hung = True
            os.killpg(child, signal.SIGKILL)
        else:
            time.sleep(0.002)
    seconds, orphans = round(time.monotonic() - started, 3), _orphans(child, trial.patience)
    for read_end, _ in pipes:
        os.close(read_end)
    stdout, stderr = (text.decode(errors="replace") for text in heard)
    return Outcome(status, stdout, stderr, seconds, _count(events), hung, orphans)


def _read(descriptor: int) -> bytes:
    """Reads what a pipe holds now."""
    text = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(descriptor, 1 << 16):
            text += part
    return text


def _kill(group: int, trial: Trial) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.kill if trial.alone else os.killpg)(group, trial.signal)


def _orphans(group: int, patience: float) -> int:
    """Number of processes of a group that has ended which do not end by themselves."""
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return 0
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    left = sum(_group_of(process) == group for process in os.listdir("/proc") if process.isdigit())
    os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-group, 0)
    return left


def _stat_of(process: str | int) -> list[str]:
    """Fields of /proc/PROCESS/stat behind the command's name."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return []


def _group_of(process: str) -> int | None:
    fields = _stat_of(process)
    return int(fields[2]) if fields else None


def _processor_seconds(process: int) -> float:
    """Processor time of a process and of its children that have ended."""
    fields = _stat_of(process)
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _count(events: mmap.mmap) -> int:
    return struct.unpack_from("q", events)[0]


def _be_trial(trial: Trial, events: mmap.mmap, pipes: list[int]) -> None:
    """Runs a command as a process of its own would, and ends this process."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as `python -m src` has it before main() begins
    os.chdir(trial.folder)
    os.makedirs("tmp", exist_ok=True)
    os.environ["TMPDIR"] = os.path.abspath("tmp")
    nothing = os.open(os.devnull, os.O_RDONLY)
    for of, to in zip((nothing, *pipes), range(3), strict=True):
        os.dup2(of, to)
    for name, most in trial.limits.items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
    sys.addaudithook(lambda event, arguments: _on_event(event, arguments, trial, events))
    module, name = trial.function.split(":")
    try:
        status = getattr(importlib.import_module(module), name)(trial.arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)


def _on_event(event: str, arguments: tuple[Any, ...], trial: Trial, events: mmap.mmap) -> None:
    """Counts write events in shared memory, over all processes of the trial; kills at the chosen one."""
    writes = event in WRITES
    if event == "open" and isinstance(arguments[0], str | bytes):
        writes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writes:
        number = _count(events)
        struct.pack_into("q", events, 0, number + 1)
        if number == trial.kill_at_event:
            os.killpg(os.getpgrp(), trial.signal)


if __name__ == "__main__":
    serve()
