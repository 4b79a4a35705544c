"""Runs the trials of a study of one run: trials side by side, each a chain of jobs that may be pruned.

A trial trains one fold after the other and is pruned as soon as it looks worse than others did at the same mark.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from src.core import array_files, storage
from src.core.errors import OutOfTime, UserError
from src.core.executors import Executor, Failure, Job
from src.core.language import _
from src.core.settings import Config
from src.core.settings_loader import with_words
from src.core.terminal import JobProgress, duration, info, warn
from src.data.splits import HOLDOUT_PARTS
from src.evaluation import metrics
from src.evaluation.figures import Figure, estimate, estimate_text
from src.evaluation.runs import RunFolder, seconds_of
from src.evaluation.validation_sets import Validation
from src.evaluation.workspace import Workspace
from src.training.device_cache import Machine
from src.training.initialization import pretrain_jobs
from src.training.job_specs import FoldJob, PretrainJob, described
from src.training.planning import fold_jobs
from src.tuning import search_spaces, study
from src.tuning.search_spaces import Space
from src.tuning.study import Study

MOST_FAILURES = 5
"""Failures in a row after which no further trial starts: the cause is not the settings of a trial."""


@dataclass
class RunningTrial:
    trial: optuna.Trial
    config: Config
    pretraining: list[PretrainJob]
    """Jobs of pretraining that are not done."""
    seconds: float
    """Time of the jobs that are done, also before a kill."""
    folds: list[FoldJob] | None = None
    """None until all is pretrained."""
    scores: list[float] = field(default_factory=list)
    """One minus the loss on the rows of select_on, for each fold that is done."""
    is_busy: bool = False
    is_pruned: bool = False
    is_lost: bool = False
    """True once another driver has taken the trial over."""
    job_started: float = 0.0

    @property
    def has_settings_in_use(self) -> bool:
        """True for the trial that the others are compared with, which is never given up."""
        return bool(self.trial.user_attrs.get(study.IN_USE))

    @property
    def shown(self) -> str:
        return f"trial {self.trial.number}"


class TrialRunner:
    """Asks the study for trials, hands out their jobs, and tells the study their results. A Watcher of the jobs."""

    def __init__(self, workspace: Workspace, machine: Machine, model: str, space: Space, trials: Study):
        self._workspace, self._machine, self._model = workspace, machine, model
        self._space, self._study = space, trials
        self._active: list[RunningTrial] = []
        self._failures_in_a_row = 0
        self.last_failure = ""
        self._choosing: list[float] = []
        """Seconds to ask for each trial and make its jobs."""
        self._starting: list[float] = []
        """Seconds of each job besides training and predicting."""
        self._progress: JobProgress | None = None

    @property
    def has_given_up(self) -> bool:
        """True after MOST_FAILURES failures in a row."""
        return self._failures_in_a_row >= MOST_FAILURES

    def run(self, executor: Executor) -> None:
        """Runs trials until there are enough, the time is over, or MOST_FAILURES trials in a row failed."""
        waiting = {f"({i})": 1.0 for i in range(self._study.left)}
        with JobProgress("tune", waiting) as self._progress:
            with contextlib.suppress(OutOfTime):
                executor.run_as_they_come(self.next_job, self)
                while not self.has_given_up and self._study.wait_for_others():
                    executor.run_as_they_come(self.next_job, self)
        if self._choosing and self._starting:
            info(
                _(
                    "tune: besides training and predicting a trial takes {choosing:.2f} s to be chosen, "
                    "and each fold {starting:.2f} s"
                ).format(choosing=np.median(self._choosing), starting=np.median(self._starting))
            )
        if self._active and self._study.is_over:
            running = ", ".join(str(one.trial.number) for one in self._active)
            info(
                _("tune: the time is over amid trials {running}; the same command goes on with them").format(
                    running=running
                )
            )

    def next_job(self) -> Job | None:
        for one in list(self._active):
            if not one.is_busy and (job := self._job_of(one)):
                return job
        started = time.perf_counter()
        while not self.has_given_up and (trial := self._study.next_trial()):
            if (begun := self._begin(trial)) and (job := self._job_of(begun)):
                self._choosing.append(time.perf_counter() - started)
                return job
        return None

    def _begin(self, trial: optuna.Trial) -> RunningTrial | None:
        """Adds a trial to the running ones. Returns None for settings that exclude each other: the trial failed."""
        shown = f"trial {trial.number}"
        self._progress.rename(next(name for name in self._progress.jobs if name.startswith("(")), shown)
        seconds = trial.user_attrs.get("seconds", 0.0)
        try:
            chosen = {} if trial.user_attrs.get(study.IN_USE) else self._space.suggest(trial)
            config = with_words(self._workspace.settings, search_spaces.words(chosen), [self._model])
        except UserError as error:
            self._tell_failed(trial, str(error))
            return None
        jobs = pretrain_jobs(self._workspace.variant(config), self._machine)
        missing = {job.folder: job for group in jobs.values() for job in group if not job.is_done()}
        begun = RunningTrial(trial, config, list(missing.values()), seconds)
        self._active.append(begun)
        return begun

    def _job_of(self, one: RunningTrial) -> Job | None:
        """The next job of a trial. Returns None for settings that folds refuse: the trial failed."""
        if not one.pretraining and one.folds is None:
            try:
                one.folds = self._fold_jobs(one)
            except UserError as error:
                self._close(one)
                self._tell_failed(one.trial, str(error))
                return None
        one.is_busy, one.job_started = True, time.perf_counter()
        if one.pretraining:
            return Job(one.shown, "src.training.pretraining:pretrain_encoder", asdict(one.pretraining[0]))
        return Job(one.shown, "src.training.classification:train_fold", asdict(one.folds[len(one.scores)]))

    def _fold_jobs(self, one: RunningTrial) -> list[FoldJob]:
        """Jobs of all folds of a trial, in a folder of its own; teachers are those of the experiment."""
        output, home = self._workspace.output, self._trial_folder(one.trial.number)
        jobs = fold_jobs(
            self._workspace.variant(one.config),
            self._machine,
            judged=[self._model],
            folder_of=lambda name: home if name == self._model else output.run(name),
        )
        return jobs[self._model]

    # Watcher

    def step(self, job: Job, news: dict[str, Any]) -> bool:
        one = self._of(job)
        if one.pretraining:
            return False
        done, epochs = len(one.scores), news["epochs"]
        mark, before = (study.rung(epoch, epochs) for epoch in (news["epoch"], news["epoch"] - 1))
        if self._progress.is_live:
            self._progress.step(one.shown, (done + described(news)[0]) / len(one.folds), f"fold {done + 1}")
        if before < mark < study.RUNGS and news["valid_loss"] is not None:  # personal parts have none until the end
            spent = one.seconds + time.perf_counter() - one.job_started
            self._report(one, [*one.scores, 1 - news["valid_loss"]], spent, done * study.RUNGS + mark)
        return one.is_pruned or one.is_lost

    def finish(self, job: Job, failure: Failure | None) -> None:
        one = self._of(job)
        one.is_busy = False
        seconds = time.perf_counter() - one.job_started
        one.seconds += seconds
        self._note_seconds(one)
        if one.is_lost:
            self._tell_lost(one)
        elif failure:
            self._close(one)
            self._tell_failed(one.trial, failure.reason)
        elif one.pretraining:
            one.pretraining.pop(0)
        elif one.is_pruned:
            self._tell_pruned(one)
        else:
            result = storage.read_json(one.folds[len(one.scores)].path / "result.json")
            if (beside := seconds - result["seconds_since_last_start"]) > 0:  # else it was trained before
                self._starting.append(beside)
                one.seconds += seconds_of(result) - result["seconds_since_last_start"]
                self._note_seconds(one)
            one.scores.append(1 - result[f"{result['weights']}_valid_loss"])
            if len(one.scores) == len(one.folds):
                self._tell_complete(one)
                return
            self._report(one, one.scores, one.seconds, len(one.scores) * study.RUNGS)
            if one.is_lost:
                self._tell_lost(one)
            elif one.is_pruned:
                self._tell_pruned(one)

    def _report(self, one: RunningTrial, scores: list[float], seconds: float, step: int) -> None:
        """Reports the mean score of the folds so far, and prunes. A trial that was resumed has reported some steps."""
        objectives = self._study.settings.objectives
        if len(objectives) > 1 or step in self._study.trials()[one.trial.number].intermediate_values:
            return
        with self._study.ours(one.trial) as is_ours:
            one.is_lost = not is_ours
            if is_ours:
                one.trial.report(float(np.mean(scores)) if objectives == ["score"] else seconds, step)
        if one.is_lost:
            return
        one.is_pruned = not one.has_settings_in_use and one.trial.should_prune()

    def _note_seconds(self, one: RunningTrial) -> None:
        with self._study.ours(one.trial) as is_ours:
            one.is_lost = not is_ours
            if is_ours:
                one.trial.set_user_attr("seconds", round(one.seconds, 2))

    def _tell_lost(self, one: RunningTrial) -> None:
        """Gives up a trial that another driver has taken over, and its place to another one."""
        warn(
            _("tune: {trial} was taken over by another machine while the database was out of reach").format(
                trial=one.shown
            )
        )
        self._close(one)
        self._progress.rename(one.shown, f"({one.shown})")

    def _tell_complete(self, one: RunningTrial) -> None:
        figure = figure_of(self._workspace, one.folds)
        if not self._study.complete(one.trial, figure, one.seconds):
            self._tell_lost(one)
            return
        self._failures_in_a_row = 0
        best = self._study.best(1)[0]
        note = f"{estimate_text(estimate(figure))} in {duration(one.seconds)}"
        self._close(one)
        self._progress.finish(
            one.shown,
            _("{note}; best: trial {number}, {score:.4f}").format(
                note=note, number=best.number, score=best.user_attrs["score"]["value"]
            ),
        )

    def _tell_pruned(self, one: RunningTrial) -> None:
        frozen = self._study.prune(one.trial)
        if frozen is None:
            self._tell_lost(one)
            return
        self._failures_in_a_row = 0
        self._close(one)
        marks = f"{frozen.last_step / study.RUNGS:.1f} of {len(one.folds)} folds"
        self._progress.finish(
            one.shown, _("given up after {marks}, {time}").format(marks=marks, time=duration(one.seconds))
        )

    def _tell_failed(self, trial: optuna.Trial, reason: str) -> None:
        self.last_failure = reason.strip()
        self._failures_in_a_row += 1
        self._study.fail(trial, self.last_failure)
        self._progress.finish(
            f"trial {trial.number}", _("FAILED: {reason}").format(reason=self.last_failure.splitlines()[-1])
        )

    def _close(self, one: RunningTrial) -> None:
        """Removes a trial from the running ones, and its weights and logits, which take megabytes."""
        self._active.remove(one)
        shutil.rmtree(self._trial_folder(one.trial.number), ignore_errors=True)

    def clean_up(self) -> None:
        """Removes files that a kill left of trials that are finished, or that other drivers have taken over."""
        kept = {self._trial_folder(number) for number in self._study.interrupted}
        for folder in set(self._trial_folder(0).parent.glob("*")) - kept:
            shutil.rmtree(folder, ignore_errors=True)

    def _trial_folder(self, number: int) -> Path:
        return self._study.folder / "trials" / f"{number:04d}"

    def _of(self, job: Job) -> RunningTrial:
        return next(one for one in self._active if one.shown == job.name)


def figure_of(workspace: Workspace, jobs: Sequence[FoldJob]) -> Figure:
    """The official score of one run's trained folds on the rows of select_on, as ./run.sh leaderboard computes it; of a
    holdout the score of its validation part.
    """
    target, task, rows = workspace.target, workspace.task, judged_rows(workspace)
    size = len(workspace.labels) if rows.copies is None else len(workspace.validation_sets.rows) * len(target.noised)
    parts = []
    for job in jobs:
        if job.valid:
            chosen = array_files.read_npz(job.locate(job.valid))["chosen"]
            parts.append((chosen, array_files.read_npy(job.path / "valid_logits.npy")))
        else:
            chosen = array_files.read_npz(job.locate(job.split))["predicted_rows"]
            parts.append((chosen, array_files.read_npy(job.path / "logits.npy")))
    mean = task.average(workspace.settings.average).of_rows((size, task.n_labels), parts)
    return _figure(workspace, rows, mean[rows.rows if rows.copies is None else rows.copies])


def figure_of_run(workspace: Workspace, run: RunFolder) -> Figure:
    """Figure of a finished run, as figure_of() returns it."""
    target, rows = workspace.target, judged_rows(workspace)
    return _figure(workspace, rows, rows.logits(run.oof(), run.copies(target.name) if target else None))


def judged_rows(workspace: Workspace) -> Validation:
    """Rows of select_on that trials are judged by."""
    rows, splits = workspace.validation(), workspace.splits
    return rows.only(splits.first == HOLDOUT_PARTS["valid"]) if splits.scheme == "holdout" else rows


def _figure(workspace: Workspace, rows: Validation, logits: np.ndarray) -> Figure:
    task, folds = workspace.task, workspace.splits.first[rows.rows]
    labels = workspace.labels[rows.rows]
    return metrics.official_figure(task, labels, task.decode(logits), rows.weights, rows.rows, folds)
