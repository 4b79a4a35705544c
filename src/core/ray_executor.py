"""Executor on the machines of a Ray cluster: `executor=ray`, see docs/distributed.md.

Ray is imported by the functions that need it, so by nothing without executor=ray. Each job is one task of Ray. The task
runs the job in a process of its own that is forked from a server with torch, as LocalProcesses does: a job gets a new
process, and torch is imported once for each of Ray's workers. A job writes its results to its own folder, under a lock
and whole, so that a job that runs twice is harmless.

Jobs speak with the command through an actor, the post office: a job's news wait there for the watcher's answer, and a
task says every BEAT seconds that it lives. Whoever is silent is killed, for Ray itself does not notice a process that
stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.core import errands, interrupts, ray_cluster
from src.core.errors import OutOfTime, UserError
from src.core.executors import CARD_WORKERS, PATIENCE, Failure, Job, LocalWorker, Watcher, stop_jobs
from src.core.language import _
from src.core.settings import ROOT
from src.core.settings import Executor as ExecutorSettings
from src.core.settings import Ray as RaySettings
from src.core.terminal import warn

BEAT = 2.0
"""Seconds between two signs of life of a task, which also asks whether it shall stop."""
SOON = 0.1
"""Seconds after which a task looks whether its sign of life was answered, at most."""
BEGINNING = 600.0
"""Seconds that a task may be silent in addition while it starts its job's process, which imports torch."""
SENDING = 30.0
"""Seconds that jobs have, when a command is told to end, to send what they kept to the object store."""
HEARING = 10.0
"""Seconds that the post office lets the command wait for a letter."""
MOST_LETTERS = 100_000
"""Tasks that may wait for an answer at a time."""


@functools.cache
def stamp() -> str:
    """Hash of the project's code and version of torch, which are the same on all nodes."""
    found = hashlib.sha256(importlib.metadata.version("torch").encode())
    for path in sorted((ROOT / "src").rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


class PostOffice:
    """Actor through which tasks and the command speak."""

    def __init__(self) -> None:
        self._letters: list[tuple[int, int, Any]] = []
        self._arrived = asyncio.Event()
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._numbers = itertools.count()
        self._ends = False

    async def tell(self, task: int, news: dict[str, Any]) -> bool:
        """Brings the news of a task; returns True where it shall stop, once the command has answered."""
        if self._ends:
            return True
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._deliver(number, task, news)
        return await self._answers[number]

    async def live(self, task: int, place: Place) -> bool:
        """Brings a sign of life; returns True where the task shall stop."""
        self._deliver(-1, task, place)
        return self._ends

    async def hear(self) -> list[tuple[int, int, Any]]:
        """Hands out the letters (number, task, content), as soon as there is one."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), HEARING)
        letters, self._letters = self._letters, []
        self._arrived.clear()
        return letters

    async def answer(self, number: int, stop: bool) -> None:
        self._reply(number, stop)

    async def end(self) -> None:
        """Tells all tasks to stop, also those that begin later."""
        self._ends = True
        self._arrived.set()
        for number in list(self._answers):
            self._reply(number, True)

    def _deliver(self, number: int, task: int, content: Any) -> None:
        self._letters.append((number, task, content))
        self._arrived.set()

    def _reply(self, number: int, stop: bool) -> None:
        waiting = self._answers.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(stop)


@dataclass(frozen=True)
class Place:
    """Place where a task runs."""

    node: str
    """Ray's name of the node."""
    processes: tuple[int, ...]
    """The job's process, once it has started, and Ray's worker."""


class _Told(Exception):
    """The command has told the task to stop."""


def run_task(
    post: Any,
    task: int,
    function: str,
    payload: dict[str, Any],
    threads: int,
    silence: float,
    wanted: str,
    errand: errands.Errand | None,
) -> tuple[str, Any]:
    """Runs a job in a process of its own, in a worker of Ray. Returns done, failed or died, and why; done with an
    `errand`: an errands.Report."""
    import ray

    context = ray.get_runtime_context()
    if stamp() != wanted:
        told = _(
            "{host} has other code in {folder}, or another version of torch, than the command. Make all nodes alike"
        )
        return "failed", str(told.format(host=socket.gethostname(), folder=ROOT))
    node, own = context.get_node_id(), os.getpid()

    def live() -> bool:
        return ray.get(post.live.remote(task, Place(node, (own,))))

    def beat() -> None:
        if live():
            raise _Told

    try:
        beat()
        if errand is None:
            return _run_in_process(post, task, function, payload, threads, silence, Place(node, (own,)), None)
        with errands.stay(errand, beat) as stay:
            payload = {**payload, "output": str(stay.folder)}
            words = (post, task, function, payload, threads, silence, Place(node, (own,)))
            kind, content = _run_in_process(*words, lambda: stay.keep(live))
            if kind == "done":  # as far as it came, if it was told to stop
                return kind, stay.send(live)
            if kind == "died":
                stay.keep(live, now=True)
            return kind, stay.words(content)
    except _Told:
        return "done", None
    except UserError as error:
        return "failed", f"{socket.gethostname()}: {error}"


def _run_in_process(
    post: Any,
    task: int,
    function: str,
    payload: dict[str, Any],
    threads: int,
    silence: float,
    own: Place,
    between: Callable[[], None] | None,
) -> tuple[str, str | None]:
    """Runs a job in a new process; `own`: this process; `between`: called while the job waits for an answer."""
    import ray

    worker = LocalWorker(threads)
    try:
        with _no_main_file():
            worker.start()
        worker.give(Job(str(task), function, payload))
        place = Place(own.node, (worker.process.pid, *own.processes))
        told, next_beat, stands_since = post.live.remote(task, place), time.monotonic() + BEAT, math.inf
        while True:
            if told is not None and ray.wait([told], timeout=0)[0]:
                if ray.get(told):
                    stop_jobs([worker])
                    return "done", None
                told = None
            if time.monotonic() >= next_beat:
                if told is None:
                    told = post.live.remote(task, place)
                next_beat = time.monotonic() + BEAT
                stands_since = min(stands_since, time.monotonic()) if _stands(worker.process.pid) else math.inf
                if time.monotonic() - stands_since > silence:
                    worker.process.kill()
            # The answer is not waited for, so that a short job does not wait either.
            left = next_beat - time.monotonic()
            if worker.connection.poll(max(0.0, left if told is None else min(left, SOON))):
                kind, content = worker.hear()
                if kind != "progress":
                    return kind, content
                if between is not None:
                    between()
                worker.answer(ray.get(post.tell.remote(task, content)))
    finally:
        worker.stop()


@contextlib.contextmanager
def _no_main_file() -> Iterator[None]:
    """Keeps multiprocessing from importing Ray's main script into a new process."""
    main = sys.modules["__main__"]
    file = main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        if file is not None:
            main.__file__ = file


def _stands(process: int) -> bool:
    """Returns True for a process that was stopped, as by SIGSTOP."""
    with contextlib.suppress(OSError):  # it has ended, or this is not Linux
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[0] in "Tt"
    return False


def kill_processes(processes: Sequence[int]) -> None:
    """Kills a silent task's processes, on its node."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class _Mail:
    """The command's end of the post office, which is kept from call to call: an actor takes a second to start."""

    numbers = itertools.count()
    """Numbers of the command's tasks."""

    def __init__(self, ray: Any):
        here = ray_cluster.on_node(ray.get_runtime_context().get_node_id())
        made = ray.remote(num_cpus=0, scheduling_strategy=here, max_concurrency=MOST_LETTERS)(PostOffice)
        self.post = made.remote()
        self.hearing = self.post.hear.remote()


@functools.cache
def _mail(ray: Any) -> _Mail:
    return _Mail(ray)


@dataclass
class _Task:
    job: Job
    reference: Any
    """Ray's reference to its result."""
    heard: float = math.inf
    """Time, of time.monotonic(), of its last letter; inf: it has not begun, or waits for our answer."""
    place: Place | None = None
    is_killed: bool = False


class RayExecutor:
    """Executor with the nodes of a Ray cluster, each job with a fixed number of threads."""

    def __init__(
        self, settings: ExecutorSettings, device: str, n_jobs: int, deadline: float = math.inf, card_jobs: int = 1
    ):
        """`deadline`: as of LocalProcesses. `card_jobs`: number of jobs that a card has memory for."""
        self.threads = 1 if settings.threads == "auto" else settings.threads
        self.deadline = deadline
        self._wanted = settings.workers
        self._n_jobs = n_jobs
        self._ray: RaySettings = settings.ray
        self._card_jobs = min(CARD_WORKERS, card_jobs) if device == "cuda" else 0

    @property
    def workers(self) -> int:
        """Number of parallel jobs: that of the settings, or as many as the nodes that are there now have room for."""
        return self._wanted if self._wanted != "auto" else max(1, min(self._n_jobs, self._room()))

    def _room(self) -> int:
        """Jobs that the nodes have room for. Raises UserError where no node has room for one."""
        alive = [
            node["Resources"]
            for node in ray_cluster.nodes_of(ray_cluster.connect(self._ray.address, self._ray.dashboard))
        ]
        rooms = [int(node.get("CPU", 0) // self.threads) for node in alive]
        if self._card_jobs:
            rooms = [
                min(room, int(node.get("GPU", 0)) * self._card_jobs) for room, node in zip(rooms, alive, strict=True)
            ]
        if not any(rooms):
            raise UserError(
                _("no node of the Ray cluster has {threads} CPUs{card} for a job. The largest has {most}").format(
                    threads=self.threads,
                    card=_(" and a GPU") if self._card_jobs else "",
                    most=max((int(node.get("CPU", 0)) for node in alive), default=0),
                )
            )
        return sum(rooms)

    def run(self, jobs: Sequence[Job], watcher: Watcher) -> list[Failure]:
        waiting = sorted(jobs, key=lambda job: -job.work)
        return self.run_as_they_come(lambda: waiting.pop(0) if waiting else None, watcher)

    def run_as_they_come(self, next_job: Callable[[], Job | None], watcher: Watcher) -> list[Failure]:
        self._room()
        run = _Run(ray_cluster.connect(self._ray.address, self._ray.dashboard), self, self._ray, self._card_jobs)
        try:
            return run.work(next_job, watcher)
        except BaseException as end:
            if isinstance(end, KeyboardInterrupt):
                interrupts.received()
            run.stop()
            raise


class _Run:
    """Jobs of one call, and their post office."""

    def __init__(self, ray: Any, executor: RayExecutor, settings: RaySettings, card_jobs: int):
        self._ray = ray
        self._executor = executor
        self._settings = settings
        self._mail = _mail(ray)
        self._exchange = (
            errands.Exchange(settings, ray_cluster.looked_at(settings.store)) if settings.store is not None else None
        )
        options: dict[str, Any] = {"num_cpus": executor.threads, "max_retries": 0}
        if card_jobs:  # a worker's processes see the card that it was given first, so each job gets a new worker
            options |= {"num_gpus": 1 / card_jobs, "max_calls": 1}
        self._remote = ray.remote(**options)(run_task)
        self._tasks: dict[int, _Task] = {}
        self._lost: dict[str, int] = {}
        """Times that a job was lost, by its name."""

    def work(self, next_job: Callable[[], Job | None], watcher: Watcher) -> list[Failure]:
        failures: list[Failure] = []
        again: list[Job] = []
        while True:
            if self._left() == 0:
                raise OutOfTime
            while len(self._tasks) < self._executor.workers and (job := again.pop(0) if again else next_job()):
                self._submit(job)
            if not self._tasks:
                if self._exchange is not None:
                    self._exchange.tell()
                return failures
            for number, result in self._next(watcher):
                job = self._tasks.pop(number).job
                kind, content = result
                if isinstance(content, errands.Report):
                    self._exchange.receive(job, content)
                if kind in ("died", "lost") and self._may_try_again(job, kind):
                    warn(_("{name}: {content}. It is tried once more").format(name=job.name, content=content))
                    again.append(job)
                    continue
                failure = None if kind == "done" else Failure(job, content or "")
                if failure:
                    failures.append(failure)
                watcher.finish(job, failure)

    def stop(self) -> None:
        """Tells all jobs to stop, waits until those that run have, and kills those that do not.

        Nothing is cancelled by ray.cancel: a task that ends at that moment aborts the command (Ray 2.60: "Tried to
        complete task that was not pending"). Tasks that wait for a node ask the post office first, and end at once.
        """
        with contextlib.suppress(self._ray.exceptions.RayError, UserError):
            self._ray.get(self._mail.post.end.remote(), timeout=PATIENCE)
            self._read(None)
            tasks = {task.reference: task for task in self._tasks.values() if task.place}
            if tasks:
                patience = PATIENCE + 2 * BEAT + (SENDING if self._exchange is not None else 0.0)
                ended, left = self._ray.wait(list(tasks), num_returns=len(tasks), timeout=patience)
                for reference in ended:
                    _kind, content = self._result(reference)
                    if isinstance(content, errands.Report):  # as far as the job came
                        self._exchange.receive(tasks[reference].job, content)
                kills = [self._kill(tasks[reference].place) for reference in left]
                if kills:
                    self._ray.wait(kills, num_returns=len(kills), timeout=PATIENCE)
        _mail.cache_clear()  # this one tells all later tasks to stop, too

    def _left(self) -> float:
        """Seconds until the deadline, from 0 to BEAT."""
        return min(max(0.0, self._executor.deadline - time.monotonic()), BEAT)

    def _submit(self, job: Job) -> None:
        errand = None
        if self._exchange is not None:
            ray_cluster.check_store(self._ray, self._exchange.store)
            errand = self._exchange.errand(job, again=job.name in self._lost)
        elif output := job.payload.get("output"):
            ray_cluster.check_storage(self._ray, Path(output))
        number = next(self._mail.numbers)
        words = (self._executor.threads, self._settings.silence, stamp(), errand)
        reference = self._remote.remote(self._mail.post, number, job.function, job.payload, *words)
        self._tasks[number] = _Task(job, reference)

    def _may_try_again(self, job: Job, kind: str) -> bool:
        """Counts that a job was lost. A job whose own process died is tried once more, as with local processes; one
        whose node or worker was lost, max_retries times."""
        self._lost[job.name] = self._lost.get(job.name, 0) + 1
        return self._lost[job.name] <= (1 if kind == "died" else self._settings.max_retries)

    def _next(self, watcher: Watcher) -> Iterator[tuple[int, tuple[str, str | None]]]:
        """Waits a moment, passes news on to the watcher, and yields the results (done, failed, died or lost, and why)
        of the tasks that have ended, by their number."""
        numbers = {task.reference: number for number, task in self._tasks.items()}
        ready, _rest = self._ray.wait([self._mail.hearing, *numbers], num_returns=1, timeout=self._left())
        if self._mail.hearing in ready:
            self._read(watcher)
        for reference in ready:
            if reference in numbers:
                yield numbers[reference], self._result(reference)
        self._kill_the_silent()

    def _read(self, watcher: Watcher | None) -> None:
        """Reads the letters that have come, and answers them; without a watcher all have their answer."""
        try:
            letters = self._ray.get(self._mail.hearing)
        except self._ray.exceptions.RayError as error:
            told = _("the Ray cluster was lost ({reason}). Run the same command to continue")
            raise UserError(told.format(reason=ray_cluster.first_line(error))) from None
        self._mail.hearing = self._mail.post.hear.remote()
        for number, name, content in letters:
            task = self._tasks.get(name)
            if task is None:
                continue  # it was given up
            task.heard = time.monotonic()
            if isinstance(content, Place):
                task.place = content
                task.heard += BEGINNING if len(content.processes) == 1 else 0.0
            elif watcher is not None:
                self._mail.post.answer.remote(number, bool(watcher.step(task.job, content)))

    def _result(self, reference: Any) -> tuple[str, str | None]:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return "failed", str(error)
        except self._ray.exceptions.RayError as error:
            return "lost", str(_("its worker was lost: {reason}").format(reason=ray_cluster.first_line(error)))

    def _kill(self, place: Place) -> Any:
        """Kills the processes of a task, which ends it for Ray; returns the reference of the task that does so."""
        kill = self._ray.remote(num_cpus=0, max_retries=0)(kill_processes)
        return kill.options(scheduling_strategy=ray_cluster.on_node(place.node)).remote(place.processes)

    def _kill_the_silent(self) -> None:
        """Kills tasks of which nothing was heard for too long."""
        for task in self._tasks.values():
            silent = time.monotonic() - task.heard
            if task.place and not task.is_killed and silent > self._settings.silence:
                task.is_killed = True
                told = _("{name}: nothing was heard of it for {seconds:.0f} s, so its processes are killed")
                warn(told.format(name=task.job.name, seconds=silent))
                self._kill(task.place)
