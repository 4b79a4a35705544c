"""./run.sh train [--model NAME …]: model x fold x seed as jobs, then each run's out-of-fold and test logits.

./run.sh train --model lstm train.epochs=6
"""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import yaml

from src.core import storage, versions
from src.core.executors import Failure, Job, make_executor, raise_failures, run_shown
from src.core.settings import Config, Run, fingerprint
from src.core.storage import Output
from src.core.terminal import duration, info, result
from src.data.dataset import Dataset
from src.data.splits import Folds
from src.evaluation import runs
from src.evaluation.validation_sets import ShiftedTest, ValidationSets
from src.training import device_cache
from src.training.job_specs import FoldJob, described, is_trained
from src.training.planning import fold_jobs, unlabelled, work_of
from src.training.prediction import mean_prediction, out_of_fold_prediction, prediction_jobs
from src.training.tracking import Tracking, tracking_of

if TYPE_CHECKING:
    import pandas as pd


def run(config: Config) -> None:
    output = Output(config.paths.output)
    with storage.at_work(output, *(f"train.{name}" for name in config.runs)):
        _train_all(config, Dataset.load(output))


def _train_all(config: Config, dataset: Dataset) -> None:
    folds = dataset.load_folds()
    shift = ValidationSets.load(dataset, config)
    started = time.perf_counter()

    device, jobs = _jobs_here(config, dataset, folds, shift)
    total = sum(map(len, jobs.values()))
    n_missing = sum(not is_trained(job) for group in jobs.values() for job in group)
    if n_missing:
        info(f"train: {n_missing} of {total} folds to train on {device}")
    else:
        info(f"train: all {total} folds are up to date")
    # Those that others learn from come first.
    taught = {name for name in jobs if config.runs[name].train.teachers}
    failures, tracking = [], tracking_of(config)
    for names in (jobs.keys() - taught, taught):
        if not failures:
            wave = {name: group for name, group in jobs.items() if name in names}
            failures += _train(config, dataset, folds, shift, device, wave, total, taught, tracking)
    raise_failures(failures)
    result(f"train: {len(jobs)} runs in {dataset.output.runs} ({duration(time.perf_counter() - started)})")


def _train(
    config: Config,
    dataset: Dataset,
    folds: Folds,
    shift: ValidationSets,
    device: str,
    jobs: dict[str, list[FoldJob]],
    total: int,
    taught: set[str],
    tracking: Tracking,
) -> list[Failure]:
    """Trains what is missing of these runs, and assembles those that are whole."""
    executor = make_executor(config.executor, device, total)
    missing = [
        (f"{name} {job.path.name.rsplit('.', 1)[0].replace('.', ' ')}", job)
        for name, group in jobs.items()
        for job in group
        if not is_trained(job)
    ]
    training = [
        Job(label, "src.training.classification:train_fold", asdict(job), work_of(job)) for label, job in missing
    ]
    failures = []
    if training:
        failures = run_shown(executor, "train", training, described, tracking)
    for job in itertools.chain(*jobs.values()):
        if is_trained(job):
            tracking.history(job)

    root, failed = dataset.output.root, {failure.job.payload["folder"] for failure in failures}
    # A run that is whole has no use for the predictions of its folds any more, unless others learn from them.
    lacking = [name for name, group in jobs.items() if not is_assembled(config, dataset, folds, shift, name, group)]
    trained = [job.path for name in lacking for job in jobs[name] if job.folder not in failed]
    predictions = prediction_jobs(root, trained, [dataset.test_folder(name) for name in dataset.test_files], device)
    copies = [copy for test in shift.tests for copy in test.noised]
    predictions += prediction_jobs(root, trained, copies, device, shift.rows_path)
    teachers = {teacher for name in taught for teacher in config.runs[name].train.teachers}
    teaching = [job.path for name in teachers & jobs.keys() for job in jobs[name] if job.folder not in failed]
    known = {prediction.payload["out"] for prediction in predictions}
    predictions += [
        prediction
        for prediction in prediction_jobs(root, teaching, unlabelled(dataset), device)
        if prediction.payload["out"] not in known
    ]
    failures += run_shown(executor, "predict", predictions)
    failed |= {failure.job.payload["fold"] for failure in failures if "fold" in failure.job.payload}
    for name, group in jobs.items():
        if not failed.isdisjoint(job.folder for job in group):
            continue
        if name in lacking:
            _assemble(config, dataset, folds, shift, name, group)
        score = storage.read_json(dataset.output.run(name) / "score.json")
        result(f"train: {name} {runs.headline(score)}")
        tracking.score(dataset.output.run(name))
    return failures


def _jobs_here(
    config: Config, dataset: Dataset, folds: Folds, shift: ValidationSets
) -> tuple[str, dict[str, list[FoldJob]]]:
    """The device of this machine, and the jobs of each run on it, whether done or not."""
    here = device_cache.recall(dataset.output, config.device)
    if here is not None:
        jobs = fold_jobs(config, dataset, folds, shift, here)
        if all(
            all(map(is_trained, group)) and is_assembled(config, dataset, folds, shift, name, group)
            for name, group in jobs.items()
        ):
            return here.device, jobs
    here = device_cache.find(dataset.output, config.device)
    return here.device, fold_jobs(config, dataset, folds, shift, here)


def _labelled_extras(config: Config, dataset: Dataset, run: Run) -> list[str]:
    """sha256 of the extra files whose labels the run, or a teacher of it, was trained on."""
    taught_by = [config.runs[teacher] for teacher in run.train.teachers]
    if not any(one.train.extra_weight for one in [run, *taught_by]):
        return []
    files = [file for file in dataset.manifest["files"] if file["role"] == "extra"]
    return [file["sha256"] for file in files if file["name"] in dataset.extra_labelled]


def _assemble(
    config: Config, dataset: Dataset, folds: Folds, shift: ValidationSets, name: str, jobs: list[FoldJob]
) -> None:
    """The run folder's own files, from those of its folds; score.json last."""
    folder = dataset.output.run(name)
    (folder / "score.json").unlink(missing_ok=True)
    parts = [job.path for job in jobs]
    run = config.runs[name]
    storage.write_text(folder / "config.yaml", yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False))
    made_by = {part.name: storage.read_json(part / "result.json")["environment"] for part in parts}
    storage.write_json(folder / "environment.json", made_by)
    dataset.vocabulary.save(folder / "vocabulary.json")
    record = {
        **runs.make_record("model", config, dataset, folds, shift.fingerprint, name),
        "fold_folders": [part.name for part in parts],
        "extra_files": _labelled_extras(config, dataset, run),
    }
    storage.write_json(folder / "run.json", record)
    storage.write_text(folder / "history.csv", _history(jobs).to_csv(index=False))
    oof = _mean_of_parts(jobs, len(dataset.train), dataset.task.n_labels)
    storage.write_npy(folder / "oof.npy", oof)
    for test in dataset.test_files:
        storage.write_npy(runs.test_path(folder, test), mean_prediction(parts, dataset.test_folder(test)))
    for test in shift.tests:
        copies = np.empty((len(test.noised), len(shift.rows), dataset.task.n_labels), dtype=np.float32)
        for i, copy in enumerate(test.noised):
            copies[i] = out_of_fold_prediction(parts, copy, shift.rows_path, dataset.task.n_labels)
        storage.write_npy(runs.copies_path(folder, test.name), copies)
        storage.write_npy(runs.folds_path(folder, test.name), _by_fold(jobs, dataset, test))
    score = runs.score_oof(dataset, oof, folds, *_how(config, run, folds))
    stamp = _stamp(config, dataset, folds, shift, jobs)
    storage.write_json(folder / "score.json", {"fingerprint": stamp, **score})


def is_assembled(
    config: Config, dataset: Dataset, folds: Folds, shift: ValidationSets, name: str, jobs: list[FoldJob]
) -> bool:
    """Whether _assemble has nothing to do."""
    beside = runs.files(dataset.test_files, "vocabulary.json", "history.csv")
    stamp = _stamp(config, dataset, folds, shift, jobs)
    return storage.is_current(dataset.output.run(name) / "score.json", stamp, beside)


def _stamp(config: Config, dataset: Dataset, folds: Folds, shift: ValidationSets, jobs: list[FoldJob]) -> str:
    return fingerprint(
        {
            "jobs": [job.fingerprint for job in jobs],
            "tests": dataset.test_texts,
            "folds": storage.array_hash(folds.table),
            "shift": shift.fingerprint,
            "data": config.data.model_dump(),
            "version": versions.SCORE,
        }
    )


def _history(jobs: list[FoldJob]) -> pd.DataFrame:
    import pandas as pd

    tables = []
    for job in jobs:
        table = pd.read_csv(job.path / "history.csv")
        table.insert(0, "seed", job.seed)
        table.insert(0, "fold", job.fold)
        tables.append(table)
    return pd.concat(tables)


def _mean_of_parts(jobs: list[FoldJob], n_rows: int, n_labels: int) -> np.ndarray:
    """Logits (n_rows, n_labels): the mean over seeds and repetitions, each by a model that did not train on the row."""
    total, count = np.zeros((n_rows, n_labels)), np.zeros((n_rows, 1))
    for job in jobs:
        with np.load(job.locate(job.split)) as split:
            rows = split["predicted_rows"]
        total[rows] += np.load(job.path / "logits.npy")
        count[rows] += 1
    with np.errstate(invalid="ignore"):
        return (total / count).astype(np.float32)  # 0 / 0 is NaN: no model may judge that row


def _by_fold(jobs: list[FoldJob], dataset: Dataset, test: ShiftedTest) -> np.ndarray:
    """Logits (k, m, n_labels) of the reports of a test file that were looked at, one for each fold: the mean over its
    models. An out-of-fold prediction is by one fold too, so that the two can be compared."""
    corpus, rows = dataset.test_folder(test.name), test.array("test_rows")
    folds = sorted({job.fold for job in jobs})
    return np.stack([mean_prediction([job.path for job in jobs if job.fold == fold], corpus)[rows] for fold in folds])


def _how(config: Config, run: Run, folds: Folds) -> tuple[str, bool]:
    """How the scored logits came about, and whether that makes the score optimistic."""
    if folds.scheme == "holdout":
        return "test part of the holdout, on which no choice was made", False
    if run.train.patience:
        return "out of fold, but each fold stopped at its own best epoch: optimistic", True
    if any(config.runs[teacher].train.patience for teacher in run.train.teachers):
        return "out of fold, but a teacher stopped at its best epoch of each fold: optimistic", True
    return "out of fold, epochs fixed beforehand", False
