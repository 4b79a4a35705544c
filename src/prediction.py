"""Trained folds on a corpus: one job for each pair, kept beside the fold's weights and named by the text's hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src import artifacts
from src.config import Run
from src.corpus import Corpus
from src.executors import Job


def prediction_jobs(folds: list[Path], corpora: list[Path], device: str) -> list[Job]:
    """The predictions that are not there yet: folders of trained folds x folders of encoded corpora."""
    jobs = []
    for corpus in corpora:
        for fold in folds:
            out = _path(fold, corpus)
            if not out.exists():
                payload = {"fold": str(fold), "corpus": str(corpus), "out": str(out), "device": device}
                label = f"{fold.parent.name} {fold.name.rsplit('.', 1)[0].replace('.', ' ')} on {corpus.name}"
                jobs.append(Job(label, "src.prediction:predict_fold", payload))
    return jobs


def mean_prediction(folds: list[Path], corpus: Path) -> np.ndarray:
    """Logits (N, n_labels) float32: the mean over trained folds whose predictions are there."""
    return np.mean(
        [np.load(artifacts.require(_path(fold, corpus), "train")) for fold in folds], axis=0, dtype=np.float32
    )


def predict_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """One job: loads the weights that the fold's result.json names, writes logits (N, n_labels)."""
    import torch

    from src import checkpoints, hardware
    from src.inference import predict_logits
    from src.models import build_model

    fold = Path(payload["fold"])
    result = artifacts.read_json(artifacts.require(fold / "result.json", "train"))
    device = torch.device(payload["device"])
    hardware.set_up(device)
    settings = Run.model_validate(result["run"]).model
    model = build_model(settings, result["vocabulary_size"], result["n_labels"])
    checkpoints.load_weights(fold / f"{result['weights']}.safetensors", model)
    corpus = Corpus.load(Path(payload["corpus"]))
    artifacts.write_npy(Path(payload["out"]), predict_logits(model.to(device), corpus.tokens, corpus.lengths, device))


def _path(fold: Path, corpus: Path) -> Path:
    return fold / f"logits.{artifacts.array_hash(np.load(corpus / 'tokens.npy', mmap_mode='r'))}.npy"
