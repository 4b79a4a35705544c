"""A search for better settings of one run: trials side by side, each a chain of jobs that may be given up.

A trial trains one fold after the other and is given up as soon as it looks worse than others did at the same mark.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from src.core import storage
from src.core.errors import UserError
from src.core.executors import Failure, Job, LocalProcesses
from src.core.settings import Config
from src.core.settings_loader import with_words
from src.core.terminal import JobProgress, duration, info
from src.data.dataset import Dataset
from src.data.splits import HOLDOUT_PARTS, Folds
from src.evaluation import metrics
from src.evaluation.validation_sets import ValidationSets, validation
from src.training.device_cache import Machine
from src.training.initialization import pretrain_jobs
from src.training.job_specs import FoldJob, PretrainJob, is_pretrained
from src.training.planning import fold_jobs
from src.tuning import search_spaces, study
from src.tuning.search_spaces import Space

MOST_FAILURES = 5
"""In a row, after which a study ends: it will not be the settings."""


@dataclass
class Trial:
    """One that is running."""

    trial: optuna.Trial
    config: Config
    shown: str
    pretraining: list[PretrainJob]
    """What is left of it."""
    folds: list[FoldJob] | None = None
    """None until all is pretrained."""
    scores: list[float] = field(default_factory=list)
    """Of the folds that are done: one minus the loss of the rows of select_on."""
    is_busy: bool = False
    is_given_up: bool = False
    job_started: float = 0.0
    seconds: float = 0.0
    """Of jobs that are done, those before a kill included."""


class Search:
    """Asks the study for trials, hands out their jobs, and tells it what came of them. The only one that does."""

    def __init__(
        self,
        config: Config,
        model: str,
        dataset: Dataset,
        folds: Folds,
        shift: ValidationSets,
        here: Machine,
        space: Space,
        trials: optuna.Study,
        owner: str,
        folder: Path,
        most: int,
        hours: float | None,
        is_shared: bool,
    ):
        """`most` trials are to be made in all, and none begun after so many `hours`; is_shared: with other machines."""
        self._config, self._model, self._space, self._trials = config, model, space, trials
        self._prepared, self._folds, self._shift, self._here = dataset, folds, shift, here
        self._owner, self._folder, self._most = owner, folder, most
        self._left_running = study.left_running(trials, owner, is_shared)
        self._active: list[Trial] = []
        self._failures_in_a_row = 0
        self.last_failure = ""
        self._choosing: list[float] = []
        """Seconds to ask for each trial and make its jobs."""
        self._starting: list[float] = []
        """Seconds of each job beside training and predicting."""
        self._deadline = time.monotonic() + hours * 3600 if hours else None
        self._progress: JobProgress | None = None

    @property
    def left(self) -> int:
        """Trials that are to be made, those that are running included."""
        return max(0, self._most - len(study.finished(self._trials)))

    @property
    def has_given_up(self) -> bool:
        """Whether trial after trial failed."""
        return self._failures_in_a_row >= MOST_FAILURES

    @property
    def is_interrupted(self) -> bool:
        """Whether trials were left running, which are brought to an end even where fewer are asked for now."""
        return bool(self._left_running)

    def go(self, executor: LocalProcesses) -> None:
        """Makes trials until there are enough, time is over, or trial after trial fails."""
        self._clean_up()
        if self._left_running:
            info(f"tune: goes on with trials {', '.join(map(str, self._left_running))}, which were running")
        waiting = {f"({i})": 1.0 for i in range(max(self.left, len(self._left_running)))}
        with JobProgress("tune", waiting) as self._progress:
            executor.run_as_they_come(self.next_job, self)
        if self._choosing and self._starting:
            info(
                f"tune: beside training and predicting a trial takes {np.median(self._choosing):.2f} s to be chosen, "
                f"and each fold {np.median(self._starting):.2f} s"
            )

    def next_job(self) -> Job | None:
        for one in list(self._active):
            if not one.is_busy and (job := self._job_of(one)):
                return job
        while self._wants_more():
            started = time.perf_counter()
            if (begun := self._begin()) and (job := self._job_of(begun)):
                self._choosing.append(time.perf_counter() - started)
                return job
        return None

    def _wants_more(self) -> bool:
        if self._left_running:
            return True
        if self.has_given_up:
            return False
        if self._deadline and time.monotonic() > self._deadline:
            return False
        # Trials of other machines count as well, from when they begin.
        return len(self._trials.get_trials(deepcopy=False)) < self._most

    def _begin(self) -> Trial | None:
        """The next trial; None for one whose settings exclude each other, which is told as failed."""
        if self._left_running:
            trial = study.take_up(self._trials, self._config.tune, self._left_running.pop(0))
        else:
            trial = study.ask(self._trials, self._config.tune, self._owner)
        shown = f"trial {trial.number}"
        self._progress.rename(next(name for name in self._progress.jobs if name.startswith("(")), shown)
        chosen = self._space.suggest(trial)
        try:
            config = with_words(self._config, search_spaces.words(chosen), [self._model])
        except UserError as error:
            self._tell_failed(trial, shown, str(error))
            return None
        jobs = pretrain_jobs(config, self._prepared, self._here)
        missing = {job.folder: job for job in jobs.values() if not is_pretrained(job)}
        before = self._trials.get_trials(deepcopy=False)[trial.number].user_attrs.get("seconds", 0.0)
        begun = Trial(trial, config, shown, list(missing.values()), seconds=before)
        self._active.append(begun)
        return begun

    def _job_of(self, one: Trial) -> Job | None:
        """None for a trial whose settings are refused, which is told as failed."""
        if one.pretraining:
            one.is_busy, one.job_started = True, time.perf_counter()
            return Job(one.shown, "src.training.pretraining:pretrain_encoder", asdict(one.pretraining[0]))
        if one.folds is None:
            home = self._trial_folder(one.trial.number)
            try:
                jobs = fold_jobs(
                    one.config,
                    self._prepared,
                    self._folds,
                    self._shift,
                    self._here,
                    judged=[self._model],
                    folder_of=lambda name: home if name == self._model else self._prepared.output.run(name),
                )
            except UserError as error:
                self._close(one)
                self._tell_failed(one.trial, one.shown, str(error))
                return None
            one.folds = jobs[self._model]
        one.is_busy, one.job_started = True, time.perf_counter()
        return Job(one.shown, "src.training.classification:train_fold", asdict(one.folds[len(one.scores)]))

    # Watcher

    def step(self, job: Job, news: dict[str, Any]) -> bool:
        one = self._of(job)
        if one.pretraining:
            return False
        done, epochs = len(one.scores), news["epochs"]
        mark, before = (study.rung(epoch, epochs) for epoch in (news["epoch"], news["epoch"] - 1))
        if self._progress.is_live:
            self._progress.step(one.shown, (done + news["epoch"] / epochs) / len(one.folds), f"fold {done + 1}")
        if before < mark < study.RUNGS:
            spent = one.seconds + time.perf_counter() - one.job_started
            self._report(one, [*one.scores, 1 - news["valid_loss"]], spent, done * study.RUNGS + mark)
        return one.is_given_up

    def finish(self, job: Job, failure: Failure | None) -> None:
        one = self._of(job)
        one.is_busy = False
        seconds = time.perf_counter() - one.job_started
        one.seconds += seconds
        one.trial.set_user_attr("seconds", round(one.seconds, 2))
        if failure:
            self._close(one)
            self._tell_failed(one.trial, one.shown, failure.reason)
        elif one.pretraining:
            one.pretraining.pop(0)
        elif one.is_given_up:
            self._tell_given_up(one)
        else:
            result = storage.read_json(Path(one.folds[len(one.scores)].folder) / "result.json")
            if (beside := seconds - result["seconds_since_last_start"]) > 0:  # else it was trained before
                self._starting.append(beside)
            one.scores.append(1 - result[f"{result['weights']}_valid_loss"])
            if len(one.scores) == len(one.folds):
                self._tell_complete(one)
                return
            self._report(one, one.scores, one.seconds, len(one.scores) * study.RUNGS)
            if one.is_given_up:
                self._tell_given_up(one)

    def _report(self, one: Trial, scores: list[float], seconds: float, step: int) -> None:
        """What the folds so far speak for; a trial that was running before has told some already."""
        if len(self._config.tune.objectives) > 1:
            return
        known = self._trials.get_trials(deepcopy=False)[one.trial.number].intermediate_values
        value = float(np.mean(scores)) if self._config.tune.objectives == ["score"] else seconds
        if step not in known:
            one.trial.report(value, step)
            one.is_given_up = one.trial.should_prune()

    def _tell_complete(self, one: Trial) -> None:
        estimate = score_of(self._config, self._prepared, self._folds, self._shift, one.folds)
        one.trial.set_user_attr("score", estimate.to_json())
        found = {"score": estimate.value, "seconds": one.seconds}
        values = [found[objective] for objective in self._config.tune.objectives]
        self._trials.tell(one.trial, values, skip_if_finished=True)
        self._failures_in_a_row = 0
        best = study.best_trials(self._trials, self._config.tune.objectives, 1)[0]
        note = f"{estimate.value:.4f} ± {estimate.standard_error:.4f} in {duration(one.seconds)}"
        self._close(one)
        self._progress.finish(one.shown, f"{note}; best: trial {best.number}, {best.user_attrs['score']['value']:.4f}")

    def _tell_given_up(self, one: Trial) -> None:
        frozen = self._trials.tell(one.trial, state=study.TrialState.PRUNED, skip_if_finished=True)
        self._failures_in_a_row = 0
        self._close(one)
        marks = f"{frozen.last_step / study.RUNGS:.1f} of {len(one.folds)} folds"
        self._progress.finish(one.shown, f"given up after {marks}, {duration(one.seconds)}")

    def _tell_failed(self, trial: optuna.Trial, shown: str, reason: str) -> None:
        trial.set_user_attr("reason", reason.strip())
        self._trials.tell(trial, state=study.TrialState.FAIL, skip_if_finished=True)
        self._failures_in_a_row += 1
        self._progress.finish(shown, f"FAILED: {reason.strip().splitlines()[-1]}")
        self.last_failure = reason.strip()

    def _close(self, one: Trial) -> None:
        """Weights and logits of a trial are of no use any more, and take megabytes."""
        self._active.remove(one)
        shutil.rmtree(self._trial_folder(one.trial.number), ignore_errors=True)

    def _clean_up(self) -> None:
        """What a kill left of trials between their end and their cleaning."""
        for trial in study.finished(self._trials):
            if trial.user_attrs.get(study.OWNER) == self._owner:
                shutil.rmtree(self._trial_folder(trial.number), ignore_errors=True)

    def _trial_folder(self, number: int) -> Path:
        return self._folder / "trials" / f"{number:04d}"

    def _of(self, job: Job) -> Trial:
        return next(one for one in self._active if one.shown == job.name)


def score_of(
    config: Config, dataset: Dataset, folds: Folds, shift: ValidationSets, jobs: Sequence[FoldJob]
) -> metrics.Estimate:
    """The official score of one run's trained folds on the rows of select_on, as ./run.sh leaderboard gives it; under
    holdout that of the validation part.
    """
    target = shift.target(config.target)
    rows = validation(config.select_on, shift.rows, target, folds)
    if folds.scheme == "holdout":
        rows = rows.only(folds.first == HOLDOUT_PARTS["valid"])
    size = len(dataset.train) if rows.copies is None else len(shift.rows) * len(target.noised)
    total, count = np.zeros((size, dataset.task.n_labels)), np.zeros((size, 1))
    for job in jobs:
        if job.valid:
            with np.load(job.valid) as valid:
                chosen = valid["chosen"]
            logits = np.load(Path(job.folder) / "valid_logits.npy")
        else:
            with np.load(job.split) as split:
                chosen = split["predicted_rows"]
            logits = np.load(Path(job.folder) / "logits.npy")
        total[chosen] += logits
        count[chosen] += 1
    where = rows.rows if rows.copies is None else rows.copies
    probabilities = dataset.task.decode(total[where] / count[where])
    labels = np.asarray(dataset.train.labels)[rows.rows]
    return metrics.official_score(dataset.task, labels, probabilities, rows.weights, rows.rows)
