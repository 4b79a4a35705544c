"""./run.sh predict RUN FILE: a trained run on any report file, written in the form of a submission.

    ./run.sh predict blend new_reports.csv --to new_predictions.csv

Labels in the file, if it has any, are used for nothing but the score that is printed at the end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src import metrics
from src.artifacts import Output
from src.blending import BlendWeights
from src.config import Config
from src.console import say, warn
from src.corpus import BLOCK, Vocabulary, encode
from src.errors import UserError
from src.executors import make_executor, raise_failures, run_shown
from src.prediction import mean_prediction, prediction_jobs
from src.reports import Reports, read_reports
from src.runs import RunFolder
from src.submissions import write_submission


def run(config: Config, name: str, file: Path, to: Path | None = None) -> None:
    output = Output(config.paths.output)
    source = RunFolder.load(output, name, config)
    path = to or output.root / f"prediction_{name}_{file.name}"
    if path.resolve() == file.resolve():
        raise UserError(f"--to {path} is the file of reports itself; name another")
    if path.is_dir():
        raise UserError(f"--to {path} is a folder; name a file")
    reports = read_reports(file)
    logits = _predict(config, output, source, reports)
    probabilities = metrics.sigmoid(logits.astype(np.float64))
    write_submission(path, reports.ids, probabilities, config.submit.eps)
    say(f"predict: {path} ({len(reports):,} reports x {logits.shape[1]} probabilities)")
    if reports.labels is not None:
        try:
            score = metrics.official_score(source.task, reports.labels_for(source.task), probabilities)
        except UserError as error:
            warn(f"no score: {error}")
        else:
            if reports.sha256 in source.record["train_files"]:
                warn(f"{name} was trained on these very reports: the score that follows is not out of fold")
            say(f"predict: score {score.value:.4f} ± {score.standard_error:.4f} against the labels in {file.name}")


def _predict(config: Config, output: Output, source: RunFolder, reports: Reports) -> np.ndarray:
    """Logits (N, n_labels) of a trained model, or of a blend from those of its members."""
    if source.is_blend:
        source.check_members()
        members = [RunFolder.load(output, member, config) for member in source.record["members"]]
        blend = BlendWeights.from_json(source.record["weights"])
        parts = [_predict(config, output, member, reports) for member in members]
        logits = np.empty_like(parts[0])  # float32, as the blend's own test_*.npy: the same file gives the same bytes
        for start in range(0, len(logits), BLOCK):
            rows = slice(start, start + BLOCK)
            logits[rows] = blend.apply([part[rows] for part in parts])
        return logits
    from src.hardware import pick_device  # torch, for which a misspelt name need not wait

    folder = output.predictions / f"{source.name}.{reports.sha256[:16]}"
    vocabulary = Vocabulary.load(source.path / "vocabulary.json")
    _, losses = encode([reports], vocabulary, None, **source.record["data"], folder=folder)
    if losses.unknown_tokens:
        words = ", ".join(map(str, losses.unknown_words[:10])) + (", …" if len(losses.unknown_words) > 10 else "")
        warn(
            f"{source.name}: {losses.unknown_tokens:,} tokens of {len(losses.unknown_words)} words were not in the "
            f"files that the run was trained with and are read as unknown: {words}"
        )
    if losses.truncated:
        data = source.record["data"]
        warn(f"{losses.truncated:,} reports are longer than max_len={data['max_len']}: their {data['keep']} is kept")
    parts = [source.path / part for part in source.record["fold_folders"]]
    device = pick_device(config.device)
    executor = make_executor(config.executor, device.type)
    raise_failures(run_shown(executor, "predict", prediction_jobs(parts, [folder], device.type)))
    return mean_prediction(parts, folder)
