"""Study: Optuna's record of trials in a SQLite file, or in a PostgreSQL database that several machines share.

One process of a machine asks for trials and tells their results; workers send results to that process. Optuna's
heartbeats work within `optimize` alone. So a trial that a kill left RUNNING is continued by the next start of the same
command, with the parameters that the trial had.

Trial n draws from a generator seeded with the study's seed and n: a study that was killed and a study that was not
draw the same parameters, as long as the same trials finished before.
"""

from __future__ import annotations

import math
import platform
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from src.core import locks
from src.core.errors import UserError
from src.core.settings import Tune
from src.core.terminal import warn
from src.evaluation.metrics import Estimate

RUNGS = 4
"""Marks in the training of a fold at which a trial may be pruned."""
FIRST_RUNG = RUNGS // 2
"""Half a fold. Before it the learning rate still rises, and the loss says little about the settings."""
OWNER = "owner"
"""Attribute of a trial: machine and folder of the process that runs it."""
DATABASE = "study.db"
"""SQLite file in the folder of a study."""
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "given up", TrialState.FAIL: "failed"}
"""Words for the states of finished trials."""


@dataclass(frozen=True)
class Options:
    """Options of one ./run.sh tune command."""

    trials: int
    """Number of trials of the study in all."""
    hours: float | None = None
    """Time limit; a running trial is finished."""
    jobs: int | None = None
    """Trials side by side; None: as many as there are cores."""
    spaces: tuple[str, ...] = ()
    """Search spaces by name or file; none: that of the model."""
    storage: str | None = None
    """URL of the database that machines share."""
    name: str | None = None
    """Name of the study; None: that of the run."""
    release: bool = False
    """End the running trials of other machines."""


@dataclass
class Study:
    """Trials of a study, and the options of the command that makes more of them."""

    record: optuna.Study
    settings: Tune
    folder: Path
    options: Options
    interrupted: list[int] = field(init=False)
    """Numbers of the trials that a kill left running, which are continued first."""
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + 3600 * self.options.hours if self.options.hours else math.inf
        self.interrupted = [
            one.number
            for one in self.trials(TrialState.RUNNING)
            if not self.options.storage or one.user_attrs.get(OWNER) == self.owner
        ]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def owner(self) -> str:
        return f"{platform.node()}:{self.folder.resolve()}"

    @property
    def left(self) -> int:
        """Number of trials to make. Interrupted trials are finished even if fewer are asked for now."""
        return max(len(self.interrupted), self.options.trials - len(self.finished()))

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.record.get_trials(deepcopy=False, states=states or None)

    def finished(self) -> list[FrozenTrial]:
        return self.trials(*STATES)

    def best(self, top: int) -> list[FrozenTrial]:
        """The best complete trials, best first; with two objectives the Pareto front, by score."""
        objectives = self.settings.objectives
        if len(objectives) > 1:
            return sorted(self.record.best_trials, key=lambda trial: -trial.values[0])
        sign = -1 if objectives == ["score"] else 1
        return sorted(self.trials(TrialState.COMPLETE), key=lambda trial: sign * trial.value)[:top]

    def next_trial(self) -> optuna.Trial | None:
        """The next trial to run; None if there are enough, those of other machines included, or the time is over."""
        if self.interrupted:
            return self.resume(self.interrupted.pop(0))
        if time.monotonic() > self.deadline or len(self.trials()) >= self.options.trials:
            return None
        return self.ask()

    def ask(self) -> optuna.Trial:
        """A new trial. Its parameters are drawn when they are asked for."""
        # record.ask() would name the owner in a second transaction, and a kill between the two would lose the owner.
        owned = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={OWNER: self.owner})
        trial = optuna.Trial(self.record, self.record._storage.create_new_trial(self.record._study_id, owned))
        self.record.sampler = make_sampler(self.settings, trial.number)
        return trial

    def resume(self, number: int) -> optuna.Trial:
        """The running trial `number`, which draws the parameters that it has not drawn yet."""
        self.record.sampler = make_sampler(self.settings, number)
        return optuna.Trial(self.record, self.trials()[number]._trial_id)

    def complete(self, trial: optuna.Trial, score: Estimate, seconds: float) -> None:
        trial.set_user_attr("score", score.to_json())
        trial.set_user_attr("seconds", round(seconds, 2))
        values = {"score": score.value, "seconds": seconds}
        self.record.tell(trial, [values[name] for name in self.settings.objectives], skip_if_finished=True)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.record.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def others(self) -> list[FrozenTrial]:
        """Running trials of other machines."""
        return [one for one in self.trials(TrialState.RUNNING) if one.user_attrs.get(OWNER) != self.owner]

    def release(self) -> int:
        """Ends the running trials of other machines as failed. Returns their number."""
        others = self.others()
        for one in others:
            self.record.tell(one.number, state=TrialState.FAIL)
        return len(others)


@contextmanager
def opened(folder: Path, settings: Tune, options: Options, n_folds: int, made_of: dict[str, Any]) -> Iterator[Study]:
    """The study of a folder, which one process at a time opens; a new one where there is none.

    `made_of` is what the scores of its trials depend on. Raises UserError for a study that was made of something else,
    and for a storage that cannot be opened, read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    told = f"another ./run.sh tune works in {folder}. Wait for it, or give this study a --name"
    with locks.alone(folder / "study.lock", told):
        storage = None
        try:
            storage = shared_storage(options.storage) if options.storage else local_storage(folder)
            record = _load(storage, folder.name, settings, n_folds, made_of)
            yield Study(record, settings, folder, options)
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            place = "--storage" if options.storage else folder / DATABASE
            raise UserError(f"{place}: {reason}. The same command continues once this is mended") from None
        finally:
            if storage is not None:
                storage.engine.dispose()


def local_storage(folder: Path) -> RDBStorage:
    """Storage in the SQLite file of a study's folder."""
    path, older = folder / DATABASE, folder / "journal.log"
    if older.exists() and not path.exists():
        warn(
            f"{older} is a study of an older version, which is kept but not continued: a new study starts, whose "
            "best.yaml takes the place of the older one (--name NAME keeps both)"
        )

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        # With a write-ahead log a record costs one write; by default SQLite waits for the disk several times a record.
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = normal")
        return connection

    # `connect` opens the file, since characters of its path could have a meaning in a URL.
    return RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect})


def shared_storage(url: str) -> RDBStorage:
    """Storage in a PostgreSQL database. Raises UserError for another URL, or without the database's Python module."""
    if not url.startswith("postgresql"):
        raise UserError(f"--storage {url.split(':')[0]}: a study is shared by postgresql://USER:PASSWORD@HOST/DATABASE")
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        with create_engine(url, poolclass=NullPool).begin() as connection:
            # RDBStorage makes missing tables, and fails if another machine makes the same ones at this moment.
            connection.execute(text("SELECT pg_advisory_xact_lock(2021)"))
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ModuleNotFoundError as error:
        raise UserError(
            f"--storage: Python module {error.name} is missing. .venv/bin/pip install {error.name}"
        ) from None


def _load(storage: RDBStorage, name: str, settings: Tune, n_folds: int, made_of: dict[str, Any]) -> optuna.Study:
    made_of = {"objectives": list(settings.objectives), **made_of}
    directions = ["maximize" if objective == "score" else "minimize" for objective in settings.objectives]
    try:
        record = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            pruner=make_pruner(settings, n_folds),
            load_if_exists=True,
        )
    except ValueError as error:
        raise UserError(f"study {name}: {error}") from None
    before = record.user_attrs.get("made_of")
    if before is None:
        record.set_user_attr("made_of", made_of)
        record.set_user_attr("optuna", optuna.__version__)
    elif other := [key for key in made_of if before.get(key) != made_of[key]]:
        raise UserError(
            f"study {name} was made with other {', '.join(other)} than there are now, and its trials cannot be "
            "compared with new ones. Give the new study a --name, or delete the old one"
        )
    return record


def make_pruner(settings: Tune, n_folds: int) -> optuna.pruners.BasePruner:
    """Pruner that compares trials at RUNGS marks a fold. Optuna prunes no trial of a study with two objectives."""
    if settings.pruner == "none" or len(settings.objectives) > 1:
        return optuna.pruners.NopPruner()
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=settings.startup // 2, n_warmup_steps=FIRST_RUNG)
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(FIRST_RUNG, RUNGS * n_folds, settings.reduction)
    return optuna.pruners.SuccessiveHalvingPruner(FIRST_RUNG, settings.reduction)


def make_sampler(settings: Tune, number: int) -> optuna.samplers.BaseSampler:
    """Sampler of trial `number`."""
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    if settings.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=settings.startup)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group, which conditional spaces need
        # Optuna 5 changed the defaults of these arguments; named, they are the same in other versions.
        return optuna.samplers.TPESampler(
            n_startup_trials=settings.startup, multivariate=True, group=True, constant_liar=True, seed=seed
        )


def counted(folder: Path) -> tuple[dict[str, int], int]:
    """Number of trials in each of the finished STATES, and number of unfinished trials, of the study in `folder`.

    The file is only read. Raises UserError for a file that cannot be read.
    """
    path = folder / DATABASE
    # Without a log beside it the file is whole, and SQLite need not make one to read it.
    mode = "mode=ro" if path.with_name(f"{DATABASE}-wal").exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)) as connection:
            found = dict(connection.execute("SELECT state, COUNT(*) FROM trials GROUP BY state"))
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    counts = {word: found.get(state.name, 0) for state, word in STATES.items()}
    return counts, sum(found.values()) - sum(counts.values())


def rung(epoch: int, epochs: int) -> int:
    """Number of marks of a fold that its training has passed after `epoch` of `epochs`: 0 to RUNGS."""
    return math.floor(RUNGS * epoch / epochs)
