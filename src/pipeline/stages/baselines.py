"""./run.sh baselines: the ladder that every score is shown beside, on the same folds as the models."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.core import storage, versions
from src.core.executors import Job, make_executor, raise_failures, run_shown
from src.core.settings import Config, fingerprint
from src.core.storage import Output
from src.core.terminal import duration, result
from src.data.corpus import Corpus, unpad
from src.data.dataset import Dataset
from src.data.splits import Folds
from src.evaluation import baselines, runs


def stamp_of(dataset: Dataset, folds: Folds) -> str:
    return fingerprint(
        {
            "train": dataset.manifest["train"],
            "folds": storage.array_hash(folds.table),
            "version": [versions.BASELINES, storage.libraries("scikit-learn", "scipy")],
        }
    )


def missing(config: Config, dataset: Dataset, stamp: str) -> list[str]:
    return [
        name
        for name in config.baselines
        if not storage.is_current(dataset.output.baselines / name / "score.json", stamp, ["oof.npy"])
    ]


@storage.marked("baselines")
def run(config: Config) -> None:
    started = time.perf_counter()
    dataset = Dataset.load(Output(config.paths.output))
    folds = dataset.load_folds()
    stamp = stamp_of(dataset, folds)
    lacking = missing(config, dataset, stamp)
    if not lacking:
        result(f"baselines: up to date ({', '.join(config.baselines)})")
        return
    scores = {}
    for name in lacking:
        oof = _tfidf(config, dataset, folds, stamp) if name == "tfidf" else _simple(name, dataset, folds)
        folder = dataset.output.baselines / name
        storage.write_npy(folder / "oof.npy", oof.astype(np.float32))
        how = "cross-fitted on the same folds as the models" if name in ("prior", "tfidf") else "nothing is fitted"
        scores[name] = score = runs.score_oof(dataset, oof, folds, how)
        storage.write_json(folder / "score.json", {"fingerprint": stamp, **score})
    runs.show_scores(scores)
    result(f"baselines: {dataset.output.baselines} ({duration(time.perf_counter() - started)})")


def _simple(name: str, dataset: Dataset, folds: Folds) -> np.ndarray:
    labels = np.asarray(dataset.train.labels)
    if name == "prior":
        return baselines.prior(labels, folds.first)
    return {"zeros": baselines.zeros, "random": baselines.random}[name](labels.shape)


def _tfidf(config: Config, dataset: Dataset, folds: Folds, stamp: str) -> np.ndarray:
    """Logits (N, n_labels), each row's by a regression that did not see it."""
    splits = [split for split in folds.splits() if split.seed == config.folds.seeds[0]]
    folder = dataset.output.baselines / "tfidf"
    outs = [folder / f"fold_{split.fold}.{stamp[:8]}.npy" for split in splits]
    jobs = []
    for split, out in zip(splits, outs, strict=True):
        if not out.exists():
            rows = out.with_suffix(".npz")
            arrays = {"train_rows": split.train_rows, "predicted_rows": split.predicted_rows}
            storage.write_atomic(rows, lambda file, arrays=arrays: np.savez(file, **arrays))
            payload = {"corpus": str(dataset.train_folder), "rows": str(rows), "out": str(out)}
            jobs.append(Job(f"tfidf fold_{split.fold}", f"{__name__}:fit_tfidf_fold", payload))
    raise_failures(run_shown(make_executor(config.executor, "cpu", len(splits)), "baselines", jobs))
    logits = np.full((len(dataset.train), dataset.task.n_labels), np.nan)
    for split, out in zip(splits, outs, strict=True):
        logits[split.predicted_rows] = np.load(out)
    return logits


def fit_tfidf_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """One job: TF-IDF and a logistic regression per label, for the predicted rows of one fold."""
    corpus = Corpus.load(Path(payload["corpus"]))
    tokens, offsets = unpad(np.asarray(corpus.tokens), np.asarray(corpus.lengths))
    with np.load(payload["rows"]) as rows:
        train, predicted = rows["train_rows"], rows["predicted_rows"]
    logits = baselines.tfidf_logistic(tokens, offsets, np.asarray(corpus.labels), train, predicted)
    storage.write_npy(Path(payload["out"]), logits)
