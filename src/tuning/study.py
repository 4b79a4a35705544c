"""Study: Optuna's record of trials in a SQLite file, or in a PostgreSQL database that several machines share.

One process of a machine asks for trials and tells their results; workers send results to that process. Optuna's
heartbeats work within `optimize` alone. So a trial that a kill left RUNNING is continued by the next start of the same
command, with the parameters that the trial had.

Trial n draws from a generator seeded with the study's seed and n: a study that was killed and a study that was not
draw the same parameters, as long as the same trials finished before.
"""

from __future__ import annotations

import fcntl
import math
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from src.core.errors import UserError
from src.core.settings import Tune
from src.core.terminal import warn

RUNGS = 4
"""Marks in the training of a fold at which a trial may be given up."""
FIRST_RUNG = RUNGS // 2
"""Half a fold: before it, the learning rate still rises and tells more than the settings do."""
OWNER = "owner"
DATABASE = "study.db"
"""SQLite file in the folder of a study."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Raises UserError where another process works on the study of this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "study.lock").open("a") as file:
        for is_last in (False, True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if is_last:
                    raise UserError(
                        f"another ./run.sh tune works in {folder}. Wait for it, or give this study a --name"
                    ) from None
            time.sleep(0.1)  # ./run.sh status holds it for an instant
        yield


def open_study(backend: BaseStorage, name: str, settings: Tune, n_folds: int, made_of: dict[str, Any]) -> optuna.Study:
    """The study called `name`, made if need be. Raises UserError where it was made of something else."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made_of = {"objectives": list(settings.objectives), **made_of}
    directions = ["maximize" if objective == "score" else "minimize" for objective in settings.objectives]
    try:
        found = optuna.create_study(
            storage=backend,
            study_name=name,
            directions=directions,
            pruner=make_pruner(settings, n_folds),
            load_if_exists=True,
        )
    except ValueError as error:
        raise UserError(f"study {name}: {error}") from None
    before = found.user_attrs.get("made_of")
    if before is None:
        found.set_user_attr("made_of", made_of)
        found.set_user_attr("optuna", optuna.__version__)
    elif other := [key for key in made_of if before.get(key) != made_of[key]]:
        raise UserError(
            f"study {name} was made with other {', '.join(other)} than there are now, and its trials cannot be "
            "compared with new ones. Give the new study a --name, or delete the old one"
        )
    return found


@contextmanager
def opened(folder: Path, url: str | None) -> Iterator[RDBStorage]:
    """Storage of a study: the database at `url`, or the SQLite file of `folder`, which one process at a time opens.

    Raises UserError for a storage that cannot be opened, read or written.
    """
    with alone(folder):
        storage = None
        try:
            storage = database(url) if url else local(folder)
            yield storage
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            place = "--storage" if url else folder / DATABASE
            raise UserError(f"{place}: {reason}. The same command continues once this is mended") from None
        finally:
            if storage is not None:
                storage.engine.dispose()


def local(folder: Path) -> RDBStorage:
    """Storage in the SQLite file of a study's folder."""
    path, older = folder / DATABASE, folder / "journal.log"
    if older.exists() and not path.exists():
        warn(
            f"{older} is a study of an older version, which is kept but not continued: a new study starts, whose "
            "best.yaml takes the place of the older one (--name NAME keeps both)"
        )

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        # A write-ahead log costs a write a record, where SQLite's default waits for the disk several times.
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = normal")
        return connection

    # `connect` opens the file: in a URL, characters of its path could have a meaning.
    return RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect})


def database(url: str) -> RDBStorage:
    """Storage in a PostgreSQL database, which several machines share. Raises UserError without its Python module."""
    if not url.startswith("postgresql"):
        raise UserError(f"--storage {url.split(':')[0]}: a study is shared by postgresql://USER:PASSWORD@HOST/DATABASE")
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        try:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (IntegrityError, ProgrammingError):  # another machine made the same tables at this moment
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ModuleNotFoundError as error:
        raise UserError(
            f"--storage {url}: Python module {error.name} is missing. .venv/bin/pip install {error.name}"
        ) from None


def make_pruner(settings: Tune, n_folds: int) -> optuna.pruners.BasePruner:
    """By marks of training, RUNGS in each fold; with two objectives Optuna gives up no trial."""
    if settings.pruner == "none" or len(settings.objectives) > 1:
        return optuna.pruners.NopPruner()
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=settings.startup // 2, n_warmup_steps=FIRST_RUNG)
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(FIRST_RUNG, RUNGS * n_folds, settings.reduction)
    return optuna.pruners.SuccessiveHalvingPruner(FIRST_RUNG, settings.reduction)


def ask(study: optuna.Study, settings: Tune, owner: str) -> optuna.Trial:
    """A new trial, owned by the process called `owner`; parameters are drawn when they are asked for."""
    # study.ask() would name the owner in a second transaction, and a kill between the two would leave a trial without.
    owned = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={OWNER: owner})
    trial = optuna.Trial(study, study._storage.create_new_trial(study._study_id, owned))
    study.sampler = make_sampler(settings, trial.number)
    return trial


def take_up(study: optuna.Study, settings: Tune, number: int) -> optuna.Trial:
    """The running trial `number`, which draws what it has not drawn yet."""
    study.sampler = make_sampler(settings, number)
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def make_sampler(settings: Tune, number: int) -> optuna.samplers.BaseSampler:
    """Of trial `number`."""
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    if settings.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=settings.startup)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group, which conditional spaces need
        # The arguments that Optuna 5 changed are named: with another version they would be others.
        return optuna.samplers.TPESampler(
            n_startup_trials=settings.startup, multivariate=True, group=True, constant_liar=True, seed=seed
        )


def left_running(study: optuna.Study, owner: str, is_shared: bool) -> list[int]:
    """Numbers of the trials that a killed process left: all that run, or of a shared study those of the same owner."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [one.number for one in running if not is_shared or one.user_attrs.get(OWNER) == owner]


def release(study: optuna.Study, owner: str) -> int:
    """Ends the trials of owners other than this one as failed, and says how many there were."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    theirs = [one.number for one in running if one.user_attrs.get(OWNER) != owner]
    for number in theirs:
        study.tell(number, state=TrialState.FAIL)
    return len(theirs)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def best_trials(study: optuna.Study, objectives: list[str], top: int) -> list[FrozenTrial]:
    """The best complete trials, best first; of two objectives the Pareto front, by score."""
    if len(objectives) > 1:
        return sorted(study.best_trials, key=lambda trial: -trial.values[0])
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    better = sorted(done, key=lambda trial: -trial.value if objectives == ["score"] else trial.value)
    return better[:top]


STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "given up", TrialState.FAIL: "failed"}
"""Of finished trials, in words."""


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
    """How many marks of its fold a training has passed after an epoch: 0 to RUNGS."""
    return math.floor(RUNGS * epoch / epochs)
