"""Tasks: loss, decoding, score and line format of each."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from src.core.settings import ROOT
from src.data.submission_files import read_submission, write_submission
from src.data.tasks import KINDS, TASKS
from src.evaluation.metrics import FIGURES, log_loss_cells, official_score

EACH = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def example(task, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 2, (n, task.n_labels)), (rng.random((n, task.n_labels)) < 0.3).astype(np.float64)


@EACH
def test_the_loss_is_the_log_loss_of_what_is_decoded(task):
    outputs, labels = example(task)
    ones = torch.ones(len(labels), dtype=torch.float64)
    loss = task.loss(torch.from_numpy(outputs), torch.from_numpy(labels), ones)
    probabilities = task.decode(outputs)
    assert loss.item() == pytest.approx(log_loss(labels.ravel(), probabilities.ravel()), rel=1e-9)
    weights = np.random.default_rng(1).random(len(labels))
    weighted = task.loss(torch.from_numpy(outputs), torch.from_numpy(labels), torch.from_numpy(weights))
    expected = (log_loss_cells(labels, probabilities).mean(axis=1) * weights).mean()
    assert weighted.item() == pytest.approx(expected, rel=1e-6)


@EACH
def test_the_score_is_that_of_the_losses_of_its_groups(task):
    outputs, labels = example(task)
    probabilities = task.decode(outputs)
    cells, losses = log_loss_cells(labels, probabilities), {}
    for group in task.groups:
        losses[group.name] = cells[task.counted(group, labels), task.columns[group.name]].mean()
    assert official_score(task, labels, probabilities).value == pytest.approx(task.score(losses), rel=1e-12)
    assert task.score(dict.fromkeys(losses, 0.0)) == pytest.approx(1)


@EACH
def test_its_metrics_and_its_kind_are_there(task):
    assert set(task.metrics) <= set(FIGURES) and task.kind in KINDS
    assert len(task.label_names) == task.n_labels


@EACH
def test_its_lines_are_read_back(task, tmp_path):
    outputs, _ = example(task, 2)
    ids = np.array([b"7", b"x1"])
    write_submission(tmp_path / "submission.csv", ids, task.decode(outputs), 1e-7, task.line_format)
    ids_back, values = read_submission(tmp_path / "submission.csv")
    assert np.array_equal(ids_back, ids)
    np.testing.assert_allclose(values, task.decode(outputs), rtol=1e-8)


def test_tasks_are_known_without_torch():
    code = "import sys; from src.data.tasks import TASKS; TASKS['round1'].decode([0.0]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
