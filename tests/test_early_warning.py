from __future__ import annotations

import numpy as np
import pytest
import torch

from src.core.run_settings import Features, Recurrent
from src.data.tasks import sigmoid
from src.evaluation import early_warning
from src.evaluation.early_warning import BARE, Rule
from src.evaluation.figures import make_draws
from src.models.classifier import build_model
from src.training.early_reading import early_logits
from tests.series import STAYS, STEPS, stays

HOURS, END = np.arange(1.0, 9.0), 8.0


def watched(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (n, H) that wander, deaths (n,) of whom they tell, and folds (n,)."""
    rng = np.random.default_rng(seed)
    died = rng.random(n) < 0.2
    logits = rng.normal(size=(n, 24)).cumsum(axis=1) / 3 + rng.normal(size=(n, 24)) + 1.5 * died[:, None]
    return logits, died, np.arange(n) % 3


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (BARE, [(2, 3), (4, 5), (6, 8)]),
        (Rule(off=0.5, duration=0, refractory=0), [(2, 5), (6, 8)]),
        (Rule(off=1.0, duration=3, refractory=0), [(2, 5), (6, 8)]),
        (Rule(off=1.0, duration=0, refractory=2), [(2, 3), (6, 8)]),
        (Rule(off=0.5, duration=0, refractory=4), [(2, 5)]),
    ],
)
def test_hysteresis_by_hand(rule, expected):
    risk = np.array([[0.1, 0.6, 0.4, 0.5, 0.2, 0.7, 0.6, 0.9], [0.1] * 8])
    alarms = early_warning.raise_alarms(risk, 0.5, rule, HOURS, END)
    assert alarms.periods(0) == expected
    assert alarms.periods(1) == []
    np.testing.assert_array_equal(alarms.counts, [len(expected), 0])
    np.testing.assert_array_equal(alarms.time, [sum(end - begin for begin, end in expected), 0])
    np.testing.assert_array_equal(alarms.first, [2, np.nan])


def test_readings_that_are_far_apart_last_until_the_next():
    alarms = early_warning.raise_alarms(np.array([[0.9, 0.1, 0.9]]), 0.5, BARE, np.array([1.0, 6, 12]), 48.0)
    assert alarms.periods(0) == [(1, 6), (12, 48)]
    assert alarms.time.tolist() == [41]


def test_hysteresis_makes_alarms_fewer_and_longer_and_misses_nobody():
    logits, died, _ = watched()
    hours, draws = np.arange(1.0, 25), make_draws(len(died), 50, 0)
    death_hour = np.where(died, 72.0, np.nan)
    rules = BARE, Rule(off=0.7, duration=4, refractory=6)
    raised = [early_warning.raise_alarms(sigmoid(logits), 0.8, rule, hours, 24.0) for rule in rules]
    bare, held = (early_warning.worth(alarms, died, death_hour, draws) for alarms in raised)
    assert held["false_alarms_per_day"].value < 0.7 * bare["false_alarms_per_day"].value
    assert held["hours_of_an_alarm"].value > 1.5 * bare["hours_of_an_alarm"].value
    for name in ("sensitivity", "lead_time", "survivors_alarmed"):
        assert held[name] == bare[name]


def test_worth_by_hand():
    begins = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]], dtype=bool)
    alarms = early_warning.Alarms(np.array([6.0, 12, 18, 24]), 48.0, begins, begins)
    died = np.array([True, True, True, False, False])
    found = early_warning.worth(alarms, died, np.array([48.0, 96, np.nan, np.nan, np.nan]), make_draws(5, 400, 1))
    expected = {
        "sensitivity": 2 / 3,
        "survivors_alarmed": 1 / 2,
        "false_alarms_per_day": 1 / 4,
        "alarms_per_day": 4 / 10,
        "precision": 3 / 4,
        "precision_of_stays": 2 / 3,
        "time_in_alarm_survivors": 6 / 96,
        "time_in_alarm_deaths": (6 + 24 + 6) / 144,
        "hours_of_an_alarm": (6 + 24 + 6 + 6) / 4,
        "lead_time": 42,
    }
    assert {name: found[name].value for name in expected} == pytest.approx(expected)


def test_standard_errors_are_those_of_a_bootstrap():
    logits, died, _ = watched(300)
    hours = np.arange(1.0, 25)
    rule = Rule(off=0.7, duration=4, refractory=6)
    risk, death_hour = sigmoid(logits), 24.0 * np.random.default_rng(3).integers(1, 30, len(died))
    draws = make_draws(len(died), 300, 5)
    alarms = early_warning.raise_alarms(risk, 0.9, rule, hours, 24.0)
    found = early_warning.worth(alarms, died, death_hour, draws)
    drawn = []
    for draw in draws.T:
        rows = np.repeat(np.arange(len(died)), draw)
        again = early_warning.raise_alarms(risk[rows], 0.9, rule, hours, 24.0)
        caught = died[rows] & (again.counts > 0)
        lead = np.sort((death_hour[rows] - again.first)[caught])
        drawn.append([caught.sum() / died[rows].sum(), lead[int(np.ceil(0.5 * len(lead))) - 1]])
    for name, values in zip(("sensitivity", "lead_time"), np.transpose(drawn), strict=True):
        assert found[name].standard_error == pytest.approx(values.std(ddof=1), rel=1e-9), name


@pytest.mark.parametrize("choose", [early_warning.for_deaths(0.7), "budget"])
def test_nothing_that_a_fold_is_judged_by_depends_on_it(choose):
    logits, died, folds = watched()
    if choose == "budget":
        choose = early_warning.for_budget(0.5, Rule(0.8, 4, 6), np.arange(1.0, 25), 24.0)
    before = early_warning.cross_fit(lambda fold: logits, died, folds, choose)
    inside = folds == 1
    other_logits, other_died = logits.copy(), died.copy()
    other_logits[inside] *= -2
    other_died[inside] = ~died[inside]
    changed = early_warning.cross_fit(lambda fold: other_logits, other_died, folds, choose)
    assert changed.thresholds[1] == before.thresholds[1]
    assert changed.thresholds[0] != before.thresholds[0]
    mixed = np.where(inside[:, None], logits, other_logits)
    mended = early_warning.cross_fit(lambda fold: mixed, other_died, folds, choose)
    np.testing.assert_array_equal(mended.risk[inside], before.risk[inside])
    np.testing.assert_array_equal(before.on, [before.thresholds[fold] for fold in folds])


def test_thresholds_keep_what_they_are_chosen_for():
    logits, died, _ = watched()
    risk, hours, rule = sigmoid(logits), np.arange(1.0, 25), Rule(0.8, 4, 6)
    on = early_warning.for_deaths(0.7)(risk, died)
    caught = early_warning.raise_alarms(risk, on, rule, hours, 24.0).counts[died] > 0
    assert 0.7 <= caught.mean() < 0.7 + 2 / died.sum()
    counts = [
        early_warning.raise_alarms(risk[~died], choose(risk, died), rule, hours, 24.0).counts.mean()
        for choose in (early_warning.for_budget(budget, rule, hours, 24.0) for budget in (0.2, 0.6, 0.0))
    ]
    assert 0.15 < counts[0] <= 0.2 < 0.5 < counts[1] <= 0.6
    assert counts[2] == 0


def test_levels_make_the_risk_of_each_hour_the_rate_of_death():
    logits, died, _ = watched()
    drifting = logits * np.linspace(0.2, 2, 24) + np.linspace(-4, 3, 24)
    risk = early_warning.levelled(drifting, early_warning.level_lines(drifting, died))
    np.testing.assert_allclose(risk.mean(axis=0), died.mean(), atol=2e-3)
    plain = early_warning.levelled(logits, early_warning.level_lines(logits, died))
    np.testing.assert_allclose(risk, plain, atol=5e-3)


def test_curve_falls_with_the_threshold():
    logits, died, _ = watched()
    points = early_warning.curve(
        sigmoid(logits), died, BARE, np.arange(1.0, 25), 24.0, make_draws(len(died), 20, 0), points=12
    )
    assert [one["on"] for one in points] == sorted((one["on"] for one in points), reverse=True)
    sensitivity = [one["sensitivity"]["value"] for one in points]
    assert sensitivity == sorted(sensitivity)
    assert sensitivity[-1] == 1


@pytest.mark.parametrize(
    ("settings", "features"),
    [
        (Recurrent(embedding_size=8, hidden_size=8), Features(summary=True, smooth=3)),
        (Recurrent(embedding_size=8, hidden_size=8, pooling="attention"), Features(imputer="linear")),
    ],
)
def test_what_comes_later_is_not_read(settings, features):
    torch.manual_seed(0)
    model = build_model(settings, STAYS, 1, None, features)
    inputs = stays(20, seed=1)
    model.input_layer.fit(inputs["values"], inputs["statics"])
    lengths, rows, device = np.full(20, STEPS, dtype=np.int32), np.array([3, 1, 17]), torch.device("cpu")
    steps = [1, 4, 7, STEPS]
    before = early_logits(model, inputs, lengths, rows, steps, device)
    later = {**inputs, "values": inputs["values"].copy()}
    later["values"][:, 7:] = np.where(np.isnan(later["values"][:, 7:]), 9.0, np.nan)
    after = early_logits(model, later, lengths, rows, steps, device)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert before.shape == (3, 4, 1)
    assert not np.allclose(after[:, 3], before[:, 3])


def test_where_nobody_survived_every_threshold_keeps_the_budget():
    risk = np.array([[0.2, 0.4], [0.3, 0.1]])
    choose = early_warning.for_budget(0.1, Rule(0.8, 4, 6), np.array([1.0, 2.0]), 24.0)
    assert choose(risk, np.array([True, True])) == 0.1
