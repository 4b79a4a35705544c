"""./run.sh submit [RUN]: one |,| CSV for each test file, read again and checked after writing."""

from __future__ import annotations

import numpy as np

from src.core import storage
from src.core.settings import Config
from src.core.storage import Output
from src.core.terminal import info, result, warn
from src.data import input_files
from src.data.corpus import Corpus
from src.data.dataset import Dataset
from src.data.submission_files import write_submission
from src.ensemble.submission_log import SubmissionLog
from src.evaluation import label_shift, runs
from src.evaluation.runs import RunFolder
from src.evaluation.validation_sets import ValidationSets, validation


@storage.marked("submit")
def run(config: Config, name: str | None = None) -> None:
    """Of the run `name`; of the pipeline's blend where none is named."""
    output = Output(config.paths.output)
    dataset = Dataset.load(output)
    source = RunFolder.load(output, name or "blend", config)
    runs.check_fits([source], dataset, dataset.load_folds())
    if not dataset.test_files:
        result(f"submit: nothing to do, no file in the input folder matches paths.test ({config.paths.test})")
    files = input_files.find_files(config.paths) if config.paths.input.is_dir() else None
    new = [path.name for path in files.test if path.name not in dataset.test_files] if files else []
    if new:
        warn(f"{', '.join(new)} came after the last run and gets no submission. Run: ./run.sh")
    for test in dataset.test_files:
        logits = source.test_logits(test)
        if config.submit.label_shift:
            logits = _moved(config, dataset, source, test, logits)
        ids = np.asarray(Corpus.load(dataset.test_folder(test)).ids)
        path = output.submission(test, name)
        write_submission(path, ids, dataset.task.decode(logits), config.submit.eps, dataset.task.line_format)
        noted = SubmissionLog(output.submissions).made(
            path,
            sha := storage.file_sha256(path),
            test=test,
            run=source.name,
            fingerprint=source.score["fingerprint"],
            how={"label_shift": config.submit.label_shift},
        )
        result(
            f"submit: {path} ({len(ids):,} reports x {logits.shape[1]} probabilities, run {source.name}, "
            f"sha256 {sha[:8]}…, noted as {noted.id})"
        )


def _moved(config: Config, dataset: Dataset, source: RunFolder, test: str, logits: np.ndarray) -> np.ndarray:
    """Logits moved to the label rates that the test file speaks for."""
    shift, folds, labels = ValidationSets.load(dataset, config), dataset.load_folds(), np.asarray(dataset.train.labels)
    shift.check_fits([source])
    rows = validation(config.select_on, shift.rows, shift.target(test), folds)
    oof = rows.logits(source.oof(), source.copies(test))
    moved, known, rates = label_shift.adapt(oof, labels[rows.rows], rows.weights, logits)
    info(f"submit: label rates of {test} moved by up to {np.abs(rates - known).max():.3f} (submit.label_shift)")
    return moved
