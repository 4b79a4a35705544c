"""A trained fold, as it lies in its folder: the model, and what it reads of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from src.core import storage
from src.core.settings import Run
from src.data.corpus import Corpus
from src.models.classifier import Classifier, build_model
from src.training import checkpoints
from src.training.denoising import denoised_tokens


@dataclass(frozen=True)
class TrainedFold:
    model: Classifier
    run: Run
    """The settings that it was trained by."""
    denoiser: Path | None
    """The folder of the encoder that corrects what it reads; None: it reads reports as they are."""
    precision: str
    """Of training, and so of its denoised copies."""
    device: torch.device

    @classmethod
    def load(cls, fold: Path, device: torch.device) -> TrainedFold:
        """With the weights that result.json names. Raises UserError where the fold is not there."""
        result = storage.read_json(storage.require(fold / "result.json", "train"))
        run = Run.model_validate(result["run"])
        model = build_model(run.model, result["vocabulary_size"], result["n_labels"])
        checkpoints.load_weights(fold / f"{result['weights']}.safetensors", model)
        name = result.get("denoiser")  # runs from before there was denoising have none
        denoiser = storage.Output(fold.parents[2]).pretrained / name if name else None
        return cls(model.to(device), run, denoiser, result["environment"]["precision"], device)

    def views(self, folder: Path) -> list[dict[str, np.ndarray]]:
        """Inputs of the corpus in `folder`, as the model reads them: one dictionary for each view."""
        if self.denoiser is None:
            return [{"tokens": Corpus.load(folder).tokens}]
        views = denoised_tokens(folder, self.denoiser, self.run.denoise, self.device, self.precision)
        return [{"tokens": tokens} for tokens in views]
