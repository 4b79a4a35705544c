"""A trained fold as it is loaded, beside what it said in training."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.core.storage import Output
from src.data.dataset import Dataset
from src.training.classification import train_fold
from src.training.inference import mean_logits
from src.training.job_specs import FoldJob, reference
from src.training.trained_fold import TrainedFold

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_it_says_what_it_said_in_training(copy, name):
    """A trained fold has the weights that its result names, whatever lies beside them."""
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


def test_a_job_runs_where_the_same_output_tree_lies(copy, tmp_path):
    """A job names files by their place in the output folder: another machine replaces `output` alone."""
    (fold,) = (copy / "runs/lstm").glob("fold_0.*")
    result = json.loads((fold / "result.json").read_text())
    (vectors,) = (copy / "vectors").glob("ppmi_16.*")
    job = FoldJob(
        run=result["run"],
        task="round1",
        inputs=result["inputs"],
        vectors=reference(vectors, copy),
        device="cpu",
        precision=result["environment"]["precision"],
        output=str(copy),
        folder="runs/lstm/again",
        fingerprint=result["fingerprint"],
        corpus=reference(copy / "data/train", copy),
        pretrained=None,
        denoiser=None,
        split=reference(fold / "split.npz", copy),
        outcomes=None,
        weights=None,
        beside=[],
        valid=None,
        valid_corpora=["data/train"],
        fold=result["fold"],
        seed=result["seed"],
    )
    assert job.vectors == f"vectors/{vectors.name}" and job.corpus == "data/train"
    there = tmp_path / "mounted/elsewhere"
    shutil.move(copy, there)
    moved = replace(job, output=str(there))
    assert not moved.is_done()
    train_fold(json.loads(json.dumps(asdict(moved))), lambda news: None)
    assert moved.is_done() and moved.path == there / "runs/lstm/again"
    expected = np.load(there / reference(fold, copy) / "logits.npy")
    np.testing.assert_allclose(np.load(moved.path / "logits.npy"), expected, atol=1e-5)


def test_a_reference_is_a_place_in_the_output_folder_or_an_absolute_path(tmp_path):
    assert reference(tmp_path / "out/runs/a.npy", tmp_path / "out") == "runs/a.npy"
    assert reference(tmp_path / "a.npy", tmp_path / "out") == str(tmp_path / "a.npy")


def test_a_fold_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"\./run\.sh train"):
        TrainedFold.load(tmp_path, CPU)
