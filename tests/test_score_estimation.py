"""Expected scores are right without shift, and under noise and dissimilarity that train shows."""

from __future__ import annotations

import numpy as np
import pytest

from src.data.tasks import ICU, ROUND1, ROUND2, frames
from src.evaluation.metrics import Estimate, official_score, sigmoid
from src.evaluation.score_estimation import (
    TRANSFER_ERROR,
    Calibrator,
    LabelledPredictions,
    UnlabelledPredictions,
    expect_score,
    fold_gain,
    weighted_expectation,
)


def reports(task, n, seed, noise, similarities=(0.1, 0.9)):
    """Draws labels, overconfident logits and similarities: the model is too sure on dissimilar and on noisy reports."""
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(*similarities, n)
    trust = (0.2 + 0.8 * similarity) * (1 - noise)
    belief = rng.normal(-1.5, 2.5, (n, task.n_labels))
    truth = belief * trust[:, None]
    labels = (rng.random(truth.shape) < sigmoid(truth)).astype(int)
    return labels, belief, similarity


def one_level(task, noise, n=6000, seed=0, similarities=(0.1, 0.9)):
    labels, beliefs, similarity = reports(task, n, seed, noise, similarities)
    return (
        LabelledPredictions(beliefs[None], beliefs[None], labels, similarity[None], np.array([noise])),
        beliefs,
        labels,
    )


def alone(beliefs, similarity, noise, reports):
    """Predictions of one fold of one model without a committee."""
    return UnlabelledPredictions(beliefs[None], beliefs[None], [beliefs[None]], similarity, noise, reports)


def expected(task, calibrator, beliefs, similarity, noise):
    return expect_score(
        task,
        calibrator,
        UnlabelledPredictions(beliefs[None], beliefs[None], [beliefs[None]], similarity, noise, len(beliefs)),
    )


@pytest.mark.parametrize("task", [ROUND1, ROUND2], ids=lambda task: task.name)
def test_a_file_like_train_is_expected_to_score_like_train(task):
    seen, _, _ = one_level(task, 0.1)
    labels, beliefs, similarity = reports(task, 6000, 1, 0.1)
    found = expected(task, Calibrator(task, seen), beliefs, similarity, 0.1)
    true = official_score(task, labels, sigmoid(beliefs))
    assert found.value == pytest.approx(true.value, abs=4 * true.standard_error)
    assert found.low < found.value < found.high


def test_strange_reports_are_expected_to_score_as_they_do():
    seen, beliefs, labels = one_level(ROUND1, 0.1)
    clean = official_score(ROUND1, labels, sigmoid(beliefs)).value
    labels, beliefs, similarity = reports(ROUND1, 6000, 1, 0.1, similarities=(0.1, 0.2))
    true = official_score(ROUND1, labels, sigmoid(beliefs)).value
    found = expected(ROUND1, Calibrator(ROUND1, seen), beliefs, similarity, 0.1).value
    assert true < clean - 0.1, "the case must be hard, or nothing is shown"
    assert found == pytest.approx(true, abs=0.02)


def test_noise_is_learned_from_noisier_versions():
    """Beliefs are drawn given the labels, which versions share: z | y has density ratio exp(trust * z)."""

    def version(labels, trust, rng):
        return rng.normal((2 * labels - 1) * 2 * trust, 2)  # log likelihood ratio: trust * z * 2 / 2

    rng = np.random.default_rng(0)
    labels = (rng.random((5000, 17)) < 0.5).astype(int)
    trusts = {0.1: 0.9, 0.3: 0.7, 0.2: 0.8}
    seen = np.stack([version(labels, trusts[noise], rng) for noise in (0.1, 0.3)])
    similarity = np.full((2, 5000), 0.3)
    calibrator = Calibrator(ROUND1, LabelledPredictions(seen, seen, labels, similarity, np.array([0.1, 0.3])))
    scores = []
    for noise, trust in trusts.items():
        truth = (rng.random((5000, 17)) < 0.5).astype(int)
        beliefs = version(truth, trust, rng)
        true = official_score(ROUND1, truth, sigmoid(beliefs)).value
        found = expected(ROUND1, calibrator, beliefs, np.full(5000, 0.3), noise).value
        assert found == pytest.approx(true, abs=0.012)
        scores.append(true)
    assert max(scores) - min(scores) > 0.04, "the levels must differ, or nothing is shown"


def test_a_committee_that_knows_better_is_listened_to():
    rng = np.random.default_rng(0)

    def draw(agree):
        truth = rng.normal(-1, 2, (4000, 17))
        labels = (rng.random(truth.shape) < sigmoid(truth)).astype(int)
        return labels, truth + rng.normal(0, agree, truth.shape), truth

    labels, own, knowing = draw(1.0)
    similarity = np.full(4000, 0.3)
    seen = LabelledPredictions(own[None], knowing[None], labels, similarity[None], np.array([0.1]))
    labels, own, knowing = draw(3.0)  # on the test the run is further from the truth, and only the committee shows it
    unjudged = UnlabelledPredictions(own[None], knowing[None], [own[None]], similarity, 0.1, 4000)
    true = official_score(ROUND1, labels, sigmoid(own)).value
    assert expect_score(ROUND1, Calibrator(ROUND1, seen), unjudged).value == pytest.approx(true, abs=0.02)
    alone = Calibrator(ROUND1, LabelledPredictions(seen.logits, seen.logits, seen.labels, seen.similarity, seen.noise))
    assert (
        expect_score(
            ROUND1, alone, UnlabelledPredictions(own[None], own[None], [own[None]], similarity, 0.1, 4000)
        ).value
        > true + 0.1
    )


def test_the_fold_gain_is_what_averaging_saves_whatever_the_labels():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (5, 300, 17))
    for labels in (rng.integers(0, 2, (300, 17)), np.zeros((300, 17), dtype=int)):
        apart = np.mean([official_score(ROUND1, labels, sigmoid(fold)).value for fold in logits])
        saved = official_score(ROUND1, labels, sigmoid(logits.mean(axis=0))).value - apart
        assert fold_gain(logits).mean() == pytest.approx(saved, abs=1e-6)
    assert (fold_gain(logits) >= 0).all() and fold_gain(logits[:1]).max() == 0


def test_a_blend_is_credited_with_nothing_that_its_models_lack():
    """The expected loss of a blend includes the difference between its models' fold gain and its own."""
    seen, beliefs, _ = one_level(ROUND1, 0.1)
    calibrator, similarity = Calibrator(ROUND1, seen), np.full(6000, 0.3)
    own, wild = np.stack([beliefs, beliefs]), np.stack([beliefs - 1, beliefs + 1])
    single, blended = (
        expect_score(ROUND1, calibrator, UnlabelledPredictions(own, own, models, similarity, 0.1, 6000)).value
        for models in ([own], [own, wild])
    )
    assert single - blended == pytest.approx(fold_gain(wild).mean() / 2)


def test_the_interval_narrows_with_the_file_but_not_below_the_error_of_transfer():
    seen, _, _ = one_level(ROUND1, 0.1)
    calibrator = Calibrator(ROUND1, seen)
    _, beliefs, similarity = reports(ROUND1, 500, 1, 0.1)
    widths = []
    for size in (500, 50_000_000):
        found = expect_score(
            ROUND1,
            calibrator,
            UnlabelledPredictions(beliefs[None], beliefs[None], [beliefs[None]], similarity, 0.1, size),
        )
        widths.append(found.high - found.low)
    assert widths[0] > widths[1] == pytest.approx(2 * 1.96 * TRANSFER_ERROR, rel=1e-3)


def test_the_sampling_part_is_the_spread_over_files():
    seen, _, _ = one_level(ROUND1, 0.1)
    calibrator = Calibrator(ROUND1, seen)
    scores, variances = [], []
    for seed in range(200):
        labels, beliefs, similarity = reports(ROUND1, 200, 10 + seed, 0.1)
        found = expected(ROUND1, calibrator, beliefs, similarity, 0.1)
        scores.append(official_score(ROUND1, labels, sigmoid(beliefs)).value)
        variances.append(((found.high - found.low) / 2 / 1.96) ** 2 - TRANSFER_ERROR**2)
    assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(scores), rel=0.15)


@pytest.mark.parametrize("task", [ICU, frames(4)], ids=lambda task: task.name)
@pytest.mark.parametrize("similarities", [(0.1, 0.9), (0.1, 0.4)])
def test_a_clinical_task_is_expected_to_score_as_it_does(task, similarities):
    def draw(n, seed, similarities):
        rng = np.random.default_rng(seed)
        similarity = rng.uniform(*similarities, n)
        beliefs = rng.normal(0, 2.5, (n, task.n_labels))
        chances = task.decode(beliefs * (0.2 + 0.8 * similarity)[:, None])
        if task.kind == "binary":
            return (rng.random((n, 1)) < chances).astype(int), beliefs, similarity
        chosen = (chances.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
        return np.eye(task.n_labels, dtype=int)[chosen], beliefs, similarity

    labels, beliefs, similarity = draw(8000, 0, (0.1, 0.9))
    calibrator = Calibrator(
        task, LabelledPredictions(beliefs[None], beliefs[None], labels, similarity[None], np.array([0.0]))
    )
    labels, beliefs, similarity = draw(8000, 1, similarities)
    found = expected(task, calibrator, beliefs, similarity, 0.0)
    true = official_score(task, labels, task.decode(beliefs))
    assert found.value == pytest.approx(true.value, abs=4 * true.standard_error)
    assert found.low < true.value < found.high


def test_classes_gain_by_the_mean_over_folds_what_two_labels_gain():
    """Two classes are one probability, so the same folds are expected to score the same."""
    rng = np.random.default_rng(0)
    beliefs = rng.normal(0, 2, (3, 500, 1))
    labels = (rng.random((500, 1)) < sigmoid(beliefs.mean(axis=0))).astype(int)
    similarity, found = rng.random(500), []
    for task, logits, truth in (
        (ICU, beliefs, labels),
        (frames(2), np.concatenate([np.zeros_like(beliefs), beliefs], axis=2), np.hstack([1 - labels, labels])),
    ):
        seen = LabelledPredictions(logits[:1], logits[:1], truth, similarity[None], np.array([0.0]))
        calibrator = Calibrator(task, seen)
        calibrator.models = {}  # predictions as they are
        test = UnlabelledPredictions(logits, logits, [logits, 2 * logits], similarity, 0.0, 500)
        found.append(expect_score(task, calibrator, test))
    assert vars(found[0]) == pytest.approx(vars(found[1]))


def test_the_expectation_of_a_regression_is_its_weighted_error():
    found = weighted_expectation(Estimate(-6.5, 0.2))
    assert (found.value, found.low, found.high) == pytest.approx((-6.5, -6.5 - 1.96 * 0.2, -6.5 + 1.96 * 0.2))


def test_the_interval_of_a_single_row_is_unknown():
    found = weighted_expectation(Estimate(-2.5, float("nan"))).to_json()
    assert found == {"value": -2.5, "low": None, "high": None}
