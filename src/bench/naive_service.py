"""The service that one writes first: FastAPI, one report a request, PyTorch as it comes, no batching.

    python -m src.bench.naive_service BUNDLE PORT

It takes the bodies of ./run.sh serve, POST /predict {"tokens": "12 345 6"}, and gives the same probabilities. FastAPI
runs requests in threads, so that each has one thread of PyTorch: with more, they only wait for each other.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from src.core import storage
from src.data.corpus import Vocabulary, pad
from src.data.tasks import get_task
from src.ensemble.blending import BlendWeights
from src.training.denoising import Denoiser
from src.training.trained_fold import TrainedFold
from src.training.views import mean_of_views

CPU = torch.device("cpu")


class Request(BaseModel):
    tokens: str


def create_app(root: Path) -> FastAPI:
    """Serves the unpacked bundle in `root`."""
    record = json.loads((root / "bundle.json").read_text(encoding="utf-8"))
    task, data = get_task(record["task"]), record["data"]
    models: dict[str, list[TrainedFold]] = {}
    denoisers: dict[Path, Denoiser] = {}
    for name in record["models"]:
        run = root / "runs" / name
        folds = storage.read_json(run / "run.json")["fold_folders"]
        models[name] = [TrainedFold.load(run / fold, CPU, root) for fold in folds]
        for fold in models[name]:
            fold.model.eval()
            if fold.denoiser and fold.denoiser not in denoisers:
                denoisers[fold.denoiser] = Denoiser.load(fold.denoiser, fold.run.denoise, CPU, fold.precision)
    vocabulary = Vocabulary.load(root / "runs" / next(iter(models)) / "vocabulary.json")
    runs = {path.parent.name: storage.read_json(path) for path in root.glob("runs/*/run.json")}
    weights = {name: BlendWeights.from_json(run["weights"]) for name, run in runs.items() if run["kind"] == "blend"}

    def logits(name: str, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        if name in weights:
            return weights[name].apply([logits(member, tokens, lengths) for member in runs[name]["members"]])
        average = task.average(runs[name].get("average", "logits"))
        return average([_fold_logits(fold, denoisers, tokens, lengths) for fold in models[name]])

    app = FastAPI()

    @app.post("/predict")
    def predict(request: Request) -> dict[str, list[float]]:
        if torch.get_num_threads() != 1:  # a setting of each thread
            torch.set_num_threads(1)
        words = vocabulary.encode(np.array(request.tokens.split(), np.uint16))
        tokens, lengths = pad(words, np.array([0, len(words)]), data["max_len"], data["keep"])
        return {"values": task.decode(logits(record["name"], tokens[:, : lengths[0]], lengths))[0].tolist()}

    return app


def _fold_logits(
    fold: TrainedFold, denoisers: dict[Path, Denoiser], tokens: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    views = [tokens]
    if fold.denoiser:
        views = denoisers[fold.denoiser](tokens, lengths, fold.run.denoise.views)
    with torch.no_grad():
        found = [
            fold.model({"tokens": torch.from_numpy(view.astype(np.int32))}, torch.from_numpy(lengths.astype(np.int64)))
            for view in views
        ]
    return mean_of_views([one.numpy() for one in found], fold.run.denoise.doubt)


def main(bundle: str, port: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(bundle).extractall(folder)
        app = create_app(Path(folder))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
