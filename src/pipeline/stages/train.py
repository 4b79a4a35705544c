"""./run.sh train [--model NAME …]: model x fold x seed as jobs, then each run's out-of-fold and test logits.

./run.sh train --model lstm train.epochs=6
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from src.core import array_files, locks, storage, versions
from src.core.errors import UserError
from src.core.executors import Failure, Job, raise_failures, run_shown
from src.core.language import Message, _, joined
from src.core.run_settings import Run
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import duration, info, result, warn
from src.data.tasks import Average
from src.evaluation import broken_runs, metrics, runs
from src.evaluation.runs import RunFolder
from src.evaluation.stored_sentences import message_of
from src.evaluation.validation_sets import ShiftedTest
from src.evaluation.workspace import Workspace
from src.pipeline import replaced
from src.pipeline.stage import Progress, Stage, run_lock
from src.training import device_cache, federation
from src.training.device_cache import Machine
from src.training.job_specs import FoldJob, described
from src.training.planning import fold_jobs, tell_of_extra, unlabelled, work_of
from src.training.prediction import mean_prediction, out_of_fold_prediction, prediction_jobs
from src.training.tracking import Tracking, tracking_of

if TYPE_CHECKING:
    import pandas as pd


class Train(Stage):
    name = "train"
    needs = ("shift", "pretrain")

    def names(self, workspace: Workspace) -> list[str]:
        return list(workspace.settings.runs)

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.run(name) / "score.json"

    def targets(self, workspace: Workspace) -> list[Target]:
        jobs = _jobs(workspace)
        return [run_target(workspace, name, jobs[name]) for name in self.names(workspace)]

    def read_locks(self, workspace: Workspace) -> list[str]:
        """A run's folder is written when its folds are trained: until then, readers of the run before need not wait."""
        return [run_lock(name) for name in self.names(workspace)]

    def command_words(self, name: str) -> list[str]:
        return ["--model", name]

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        jobs = _jobs(workspace)[target.name]
        left = [job for job in jobs if not job.is_done()]
        running = [job for job in left if job.is_running()]
        begun = [job for job in left if job.epochs_done()]
        trained = len(jobs) - len(left)
        notes = [
            _("{n} of {all} folds").format(n=trained, all=len(jobs)),
            *(_epoch_note(job, jobs) for job in running or begun),
        ]
        if not left and not target.is_current():
            notes.append(_("to be put together anew"))
        elif target.is_current():
            score = storage.read_json(target.result)
            figure = runs.figure_of(score, workspace.settings.metric)["value"]
            notes.append(_("score {score:.4f}").format(score=figure))
            if fault := score.get("fault"):
                notes.append(message_of(fault))
        is_begun = bool(begun) or (trained > 0 and not target.result.exists())
        return Progress(joined("; ", notes), trained, len(jobs), is_begun, bool(running))

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        tracking = tracking_of(workspace.settings)
        jobs = _jobs(workspace)
        for job in itertools.chain(*jobs.values()):
            tracking.history(job)
        info(_up_to_date(sum(map(len, jobs.values()))))
        for name in jobs:
            _report_run(workspace, name, tracking)
        told = _("train: {n} runs in {runs}") if len(jobs) != 1 else _("train: 1 run in {runs}")
        return told.format(n=len(jobs), runs=workspace.output.runs)

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        started = time.perf_counter()
        noted = device_cache.recall(workspace.output, workspace.settings.device)
        here = device_cache.find(workspace.output, workspace.settings.device)
        if here != noted:
            workspace.refresh()  # the jobs are for the device that torch has just found
        training = Training(workspace, here, _jobs(workspace))
        for name, jobs in training.jobs.items():
            replaced.announce(workspace, run_target(workspace, name, jobs), [job.path.name for job in jobs])
        training.run()
        seconds = duration(time.perf_counter() - started)
        told, n = _("train: {n_jobs} runs in {runs} ({seconds})"), len(training.jobs)
        if n == 1:
            told = _("train: 1 run in {runs} ({seconds})")
        result(told.format(n_jobs=n, runs=workspace.output.runs, seconds=seconds))


STAGE = Train()


_INPUTS: dict[str, tuple[str, ...]] = {"tokens": ("vocabulary.json",), "series": ()}
"""Files of a run that say how its models read inputs of each kind."""


def _jobs(workspace: Workspace) -> dict[str, list[FoldJob]]:
    """Fold jobs of each run on the device that is noted for this machine."""
    return workspace.keep("fold_jobs", lambda: fold_jobs(workspace, device_cache.recall_or_find(workspace)))


def run_target(workspace: Workspace, name: str, jobs: Sequence[FoldJob]) -> Target:
    """Target of a run: the files that are put together from its trained folds, which must be trained too."""
    folder = workspace.output.run(name)
    stamp = fingerprint(
        {
            "jobs": [job.fingerprint for job in jobs],
            **workspace.dataset.made_of(workspace.splits),
            "shift": workspace.validation_sets.fingerprint,
            "data": workspace.settings.data.model_dump(),
            **runs.judged_by(workspace),
            **runs.averaged_by(workspace.settings.average),
            "version": versions.SCORE,
        }
    )
    names = runs.files(workspace.dataset.test_files, *_INPUTS[workspace.dataset.shape.kind], "history.csv")
    files = tuple(folder / file for file in names)
    return Target(name, folder / "score.json", stamp, files, is_whole=lambda: all(job.is_done() for job in jobs))


class Training:
    """Trains the missing folds of runs and puts the runs together, each after those that it needs."""

    def __init__(
        self,
        workspace: Workspace,
        here: Machine,
        jobs: dict[str, list[FoldJob]],
        teacher: RunFolder | None = None,
    ):
        """`jobs` of each run; `teacher`: run that all of them are distilled of."""
        self.workspace, self.here, self.jobs, self.teacher = workspace, here, jobs, teacher
        self.settings = workspace.settings
        self.students = {name for name in self.jobs if self.settings.runs[name].train.teachers}
        self.tracking = tracking_of(self.settings)

    def run(self) -> None:
        jobs = [job for group in self.jobs.values() for job in group]
        n_missing = sum(not job.is_done() for job in jobs)
        if n_missing:
            info(
                _("train: {n_missing} of {n_jobs} folds to train on {device}").format(
                    n_missing=n_missing, n_jobs=len(jobs), device=self.here.device
                )
            )
            tell_of_extra(self.workspace, self.jobs)
        else:
            info(_up_to_date(len(jobs)))
        ranks = {name: self.settings.runs[name].rank for name in self.jobs}
        for rank in sorted(set(ranks.values())):
            raise_failures(self.train([name for name in self.jobs if ranks[name] == rank]))

    def train(self, names: Sequence[str]) -> list[Failure]:
        """Trains the missing folds of these runs, and puts together the runs that are whole."""
        jobs = {name: self.jobs[name] for name in names}
        failures = self.train_folds(jobs)
        for job in itertools.chain(*jobs.values()):
            if job.is_done():
                self.tracking.history(job)
        failed = {failure.job.payload["folder"] for failure in failures}
        targets = {name: run_target(self.workspace, name, group) for name, group in jobs.items()}
        lacking = [name for name, target in targets.items() if not target.is_current()]
        failures += self._predict(jobs, lacking, failed)
        failed |= {failure.job.payload["fold"] for failure in failures if "fold" in failure.job.payload}
        for name, group in jobs.items():
            if failed.isdisjoint(job.folder for job in group):
                before = replaced.find(self.workspace, targets[name]) if name in lacking else None
                if name in lacking:
                    words = runs.train_words(name, self.settings.named.get(name))
                    command = self.workspace.command(*words)
                    with locks.hold(self.workspace.output.locks, [run_lock(name)], [], command):
                        _assemble(self.workspace, targets[name], group, self.teacher)
                _report_run(self.workspace, name, self.tracking)
                self._tell_of_federation(name, group)
                replaced.tell(self.workspace, before)
        return failures

    def train_folds(self, jobs: dict[str, list[FoldJob]]) -> list[Failure]:
        """Trains the missing folds of these runs: those of federations after the others, round after round."""
        work = [
            Job(
                f"{name} {job.path.name.rsplit('.', 1)[0].replace('.', ' ')}",
                "src.training.classification:train_fold",
                asdict(job),
                work_of(job),
            )
            for name, group in jobs.items()
            for job in group
            if not job.is_done()
        ]
        # Laid out for all jobs, done ones included: a resumed command goes on with as many threads as it began with.
        everything = [job for group in self.jobs.values() for job in group]
        federated = [job for job in everything if federation.is_federated(job)]
        counts = len(everything) - len(federated), sum(len(federation.client_rows(job)) for job in federated)
        central, rounds = (
            self.here.executor(self.settings.executor, n_jobs, self.workspace.deadline) for n_jobs in counts
        )
        for job in federated:
            if job.is_done():
                federation.clean(job)
        apart = {job.folder for job in federated}
        alone = [job for job in work if job.payload["folder"] not in apart]
        failures = run_shown(central, "train", alone, described, self.tracking, self._finished)
        together = [job for job in work if job.payload["folder"] in apart]
        return failures + federation.run_federations(rounds, together, self.tracking, self._finished)

    def _tell_of_federation(self, name: str, jobs: Sequence[FoldJob]) -> None:
        for job in filter(federation.is_federated, jobs):
            told = federation.told(job, self.workspace.domains.names)
            info(
                _("train: {name}, fold {fold}, seed {seed}: {told}").format(
                    name=name, fold=job.fold, seed=job.seed, told=told
                )
            )

    def _finished(self, job: Job) -> str:
        """Words the score of a trained fold, its loss on the validation rows, and its time."""
        fold = FoldJob(**job.payload)
        task, made = self.workspace.task, storage.read_json(fold.path / "result.json")
        rows = array_files.read_npz(fold.locate(fold.split))["predicted_rows"]
        told = _("loss {loss:.4f}, {time}").format(loss=made["last_valid_loss"], time=duration(runs.seconds_of(made)))
        if not len(rows):  # a student of all train rows
            return told
        predictions = task.decode(array_files.read_npy(fold.path / "logits.npy"))
        try:
            score = metrics.official_score(task, self.workspace.labels[rows], predictions).value
        except UserError:  # too few rows of a label for the figure; that of the whole run has them all
            return told
        return _("{score:.4f} out of fold, {told}").format(score=score, told=told)

    def _predict(self, jobs: dict[str, list[FoldJob]], lacking: Sequence[str], failed: set[str]) -> list[Failure]:
        """Predicts what the `lacking` runs, and the students of these runs, read; folds in `failed` are left out."""
        dataset, shift, device = self.workspace.dataset, self.workspace.validation_sets, self.here.device
        root = self.workspace.output.root

        def folders(names: Iterable[str]) -> list[Path]:
            return [job.path for name in names for job in jobs[name] if job.folder not in failed]

        trained = folders(lacking)
        work = prediction_jobs(root, trained, [dataset.test_folder(name) for name in dataset.test_files], device)
        copies = [copy for test in shift.tests for copy in test.noised]
        work += prediction_jobs(root, trained, copies, device, shift.rows_path)
        teachers = {teacher for name in self.students for teacher in self.settings.runs[name].train.teachers}
        known = {job.payload["out"] for job in work}
        teaching = prediction_jobs(
            root, folders(name for name in jobs if name in teachers), unlabelled(dataset), device
        )
        work += [job for job in teaching if job.payload["out"] not in known]
        executor = self.here.executor(self.settings.executor, len(work), self.workspace.deadline)
        return run_shown(executor, "predict", work)


def _report_run(workspace: Workspace, name: str, tracking: Tracking) -> None:
    folder = workspace.output.run(name)
    score = storage.read_json(folder / "score.json")
    result(_("train: {name} {headline}").format(name=name, headline=runs.headline(score, workspace.settings.metric)))
    if fault := score.get("fault"):
        warn(
            _("run {name} {fault}. It is not blended or submitted without --force. {remedy}").format(
                name=name, fault=fault, remedy=broken_runs.REMEDY
            )
        )
    tracking.score(folder)


def _epoch_note(job: FoldJob, jobs: Sequence[FoldJob]) -> str:
    seed = _(" seed {seed}").format(seed=job.seed) if len({other.seed for other in jobs}) > 1 else ""
    told = _("fold {fold}{seed} at epoch {epoch} of {all}")
    return told.format(fold=job.fold, seed=seed, epoch=job.epochs_done(), all=job.run["train"]["epochs"])


def _up_to_date(n_jobs: int) -> Message:
    if n_jobs == 1:
        return _("train: the fold is up to date")
    return _("train: all {n_jobs} folds are up to date").format(n_jobs=n_jobs)


def _labelled_extras(workspace: Workspace, name: str) -> list[str]:
    """sha256 of the extra files whose labels the run, or one that it rests on, was trained on."""
    dataset = workspace.dataset
    if not any(run.train.extra_weight for run in _with_needed(workspace, name)):
        return []
    files = [file for file in dataset.manifest["files"] if file["role"] == "extra"]
    return [file["sha256"] for file in files if file["name"] in dataset.extra_labelled]


def _with_needed(workspace: Workspace, name: str) -> list[Run]:
    """The run `name` with those that it rests on, in one step or several."""
    runs = workspace.settings.runs
    return [runs[name], *(one for needed in runs[name].rests_on for one in _with_needed(workspace, needed))]


def _assemble(workspace: Workspace, target: Target, jobs: Sequence[FoldJob], teacher: RunFolder | None = None) -> None:
    """Writes the run folder's own files, from those of its folds; score.json last. `teacher`: run that a student was
    distilled of."""
    dataset, shift, name = workspace.dataset, workspace.validation_sets, target.name
    folder, run = target.result.parent, workspace.settings.runs[name]
    target.result.unlink(missing_ok=True)
    parts = [job.path for job in jobs]
    storage.write_text(folder / "config.yaml", yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False))
    made_by = {part.name: storage.read_json(part / "result.json")["environment"] for part in parts}
    storage.write_json(folder / "environment.json", made_by)
    if "vocabulary.json" in _INPUTS[dataset.shape.kind]:
        dataset.vocabulary.save(folder / "vocabulary.json")
    record = {
        **runs.make_record(workspace, "model", name),
        "fold_folders": [part.name for part in parts],
        "extra_files": _labelled_extras(workspace, name),
        **({"teacher": teacher.name} if teacher else {}),
        **({"like": workspace.settings.named[name]} if name in workspace.settings.named else {}),
    }
    storage.write_json(folder / "run.json", record)
    storage.write_text(folder / "history.csv", _history(jobs).to_csv(index=False))
    average = workspace.task.average(workspace.settings.average)
    oof = _mean_of_parts(jobs, *workspace.labels.shape, average)
    array_files.write_npy(folder / "oof.npy", oof)
    for test in dataset.test_files:
        array_files.write_npy(runs.test_path(folder, test), mean_prediction(parts, dataset.test_folder(test), average))
    for test in shift.tests:
        copies = np.empty((len(test.noised), len(shift.rows), workspace.task.n_labels), dtype=np.float32)
        for i, copy in enumerate(test.noised):
            copies[i] = out_of_fold_prediction(parts, copy, shift.rows_path, workspace.task.n_labels, average)
        array_files.write_npy(runs.copies_path(folder, test.name), copies)
        array_files.write_npy(runs.folds_path(folder, test.name), _by_fold(workspace, jobs, test, average))
    how, optimistic = _how(workspace, name)
    if teacher:
        how = f"{how}; each fold's student was taught by that fold's models of {teacher.name}"
        optimistic = optimistic or teacher.score["optimistic"]
    score = runs.score_run(workspace, oof, how, optimistic)
    target.write({**score, "made_by": runs.maker(record, name)})


def _history(jobs: Sequence[FoldJob]) -> pd.DataFrame:
    import pandas as pd

    tables = []
    for job in jobs:
        table = pd.read_csv(job.path / "history.csv")
        table.insert(0, "seed", job.seed)
        table.insert(0, "fold", job.fold)
        tables.append(table)
    return pd.concat(tables)


def _mean_of_parts(jobs: Sequence[FoldJob], n_rows: int, n_labels: int, average: Average) -> np.ndarray:
    """Logits (n_rows, n_labels): the mean over seeds and repetitions, each by a model that did not train on the row;
    NaN for a row that no model may judge."""
    parts = (
        (array_files.read_npz(job.locate(job.split))["predicted_rows"], array_files.read_npy(job.path / "logits.npy"))
        for job in jobs
    )
    return average.of_rows((n_rows, n_labels), parts)


def _by_fold(workspace: Workspace, jobs: Sequence[FoldJob], test: ShiftedTest, average: Average) -> np.ndarray:
    """Logits (k, m, n_labels) of the reports of a test file that were looked at, one for each fold: the mean over its
    models. An out-of-fold prediction is by one fold too, so that the two can be compared."""
    corpus, rows = workspace.dataset.test_folder(test.name), test.array("test_rows")
    folds = sorted({job.fold for job in jobs})
    parts = ([job.path for job in jobs if job.fold == fold] for fold in folds)
    return np.stack([mean_prediction(part, corpus, average)[rows] for part in parts])


def _how(workspace: Workspace, name: str) -> tuple[str, bool]:
    """Origin of a run's scored logits in words, and True if it makes the score optimistic."""
    run = workspace.settings.runs[name]
    if workspace.splits.scheme == "holdout":
        return "test part of the holdout, on which no choice was made", False
    if run.train.patience and not run.is_fitted:
        return "out of fold, but each fold stopped at its own best epoch: optimistic", True
    if any(needed.train.patience and not needed.is_fitted for needed in _with_needed(workspace, name)):
        who = "a teacher" if run.train.teachers else f"its encoder's run {run.pretrain.by}"
        return f"out of fold, but {who} stopped at its best epoch of each fold: optimistic", True
    return "out of fold, epochs fixed beforehand", False
