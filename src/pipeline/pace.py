"""Pace: how long training takes on this machine, now. Measured by training each kind of model on a few rows.

A prediction is the time of a row in an epoch, as it was measured, times rows and epochs. What is not measured by itself
is counted in forward passes, of which a training step has three: predictions, denoising and pretraining. Once a run is
trained, its own time corrects the later predictions.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from src.core.errors import OutOfTime, UserError
from src.core.executors import Failure, Job
from src.core.language import _
from src.core.run_settings import Denoise, Pretrain, Run
from src.core.settings import Config, fingerprint
from src.core.terminal import warn
from src.data.corpus import Corpus
from src.evaluation.workspace import Workspace
from src.training.device_cache import Machine
from src.training.initialization import pretrain_settings
from src.training.planning import probe_job, unlabelled

ROWS, EPOCHS = 256, 2
"""Rows that a probe trains on, and its epochs. The time of the last epoch counts: the first one warms up."""
PASSES = 3.0
"""Forward passes that take as long as a step of training: a backward pass takes as long as two."""
START = 1.0
"""Seconds of each job beside training and predicting."""
SURE = 20.0
"""Seconds of training in which the predictions are believed as much as the time that was needed: a first, small run
consists of starts more than of training, and must not change what is expected of long ones much."""
DRAWS = 2
"""Noisy copies of the train rows for each test file, before ./run.sh shift has made them."""


class Pace:
    """Measured and predicted times of training under various settings on one dataset."""

    def __init__(self, workspace: Workspace, here: Machine):
        self._workspace, self._here = workspace, here
        self._seconds: dict[str, float] = {}
        """Seconds of a row in an epoch, by the kind of run."""
        self._sums: dict[str, tuple[float, float]] = {}
        """Seconds that were needed and that were predicted in all, of training and of pretraining."""
        self.has_validation_sets = False
        """True once ./run.sh shift has made them."""
        dataset = workspace.dataset
        self._rows = len(dataset.train)
        self._unlabelled = sum(len(Corpus.load(folder)) for folder in unlabelled(dataset))
        self._labelled = sum(len(Corpus.load(dataset.extra_folder(name))) for name in dataset.extra_labelled)
        self._tests = [len(Corpus.load(dataset.test_folder(name))) for name in dataset.test_files]

    def measure(self, settings: Config) -> float:
        """Measures the kinds of run of the settings that are not measured yet. Returns the seconds that they trained.
        A kind that cannot be trained is told, and takes infinitely long. Raises OutOfTime at the deadline of the
        workspace."""
        try:
            return self._measure(settings)
        except OutOfTime:
            raise
        except UserError as error:
            warn(
                _("time: the speed of preset {preset} cannot be measured: {error}").format(
                    preset=settings.preset, error=error
                )
            )
            self._seconds = {_kind(run): math.inf for run in _all_runs(settings).values()} | self._seconds
            return 0.0

    def _measure(self, settings: Config) -> float:
        kinds = {_kind(run): _probe(run) for run in _all_runs(settings).values()}
        names = {kind: f"probe_{i}" for i, kind in enumerate(kinds) if kind not in self._seconds}
        if not names:
            return 0.0
        folder = self._workspace.output.time / "probes"
        shutil.rmtree(folder, ignore_errors=True)  # of a command that was killed: a job that is done measures nothing
        runs = {name: kinds[kind] for kind, name in names.items()}
        workspace = self._workspace.variant(settings.model_copy(update={"runs": runs, "denoisers": {}}))
        rows = min(ROWS, self._rows)
        jobs = [
            Job(
                name,
                "src.training.classification:train_fold",
                asdict(probe_job(workspace, self._here, name, folder / name, rows)),
            )
            for name in runs
        ]
        watch = _Stopwatch()
        executor = self._here.executor(settings.executor, len(jobs), self._workspace.deadline)
        failures = {failure.job.name: failure for failure in executor.run(jobs, watch)}
        for kind, name in names.items():
            self._seconds[kind] = math.inf if name in failures else watch.seconds[name] / rows
        for run, one in _all_runs(settings).items():
            if failure := failures.pop(names.get(_kind(one), ""), None):
                warn(
                    _("time: {run} of preset {preset} cannot be trained: {reason}").format(
                        run=run, preset=settings.preset, reason=failure.reason.strip()
                    )
                )
        shutil.rmtree(folder, ignore_errors=True)
        return watch.total

    def of(self, run: Run) -> float:
        """Measured seconds of a row in an epoch; infinite for what could not be trained."""
        return self._seconds[_kind(run)]

    def learn(self, what: str, predicted: float, needed: float) -> None:
        """Corrects later predictions of `what`, train or pretrain, by the time that was needed in all."""
        if 0 < predicted < math.inf:
            sums = self._sums.get(what, (SURE, SURE))
            self._sums[what] = sums[0] + needed, sums[1] + predicted / self._factor(what)

    def _factor(self, what: str) -> float:
        needed, predicted = self._sums.get(what, (1.0, 1.0))
        return needed / predicted

    def run_seconds(self, settings: Config, name: str, jobs: int) -> float:
        """Predicted seconds of training `jobs` folds of a run, and of predicting with them."""
        if not jobs:
            return 0.0
        run, runs = settings.runs[name], _all_runs(settings)
        share = 0.8 if settings.folds.scheme == "holdout" else 1 - 1 / settings.folds.k
        forward = self._forward(run)
        step = forward if run.remembers else self.of(run)  # each row is read once
        denoising = self._forward(runs[run.denoise.by]) if run.denoise.by else 0.0
        beside = self._unlabelled if run.train.teachers else self._labelled if run.train.extra_weight else 0
        learned = self._rows * share + beside
        left_out = self._labelled if run.train.own_epochs else 0
        held_out = self._rows * (1 - share)
        teaches = any(name in other.train.teachers for other in settings.runs.values())
        predicted = held_out * (1 + self._copies()) + sum(self._tests) + (self._unlabelled if teaches else 0)
        epochs = 1 if run.is_fitted else run.train.epochs
        texts = 1 if run.is_fitted else 1 + run.train.join  # read for each row
        steps = epochs * learned - run.train.own_epochs * left_out
        seconds = steps * (step + denoising * run.denoise.in_training * texts) + epochs * held_out * forward
        denoised = sum(view != "raw" for view in run.denoise.views)
        seconds += predicted * (forward * len(run.denoise.views) + denoising * denoised) + START
        return seconds * math.ceil(jobs / self._workers(settings, jobs)) * self._factor("train")

    def pretrain_seconds(self, settings: Config, names: Collection[str]) -> float:
        """Predicted seconds of the pretraining of the runs `names`, some of which may share it."""
        asking = [run for name, run in _all_runs(settings).items() if name in names and run.pretrain.epochs]
        encoders = {fingerprint(pretrain_settings(run)): run for run in asking}
        texts = self._rows + self._unlabelled
        # A single encoder has all cores, and threads gain less than processes.
        seconds = sum(
            run.pretrain.n_encoders(settings.folds)
            * (run.pretrain.epochs * texts * PASSES * self._forward(run) + START)
            for run in encoders.values()
        )
        return seconds * self._factor("pretrain")

    def _forward(self, run: Run) -> float:
        """Seconds of a forward pass of one row."""
        passes = (2 if run.train.attack != "none" else 1) * (2 if run.train.consistency else 1) * (1 + run.train.join)
        return self.of(run) / passes / PASSES

    def _copies(self) -> float:
        """Noisy copies of each train row that are predicted."""
        if not self.has_validation_sets:
            return DRAWS * len(self._tests)
        sets = self._workspace.validation_sets
        return sum(len(test.noised) for test in sets.tests) * len(sets.rows) / self._rows

    def _workers(self, settings: Config, jobs: int) -> int:
        return self._here.executor(settings.executor, jobs).workers


class _Stopwatch:
    """Watcher that keeps the seconds of the last epoch of each job, and those of all epochs in sum."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.total = 0.0

    def step(self, job: Job, news: dict[str, Any]) -> None:
        self.seconds[job.name] = news["seconds"]
        self.total += news["seconds"]

    def finish(self, job: Job, failure: Failure | None) -> None:
        pass


def _all_runs(settings: Config) -> dict[str, Run]:
    return {**settings.denoisers, **settings.runs}


def _probe(run: Run) -> Run:
    """The run without what does not matter to the speed of its steps."""
    train = {"epochs": EPOCHS, "seeds": [1], "patience": 0, "learning_rate": 1e-4, "teachers": []}
    train |= {"teacher_weight": 0.5, "extra_weight": 0.0, "own_epochs": 0, "target_weight": 0.0, "layer_decay": 1.0}
    # A head of neighbours has no steps, and reads as fast as another.
    model = run.model.model_copy(update={"head": "linear"}) if run.remembers else run.model
    return run.model_copy(
        update={
            "model": model,
            "pretrain": Pretrain(),
            "denoise": Denoise(),
            "train": run.train.model_copy(update=train),
        }
    )


def _kind(run: Run) -> str:
    """Stands for all runs whose steps take the same time."""
    return fingerprint(_probe(run).model_dump(mode="json"))
