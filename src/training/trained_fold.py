"""TrainedFold: a model with its weights, and the inputs that it reads of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.core.run_settings import Run
from src.data.corpus import Corpus
from src.data.inputs import InputShape
from src.data.tasks import Task, get_task
from src.models.classifier import Classifier, build_model
from src.training import checkpoints
from src.training.denoising import denoised_views


@dataclass(frozen=True)
class TrainedFold:
    model: Classifier
    task: Task
    run: Run
    """Settings of its training."""
    denoiser: Path | None
    """Folder of the encoder that denoises reports before the model reads them; None: reports are read as they are."""
    precision: str
    """Precision of training, and so of its denoised copies."""
    device: torch.device

    @classmethod
    def load(cls, fold: Path, device: torch.device, output: Path | None = None) -> TrainedFold:
        """Loads the weights that result.json names. The fold may lie in any folder; its denoiser is looked for in the
        folder `output`, or in the nearest folder above the fold that holds it. Raises UserError where one is missing.
        """
        result = storage.read_json(storage.require(fold / "result.json", "train"), "train")
        run, task = Run.model_validate(result["run"]), get_task(result["task"])
        model = build_model(
            run.model, InputShape.from_json(result["inputs"]), task.n_labels, None, run.features, run.train
        )
        checkpoints.load_weights(fold / f"{result['weights']}.safetensors", model, result)
        name = result.get("denoiser")
        denoiser = name and _find(name, fold, output)
        return cls(model.to(device), task, run, denoiser, result["environment"]["precision"], device)

    def views(self, folder: Path) -> list[dict[str, np.ndarray]]:
        """Inputs of the corpus in `folder`, as the model reads them: one dictionary for each view."""
        if self.denoiser is None:
            return [Corpus.load(folder).inputs]
        return denoised_views(folder, self.denoiser, self.run.denoise, self.device, self.precision)


def _find(reference: str, fold: Path, output: Path | None) -> Path:
    """Folder of the denoiser that a fold's result.json names by its place in the output folder."""
    roots = [output] if output else list(fold.absolute().parents)
    for root in roots:
        if (root / reference / "result.json").exists():
            return root / reference
    raise UserError(
        _(
            "{fold} reads reports through the encoder {reference}, which is not in {names}. Make "
            "it with: ./run.sh pretrain, or copy its folder there."
        ).format(fold=fold, reference=reference, names=" or ".join(map(str, roots)))
    )
