"""Federation: rounds of training at several domains, as jobs of an executor. No torch is imported here.

A round is one job a (fold, seed, domain), and one that closes it, which averages what the domains sent. Rounds of all
folds run side by side. federated.py has what the jobs do.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from src.core import array_files, storage
from src.core.executors import Executor, Failure, Job, Watcher
from src.core.language import _, joined
from src.core.run_settings import FEDERATED, Run
from src.core.terminal import JobProgress
from src.training import privacy
from src.training.job_specs import ClientJob, FoldJob, described

DRAWN = 24_001
"""Mixed into the seed of the draw of those that take part, to be independent of the order of rows."""


def is_federated(job: FoldJob) -> bool:
    return job.run["train"].get("regime") in FEDERATED


def client_rows(job: FoldJob) -> dict[int, int]:
    """Number of train rows of each domain of a fold, by the domain's number."""
    rows = array_files.read_npz(job.locate(job.split))["train_rows"]
    found, counts = np.unique(array_files.read_npy(job.locate(job.domains))[rows], return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def epochs_of(run: Run, round: int) -> range:
    """Numbers of the epochs of a round, from 1."""
    per_round = run.regime.local_epochs
    return range((round - 1) * per_round + 1, min(round * per_round, run.train.epochs) + 1)


def rounds_of(job: FoldJob) -> list[list[ClientJob]]:
    """Jobs of the domains in each round. Round 0 has one of each domain if the model has scales that are fitted to
    rows, else none. In a round from 1 a domain takes part with probability 1 - regime.drop; where none would, one at
    random does."""
    run, domains = Run.model_validate(job.run), list(client_rows(job))
    numbers = range(1, math.ceil(run.train.epochs / run.regime.local_epochs) + 1)
    taking = [_drawn(len(domains), run.regime.drop, (job.seed, job.fold, number, DRAWN)) for number in numbers]
    given = {field.name: getattr(job, field.name) for field in fields(FoldJob)}
    last = {place: number for number, places in zip(numbers, taking, strict=True) for place in places}
    since = dict.fromkeys(range(len(domains)), 0)

    def client(number: int, place: int) -> ClientJob:
        one = ClientJob(
            **given,
            round=number,
            domain=domains[place],
            place=place,
            since=since[place],
            is_last=last.get(place) == number,
        )
        since[place] = number
        return one

    measured = range(len(domains)) if job.shape.kind == "series" else ()
    return [
        [client(0, place) for place in measured],
        *([client(number, place) for place in places] for number, places in zip(numbers, taking, strict=True)),
    ]


def _drawn(n: int, drop: float, seed: tuple[int, ...]) -> list[int]:
    """Places, of n, that take part in a round."""
    rng = np.random.default_rng(seed)
    taking = np.flatnonzero(rng.random(n) >= drop).tolist()
    return taking or [int(rng.integers(n))]


def rounds_closed(job: FoldJob) -> int:
    """Number of the last round whose averaged weights are there; -1: none. They may be damaged."""
    if not any(job.path.glob("state_*.json")):
        return -1
    return math.ceil(job.epochs_done() / Run.model_validate(job.run).regime.local_epochs)


def clean(job: FoldJob) -> None:
    """Removes what only the rounds of a finished fold needed."""
    for name in ("rounds", "clients"):
        shutil.rmtree(job.path / name, ignore_errors=True)


def told(job: FoldJob, names: Sequence[str]) -> str:
    """Words what left the domains, called `names`, in the training of a finished fold."""
    found = storage.read_json(job.path / "result.json")["federation"]
    parts = [
        _("{name} {size} in {n} rounds").format(name=names[int(domain)], size=_size(one["bytes"]), n=one["rounds"])
        + (f", ε {one['epsilon']:.2f} (δ {one['delta']:.1e})" if "epsilon" in one else "")
        for domain, one in sorted(found["domains"].items(), key=lambda item: int(item[0]))
    ]
    whole = _("{n} domains sent {size} in {rounds} rounds: {parts}")
    size, rounds = _size(found["bytes"]), found["rounds"]
    return whole.format(n=len(parts), size=size, rounds=rounds, parts=joined("; ", parts))


def _size(n: int) -> str:
    return f"{n / 1e6:.2f} MB"


def run_federations(
    executor: Executor, folds: Sequence[Job], also: Watcher | None, finished: Callable[[Job], str]
) -> list[Failure]:
    """Trains federated folds, given as Jobs of train_fold, and returns the failures, with the folder of the fold in
    their payload. Arguments are as those of run_shown()."""
    if not folds:
        return []
    if any(job.payload["run"].get("regime", {}).get("noise") for job in folds):
        privacy.check()
    with JobProgress("train", {job.name: job.work for job in folds}) as progress:
        federation = _Federation(folds, progress, also, finished)
        return executor.run_as_they_come(federation.next_job, federation)


class _Fold:
    """A federated fold on its way: its jobs, wave after wave."""

    def __init__(self, job: Job):
        self.name, self.spec = job.name, FoldJob(**job.payload)
        self.run = Run.model_validate(self.spec.run)
        self.rows = client_rows(self.spec)
        self.waves = self._waves(job)
        self.waiting: list[Job] = []
        self.running: set[str] = set()
        self.is_failed = False
        self.done: dict[int, int] = {}
        """Epoch that each domain has reached."""
        self.closed = max(0, rounds_closed(self.spec))

    def _waves(self, final: Job) -> Iterator[list[Job]]:
        """Yields jobs that can run side by side, after those before."""
        rounds, given = rounds_of(self.spec), asdict(self.spec)
        # The last closed round is closed once more, for nothing if its weights are sound.
        for number, clients in enumerate(rounds[max(0, rounds_closed(self.spec)) :], max(0, rounds_closed(self.spec))):
            work = _("round {number}").format(number=number)
            yield [
                Job(
                    f"{self.name} {work} domain {client.domain}",
                    "src.training.federated:train_client",
                    asdict(client),
                    float(self.rows[client.domain]),
                )
                for client in clients
                if number > rounds_closed(self.spec) and not client.is_done()
            ]
            if number < len(rounds) - 1:
                closing = {**given, "round": number}
                yield [Job(f"{self.name} {work}", "src.training.federated:close_round", closing)]
        yield [final]

    def next(self) -> Job | None:
        while not self.waiting and not self.running:
            wave = next(self.waves, None)
            if wave is None:
                return None
            self.waiting = sorted(wave, key=lambda job: -job.work)
        if not self.waiting:
            return None
        job = self.waiting.pop(0)
        self.running.add(job.name)
        return job

    def share(self) -> float:
        """Share of the fold's training that is done."""
        rows = sum(self.rows.values())
        reached = sum(n * max(self.closed_epoch, self.done.get(domain, 0)) for domain, n in self.rows.items()) / rows
        return reached / self.run.train.epochs

    @property
    def closed_epoch(self) -> int:
        return min(self.closed * self.run.regime.local_epochs, self.run.train.epochs)


class _Federation:
    """Source of the jobs of all folds, and their watcher."""

    def __init__(
        self, folds: Sequence[Job], progress: JobProgress, also: Watcher | None, finished: Callable[[Job], str]
    ):
        self._folds = [_Fold(job) for job in sorted(folds, key=lambda job: -job.work)]
        self._progress, self._also, self._finished = progress, also, finished

    def next_job(self) -> Job | None:
        for fold in sorted(self._folds, key=lambda fold: fold.closed):  # the rounds of all go side by side
            if job := fold.next():
                return job
        return None

    def _of(self, job: Job) -> _Fold:
        return next(fold for fold in self._folds if job.name in fold.running)

    def step(self, job: Job, news: dict[str, Any]) -> None:
        fold = self._of(job)
        if "domain" in job.payload:
            fold.done[job.payload["domain"]] = news["epoch"]
            if self._progress.is_live:
                told = _("domain {domain}: epoch {epoch}/{epochs}  train {loss:.4f}")
                loss = {"epoch": news["epoch"], "epochs": news["epochs"], "loss": news["train_loss"]}
                self._progress.step(fold.name, fold.share(), told.format(domain=job.payload["domain"], **loss))
            return
        fold.closed = news["round"]
        if self._also:
            self._also.step(job, news)
        self._progress.step(fold.name, fold.share(), described(news)[1])

    def finish(self, job: Job, failure: Failure | None) -> None:
        fold = self._of(job)
        fold.running.remove(job.name)
        is_told = fold.is_failed
        if failure:
            fold.waves, fold.waiting, fold.is_failed = iter(()), [], True
        if not is_told and (failure or job.name == fold.name):
            self._progress.finish(fold.name, _("FAILED") if failure else self._finished(job))
            if self._also:
                self._also.finish(job, failure)
