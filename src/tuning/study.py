"""A study: Optuna's record of trials, that outlives kills, damage and the machine, and what is drawn from it.

The process that asks and tells is the only one of its machine that writes; what workers find comes to it. Optuna's own
heartbeats work within `optimize` alone, so a trial that a kill left RUNNING is taken up again by the next start of the
same command, with the parameters that it had.

Trial n draws from a generator seeded with the study's seed and n: a study that was killed and one that was not draw the
same, as far as the same trials were told before.
"""

from __future__ import annotations

import fcntl
import json
import math
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from src.core import storage
from src.core.errors import UserError
from src.core.settings import Tune

RUNGS = 4
"""Marks in the training of a fold at which a trial may be given up."""
FIRST_RUNG = RUNGS // 2
"""Half a fold: before it, the learning rate still rises and tells more than the settings do."""
OWNER = "owner"
CREATE_TRIAL = 4
"""Operation of a journal's record, as JournalOperation has it."""
LOST = {
    "op_code": CREATE_TRIAL,
    "worker_id": "repaired",
    "study_id": 0,
    "datetime_start": "1970-01-01T00:00:00",
    "datetime_complete": "1970-01-01T00:00:00",
    "state": int(TrialState.FAIL),
    "user_attrs": {"reason": "its record was damaged"},
}
"""Takes the place of a trial's first record: trials are numbered by these, in order."""


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


def journal(path: Path) -> tuple[BaseStorage, list[str]]:
    """Storage in one file, mended if it was damaged, and what was dropped of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lock that a killed process left; alone() keeps others out.
    Path(f"{path}.lock").unlink(missing_ok=True)
    dropped = repair(path) if path.exists() else []
    return JournalStorage(JournalFileBackend(str(path))), dropped


def database(url: str) -> BaseStorage:
    """Storage that several machines share. Raises UserError for one that is not there."""
    from sqlalchemy.exc import SQLAlchemyError

    if not url.startswith("postgresql"):
        raise UserError(f"--storage {url.split(':')[0]}: a study is shared by postgresql://USER:PASSWORD@HOST/DATABASE")
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ModuleNotFoundError as error:
        raise UserError(
            f"--storage {url}: Python module {error.name} is missing. .venv/bin/pip install {error.name}"
        ) from None
    except (SQLAlchemyError, ImportError) as error:
        raise UserError(f"--storage: {str(error).splitlines()[0]}") from None


def repair(path: Path) -> list[str]:
    """Takes what is not a record out of a journal, and says what it was.

    A record that was cut off by a full disk or a power cut stands at the end, or has the next one in its line; Optuna
    reads no journal that has one. Nobody acted upon a record that was not written to its end.
    """
    lines, records, dropped = path.read_bytes().split(b"\n"), [], []
    whole = lines.pop() == b""  # a whole journal ends with a line end
    if not whole:
        lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        at_end = number == len(lines) and not whole
        found = None if at_end else _record(line)
        if found is None and (start := line.rfind(b'{"op_code"')) > 0 and not at_end:
            found = _record(line[start:])
            line = line[:start]
            dropped.append(f"line {number}: {_shown(line)}")
        elif found is None:
            dropped.append(f"line {number}: {_shown(line)}")
        records.append(found)
    if not dropped:
        return []
    if records[0] is None or "study_name" not in records[0]:
        raise UserError(
            f"{path} is damaged where it names its study. Delete its folder, or give the new study a --name"
        )
    # What is left names trials by their number. If one has no first record, that was it.
    known = sum(record is not None and record.get("op_code") == CREATE_TRIAL for record in records)
    named = max((record["trial_id"] for record in records if record and "trial_id" in record), default=-1) + 1
    for i, record in enumerate(records):
        if record is None and known < named:
            records[i], known = LOST, known + 1
    kept = [json.dumps(record, separators=(",", ":")) for record in records if record is not None]
    storage.write_text(path.with_suffix(".damaged"), path.read_text(errors="replace"))
    storage.write_text(path, "".join(f"{line}\n" for line in kept))
    return dropped


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "op_code" in record else None


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace")
    return text if len(text) <= 60 else f"{text[:57]}…"


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
    """A new trial, of the process called `owner`; parameters are drawn when they are asked for.

    It is signed from its first record on, so that a kill leaves none that nobody knows.
    """
    sign = {OWNER: owner, "sign": uuid.uuid4().hex}
    study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=sign))
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    (number,) = (one.number for one in running if one.user_attrs.get("sign") == sign["sign"])
    return take_up(study, settings, number)


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


def counted(journal: Path) -> tuple[dict[str, int], int]:
    """How many trials of a journal are in each of the finished STATES, and how many are begun. The file is only read;
    raises UserError for one that is damaged."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        backend = JournalStorage(JournalFileBackend(str(journal)))
        trials = [one for each in backend.get_all_studies() for one in backend.get_all_trials(each._study_id, False)]
    except (ValueError, KeyError, IndexError):
        raise UserError("the journal is damaged; the same command mends it") from None
    counts = {word: sum(one.state == state for one in trials) for state, word in STATES.items()}
    return counts, len(trials) - sum(counts.values())


def rung(epoch: int, epochs: int) -> int:
    """How many marks of its fold a training has passed after an epoch: 0 to RUNGS."""
    return math.floor(RUNGS * epoch / epochs)
