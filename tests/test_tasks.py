"""Tasks: loss, decoding, score and line format of each."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_absolute_error

from src.core.settings import ROOT
from src.data.submission_files import read_submission, write_submission
from src.data.tasks import (
    ICU,
    KINDS,
    LOS,
    REPORT_TASKS,
    ROUND1,
    ROUND2,
    SCORE_NAMES,
    TASKS,
    frames,
    get_task,
    task_of_width,
)
from src.evaluation.metrics import FIGURES, official_score
from tests.conftest import error_of

ALL = {**TASKS, "frames2": frames(2), "frames10": frames(10)}
EACH = pytest.mark.parametrize("task", ALL.values(), ids=ALL)


def example(task, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and labels, (n, n_labels) float64 each."""
    rng = np.random.default_rng(0)
    outputs = rng.normal(0, 2, (n, task.n_labels))
    if task.kind == "regression":
        return outputs, rng.gamma(2, 6, outputs.shape).round()
    if task.kind == "multiclass":
        return outputs, np.eye(task.n_labels)[rng.integers(0, task.n_labels, n)]
    return outputs, (rng.random(outputs.shape) < 0.3).astype(np.float64)


def sklearn_loss(task, labels, predictions) -> float:
    if task.kind == "regression":
        return mean_absolute_error(labels, predictions)
    if task.kind == "multiclass":
        return log_loss(labels.argmax(axis=1), predictions, labels=np.arange(task.n_labels))
    return log_loss(labels.ravel(), predictions.ravel())


def test_types_count_where_a_region_is_abnormal():
    labels = torch.zeros((4, 29))
    labels[0, [3, 20]] = 1
    labels[2, 3], labels[3, :17] = 0.01, float("nan")  # a teacher's probability, and labels that are unknown
    counted = ROUND2.counted_labels(labels)
    assert counted.isnan()[:, 17:].all(dim=1).tolist() == [False, True, False, False]
    torch.testing.assert_close(counted[:, :17], labels[:, :17], equal_nan=True)
    torch.testing.assert_close(counted[[0, 2, 3], 17:], labels[[0, 2, 3], 17:])
    assert not labels[:, 17:].isnan().any(), "the labels themselves stay as they are"
    assert ROUND1.counted_labels(labels[:, :17]) is not None and ROUND1.counted_labels(labels[:, :17]).isnan().any()
    for row in range(2):
        assert ROUND2.counted(ROUND2.groups[1], labels[row : row + 1].numpy()) == [not row]


def test_rates_and_predictions_of_types_are_those_of_reports_with_an_abnormal_region():
    labels = np.zeros((4, 29), dtype=np.uint8)
    labels[:2, 3], labels[0, 20], labels[1, 20:22] = 1, 1, 1
    rates, cells = ROUND2.rates(labels), ROUND2.counted_cells(labels)
    assert (rates[3], rates[20], rates[21]) == (0.5, 1.0, 0.5) and rates.sum() == 2
    assert cells[:, :17].all() and cells[:, 17:].all(axis=1).tolist() == [True, True, False, False]
    assert (ROUND2.rates(np.zeros((3, 29))) == 0).all()
    np.testing.assert_array_equal(ROUND1.rates(labels[:, :17]), labels[:, :17].mean(axis=0))
    predictions = np.full((2, 29), 0.2)
    predictions[0, [2, 3]], predictions[:, 20], predictions[1, :17] = 0.5, 0.9, 0.1
    bounded = ROUND2.bounded(predictions)
    assert bounded[:, 20].tolist() == [0.5, 0.1] and bounded[0, 21] == 0.2 and predictions[0, 20] == 0.9
    np.testing.assert_array_equal(bounded[:, :17], predictions[:, :17])
    np.testing.assert_array_equal(ROUND1.bounded(predictions[:, :17]), predictions[:, :17])
    types = ROUND2.groups[1]
    assert ROUND2.chance_to_count(types, predictions) == pytest.approx([1 - 0.5**2 * 0.8**15, 1 - 0.9**17])
    assert ROUND2.chance_to_count(ROUND2.groups[0], predictions) is None


def test_probabilities_of_types_in_any_report_and_in_one_with_an_abnormal_region():
    soft = np.zeros((3, 29), dtype=np.float32)
    soft[0, :2], soft[0, 20], soft[1, 3], soft[1, 21:23], soft[2, 20] = 0.5, 0.8, 1, (1, np.nan), 0
    marginal = ROUND2.marginal(soft)
    assert marginal[0, 20] == pytest.approx(0.8 * 0.75) and marginal[1, 21] == 1 and np.isnan(marginal[1, 22])
    np.testing.assert_array_equal(marginal[:, :17], soft[:, :17])
    np.testing.assert_allclose(ROUND2.conditional(marginal), soft, rtol=1e-6)
    assert ROUND1.marginal(soft[:, :17]) is not None and ROUND1.version == {} and ROUND2.version
    predictions = np.full((3, 29), 0.3)
    judged = ROUND2.judged((soft > 0.4).astype(int), predictions)
    assert (judged[:2] == 0.3).all() and (judged[2, :17] == 0.3).all() and (judged[2, 17:] == 0).all()
    assert ROUND1.judged(soft[:, :17], predictions[:, :17]) is not None


@EACH
def test_the_loss_is_scikit_learns_of_what_is_decoded(task):
    outputs, labels = example(task)
    ones = torch.ones(len(labels), dtype=torch.float64)
    loss = task.loss(torch.from_numpy(outputs), torch.from_numpy(labels), ones)
    predictions = task.decode(outputs)
    assert loss.item() == pytest.approx(sklearn_loss(task, labels, predictions), rel=1e-9)
    weights = np.random.default_rng(1).random(len(labels))
    weighted = task.loss(torch.from_numpy(outputs), torch.from_numpy(labels), torch.from_numpy(weights))
    expected = (task.cells(labels, predictions).mean(axis=1) * weights).mean()
    assert weighted.item() == pytest.approx(expected, rel=1e-6)


@EACH
def test_the_score_is_that_of_the_losses_of_its_groups(task):
    outputs, labels = example(task)
    predictions = task.decode(outputs)
    cells, losses = task.cells(labels, predictions), {}
    for group in task.groups:
        losses[group.name] = cells[task.counted(group, labels), task.columns[group.name]].mean()
    assert official_score(task, labels, predictions).value == pytest.approx(task.score(losses), rel=1e-12)
    perfect = 0 if task.kind == "regression" else 1
    assert task.score(dict.fromkeys(losses, 0.0)) == pytest.approx(perfect)
    assert official_score(task, labels, labels).value == pytest.approx(perfect, abs=1e-6)


@EACH
def test_its_metrics_and_its_kind_are_there(task):
    assert set(task.metrics) <= set(FIGURES) and set(KINDS[task.kind].scores) <= set(SCORE_NAMES)
    assert len(task.label_names) == task.n_labels == len(set(task.label_names))


@EACH
def test_its_lines_are_read_back(task, tmp_path):
    outputs, _ = example(task, 2)
    ids = np.array([b"7", b"x1"])
    write_submission(tmp_path / "submission.csv", ids, task.decode(outputs), 1e-7, task)
    ids_back, values = read_submission(tmp_path / "submission.csv", task)
    assert np.array_equal(ids_back, ids)
    np.testing.assert_allclose(values, task.decode(outputs), rtol=1e-8)


@EACH
def test_predictions_disagree_with_others_alone(task):
    left, right = (torch.from_numpy(example(task)[0] + shift) for shift in (0, np.arange(task.n_labels) + 1))
    distance = task.disagreement(left, right)
    assert distance.shape == (40,) and (distance > 0).all()
    assert torch.allclose(distance, task.disagreement(right, left))
    assert torch.allclose(task.disagreement(left, left), torch.zeros(40, dtype=torch.float64))
    if task.kind == "multiclass":  # a constant added to all logits of a row changes nothing
        assert torch.allclose(task.disagreement(left, left + 3), torch.zeros(40, dtype=torch.float64))


@pytest.mark.parametrize("task", [ROUND1, ROUND2], ids=["round1", "round2"])
def test_an_unknown_label_has_no_loss_and_no_gradient(task):
    outputs, labels = (torch.from_numpy(array.astype(np.float32)) for array in example(task))
    outputs.requires_grad_()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
    assert torch.equal(task.losses(outputs, labels), plain.mean(dim=1)), "the same bytes where all labels are known"
    known = torch.from_numpy(np.random.default_rng(1).random(labels.shape) < 0.6)
    weight = torch.full((task.n_labels,), 2.0)
    losses = task.losses(outputs, labels.where(known, torch.nan), weight)
    cells = torch.where(labels == 1, 2 * plain, plain)
    assert torch.allclose(losses, (cells * known).sum(dim=1) / task.n_labels)
    losses.sum().backward()
    assert torch.equal(outputs.grad != 0, known)


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_losses_of_a_regression_are_between_outputs_and_log1p_of_the_labels(name):
    outputs, labels = example(LOS)
    error = outputs[:, 0] - np.log1p(labels[:, 0])
    small = np.abs(error) < 1
    expected = {"mse": error**2, "mae": np.abs(error), "huber": np.where(small, error**2 / 2, np.abs(error) - 0.5)}
    losses = LOS.losses(torch.from_numpy(outputs), torch.from_numpy(labels), regression_loss=name)
    np.testing.assert_allclose(losses, expected[name])
    perfect = LOS.targets(torch.from_numpy(labels))
    np.testing.assert_allclose(LOS.losses(perfect, torch.from_numpy(labels), regression_loss=name), 0, atol=1e-12)
    np.testing.assert_allclose(LOS.decode(perfect.numpy()), labels, atol=1e-9)
    assert LOS.decode(np.array([[-5.0]])).item() == 0


def test_class_weights_multiply_the_loss_of_their_class():
    task = frames(3)
    outputs, labels = (torch.from_numpy(array) for array in example(task))
    weights = torch.tensor([1.0, 5.0, 0.0], dtype=torch.float64)
    expected = task.losses(outputs, labels) * weights[labels.argmax(dim=1)]
    assert torch.allclose(task.losses(outputs, labels, weights), expected)


@EACH
def test_strata_are_columns_of_zeros_and_ones(task):
    labels = example(task, 500)[1]
    strata = task.strata(labels)
    assert len(strata) == 500 and set(np.unique(strata)) <= {0, 1}
    if task.kind == "regression":
        assert (strata.sum(axis=1) == 1).all() and strata.shape[1] == 10
        assert strata.mean(axis=0).max() < 0.2
        part = strata.argmax(axis=1)
        assert all(labels[part == k].max() < labels[part == k + 1].min() for k in range(9))
    else:
        assert np.array_equal(strata, labels)


def test_what_is_no_label_or_prediction_of_the_kind_raises():
    one_hot, even = np.eye(3)[[0, 1]], np.full((2, 3), 1 / 3)
    for labels, predictions, message in [
        (np.ones((2, 3)), even, "one-hot"),
        (one_hot, even / 2, "sum to 1"),
        (one_hot, -even, "0, 1"),
        (one_hot[:1], even, "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            frames(3).cells(labels, predictions)
    for labels, predictions, message in [
        ([[-1.0]], [[3.0]], "labels"),
        ([[1.0]], [[np.nan]], "predictions"),
        ([[1.0]], [[np.inf]], "predictions"),
        ([[1.0]], [3.0], "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            LOS.cells(np.array(labels), np.array(predictions))


def test_tasks_and_metrics_are_found_by_name():
    assert get_task("icu") is ICU and get_task("icu", "log_loss") == ICU
    assert get_task("frames10") == frames(10) and get_task("frames10").n_labels == 10
    assert get_task("icu", "pr_auc").metric == "pr_auc" and not get_task("icu", "pr_auc").is_ordered_by_loss
    assert "rmse" in error_of(get_task, "los", "rmsee")
    for name in ("frames", "frames1", "frames0", "frames07", "iccu"):
        assert name in error_of(get_task, name) or "2 classes" in error_of(get_task, name)
    assert set(REPORT_TASKS) == {"round1", "round2"}
    assert task_of_width(17).name == "round1" and task_of_width(1) is None


def test_tasks_are_known_without_torch():
    code = "import sys; from src.data.tasks import TASKS; TASKS['round1'].decode([0.0]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
