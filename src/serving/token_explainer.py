"""Contributions of a report's tokens to the logit of a run, for single requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.evaluation.runs import RunFolder
from src.reporting.attribution import STEPS, integrated_gradients
from src.reporting.explanations import member_shares
from src.serving.predictor import Rows
from src.serving.torch_engine import TorchEngine


class TokenExplainer:
    """Trained folds of a run on reports, and the share of each in the run's logits."""

    def __init__(self, engine: TorchEngine, shares: Sequence[np.ndarray]):
        """`shares`: (n_labels,) for each fold of the engine."""
        self._engine, self._shares = engine, shares

    @classmethod
    def load(cls, run: RunFolder, root: Path, folders: Sequence[Path]) -> TokenExplainer:
        """Loads the trained folds in `folders` of a run in the output folder `root`."""
        of_model = member_shares(run)
        folds = {model.name: len(model.record["fold_folders"]) for model in run.models()}
        shares = [of_model[folder.parent.name] / folds[folder.parent.name] for folder in folders]
        return cls(TorchEngine.load(folders, root, 1), shares)

    def __call__(self, rows: Rows, label: int) -> np.ndarray:
        """Contributions (T,) float64 to the logit of a label, of one row."""
        length, total = int(rows.lengths[0]), 0.0
        for fold, share in zip(self._engine.folds, self._shares, strict=True):
            if share[label]:
                views = self._engine.views(fold, rows)
                found = [integrated_gradients(fold.model, view["tokens"][0, :length], [label], STEPS) for view in views]
                total = total + share[label] * np.mean([part[0].numpy() for part in found], axis=0, dtype=np.float64)
        return np.asarray(total)
