"""Figures by domain: equal to scikit-learn's, paired, and the worst domain in every draw."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from src.data.tasks import ROUND2, get_task
from src.evaluation import domain_figures
from src.evaluation.domain_figures import DomainFigures
from src.evaluation.figures import area_statistic, drawn, precision_statistic

ICU = get_task("icu")


def judged(n: int = 400, seed: int = 0):
    """Judge of two domains, with a prediction that is good in the first and near chance in the second."""
    rng = np.random.default_rng(seed)
    labels, of_row = (rng.random((n, 1)) < 0.3).astype(np.uint8), np.arange(n) % 2
    noise = rng.normal(size=n) * np.where(of_row, 4, 1)
    good = 1 / (1 + np.exp(-(2.0 * labels[:, 0] - 1 + noise)))[:, None]
    return DomainFigures(ICU, labels, of_row, 2), good, of_row


def test_drawn_areas_are_those_of_weighted_rows():
    rng = np.random.default_rng(1)
    labels, scores = (rng.random(80) < 0.3).astype(int), np.round(rng.random(80), 1)  # with ties
    counted, draws = rng.random(80) < 0.8, rng.integers(0, 3, (80, 6)).astype(np.uint8)
    area, precision = (
        drawn(statistic(labels, scores, counted), draws) for statistic in (area_statistic, precision_statistic)
    )
    for weights, one, other in zip([np.ones(80), *draws.T], area, precision, strict=True):
        given = labels[counted], scores[counted]
        assert one == pytest.approx(roc_auc_score(*given, sample_weight=weights[counted]))
        assert other == pytest.approx(average_precision_score(*given, sample_weight=weights[counted]))


def test_figures_mean_and_worst_domain():
    judge, predictions, of_row = judged()
    figures = judge.of(predictions)
    for domain in (0, 1):
        rows = of_row == domain
        given = judge.labels[rows, 0], predictions[rows, 0]
        assert figures["roc_auc"][domain, 0] == pytest.approx(roc_auc_score(*given))
        assert figures["pr_auc"][domain, 0] == pytest.approx(average_precision_score(*given))
        assert figures["score"][domain, 0] == pytest.approx(1 - log_loss(*given))
    found = domain_figures.summary(figures, ["home", "away"])["roc_auc"]
    assert found["worst"]["domain"] == "away"
    assert found["worst"]["value"] == found["domains"]["away"]["value"] == figures["roc_auc"][1, 0]
    assert found["mean"]["value"] == pytest.approx(figures["roc_auc"][:, 0].mean())
    for one in (found["mean"], found["worst"], found["domains"]["home"]):
        assert one["low"] < one["value"] < one["high"]
    # The interval is about as wide as the standard error of the area says: Hanley and McNeil.
    width = found["domains"]["away"]["high"] - found["domains"]["away"]["low"]
    assert 0.1 < width < 0.25


def test_the_worst_domain_is_looked_for_in_every_draw():
    values = np.array([[0.7, 0.9, 0.6], [0.8, 0.5, 0.9], [np.nan, np.nan, np.nan]])
    assert domain_figures.worst(values).tolist() == [0.7, 0.5, 0.6]
    assert domain_figures.mean(values).tolist() == pytest.approx([0.75, 0.7, 0.75])


def test_differences_are_paired():
    judge, predictions, _of_row = judged()
    noisy = np.clip(predictions + np.random.default_rng(3).normal(0, 0.02, predictions.shape), 0.01, 0.99)
    one, other = judge.of(predictions), judge.of(noisy)
    gain = domain_figures.gains(one, other)["roc_auc"]["mean"]
    alone = domain_figures.summary(one, ["home", "away"])["roc_auc"]["mean"]
    assert gain["high"] - gain["low"] < (alone["high"] - alone["low"]) / 3
    same = domain_figures.gains(one, one)["roc_auc"]
    assert same["worst"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_labels_without_both_classes_are_left_out():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, ROUND2.n_labels)) < 0.3).astype(np.uint8)
    of_row = np.repeat([0, 1], 30)
    labels[:30, :5] = 0  # five labels that the first domain does not know
    judge = DomainFigures(ROUND2, labels, of_row, 3)  # and a domain without any row
    assert judge.n_labels()[0] == ROUND2.n_labels - 5 and judge.n_labels()[2] == 0
    predictions = rng.random(labels.shape)
    figures = judge.of(predictions)
    counted = labels[:30, ROUND2.columns["regions"]].any(axis=1)
    expected = [
        roc_auc_score(labels[:30][rows, k], predictions[:30][rows, k])
        for k in range(5, ROUND2.n_labels)
        for rows in [counted if k >= 17 else np.full(30, True)]
    ]
    assert figures["roc_auc"][0, 0] == pytest.approx(np.mean(expected))
    found = domain_figures.summary(figures, ["a", "b", "c"])["roc_auc"]
    assert found["domains"]["c"]["value"] is None and found["worst"]["domain"] in ("a", "b")


def test_a_regression_has_its_score_alone():
    los = get_task("los")
    judge = DomainFigures(los, np.array([[1.0], [3.0], [2.0]]), np.array([0, 0, 1]), 2)
    figures = judge.of(np.array([[2.0], [3.0], [2.0]]))
    assert list(figures) == ["score"] and figures["score"][:, 0].tolist() == [-0.5, 0.0]


def test_spread_over_seeds():
    one, other = ({"roc_auc": np.array([[0.7, 0.1], [0.9, 0.1]]) + step} for step in (0.0, 0.1))
    found = domain_figures.spread([one, other])["roc_auc"]
    assert found["mean"]["value"] == pytest.approx(0.85) and found["worst"]["value"] == pytest.approx(0.75)
    assert found["mean"]["deviation"] == pytest.approx(0.1 / np.sqrt(2))
