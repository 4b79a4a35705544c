"""Engine on torch: the trained folds as training left them, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from src.core.errors import UserError
from src.serving.predictor import Rows
from src.training import devices
from src.training.denoising import Denoiser
from src.training.inference import mean_logits
from src.training.trained_fold import TrainedFold

CPU = torch.device("cpu")


class TorchEngine:
    """Trained folds, and the denoisers through which they read reports."""

    name = "torch"

    def __init__(self, folds: Sequence[TrainedFold], threads: int):
        self.folds, self._threads = folds, threads
        self._denoisers: dict[str, Denoiser] = {}
        for fold in folds:
            if fold.denoiser and (key := _denoised_by(fold)) not in self._denoisers:
                self._denoisers[key] = Denoiser.load(fold.denoiser, fold.run.denoise, CPU, fold.precision)

    @classmethod
    def load(cls, folders: Sequence[Path], root: Path, threads: int) -> TorchEngine:
        """Loads the trained folds in `folders` of the output folder `root`."""
        devices.set_up(CPU)
        return cls([load_fold(folder, root) for folder in folders], threads)

    def outputs(self, rows: Rows) -> np.ndarray:
        if torch.get_num_threads() != self._threads:  # a setting of the calling thread
            torch.set_num_threads(self._threads)
        views: dict[str, list[dict[str, np.ndarray]]] = {}
        found = []
        for fold in self.folds:
            key = _denoised_by(fold)
            if key not in views:
                views[key] = self.views(fold, rows)
            found.append(mean_logits(fold.model, views[key], rows.lengths, CPU, doubt=fold.run.denoise.doubt))
        return np.stack(found)

    def views(self, fold: TrainedFold, rows: Rows) -> list[dict[str, np.ndarray]]:
        """Inputs of rows as the fold's model reads them: one dictionary for each view."""
        if not fold.denoiser:
            return [rows.inputs]
        denoiser = self._denoisers[_denoised_by(fold)]
        return [{"tokens": seen} for seen in denoiser(rows.inputs["tokens"], rows.lengths, fold.run.denoise.views)]


def load_fold(folder: Path, root: Path) -> TrainedFold:
    """Loads the trained fold in a folder of the output folder `root`. Raises UserError where its settings make no model
    that its weights fit."""
    try:
        return TrainedFold.load(folder, CPU, root)
    except (RuntimeError, ValueError, AssertionError, MemoryError) as error:
        told = [line for line in str(error).splitlines() if line] or [type(error).__name__]
        raise UserError(f"the settings in {folder} make no model ({told[0]})") from error


def _denoised_by(fold: TrainedFold) -> str:
    """Text that stands for how a fold's reports are denoised; empty: not at all."""
    return f"{fold.denoiser} {fold.precision} {fold.run.denoise.model_dump_json()}" if fold.denoiser else ""
