"""Measures what Ray costs on this machine, for the tables in docs/distributed.md.

python -m tests.ray_measure
python -m tests.ray_measure --rows 6000 --folds 2 --epochs 48

A cluster of this machine alone (`ray.address=local`) and local processes run the same jobs: empty ones, one at a time,
and fold jobs of the sample data, by one worker and by two. Then, as looking at it takes time of the cores, the memory
of Ray's processes while a fold job runs, and two. It takes some minutes on two cores; `--rows`, `--folds` and
`--epochs` set how many fold jobs there are, and how long they are. Other work on the machine makes all figures worse;
the load is printed beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import psutil

from src.__main__ import main as run_main
from src.core import settings
from src.core.executors import Job, LocalProcesses, available_cores, make_executor
from src.core.settings_loader import load_config
from src.data.synthetic import make_sample
from src.data.tasks import ROUND1
from src.evaluation.workspace import Workspace
from src.training import device_cache
from src.training.planning import fold_jobs, work_of
from tests.conftest import words

NOTHING = "operator:is_"
"""Function of an empty job: it takes two arguments and does nothing, and its module is there already."""
WARM, EMPTY = 3, 30
"""Number of empty jobs before measuring, and of those that are measured."""
EVERY = 0.5
"""Seconds between two samples of memory."""
ROWS, FOLDS, EPOCHS = 1500, 4, 24
"""Reports of the sample, number of fold jobs, and epochs of each."""
MIB = 1 << 20


class Quiet:
    """Watcher of jobs of which nothing is wanted."""

    def step(self, job, news) -> None:
        pass

    def finish(self, job, failure) -> None:
        pass


def run_jobs(executor, jobs: Sequence[Job]) -> float:
    """Runs jobs, of which none may fail. Returns the seconds that they took."""
    began = time.perf_counter()
    if failures := executor.run(jobs, Quiet()):
        raise SystemExit(f"{failures[0].job.name} failed: {failures[0].reason}")
    return time.perf_counter() - began


def seconds_of_empty_jobs(executor, number: int) -> list[float]:
    return [run_jobs(executor, [Job(f"empty {i}", NOTHING, {})]) for i in range(number)]


Sample = dict[str, tuple[int, float]]
"""Number of processes and their bytes of memory, of each of KINDS."""


@contextlib.contextmanager
def sampled() -> Iterator[list[Sample]]:
    """Yields a list of samples of this process's descendants, which are taken meanwhile."""
    ends, samples = threading.Event(), [sample_of(psutil.Process())]

    def sample() -> None:
        while not ends.wait(EVERY):
            samples.append(sample_of(psutil.Process()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ends.set()
        thread.join()


def sample_of(root: psutil.Process) -> Sample:
    """Number of processes below `root`, and their proportional set size in bytes, of each kind. Pages that processes
    share count once."""
    found: Sample = defaultdict(lambda: (0, 0.0))
    own = {process.pid for process in root.children() if "multiprocessing" in " ".join(command_of(process))}
    for process in root.children(recursive=True):
        if process.pid in own:
            continue  # servers of this process, for local processes
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            kind, size = kind_of(process), process.memory_full_info().pss
            if size:  # else it has ended, and nobody has asked how
                found[kind] = found[kind][0] + 1, found[kind][1] + size
    return dict(found)


KINDS = ("gcs_server", "raylet", "agents and monitor", "Ray's workers", "servers with torch", "jobs")


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
        return []


def kind_of(process: psutil.Process) -> str:
    """One of KINDS: by the command of a process, and that of its parent."""
    command = command_of(process)
    text = " ".join(command)
    if "multiprocessing" in text:
        parent = process.parent()
        is_job = parent is not None and "multiprocessing.forkserver" in " ".join(command_of(parent))
        return "jobs" if is_job else "servers with torch"
    if text.startswith("ray::") and not text.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent")):
        return "Ray's workers"
    name = Path(command[0]).name if command else ""
    return name if name in ("gcs_server", "raylet") else "agents and monitor"


def prepared(folder: Path, rows: int, folds: int, epochs: int) -> tuple[Workspace, list[Job]]:
    """Fold jobs of sample data; a thousand reports take a third of a second of one core, each epoch."""
    make_sample(folder / "input", rows=rows, test_rows=40, task=ROUND1, seed=7)
    size = f"folds.k={folds}", f"train.epochs={epochs}", "model.hidden_size=64"
    made = words(folder / "input", folder / "output", *size)
    if run_main(["shift", *made]):
        raise SystemExit("the sample data could not be prepared")
    config = load_config("sample", [word for word in made if "=" in word], ["lstm"])
    workspace = Workspace(config)
    (group,) = fold_jobs(workspace, device_cache.find(workspace.output, "cpu")).values()
    function = "src.training.classification:train_fold"
    return workspace, [Job(f"fold {job.fold}", function, asdict(job), work_of(job)) for job in group]


def table(title: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("|", " | ".join(title), "|")
    print("|---" + "|---:" * (len(title) - 1) + "|")
    for row in rows:
        print("|", " | ".join(row), "|")
    print()


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    began = time.perf_counter()
    # Else each new process would import this module, and pytest with it, which those of a command do not.
    sys.modules["__main__"].__spec__ = None
    sys.modules["__main__"].__dict__.pop("__file__", None)
    folder = Path(tempfile.mkdtemp())
    before = load()
    try:
        workspace, jobs = prepared(folder, args.rows, args.folds, args.epochs)
        shutil.copytree(workspace.output.runs, folder / "planned")

        def anew() -> None:
            """Removes what the fold jobs have made."""
            shutil.rmtree(workspace.output.runs)
            shutil.copytree(folder / "planned", workspace.output.runs)

        cluster = settings.Executor(kind="ray", threads=1, ray=settings.Ray(address="local"))
        with sampled() as start_up:
            first = run_jobs(make_executor(cluster, "cpu", 1), [Job("first", NOTHING, {})])
        rows = []
        seconds: dict[tuple[str, int], float] = {}
        busy: dict[int, list[Sample]] = {}
        for name, of_workers in (
            ("Ray", lambda n: make_executor(cluster.model_copy(update={"workers": n}), "cpu", n)),
            ("local processes", lambda n: LocalProcesses(n, 1)),
        ):
            told = "{} by {}, at load {}".format
            one = of_workers(1)
            print(told("empty jobs", name, load()), file=sys.stderr)
            seconds_of_empty_jobs(one, WARM)
            with sampled() as idle:
                empty = seconds_of_empty_jobs(one, EMPTY)
            anew()
            run_jobs(of_workers(2), jobs[:2])  # Ray's second worker imports torch
            for workers in (1, 2):
                anew()
                print(told(f"fold jobs, {workers} at a time,", name, load()), file=sys.stderr)
                seconds[name, workers] = run_jobs(of_workers(workers), jobs)
                if name == "Ray":
                    anew()
                    with sampled() as busy[workers]:
                        run_jobs(of_workers(workers), jobs[:workers])
            quantiles = statistics.quantiles(empty, n=10)
            rows.append([name, f"{statistics.median(empty):.3f} s", f"{quantiles[-1]:.3f} s", f"{min(empty):.3f} s"])
            if name == "Ray":
                rest = idle
                time.sleep(3)
                at_rest = sample_of(psutil.Process())
        print(
            f"{available_cores()} cores, Ray {version('ray')}, torch {version('torch')}, load {before} before and "
            f"{load()} after, {time.perf_counter() - began:.0f} s in all; the first job took {first:.1f} s\n"
        )
        table([f"an empty job, {EMPTY} times", "median", "90% within", "least"], rows)
        table(
            [
                f"{args.folds} folds of {args.rows:,} reports, {args.epochs} epochs",
                "one worker",
                "two workers",
                "faster",
            ],
            [
                [name, *(f"{seconds[name, n]:.1f} s" for n in (1, 2)), f"{seconds[name, 1] / seconds[name, 2]:.2f}"]
                for name in ("Ray", "local processes")
            ],
        )
        show_memory(at_rest, {"empty jobs": [*start_up, *rest], "one worker": busy[1], "two workers": busy[2]})
    finally:
        shutil.rmtree(folder)


def show_memory(at_rest: Sample, busy: dict[str, list[Sample]]) -> None:
    """Table of the memory of each kind of process: at rest, and the largest of the samples in MiB."""

    def shown(samples: Sequence[Sample], kinds: Sequence[str]) -> str:
        most = max(samples, key=lambda sample: sum(sample.get(kind, (0, 0.0))[1] for kind in kinds))
        number, size = (sum(sample[i] for kind, sample in most.items() if kind in kinds) for i in (0, 1))
        return f"{size / MIB:,.0f} MiB ({number})"

    rows = [[kind, *(shown(samples, [kind]) for samples in ([at_rest], *busy.values()))] for kind in KINDS]
    rows.append(["all", *(shown(samples, KINDS) for samples in ([at_rest], *busy.values()))])
    table(["memory (processes)", "at rest", *(f"most, {name}" for name in busy)], rows)


if __name__ == "__main__":
    main()
