"""Views of a trained fold on the rows of each domain: its pooled features in two dimensions, and which tokens or
parameters carry its predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage
from src.core.executors import reads
from src.data.corpus import Corpus
from src.data.dataset import Dataset
from src.data.domains import Domains
from src.data.tasks import Task
from src.reporting.explanations import explained_fold
from src.training.job_specs import reference

MAPPED, EXPLAINED = 500, 40
"""Largest numbers of rows of a domain that are drawn in the map, and that are explained."""
STEPS = 8
"""Points on the line of integrated gradients: means over many rows need fewer than a single row."""
SEED = 0
"""Seed of the rows."""


def sampled(domains: Domains, labels: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Rows of the map, (M,), their domains, and whether the shown label is positive."""
    generator, found = np.random.default_rng(SEED), []
    for domain in range(len(domains)):
        rows = domains.rows(domain)
        found.append(np.sort(generator.choice(rows, min(len(rows), MAPPED), replace=False)))
    rows = np.concatenate(found)
    return {"rows": rows, "domain": domains.of_row[rows], "positive": shown_label(task, labels)[0][rows]}


def shown_label(task: Task, labels: np.ndarray) -> tuple[np.ndarray, str]:
    """The label, bool (N,), that divides the rows most evenly, and its name; of numbers, those above the median."""
    if not task.has_classes:
        return labels[:, 0] > np.median(labels[:, 0]), task.label_names[0]
    label = int(np.abs(labels.mean(axis=0) - 0.5).argmin())
    return labels[:, label] == 1, task.label_names[label]


def feature_names(dataset: Dataset) -> list[str]:
    """Names of the tokens, by their indices, or of the parameters and statics of the inputs."""
    if dataset.shape.kind == "tokens":
        reserved = ["PAD", "UNK", "MASK"]
        return [*reserved, *map(str, dataset.vocabulary.words.tolist())]
    return [*dataset.shape.parameters, *dataset.shape.statics]


def payload(output: Path, fold: Path, corpus: Path, rows: Path, out: Path) -> dict[str, Any]:
    """Payload of view()."""
    files = {"fold": fold, "corpus": corpus, "chosen": rows, "out": out}
    return {"output": str(output), **{name: reference(path, output) for name, path in files.items()}}


@reads(lambda payload: [*explained_fold(payload), payload["chosen"]])
def view(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job. Writes `points` (M, 2) of the chosen rows, principal components of the pooled features, with the
    share of variance of each; and `importance` (D, F), the mean size of each feature's contribution to the likeliest
    label of a row."""
    import torch
    from sklearn.decomposition import PCA

    from src.reporting.explanations import teller
    from src.training import devices
    from src.training.trained_fold import TrainedFold

    device, output = torch.device("cpu"), Path(payload["output"])
    devices.set_up(device)
    corpus = Corpus.load(output / payload["corpus"])
    trained = TrainedFold.load(output / payload["fold"], device, output)
    given = array_files.read_npz(output / payload["chosen"])
    inputs = trained.views(output / payload["corpus"])[0]
    features, logits = _pooled(trained.model, inputs, corpus.lengths, given["rows"], device)
    fitted = PCA(2, svd_solver="full").fit(features)
    tell = teller({**payload, "steps": STEPS, "occlude": False}, trained, corpus)
    importance = []
    for domain in np.unique(given["domain"]):
        places = np.flatnonzero(given["domain"] == domain)
        places = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), EXPLAINED)).astype(int))]
        total: np.ndarray | float = 0.0
        for place in places:
            row = int(given["rows"][place])
            sizes = np.abs(tell(row, [int(logits[place].argmax())])["contributions"][0])
            if "tokens" in corpus.inputs:
                tokens = np.asarray(corpus.inputs["tokens"][row, : len(sizes)])
                sizes = np.bincount(tokens, weights=sizes, minlength=trained.model.input_layer.embedding.num_embeddings)
            else:
                sizes = sizes.sum(axis=0)
            total = total + sizes
        importance.append(np.round(total / len(places), 5).tolist())
    storage.write_json(
        output / payload["out"],
        {
            "points": np.round(fitted.transform(features), 3).tolist(),
            "variance": np.round(fitted.explained_variance_ratio_, 4).tolist(),
            "importance": importance,
        },
    )


def _pooled(model: Any, inputs: Any, lengths: Any, rows: np.ndarray, device: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features (M, F) and logits (M, n_labels) of some rows."""
    import torch

    from src.training.batching import length_batches
    from src.training.inference import BATCH_SIZE

    model.eval()
    part = {name: np.asarray(array[rows]) for name, array in inputs.items()}
    features, logits = [], []
    batches = length_batches(part, np.asarray(lengths[rows]), BATCH_SIZE, device)
    with torch.inference_mode():
        for batch in batches:
            one, other = model.with_pooled(batch.inputs, batch.lengths)
            features.append(one.numpy())
            logits.append(other.numpy())
    order = np.argsort(np.concatenate([batch.rows for batch in batches]))
    return np.concatenate(features)[order].astype(np.float64), np.concatenate(logits)[order]
