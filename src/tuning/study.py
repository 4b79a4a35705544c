"""Study: Optuna's record of trials in a SQLite file, or in a PostgreSQL database that several machines share.

One process of a machine, a driver, asks for trials and tells their results; workers send results to that process. A
trial that a kill left RUNNING is continued by the next start of the same command, with the parameters that the trial
had. In a shared study, a driver that lives takes over the trials of one that has been gone for LEASE seconds, with
their parameters (Optuna's heartbeats work within `optimize` alone). What depends on the state of the study, such as how
many trials there are, is looked at and changed by one driver at a time, so that a study has exactly the trials that
were asked for, and a trial one result.

Trial n draws from a generator seeded with the study's seed and n: a study that was killed and a study that was not
draw the same parameters, as long as the same trials finished before.
"""

from __future__ import annotations

import base64
import contextlib
import math
import platform
import sqlite3
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
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
from src.core.errors import Damaged, UserError, shortened
from src.core.language import _
from src.core.settings import Tune, fingerprint
from src.core.terminal import info, warn
from src.evaluation.figures import Estimate, Figure, estimate
from src.tuning.drivers import OWN_PROBES, Drivers

RUNGS = 4
"""Marks in the training of a fold at which a trial may be pruned."""
FIRST_RUNG = RUNGS // 2
"""Half a fold. Before it the learning rate still rises, and the loss says little about the settings."""
OWNER = "owner"
"""Attribute of a trial: machine and folder of the process that runs it."""
LOST = "lost"
"""Attribute of a trial: number of drivers that were gone amid it."""
MOST_LOST = 3
"""Number of drivers gone amid a trial at which it ends as failed: what it does may be what ends them."""
LEASE = 60.0
"""Seconds, by the clock of the driver that looks, for which a driver must be gone before its trials are taken over: it
may be started again, and goes on with them where it was."""
POLL = 2.0
"""Seconds between two looks at other drivers."""
IN_USE = "in_use"
"""Attribute of the trial that has the settings in use, with which the others are compared."""
NIL = 5e-5
"""Gain in score that counts as none: tables show it as 0.0000. It may exceed its standard error: the paired difference
of two blends that are nearly equal has almost none."""
NOISE = "noise"
"""Attribute of a complete trial: the noise of its score (figures.py), for paired differences to other trials."""
DATABASE = "study.db"
"""SQLite file in the folder of a study."""
SEAL, SEALED = "study.json", ("trials.csv", "best.yaml")
"""File in the folder of a study that notes checksums, written last, and the files whose checksums it notes."""
UNSOUND = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    zlib.error,
)
"""Errors at records of trials that are not ours."""
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "given up", TrialState.FAIL: "failed"}
"""Words for the states of finished trials."""


@dataclass(frozen=True)
class Options:
    """Options of one ./run.sh tune command."""

    trials: int
    """Number of trials of the study in all."""
    deadline: float = math.inf
    """Time, of time.monotonic(), at which trials end. The same command continues with those that were running."""
    jobs: int | None = None
    """Trials side by side; None: as make_executor() says."""
    spaces: tuple[str, ...] = ()
    """Search spaces by name or file; none: that of the model."""
    storage: str | None = None
    """URL of the database that machines share."""
    name: str | None = None
    """Name of the study; None: that of the run."""


@dataclass
class Study:
    """Trials of a study, and the options of the command that makes more of them."""

    record: optuna.Study
    settings: Tune
    folder: Path
    options: Options
    drivers: Drivers | None = None
    """Drivers of a shared study; None: there is this one only."""
    interrupted: list[int] = field(init=False)
    """Numbers of the trials that a kill left running, of this driver or of one that is gone, which are continued
    first."""
    _gone: dict[str, float] = field(init=False, default_factory=dict)
    """Other drivers that are gone, and since when, of time.monotonic()."""
    _next_look: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.interrupted = [one.number for one in self.trials(TrialState.RUNNING) if self._is_ours(one)]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def owner(self) -> str:
        return owner_of(self.folder)

    @property
    def left(self) -> int:
        """Number of trials to make, those that other drivers run included. Interrupted trials are finished even if
        fewer are asked for now."""
        return len(self.interrupted) + len(self.others()) + max(0, self.options.trials - len(self.trials()))

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.record.get_trials(deepcopy=False, states=states or None)

    def finished(self) -> list[FrozenTrial]:
        return self.trials(*STATES)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.options.deadline

    @property
    def in_use(self) -> FrozenTrial | None:
        """The complete trial of the settings in use; None where it failed or has not ended."""
        return next((one for one in self.trials(TrialState.COMPLETE) if one.user_attrs.get(IN_USE)), None)

    def gain(self, trial: FrozenTrial) -> Estimate | None:
        """Score of a complete trial minus that of the settings in use, with its paired standard error; None where the
        latter is not known. Trials of older versions kept no noise: their standard error is that of two independent
        scores, which is larger."""
        if (before := self.in_use) is None:
            return None
        a, b = (
            np.append(one.user_attrs["score"]["value"], _unpacked(one.user_attrs[NOISE]))
            if NOISE in one.user_attrs
            else None
            for one in (trial, before)
        )
        if a is not None and b is not None:
            return estimate(a - b)
        values, errors = zip(*(one.user_attrs["score"].values() for one in (trial, before)), strict=True)
        return Estimate(values[0] - values[1], math.hypot(*errors))

    def recommended(self) -> FrozenTrial | None:
        """The trial whose settings are to be used; None if no trial is complete.

        Where the score is an objective that is the best trial, if its gain over the settings in use exceeds one
        standard error, and otherwise the trial of the settings in use.
        """
        best = next(iter(self.best(1)), None)
        if best is None or "score" not in self.settings.objectives or (gain := self.gain(best)) is None:
            return best
        return best if gain.value > max(gain.standard_error, NIL) else self.in_use

    def best(self, top: int) -> list[FrozenTrial]:
        """The best complete trials, best first; with two objectives the Pareto front, by score."""
        objectives = self.settings.objectives
        if len(objectives) > 1:
            return sorted(self.record.best_trials, key=lambda trial: -trial.values[0])
        sign = -1 if objectives == ["score"] else 1
        return sorted(self.trials(TrialState.COMPLETE), key=lambda trial: sign * trial.value)[:top]

    def next_trial(self) -> optuna.Trial | None:
        """The next trial to run; None if there are enough, those of other drivers included, or the time is over."""
        while not self.is_over:
            if self.interrupted:
                number = self.interrupted.pop(0)
                if self._is_ours(self.trials()[number]):
                    return self.resume(number)
                continue
            with self._alone():
                if self._take_over():
                    continue
                if len(self.trials()) >= self.options.trials:
                    return None
                trial = self._new_trial({})
            return self._sampled(trial)
        return None

    def ask(self) -> optuna.Trial:
        """A new trial. Its parameters are drawn when they are asked for."""
        return self._sampled(self._new_trial({}))

    def wait_for_others(self) -> bool:
        """Waits until other drivers have ended the trials that they run. Returns True as soon as a driver is gone, and
        its trial to be continued by next_trial(); False if all are made, or the time is over."""
        told = False
        while not self.is_over and (others := self.others()):
            self._next_look = 0.0
            with self._alone():
                if self._take_over():
                    return True
            if not told:
                numbers = ", ".join(str(one.number) for one in others)
                info(
                    _("tune: waits for trials {numbers} of other machines. If one is gone, they are taken over").format(
                        numbers=numbers
                    )
                )
                told = True
            time.sleep(min(POLL, LEASE))
        return False

    def _take_over(self) -> bool:
        """Makes a trial of a driver that is gone ours, with all that it has drawn and reported. Within _alone()."""
        now = time.monotonic()
        if self.drivers is None or now < self._next_look:
            return False
        self._next_look = now + min(POLL, LEASE)
        others = self.others()
        gone = self.drivers.gone({one.user_attrs.get(OWNER, "") for one in others})
        self._gone = {name: self._gone.get(name, now) for name in gone}
        for one in others:
            if now - self._gone.get(one.user_attrs.get(OWNER, ""), now) < LEASE or not self.drivers.keeps(one.number):
                continue
            if self.record._storage.get_trial(one._trial_id).state != TrialState.RUNNING:
                continue  # ended before we kept it
            lost = one.user_attrs.get(LOST, 0) + 1
            # The owner is last, so that a kill amid this leaves the trial to be taken over.
            told = {LOST: lost, "seconds": 0.0, OWNER: self.owner}  # what is trained is on the machine that is gone
            if lost >= MOST_LOST:
                told = {LOST: lost, "reason": f"{lost} machines were gone amid it"}
            for key, value in told.items():
                self.record._storage.set_trial_user_attr(one._trial_id, key, value)
            if lost >= MOST_LOST:
                self.record.tell(one.number, state=TrialState.FAIL)
                continue
            info(
                _("tune: takes over trial {number} of {owner}, which is gone").format(
                    number=one.number, owner=one.user_attrs.get(OWNER, "unknown")
                )
            )
            self.interrupted.append(one.number)
            self._next_look = 0.0  # there may be more
            return True
        return False

    def _alone(self, trial: int | None = None) -> contextlib.AbstractContextManager[None]:
        """Keeps other drivers away from the number of trials and their owners meanwhile, or from one trial."""
        return self.drivers.alone(trial) if self.drivers else nullcontext()

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """True for a running trial of this driver, as it was read: a driver that lost its connection for long may find
        its trial taken over."""
        is_running = trial.state == TrialState.RUNNING
        return is_running and (self.drivers is None or trial.user_attrs.get(OWNER) == self.owner)

    @contextmanager
    def ours(self, trial: optuna.Trial) -> Iterator[bool]:
        """Tells whether the trial is still ours to write to, and keeps it so meanwhile."""
        with self._alone(trial.number):
            yield self._is_ours(self.record._storage.get_trial(trial._trial_id))

    def _new_trial(
        self,
        attributes: dict[str, Any],
        params: dict[str, Any] | None = None,
        distributions: dict[str, optuna.distributions.BaseDistribution] | None = None,
    ) -> optuna.Trial:
        # record.ask() would name the owner in a second transaction, and a kill between the two would lose the owner.
        begun = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=distributions,
            user_attrs={OWNER: self.owner, **attributes},
        )
        return optuna.Trial(self.record, self.record._storage.create_new_trial(self.record._study_id, begun))

    def _sampled(self, trial: optuna.Trial) -> optuna.Trial:
        self.record.sampler = make_sampler(self.settings, trial.number)
        return trial

    @property
    def has_settings_in_use(self) -> bool:
        """True if the settings in use are a trial, which runs or has not failed."""
        return bool(self._of_settings_in_use())

    @property
    def in_use_to_do(self) -> int | None:
        """Number of the trial of the settings in use, where it is ours to finish."""
        return next((one.number for one in self._of_settings_in_use() if one.number in self.interrupted), None)

    def _of_settings_in_use(self) -> list[FrozenTrial]:
        return [one for one in self.trials() if one.user_attrs.get(IN_USE) and one.state != TrialState.FAIL]

    def begin_in_use(
        self, params: dict[str, Any], distributions: dict[str, optuna.distributions.BaseDistribution]
    ) -> None:
        """Begins the trial of the settings in use, which is the next one, unless another driver has begun it. `params`
        are those that the search space has."""
        with self._alone():
            if not self.has_settings_in_use:
                self.interrupted.insert(0, self._new_trial({IN_USE: True}, params, distributions).number)

    def resume(self, number: int) -> optuna.Trial:
        """The running trial `number`, which draws the parameters that it has not drawn yet."""
        self.record.sampler = make_sampler(self.settings, number)
        return optuna.Trial(self.record, self.trials()[number]._trial_id)

    def complete(self, trial: optuna.Trial, figure: Figure, seconds: float) -> bool:
        """Ends a trial with its score, a figure (1 + K,) of the rows that all trials of the study are judged by.
        Returns False for a trial that is no longer ours, which stays as it is."""
        with self.ours(trial) as is_ours:
            if is_ours:
                score = estimate(figure)
                trial.set_user_attr("score", score.to_json())
                trial.set_user_attr(NOISE, _packed(figure[1:]))
                trial.set_user_attr("seconds", round(seconds, 2))
                found = {"score": score.value, "seconds": seconds}
                values = [found[name] for name in self.settings.objectives]
                trial.set_user_attr("checksum", _checksum(trial.params, trial.user_attrs, values))
                self.record.tell(trial, values)
        return is_ours

    def prune(self, trial: optuna.Trial) -> FrozenTrial | None:
        """Ends a trial as given up; returns it. None for one that is no longer ours."""
        with self.ours(trial) as is_ours:
            return self.record.tell(trial, state=TrialState.PRUNED) if is_ours else None

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Ends a trial as failed, unless it is no longer ours."""
        with self.ours(trial) as is_ours:
            if is_ours:
                trial.set_user_attr("reason", reason)
                self.record.tell(trial, state=TrialState.FAIL)

    def check(self) -> None:
        """Raises one of UNSOUND for a trial that is not as it was written."""
        for place, one in enumerate(self.trials()):
            if one.number != place:
                raise ValueError(f"trial {place} is missing")
            if one.state == TrialState.COMPLETE:
                Estimate(**one.user_attrs["score"])
                _unpacked(one.user_attrs.get(NOISE, ""))
                numbers = [*one.values, *one.user_attrs["score"].values(), one.user_attrs["seconds"]]
                if not all(math.isfinite(number) for number in numbers):
                    raise ValueError(f"trial {place} has a score that is no number")
                # Those of older versions have none.
                if one.user_attrs.get("checksum") not in (None, _checksum(one.params, one.user_attrs, one.values)):
                    raise ValueError(f"trial {place} differs from its checksum")

    def others(self) -> list[FrozenTrial]:
        """Running trials of other drivers, of the number of trials that are asked for."""
        running = self.trials(TrialState.RUNNING)
        return [one for one in running if one.number < self.options.trials and not self._is_ours(one)]


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
            with contextlib.ExitStack() as lives:
                try:
                    record = _load(storage, folder.name, settings, n_folds, made_of)
                    drivers = Drivers(storage.engine, folder.name, owner_of(folder)) if options.storage else None
                    if drivers:
                        lives.enter_context(drivers)
                    found = Study(record, settings, folder, options, drivers)
                    found.check()
                except UNSOUND as error:
                    if options.storage:  # others' studies are there too: nothing of it is to be deleted
                        raise UserError(
                            _("--storage: study {name}: {error}. Choose another --name").format(
                                name=folder.name, error=_sentence(error)
                            )
                        ) from None
                    raise Damaged(folder / DATABASE, _sentence(error)) from None
                yield found
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            place = "--storage" if options.storage else folder / DATABASE
            raise UserError(
                _("{place}: {reason}. The same command continues once this is mended").format(
                    place=place, reason=reason
                )
            ) from None
        finally:
            if storage is not None:
                storage.engine.dispose()


def owner_of(folder: Path) -> str:
    """Name of the driver that works in a folder of this machine."""
    return f"{platform.node()}:{folder.resolve()}"


def local_storage(folder: Path) -> RDBStorage:
    """Storage in the SQLite file of a study's folder."""
    path, older = folder / DATABASE, folder / "journal.log"
    if path.exists():
        with _reading(folder):
            pass
    if older.exists() and not path.exists():
        warn(
            _(
                "{older} is a study of an older version, which is kept but not continued: a new "
                "study starts, whose best.yaml takes the place of the older one (--name NAME keeps "
                "both)"
            ).format(older=older)
        )

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        # With a write-ahead log a record costs one write; by default SQLite waits for the disk several times a record.
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = normal")
        return connection

    # `connect` opens the file, since characters of its path could have a meaning in a URL.
    try:
        return RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect})
    except UNSOUND as error:
        raise Damaged(path, _sentence(error)) from None


@contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """Connection that only reads the SQLite file of a study. Raises Damaged where that is no database, is damaged, or
    holds another study."""
    path = folder / DATABASE
    # Without a log beside it the file is whole, and SQLite need not make one to read it.
    mode = "mode=ro" if path.with_name(f"{DATABASE}-wal").exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)) as connection:
            if not path.stat().st_size and (folder / "trials.csv").exists():
                raise Damaged(path, "it is empty")
            if (told := connection.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
                raise Damaged(path, " ".join(str(told and told[0]).split()))
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and "studies" not in tables:
                raise Damaged(path, "it is a database of something else than studies")
            held = {name for (name,) in connection.execute("SELECT study_name FROM studies")} if tables else set()
            if other := held - {folder.name}:
                raise Damaged(path, f"it holds the study {shortened(min(map(str, other)))}, not {folder.name}")
            if held and "trials" not in tables:
                raise Damaged(path, "it has a study without a table of trials")
            yield connection
    except sqlite3.Error as error:
        raise Damaged(path, str(error)) from None


def _sentence(error: Exception) -> str:
    """Describes the damage of a study whose reading raised an error."""
    return f"its trials cannot be read ({shortened(str(error) or type(error).__name__)})"


def _checksum(params: dict[str, Any], attributes: dict[str, Any], values: Sequence[float]) -> str:
    """Stands for what a complete trial was made with and what came of it; 16 hexadecimal digits."""
    told = [sorted(params.items()), attributes["score"], attributes["seconds"], list(map(float, values))]
    return fingerprint([*told, attributes[NOISE]] if NOISE in attributes else told)


def _packed(noise: np.ndarray) -> str:
    """The noise of a figure, (K,), as text."""
    return base64.b64encode(zlib.compress(noise.astype("<f4").tobytes())).decode()


def _unpacked(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4") if text else np.empty(0)


def shared_storage(url: str) -> RDBStorage:
    """Storage in a PostgreSQL database. Raises UserError for another URL, or without the database's Python module."""
    if not url.startswith("postgresql"):
        raise UserError(
            _("--storage {scheme}: a study is shared by postgresql://USER:PASSWORD@HOST/DATABASE").format(
                scheme=url.split(":")[0]
            )
        )
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        with create_engine(url, poolclass=NullPool).begin() as connection:
            # RDBStorage makes missing tables, and fails if another machine makes the same ones at this moment.
            connection.execute(text("SELECT pg_advisory_xact_lock(2021)"))
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": OWN_PROBES})
    except ValueError as error:  # of a port that is no number
        raise UserError(_("--storage is no URL of a database: {error}").format(error=error)) from None
    except ModuleNotFoundError as error:
        raise UserError(
            _("--storage: Python module {name} is missing. .venv/bin/pip install {name}").format(name=error.name)
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
        raise UserError(_("study {name}: {error}").format(name=name, error=error)) from None
    before = record.user_attrs.get("made_of")
    if before is None and record.get_trials(deepcopy=False):
        raise ValueError("it does not say what its trials were made of")
    if before is None:
        record.set_user_attr("made_of", made_of)
        record.set_user_attr("optuna", optuna.__version__)
    elif other := [key for key in made_of if before.get(key) != made_of[key]]:
        raise UserError(
            _(
                "study {name} was made with other {other} than there are now, and its trials cannot "
                "be compared with new ones. Give the new study a --name, or delete the old one"
            ).format(name=name, other=", ".join(other))
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

    The file is only read. Raises Damaged like _reading().
    """
    with _reading(folder) as connection:
        found = dict(connection.execute("SELECT state, COUNT(*) FROM trials GROUP BY state"))
    if other := found.keys() - {state.name for state in TrialState}:
        raise Damaged(folder / DATABASE, f"it has trials of the unknown state {shortened(min(map(str, other)))}")
    counts = {word: found.get(state.name, 0) for state, word in STATES.items()}
    return counts, sum(found.values()) - sum(counts.values())


def rung(epoch: int, epochs: int) -> int:
    """Number of marks of a fold that its training has passed after `epoch` of `epochs`: 0 to RUNGS."""
    return math.floor(RUNGS * epoch / epochs)
