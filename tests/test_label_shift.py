"""Label shift: planted rates are estimated, and adapted probabilities fit better."""

from __future__ import annotations

import numpy as np
import pytest

from src.data.tasks import LOS, ROUND1, ROUND2, frames
from src.evaluation.label_shift import adapt, calibrate, calibrate_classes, correct, estimate_rates
from src.evaluation.metrics import official_score, sigmoid
from tests.conftest import error_of

TRAIN = np.full(17, 0.2)
TEST = np.linspace(0.05, 0.6, 17)


def sample(rates, n, seed):
    """Draws labels at `rates`, and logits that are calibrated for the rates of train."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 17)) < rates).astype(int)
    evidence = rng.normal(2 * (2 * labels - 1), 2)  # log likelihood ratio of N(±2, 2): exactly itself
    return labels, evidence + np.log(TRAIN / (1 - TRAIN))


def test_planted_rates_are_found():
    _, logits = sample(TEST, 8000, 0)
    assert estimate_rates(logits, TRAIN) == pytest.approx(TEST, abs=0.025)
    assert np.abs(sigmoid(logits).mean(axis=0) - TEST).max() > 0.05, "the plain mean must be off, or nothing is shown"


def test_without_a_shift_nothing_moves():
    _, logits = sample(TRAIN, 8000, 1)
    rates = estimate_rates(logits, TRAIN)
    assert rates == pytest.approx(TRAIN, abs=0.02)
    assert np.abs(correct(logits, TRAIN, rates) - logits).max() < 0.15
    np.testing.assert_allclose(correct(logits, TRAIN, TRAIN), logits, atol=1e-12)


def test_corrected_probabilities_score_better_under_the_shift():
    labels, logits = sample(TEST, 4000, 2)
    moved = correct(logits, TRAIN, estimate_rates(logits, TRAIN))
    plain = official_score(ROUND1, labels, sigmoid(logits))
    assert official_score(ROUND1, labels, sigmoid(moved)).value > plain.value + 5 * plain.standard_error


def test_calibration_undoes_temperature_and_bias():
    labels, logits = sample(TRAIN, 20000, 3)
    calibration = calibrate(3 * logits + 1, labels)
    assert calibration.slope == pytest.approx(np.full(17, 1 / 3), rel=0.08)
    assert np.abs(calibration.apply(3 * logits + 1) - logits).mean() < 0.1


def test_a_constant_label_keeps_its_logits_and_a_reversed_one_is_ignored():
    labels, logits = sample(TRAIN, 500, 4)
    labels[:, 0], logits[:, 1] = 0, -logits[:, 1]
    calibration = calibrate(logits, labels)
    assert (calibration.slope[0], calibration.bias[0]) == (1, 0)
    assert calibration.slope[1] == 0


def test_a_reversed_label_has_its_rate_everywhere():
    """Logits that are ignored leave the rate, from which a shift of labels starts."""
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 1)) < 0.03).astype(np.uint8)
    logits = rng.normal(-4, 0.3, (2000, 1)) - 0.5 * labels
    weights = rng.uniform(0.5, 2, 2000)
    calibration = calibrate(logits, labels, weights)
    rate = np.average(labels, axis=0, weights=weights)
    assert calibration.slope == 0 and sigmoid(calibration.bias) == pytest.approx(rate)
    assert estimate_rates(calibration.apply(logits), rate) == pytest.approx(rate, rel=0.01)


def test_weights_count_as_copies():
    labels, logits = sample(TRAIN, 300, 5)
    weights = np.random.default_rng(0).integers(0, 3, 300)
    weighed = calibrate(logits, labels, weights)
    copied = calibrate(np.repeat(logits, weights, axis=0), np.repeat(labels, weights, axis=0))
    assert weighed.slope == pytest.approx(copied.slope, rel=1e-3)


def test_what_is_calibrated_on_weighted_rows_starts_at_their_rates():
    """A test file distributed like the weighted train rows needs no adaptation."""
    labels, logits = sample(TRAIN, 20000, 6)
    weights = np.where(labels[:, 0] == 1, 3.0, 1.0)
    rng = np.random.default_rng(0)
    drawn = rng.choice(20000, 20000, p=weights / weights.sum())
    moved, known, rates = adapt(ROUND1, logits, labels, weights, logits[drawn])
    assert known[0] == pytest.approx(labels[drawn, 0].mean(), abs=0.01)
    assert rates[0] == pytest.approx(known[0], abs=0.02) and known[0] > labels[:, 0].mean() + 0.1
    assert moved.shape == logits.shape


@pytest.mark.parametrize("is_conditional", [True, False])
def test_rates_of_types_are_those_in_reports_with_an_abnormal_region(is_conditional):
    """Also where the predictions of types are those in such reports, whatever they are in normal ones."""
    rng = np.random.default_rng(0)
    labels = np.zeros((20_000, 29), dtype=int)
    is_abnormal = rng.random(20_000) < 0.6
    labels[is_abnormal, 3] = 1
    labels[is_abnormal, 17:] = rng.random((is_abnormal.sum(), 12)) < 0.3
    evidence = rng.normal(2 * (2 * labels - 1), 2)
    logits = evidence + np.log(0.3 / 0.7)
    logits[:, :17] = np.where(labels[:, :17], 8.0, -8.0)
    if is_conditional:
        logits[~is_abnormal, 17:] = 2.0
    else:
        logits[~is_abnormal, 17:] = -8.0
    _, known, rates = adapt(ROUND2, logits, labels, np.ones(20_000), logits)
    assert known[17:] == pytest.approx(0.3, abs=0.02) and rates[17:] == pytest.approx(known[17:], abs=0.02)
    assert known[3] == pytest.approx(0.6, abs=0.02)


def classes(rates, n, seed):
    """Draws one-hot labels (n, 3) at `rates`, and logits that are calibrated for equal rates."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(3, n, p=rates)
    means = 2 * np.eye(3)
    seen = rng.normal(means[chosen], 1.2)
    return np.eye(3, dtype=int)[chosen], seen @ means.T / 1.2**2


def test_planted_class_rates_are_found_and_adapted_predictions_fit_better():
    task, train, test = frames(3), np.full(3, 1 / 3), np.array([0.7, 0.2, 0.1])
    labels, logits = classes(train, 8000, 0)
    truth, unseen = classes(test, 8000, 1)
    constant = np.random.default_rng(2).normal(0, 3, (8000, 1))  # a constant added to a row's logits means nothing
    moved, known, rates = adapt(task, 3 * logits, labels, np.ones(8000), 3 * unseen + constant)
    assert known == pytest.approx(train, abs=0.02) and rates == pytest.approx(test, abs=0.02)
    before, after = (official_score(task, truth, task.decode(one)).value for one in (unseen, moved))
    assert after > before + 0.02
    assert after == pytest.approx(official_score(task, truth, task.decode(unseen + np.log(test))).value, abs=0.003)
    # Without a shift nothing moves.
    assert adapt(task, logits, labels, np.ones(8000), logits)[2] == pytest.approx(train, abs=0.02)


def test_class_weights_count_as_copies():
    labels, logits = classes(np.array([0.5, 0.3, 0.2]), 300, 5)
    weights = np.random.default_rng(0).integers(0, 3, 300)
    weighed = calibrate_classes(logits, labels, weights)
    copied = calibrate_classes(np.repeat(logits, weights, axis=0), np.repeat(labels, weights, axis=0))
    assert weighed.slope == pytest.approx(copied.slope, rel=1e-3)
    assert weighed.bias == pytest.approx(copied.bias, abs=1e-3)


def test_a_regression_has_no_label_rates():
    ones = np.ones((4, 1))
    assert "days" in error_of(adapt, LOS, ones, ones, ones[:, 0], ones)
