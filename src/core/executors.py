"""Runs jobs (fold x seed x model, predictions, baselines) side by side and survives those that die.

A job is a function's name and a dictionary, and writes its own results to its own folder: running it twice, or
somewhere else, does no harm. Another engine is another class with `run`; no stage would change.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from src.core.errors import UserError
from src.core.settings import ROOT
from src.core.settings import Executor as ExecutorSettings
from src.core.terminal import JobProgress

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16384",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without which products on a GPU are not the same each time
}
"""What workers keep for the next step, and how. glibc gives large arrays back to the system as soon as they are freed:
keeping them saves a thousand page faults and 3 to 5% of a step. oneDNN generates code for each shape of a product and
keeps 1,024 of them: batches of a hundred widths need more, and generating them anew takes a third of a step."""
START = "spawn" if sys.platform == "darwin" else "forkserver"
"""macOS may end a process that is forked after its frameworks were loaded."""
PRELOADED = ["src.training.classification", "src.training.prediction", "src.training.pretraining"]
"""What most jobs are, with all that they import."""


@dataclass(frozen=True)
class Job:
    name: str
    """Unique among the jobs of one call; shown to the user."""
    function: str
    """`module:function`, called with the payload and a function that takes progress dictionaries."""
    payload: dict[str, Any]
    work: float = 1.0
    """How much it is, in any unit; the largest start first, so that no long job is left for the end."""


@dataclass(frozen=True)
class Failure:
    job: Job
    reason: str
    """A sentence for the user, or a traceback."""


class Watcher(Protocol):
    def step(self, job: Job, news: dict[str, Any]) -> bool | None:
        """News of a job, which waits for the answer: true stops it."""
        ...

    def finish(self, job: Job, failure: Failure | None) -> None:
        """Also of a job that was stopped."""
        ...


class Executor(Protocol):
    def run(self, jobs: Sequence[Job], watcher: Watcher) -> list[Failure]:
        """Runs every job, also after others failed, and returns the failures."""
        ...

    def run_as_they_come(self, next_job: Callable[[], Job | None], watcher: Watcher) -> list[Failure]:
        """The same for jobs that depend on what others told. `next_job` is called whenever a worker is free: None says
        that there is none now, and with no job running, that there is none left."""
        ...


class LocalProcesses:
    """Worker processes of this machine, each with a fixed number of threads.

    Workers are forked from a server that has imported torch and has run nothing: so the seconds of the import are
    spent once a command. Forked from this process, they would inherit the locks of its threads.
    """

    def __init__(self, workers: int, threads: int):
        self.workers = workers
        self.threads = threads

    def run(self, jobs: Sequence[Job], watcher: Watcher) -> list[Failure]:
        waiting = sorted(jobs, key=lambda job: -job.work)
        return self.run_as_they_come(lambda: waiting.pop(0) if waiting else None, watcher)

    def run_as_they_come(self, next_job: Callable[[], Job | None], watcher: Watcher) -> list[Failure]:
        workers: list[_Worker] = []
        failures: list[Failure] = []
        try:
            while True:
                workers = [worker for worker in workers if worker.process.is_alive() or worker.job]
                idle = [worker for worker in workers if worker.job is None]
                while (idle or len(workers) < self.workers) and (job := next_job()):
                    if not idle:
                        workers.append(_Worker(self.threads))
                        idle.append(workers[-1])
                    idle.pop(0).give(job)
                busy = [worker.connection for worker in workers if worker.job]
                if not busy:
                    break
                for connection in wait(busy):
                    worker = next(worker for worker in workers if worker.connection is connection)
                    job = worker.job
                    kind, content = worker.hear()
                    if kind == "progress":
                        worker.answer(bool(watcher.step(job, content)))
                        continue
                    failure = None if kind == "done" else Failure(job, content)
                    if failure:
                        failures.append(failure)
                    worker.job = None
                    watcher.finish(job, failure)
        finally:
            for worker in workers:
                worker.stop()
        return failures


class _Worker:
    def __init__(self, threads: int):
        context = multiprocessing.get_context(START)
        if START == "forkserver":
            context.set_forkserver_preload(PRELOADED)
            _stop_server_at_exit()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads), daemon=True)
        self.job: Job | None = None
        # Libraries read these once, when they are imported: they must stand before the first worker's server starts.
        settings = {**dict.fromkeys(THREAD_VARIABLES, "1"), **KEPT, "PYTHONPATH": _python_path()}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            self.process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
        theirs.close()

    def give(self, job: Job) -> None:
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # the worker died while idle: hear() tells
            self.connection.send((job.function, job.payload))

    def answer(self, stop: bool) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(stop)

    def hear(self) -> tuple[str, Any]:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"gone with exit code {code}"
            hint = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
            return "failed", f"its process was {how}{hint}."

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


class _Stopped(BaseException):
    """Not an Exception, so that a job that tells its news within a try does not take it for a failure of its own."""


def _serve(connection: Connection, threads: int) -> None:
    """The life of a worker: jobs in, news out, until its parent is gone."""
    _limit_threads(threads)

    def tell(news: dict[str, Any]) -> None:
        connection.send(("progress", news))
        if connection.recv():
            raise _Stopped

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, payload = connection.recv()
        except EOFError:
            return
        try:
            module, name = function.split(":")
            getattr(importlib.import_module(module), name)(payload, tell)
        except _Stopped:
            connection.send(("done", None))
        except UserError as error:
            connection.send(("failed", str(error)))
        except Exception:
            connection.send(("failed", traceback.format_exc()))
        else:
            connection.send(("done", None))


@functools.cache  # once
def _stop_server_at_exit() -> None:
    """Waits for the server, as nobody else does: then what workers took is part of what the system says that this
    command took (GNU time, os.wait4)."""
    atexit.register(forkserver._forkserver._stop)


def _python_path() -> str:
    """With the project's root, where the server finds what it imports."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _limit_threads(threads: int) -> None:
    """For libraries that are imported already, and for those that are yet to be."""
    import torch
    from threadpoolctl import threadpool_limits

    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    threadpool_limits(threads)
    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


class _Shown:
    """Hands the news of jobs to a progress display, and to whoever else wants them."""

    def __init__(
        self,
        progress: JobProgress,
        describe: Callable[[dict[str, Any]], tuple[float, str]],
        also: Watcher | None,
    ):
        self._progress = progress
        self._describe = describe
        self._also = also

    def step(self, job: Job, news: dict[str, Any]) -> None:
        if self._also:
            self._also.step(job, news)
        self._progress.step(job.name, *self._describe(news))

    def finish(self, job: Job, failure: Failure | None) -> None:
        self._progress.finish(job.name, "FAILED" if failure else "done")
        if self._also:
            self._also.finish(job, failure)


def run_shown(
    executor: Executor,
    title: str,
    jobs: Sequence[Job],
    describe: Callable[[dict[str, Any]], tuple[float, str]] | None = None,
    also: Watcher | None = None,
) -> list[Failure]:
    """Runs jobs under a progress display; `describe` turns a job's news into its share done and a note. `also` is told
    the same news, and cannot stop a job.

    Without it the jobs are short ones that send no news, and a log gets one line for all of them.
    """
    if not jobs:
        return []
    with JobProgress(title, {job.name: job.work for job in jobs}, lines=describe is not None) as progress:
        return executor.run(jobs, _Shown(progress, describe or (lambda news: (0.0, "")), also))


def raise_failures(failures: list[Failure]) -> None:
    """One UserError that tells every failure; nothing where there is none."""
    if failures:
        told = "\n".join(f"{failure.job.name}: {failure.reason.strip()}" for failure in failures)
        raise UserError(
            f"{told}\n{len(failures)} jobs failed; what the others made is kept, and the same command goes on from "
            "there."
        )


def make_executor(settings: ExecutorSettings, device: str, n_jobs: int) -> LocalProcesses:
    """Executor for the `n_jobs` jobs of a command, on `device` (cpu or cuda).

    Workers and threads that the settings name are taken as they are. Auto: on a CPU a worker for each job, as far as
    there are cores, which the workers share out as threads; on a GPU one worker with one thread. Count jobs that are
    done too: then a command that was killed goes on with as many threads, and makes the same bytes.
    """
    cores, workers, threads = available_cores(), settings.workers, settings.threads
    if workers == "auto":
        at_most = cores if threads == "auto" else cores // threads
        workers = 1 if device == "cuda" else max(1, min(n_jobs, at_most))
    if threads == "auto":
        threads = 1 if device == "cuda" else max(1, cores // workers)
    return LocalProcesses(workers, threads)


def available_cores() -> int:
    """Cores that this process may use, which taskset or a container's quota can make fewer than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if CPU_QUOTA.exists():
        quota, period = CPU_QUOTA.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores
