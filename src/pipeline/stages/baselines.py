"""./run.sh baselines: baselines that every score is compared with, on the same folds as the models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage, versions
from src.core.executors import Job, make_executor, raise_failures, reads, run_shown
from src.core.language import _
from src.core.run_settings import Run
from src.core.settings import fingerprint
from src.core.settings_loader import model_settings
from src.core.targets import Target
from src.core.terminal import duration, result
from src.data.corpus import Corpus, unpad
from src.data.inputs import InputShape
from src.data.tasks import get_task
from src.evaluation import baselines, runs
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Stage
from src.training.job_specs import reference


class Baselines(Stage):
    name = "baselines"
    needs = ("folds",)
    counted = _("baselines")

    def names(self, workspace: Workspace) -> list[str]:
        return list(workspace.settings.baselines)

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.baselines / name / "score.json"

    def targets(self, workspace: Workspace) -> list[Target]:
        stamp = fingerprint(
            {
                "train": workspace.dataset.manifest["train"],
                "outcomes": workspace.dataset.manifest.get("outcomes"),
                "folds": storage.array_hash(workspace.splits.table),
                "models": {name: _run_of(name).model_dump(mode="json") for name in TABULAR},
                **runs.judged_by(workspace),
                **workspace.task.version,
                "version": [versions.BASELINES, storage.libraries("scikit-learn", "scipy")],
            }
        )
        results = {name: self.result(workspace, name) for name in self.names(workspace)}
        return [Target(name, path, stamp, (path.with_name("oof.npy"),)) for name, path in results.items()]

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return _("baselines: up to date ({names})").format(names=", ".join(self.names(workspace)))

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        started = time.perf_counter()
        scores = {}
        for target in missing:
            fit = _by_fold if target.name in JOBS else _simple
            oof = fit(workspace, target)
            array_files.write_npy(target.result.with_name("oof.npy"), oof.astype(np.float32))
            is_fitted = target.name not in ("zeros", "random")
            how = "cross-fitted on the same folds as the models" if is_fitted else "nothing is fitted"
            scores[target.name] = score = runs.score_oof(workspace, oof, how)
            target.write(score)
        runs.show_scores(scores, workspace.settings.metric)
        result(
            _("baselines: {baselines} ({time})").format(
                baselines=workspace.output.baselines, time=duration(time.perf_counter() - started)
            )
        )


STAGE = Baselines()


TABULAR = ("linear", "boosting")
"""Baselines that are models of their names in presets/models/."""
JOBS = {"tfidf": "fit_tfidf_fold", **dict.fromkeys(TABULAR, "fit_tabular_fold")}
"""Function that fits one fold of the baselines that take long."""


def _simple(workspace: Workspace, target: Target) -> np.ndarray:
    labels, folds, task = workspace.labels, workspace.splits.first, workspace.task
    if target.name == "prior":
        if task.version:
            labels = np.where(task.counted_cells(labels), labels, np.nan)
        return baselines.constant(labels, folds, baselines.CONSTANTS[task.kind])
    if target.name == "median":
        return baselines.constant(labels, folds, baselines.median)
    if target.name == "saps":
        return baselines.severity(workspace.dataset.outcomes["SAPS-I"], labels, folds, task.kind)
    return {"zeros": baselines.zeros, "random": baselines.random}[target.name](labels.shape)


def _by_fold(workspace: Workspace, target: Target) -> np.ndarray:
    """Logits (N, n_labels), each row's by a model that did not see the row."""
    settings, dataset = workspace.settings, workspace.dataset
    splits = [split for split in workspace.splits.splits() if split.seed == settings.folds.seeds[0]]
    outs = [target.result.with_name(f"fold_{split.fold}.{target.fingerprint[:8]}.npy") for split in splits]
    jobs = []
    for split, out in zip(splits, outs, strict=True):
        if not array_files.is_whole(out):
            rows = out.with_suffix(".npz")
            arrays = {"train_rows": split.train_rows, "predicted_rows": split.predicted_rows}
            array_files.write_npz(rows, **arrays)
            files = {"corpus": dataset.train_folder, "rows": rows, "out": out}
            payload = {
                "output": str(workspace.output.root),
                "baseline": target.name,
                "task": dataset.task.name,
                "inputs": dataset.shape.to_json(),
                **{name: reference(path, workspace.output.root) for name, path in files.items()},
            }
            jobs.append(Job(f"{target.name} fold_{split.fold}", f"{__name__}:{JOBS[target.name]}", payload))
    raise_failures(run_shown(make_executor(settings.executor, "cpu", len(splits)), "baselines", jobs))
    logits = np.full(workspace.labels.shape, np.nan)
    for split, out in zip(splits, outs, strict=True):
        logits[split.predicted_rows] = array_files.read_npy(out)
    return logits


READS = reads(lambda payload: [f"{payload['corpus']}/", payload["rows"]])


@READS
def fit_tfidf_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """One job: TF-IDF and a logistic regression per label, for the predicted rows of one fold."""
    output = Path(payload["output"])
    corpus = Corpus.load(output / payload["corpus"])
    tokens, offsets = unpad(np.asarray(corpus.tokens), np.asarray(corpus.lengths))
    rows = array_files.read_npz(output / payload["rows"])
    train, predicted = rows["train_rows"], rows["predicted_rows"]
    logits = baselines.tfidf_logistic(tokens, offsets, np.asarray(corpus.labels), train, predicted)
    array_files.write_npy(output / payload["out"], logits)


@READS
def fit_tabular_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """One job: the model of the baseline's name on summary features, for the predicted rows of one fold."""
    import torch

    from src.models.classifier import build_model
    from src.training.classification import fit_to_rows
    from src.training.inference import predict_logits
    from src.training.rows import Rows

    output, task, cpu = Path(payload["output"]), get_task(payload["task"]), torch.device("cpu")
    corpus = Corpus.load(output / payload["corpus"])
    run = _run_of(payload["baseline"])
    rows = array_files.read_npz(output / payload["rows"])
    train, predicted = Rows.of(corpus, rows["train_rows"]), rows["predicted_rows"]
    model = build_model(run.model, InputShape.from_json(payload["inputs"]), task.n_labels)
    fit_to_rows(task, model, train, run.train, seed=1)
    logits = predict_logits(model, corpus.inputs, corpus.lengths, cpu, predicted)
    array_files.write_npy(output / payload["out"], logits)


def _run_of(name: str) -> Run:
    return Run.model_validate(model_settings(name))
