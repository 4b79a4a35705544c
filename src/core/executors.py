"""Executors: run jobs (fold x seed x model, predictions, baselines) in parallel and report failed ones.

A job is a function's name and a dictionary. A job writes its results to its own folder, so it may run twice or on
another machine. Another engine is another class with `run`.

A worker that is killed costs its own job, which is tried once more. A command that is told to end tells its workers so
and waits a little: a job that trains keeps its state.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from src.core import interrupts
from src.core.errors import OutOfTime, UserError, explained
from src.core.language import _
from src.core.settings import ROOT
from src.core.settings import Executor as ExecutorSettings
from src.core.terminal import JobProgress, warn

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16384",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # for deterministic products on a GPU
}
"""Environment of workers. glibc returns freed large arrays to the system: keeping them saves a thousand page faults and
3 to 5% of a step. oneDNN caches the code of 1,024 shapes of products: batches of a hundred widths need more, and
generating code again takes a third of a step."""
START = "spawn" if sys.platform == "darwin" else "forkserver"
"""Start method of workers; macOS may end a process that is forked after its frameworks were loaded."""
PRELOADED = ["src.training.classification", "src.training.prediction", "src.training.pretraining"]
"""Modules of most jobs, imported once by the server."""
CARD_WORKERS = 8
"""Largest number of workers that auto gives a GPU. Steps take turns on it, so that more gain little (docs/speed.md)."""
PATIENCE = 10.0
"""Seconds in which jobs keep their state when a command is told to end."""


@dataclass(frozen=True)
class Job:
    """Call of a function in a worker, as plain data."""

    name: str
    """Name for the user, unique among the jobs of a call."""
    function: str
    """`module:function`, called with the payload and a function that takes progress dictionaries."""
    payload: dict[str, Any]
    work: float = 1.0
    """Relative cost; jobs start in descending order of cost, so that no long job is last."""


Run = Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], None]
"""Function of a job."""


def reads(files: Callable[[dict[str, Any]], Iterable[str]]) -> Callable[[Run], Run]:
    """Declares what a job's function reads in the output folder `payload["output"]`, for machines that do not share it:
    `files` turns the payload into references, see object_store.tree_of(). What is not declared is not there."""

    def declare(function: Run) -> Run:
        function.reads = files
        return function

    return declare


@dataclass(frozen=True)
class Failure:
    """Job that ended with an error."""

    job: Job
    reason: str
    """Message for the user, or a traceback."""


class Watcher(Protocol):
    """Receiver of jobs' progress."""

    def step(self, job: Job, news: dict[str, Any]) -> bool | None:
        """Receives the progress of a job; returns True to stop the job, which waits for the answer."""
        ...

    def finish(self, job: Job, failure: Failure | None) -> None:
        """Receives the end of a job, also of a stopped one."""
        ...


class Executor(Protocol):
    """Runner of jobs."""

    workers: int
    """Number of jobs that run side by side."""
    threads: int
    """Threads of each job."""

    def run(self, jobs: Sequence[Job], watcher: Watcher) -> list[Failure]:
        """Runs every job, also after failures of others, and returns the failures."""
        ...

    def run_as_they_come(self, next_job: Callable[[], Job | None], watcher: Watcher) -> list[Failure]:
        """Runs jobs that depend on the progress of others, and returns the failures.

        `next_job` is called whenever a worker is free; None: no job now, or, with no job running, no further job.
        """
        ...


class LocalProcesses:
    """Executor with worker processes of this machine, each with a fixed number of threads.

    Workers are forked from a server that has only imported torch, so that a command imports it once. Workers forked
    from this process would inherit the locks of its threads.
    """

    def __init__(self, workers: int, threads: int, deadline: float = math.inf):
        """`deadline`: time, of time.monotonic(), at which jobs that run are stopped and OutOfTime is raised. A job that
        trains keeps its state, and no watcher hears of its end."""
        self.workers = workers
        self.threads = threads
        self.deadline = deadline

    def run(self, jobs: Sequence[Job], watcher: Watcher) -> list[Failure]:
        waiting = sorted(jobs, key=lambda job: -job.work)
        return self.run_as_they_come(lambda: waiting.pop(0) if waiting else None, watcher)

    def run_as_they_come(self, next_job: Callable[[], Job | None], watcher: Watcher) -> list[Failure]:
        workers: list[LocalWorker] = []
        failures: list[Failure] = []
        again: list[Job] = []
        tried: set[str] = set()
        """Names of jobs whose process died."""
        try:
            while True:
                workers = [worker for worker in workers if worker.process.is_alive() or worker.job]
                idle = [worker for worker in workers if worker.job is None]
                if self._left() == 0:
                    stop_jobs([worker for worker in workers if worker.job])
                    raise OutOfTime
                while (idle or len(workers) < self.workers) and (job := again.pop(0) if again else next_job()):
                    if not idle:
                        workers.append(LocalWorker(self.threads))  # known before it starts: a signal may end the start
                        workers[-1].start()
                        idle.append(workers[-1])
                    idle.pop(0).give(job)
                busy = [worker.connection for worker in workers if worker.job]
                if not busy:
                    break
                for connection in wait(busy, self._left()):
                    worker = next(worker for worker in workers if worker.connection is connection)
                    job = worker.job
                    kind, content = worker.hear()
                    if kind == "progress":
                        worker.answer(bool(watcher.step(job, content)))
                        continue
                    worker.job = None
                    if kind == "died" and job.name not in tried:
                        warn(_("{name}: {content}. It is tried once more").format(name=job.name, content=content))
                        tried.add(job.name)
                        again.append(job)
                        continue
                    failure = None if kind == "done" else Failure(job, content)
                    if failure:
                        failures.append(failure)
                    watcher.finish(job, failure)
        except KeyboardInterrupt:
            interrupts.received()
            stop_jobs([worker for worker in workers if worker.job])
            for worker in workers:
                worker.stop()
            _kill_server()
            raise
        finally:
            for worker in workers:
                worker.stop()
        return failures

    def _left(self) -> float | None:
        """Seconds to wait until the deadline, from 0 to a day; None without one."""
        return None if self.deadline == math.inf else min(max(0.0, self.deadline - time.monotonic()), 86_400.0)


def stop_jobs(workers: list[LocalWorker]) -> None:
    """Tells jobs to stop, and waits for them as long as PATIENCE allows."""
    until = time.monotonic() + PATIENCE
    for worker in workers:
        worker.interrupt()
    while workers and (left := until - time.monotonic()) > 0:
        for connection in wait([worker.connection for worker in workers], left):
            worker = next(worker for worker in workers if worker.connection is connection)
            try:
                kind, _ = worker.hear()
            except Exception:  # the command was interrupted amid a message
                kind = "died"
            if kind == "progress":
                worker.answer(stop=True)
            else:
                workers.remove(worker)


class LocalWorker:
    """Process that runs one job after the other for its parent."""

    def __init__(self, threads: int):
        context = multiprocessing.get_context(START)
        _stop_servers_at_exit()
        if START == "forkserver":
            context.set_forkserver_preload(PRELOADED)
        self.connection, self._worker_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(self._worker_end, threads), daemon=True)
        self.job: Job | None = None

    def start(self) -> None:
        """Starts the process. Interrupted, it leaves what stop() ends."""
        # Libraries read these variables when they are imported, so they are set before the server starts.
        settings = {**dict.fromkeys(THREAD_VARIABLES, "1"), **KEPT, "PYTHONPATH": _python_path()}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            resource_tracker.ensure_running()  # would unblock signals if it was started below
            with interrupts.blocked():  # for the new process, which inherits it; the server never sees a signal
                if START == "forkserver":
                    forkserver.ensure_running()
                else:
                    self.process.start()
            if START == "forkserver":
                self.process.start()  # waits while the server imports, and may be interrupted
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
        self._worker_end.close()

    def give(self, job: Job) -> None:
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # the worker died while idle: hear() reports it
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
            cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            less = "the system may have run out of memory, and fewer workers need less (executor.workers=1)"
            return "died", f"its process {cause}" + (f"; {less}" if code == -signal.SIGKILL else "")

    def interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGTERM)

    def stop(self) -> None:
        self.connection.close()
        self._worker_end.close()
        if self.process.pid is not None:  # else interrupted before it was there
            self.process.kill()
            self.process.join()


def _serve(connection: Connection, threads: int) -> None:
    """Runs the jobs of a worker and sends their progress, until the parent ends."""
    with contextlib.suppress(interrupts.Stopped):  # told to stop while idle
        interrupts.stop_on_signal()
        end_with_parent()
        _limit_threads(threads)
        while True:
            try:
                function, payload = connection.recv()
            except EOFError:
                return
            connection.send(_outcome(function, payload, connection))


def _outcome(function: str, payload: dict[str, Any], connection: Connection) -> tuple[str, str | None]:
    """Runs one job. Returns done, failed or died, and why."""

    def report(news: dict[str, Any]) -> None:
        connection.send(("progress", news))
        if connection.recv():
            raise interrupts.Stopped(by_signal=False)

    try:
        module, name = function.split(":")
        getattr(importlib.import_module(module), name)(payload, report)
        return "done", None
    except interrupts.Stopped as stop:
        return ("died", "its process was told to stop by SIGTERM") if stop.by_signal else ("done", None)
    except UserError as error:
        return "failed", str(error)
    except Exception as fault:
        return "failed", explained(fault) or traceback.format_exc()


@functools.cache  # once
def _stop_servers_at_exit() -> None:
    """Waits for Python's two servers at exit: so no process is left, and the system counts the workers' resources for
    this command (GNU time, wait4)."""
    atexit.register(resource_tracker._resource_tracker._stop)
    atexit.register(forkserver._forkserver._stop)  # called first


def _kill_server() -> None:
    """Ends a server that may be importing for seconds yet."""
    if forkserver._forkserver._forkserver_pid is not None:
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)


def _python_path() -> str:
    """Returns PYTHONPATH with the project's root, for the imports of the server."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _limit_threads(threads: int) -> None:
    """Limits the threads of imported libraries and of later imports."""
    import torch
    from threadpoolctl import threadpool_limits

    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    threadpool_limits(threads)
    torch.set_num_threads(threads)


def end_with_parent() -> None:
    """Makes this process, which multiprocessing has started, end when its parent has ended, however that was."""

    def wait_for_it() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()


class _Shown:
    """Watcher that passes progress to a display and to another watcher."""

    def __init__(
        self,
        progress: JobProgress,
        describe: Callable[[dict[str, Any]], tuple[float, str]],
        also: Watcher | None,
        finished: Callable[[Job], str],
    ):
        self._progress = progress
        self._describe = describe
        self._also = also
        self._finished = finished

    def step(self, job: Job, news: dict[str, Any]) -> None:
        if self._also:
            self._also.step(job, news)
        self._progress.step(job.name, *self._describe(news))

    def finish(self, job: Job, failure: Failure | None) -> None:
        self._progress.finish(job.name, _("FAILED") if failure else self._finished(job))
        if self._also:
            self._also.finish(job, failure)


def run_shown(
    executor: Executor,
    title: str,
    jobs: Sequence[Job],
    describe: Callable[[dict[str, Any]], tuple[float, str]] | None = None,
    also: Watcher | None = None,
    finished: Callable[[Job], str] = lambda job: "done",
    needs: Mapping[str, Collection[str]] | None = None,
) -> list[Failure]:
    """Runs jobs with a progress display and returns the failures.

    `describe` maps a job's progress to its share done and a note; without it a log has one line for all jobs. `also`
    is a watcher that cannot stop jobs. `finished` words the result of a job that is done. With `needs` jobs start in
    the order that they are given in, but none before those whose names it gives are done; after the failure of one of
    these it is not run.
    """
    if not jobs:
        return []
    with JobProgress(title, {job.name: job.work for job in jobs}, lines=describe is not None) as progress:
        shown = _Shown(progress, describe or (lambda news: (0.0, "")), also, finished)
        if needs is None:
            return executor.run(jobs, shown)
        chain = _Chain(jobs, needs, shown)
        return executor.run_as_they_come(chain.next_job, chain)


class _Chain:
    """Jobs that wait for others, and the watcher that learns of their ends."""

    def __init__(self, jobs: Sequence[Job], needs: Mapping[str, Collection[str]], watcher: Watcher):
        self._waiting = list(jobs)
        self._needs = {name: set(others) for name, others in needs.items()}
        self._watcher = watcher

    def next_job(self) -> Job | None:
        at = next((at for at, job in enumerate(self._waiting) if not self._needs.get(job.name)), None)
        return None if at is None else self._waiting.pop(at)

    def step(self, job: Job, news: dict[str, Any]) -> bool | None:
        return self._watcher.step(job, news)

    def finish(self, job: Job, failure: Failure | None) -> None:
        if failure is None:
            for others in self._needs.values():
                others.discard(job.name)
        self._watcher.finish(job, failure)


def raise_failures(failures: list[Failure]) -> None:
    """Raises one UserError that lists all failures, if there are failures."""
    if failures:
        reasons = "\n".join(f"{failure.job.name}: {failure.reason.strip()}" for failure in failures)
        raise UserError(
            _(
                "{reasons}\n{n_failures} jobs failed; the results of the other jobs are kept. Run the "
                "same command to continue."
            ).format(reasons=reasons, n_failures=len(failures))
        )


def make_executor(
    settings: ExecutorSettings, device: str, n_jobs: int, deadline: float = math.inf, card_jobs: int = 1
) -> Executor:
    """Returns the executor for the `n_jobs` jobs of a command on `device` (cpu or cuda).

    Numbers in the settings are used unchanged. Auto: on a CPU a worker for each job, at most one a core, and the cores
    divided among the workers as threads; on a GPU a worker for each job, at most one a core, CARD_WORKERS, and
    `card_jobs`, the number of jobs that the card has memory for, each with one thread. `n_jobs` includes finished jobs:
    a resumed command then has the same threads and writes the same bytes. `deadline` is that of LocalProcesses.

    On a Ray cluster, auto: as many jobs as its nodes have room for, each with one thread, whatever the nodes are.
    """
    if settings.kind == "ray":
        from src.core.ray_executor import RayExecutor  # which stands on this module

        return RayExecutor(settings, device, n_jobs, deadline, card_jobs)
    cores, workers, threads = available_cores(), settings.workers, settings.threads
    if workers == "auto":
        at_most = cores if threads == "auto" else cores // threads
        if device == "cuda":
            at_most = min(at_most, CARD_WORKERS, card_jobs)
        workers = max(1, min(n_jobs, at_most))
    if threads == "auto":
        threads = 1 if device == "cuda" else max(1, cores // workers)
    return LocalProcesses(workers, threads, deadline)


def available_cores() -> int:
    """Returns the number of cores that this process may use, under taskset or a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, int(quota)) for quota in _quotas())])


def _quotas() -> Iterator[float]:
    """Yields the limits, in cores, of the control groups that this process is in, of either version of cgroups."""
    with contextlib.suppress(OSError):  # not Linux
        for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, own = line.split(":", 2)
            if not controllers:
                root, names = CGROUPS, ("cpu.max",)
            elif "cpu" in controllers.split(","):
                root, names = CGROUPS / "cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            else:
                continue
            inner = Path(own.lstrip("/"))
            for folder in (inner, *inner.parents):  # in a container the path may be the host's, and its end the root
                with contextlib.suppress(OSError, ValueError):  # no such group, or no limit: max, or -1
                    quota, period = " ".join(
                        (root / folder / name).read_text(encoding="utf-8") for name in names
                    ).split()
                    if int(quota) > 0:
                        yield int(quota) / int(period)
