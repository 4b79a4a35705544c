"""A trained fold as it is loaded, beside what it said in training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.core.storage import Output
from src.data.dataset import Dataset
from src.training.inference import mean_logits
from src.training.trained_fold import TrainedFold

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_it_says_what_it_said_in_training(copy, name):
    """By the weights that its result names, whatever lies beside them."""
    (fold,) = (copy / "runs" / name).glob("fold_0.*")
    result = json.loads((fold / "result.json").read_text())
    other = {"last": "best", "best": "last"}[result["weights"]]
    (fold / f"{other}.safetensors").unlink()
    trained, dataset = TrainedFold.load(fold, CPU), Dataset.load(Output(copy))
    with np.load(fold / "split.npz") as split:
        rows = split["predicted_rows"]
    views = trained.views(dataset.train_folder)
    found = mean_logits(trained.model, views, dataset.train.lengths, CPU, rows)
    np.testing.assert_allclose(found, np.load(fold / "logits.npy"), atol=1e-5)
    assert trained.run.model.model_dump(mode="json") == result["run"]["model"] and trained.denoiser is None


def test_a_fold_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"\./run\.sh train"):
        TrainedFold.load(tmp_path, CPU)
