"""Proposals use online scores, and ten proposals beat the local optimum where it is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from src.data.tasks import ROUND1
from src.ensemble.leaderboard_search import Base
from src.evaluation import metrics

RUNS = ["a", "b"]


@pytest.fixture(scope="module")
def board():
    """Runs that are calibrated on the local rows, and overconfident by 1.5 on the test file, where labels are more
    frequent. The public half of the test labels gives online scores, the private half the truth."""
    rng = np.random.default_rng(0)
    rates = np.linspace(0.05, 0.4, 17)

    def rows(n: int, sure: float, more: float) -> tuple[list[np.ndarray], np.ndarray]:
        truth = metrics.logit(rates) + 2 * rng.standard_normal((n, 17)) + more
        labels = (rng.random((n, 17)) < metrics.sigmoid(truth)).astype(np.uint8)
        seen = truth - more  # the runs know nothing of the change of rates
        return [sure * (seen + noise * rng.standard_normal(seen.shape)) for noise in (0.4, 0.8)], labels

    local, labels = rows(3000, 1.0, 0.0)
    test, answers = rows(4000, 1.5, 0.5)
    base = Base(ROUND1, RUNS, local, labels, np.ones(len(labels)), test, rates, np.full(17, 0.5))
    half = np.arange(len(answers)) % 2 == 0

    def score(settings: dict[str, float], part: np.ndarray) -> float:
        return metrics.official_score(ROUND1, answers[part], base.predict(settings)[part]).value

    return base, lambda settings: score(settings, half), lambda settings: score(settings, ~half)


def test_the_first_proposal_is_the_local_best(board):
    base, _, _ = board
    proposal = base.ask([], seed=0)
    assert proposal.local >= base.score(base.plain)
    assert abs(np.log(proposal.settings["temperature"])) < 0.25, "locally the runs are right"
    assert proposal == base.ask([], seed=0), "the same seed asks the same"


def test_the_first_proposal_leaves_the_label_rates_alone(board):
    base, _, _ = board
    shifts = [base.ask([], seed).settings["label_shift"] for seed in range(5)]
    assert max(shifts) < 0.2, "local rows cannot tell what it is worth, so none of it is taken untold"


def test_ten_answers_beat_the_local_best_on_both_halves(board):
    base, public, private = board
    tried = [((first := base.ask([], seed=0)).settings, public(first.settings))]
    for seed in range(1, 10):
        proposal = base.ask(tried, seed)
        tried.append((proposal.settings, public(proposal.settings)))
    best, score = max(tried, key=lambda pair: pair[1])
    assert best["temperature"] > 1.2 and best["label_shift"] > 0.3
    assert score > tried[0][1] + 0.005
    assert private(best) > private(tried[0][0]) + 0.005
    assert abs(private(best) - public(best)) < 0.01
    last = base.ask(tried, 10)
    assert last.expected == pytest.approx(public(last.settings), abs=4 * last.spread + 0.002)


def test_what_waits_for_its_answer_is_not_proposed_again(board):
    base, public, _ = board
    first = base.ask([], seed=0)
    second = base.ask([(first.settings, None)], seed=0)
    assert second.settings != first.settings
    third = base.ask([(first.settings, public(first.settings)), (second.settings, None)], seed=0)
    assert third.settings not in (first.settings, second.settings)


def test_variations(board):
    base, _, _ = board
    plain = base.predict(base.plain)
    np.testing.assert_allclose(plain, metrics.sigmoid((base.test[0] + base.test[1]) / 2))
    alone = base.predict({**base.plain, "weight_a": 0.0, "temperature": 2.0})
    np.testing.assert_allclose(alone, metrics.sigmoid(base.test[1] / 2))
    nothing = base.predict({**base.plain, "weight_a": 0.0, "weight_b": 0.0})
    np.testing.assert_allclose(nothing, plain)
    shrunk = base.predict({**base.plain, "shrinkage": 0.1})
    np.testing.assert_allclose(shrunk, 0.9 * plain + 0.1 * base.rates)
    moved = base.predict({**base.plain, "label_shift": 0.5})
    np.testing.assert_allclose(moved, metrics.sigmoid((base.test[0] + base.test[1]) / 2 + 0.25))
    assert base.score({**base.plain, "label_shift": 1.0}) == base.score(base.plain)
    one = Base(ROUND1, ["a"], base.local[:1], base.labels, base.weights, base.test[:1], base.rates, base.odds)
    assert set(one.space) == {"temperature", "shrinkage", "label_shift"}
