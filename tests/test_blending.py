"""Blends: fits reach the optimum, ties go to equal weights, and no fold is scored by a fit on its own labels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_auc_score

from src.core.errors import UserError
from src.data.tasks import ICU, LOS, ROUND1, ROUND2, frames, get_task
from src.ensemble import blending
from src.ensemble.blending import (
    METHODS,
    BlendWeights,
    Evidence,
    apply_folds,
    contributions,
    diversity,
    fit_folds,
    fit_greedy,
    fit_method,
    fit_temperature,
    fit_weights,
    fixed_weights,
    greedy_steps,
    leave_one_out,
    mean_logits,
)
from src.evaluation.metrics import Estimate, official_score, paired_difference, sigmoid
from tests.conftest import error_of

TASKS = pytest.mark.parametrize("task", [ROUND1, ROUND2], ids=lambda task: task.name)


def make(task, n, noises, seed=0, scale=1.0):
    """Draws true logits, labels, and members that are the true logits plus noise of the given sizes."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(-1, 2, (n, task.n_labels))
    labels = (generator.random(truth.shape) < sigmoid(truth)).astype(np.int8)
    return truth, labels, [scale * (truth + noise * generator.normal(size=truth.shape)) for noise in noises]


def rows(members, labels, folds=None):
    return Evidence.of(members, labels, np.zeros(len(labels), dtype=int) if folds is None else folds)


def cross_fitted(members, labels, folds, task, method):
    return apply_folds(fit_folds(rows(members, labels, folds), task, method), members, folds)


def score(task, labels, logits):
    return official_score(task, labels, sigmoid(logits)).value


def test_mean_is_the_mean_in_double_precision():
    members = [np.full((2, 17), value, dtype=np.float32) for value in (1, 2, 6)]
    mean = mean_logits(members)
    assert mean.dtype == np.float64 and (mean == 3).all()
    blend = fit_method(rows(members, np.zeros((2, 17))), ROUND1, "mean")
    np.testing.assert_array_equal(blend.apply(members), mean)


def test_planted_weights_and_temperature_are_recovered():
    _, _, (a, b, c) = make(ROUND1, 4000, [1, 1, 1], scale=0.7)
    truth = (0.6 * a + 0.4 * b) / 1.5  # the labels follow this blend, and the third member adds nothing
    labels = (np.random.default_rng(1).random(truth.shape) < sigmoid(truth)).astype(int)
    (blend,) = fit_weights(rows([a, b, c], labels), ROUND1, per_group=False).groups
    assert blend.weights == pytest.approx((0.6, 0.4, 0.0), abs=0.03)
    assert blend.temperature == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_undoes_a_known_scale(factor):
    truth, labels, _ = make(ROUND1, 3000, [])
    (blend,) = fit_temperature(rows([factor * truth] * 2, labels), ROUND1, per_group=False).groups
    assert blend.temperature == pytest.approx(factor, rel=0.04) and blend.weights == (0.5, 0.5)


def test_temperature_is_that_of_a_line_search():
    _, labels, members = make(ROUND2, 300, [1, 2])
    fitted = fit_temperature(rows(members, labels), ROUND2, per_group=False)
    found = minimize_scalar(lambda t: -score(ROUND2, labels, mean_logits(members) / t), bracket=(0.5, 2), tol=1e-8)
    assert fitted.groups[0].temperature == pytest.approx(found.x, rel=1e-4)


@TASKS
@pytest.mark.parametrize("per_group", [False, True])
def test_no_grid_point_scores_better_than_the_fit(task, per_group):
    truth, labels, members = make(task, 200, [0.8, 1.5], seed=3, scale=1.7)
    members.append(np.random.default_rng(4).normal(size=truth.shape) - truth)  # its best weight is zero, at the edge
    fitted = fit_weights(rows(members, labels), task, per_group)
    best = score(task, labels, fitted.apply(members))
    for group in fitted.groups:
        assert group.weights[2] < 0.01
    for first in np.linspace(0, 1, 21):
        for third in (0, 0.02):
            for temperature in np.geomspace(0.5, 4, 25):
                weights = first * (1 - third), (1 - first) * (1 - third), third
                grid = sum(weight * member for weight, member in zip(weights, members, strict=True)) / temperature
                assert score(task, labels, grid) <= best + 1e-9
    for step in (-0.01, 0.01):  # and it is a point of rest: a little more or less of anything is worse
        assert score(task, labels, fitted.apply(members) + step * members[0]) < best
        assert score(task, labels, fitted.apply(members) + step * members[1]) < best


def test_each_group_is_fitted_by_itself():
    truth, labels, (good, bad) = make(ROUND2, 1500, [0.3, 3.0])
    swap = [np.hstack([good[:, :17], bad[:, 17:]]), np.hstack([bad[:, :17], 2 * good[:, 17:]])]
    regions, types = fit_weights(rows(swap, labels), ROUND2, per_group=True).groups
    assert (regions.start, regions.stop, types.start, types.stop) == (0, 17, 17, 29)
    assert regions.weights[0] > 0.9 and types.weights[1] > 0.9
    assert regions.temperature == pytest.approx(1, abs=0.15) and types.temperature == pytest.approx(2, abs=0.3)
    shared = fit_weights(rows(swap, labels), ROUND2, per_group=False)
    assert len(shared.groups) == 1
    apart = BlendWeights("weights", (regions, types))
    assert score(ROUND2, labels, apart.apply(swap)) > score(ROUND2, labels, shared.apply(swap)) + 0.02


def test_types_of_reports_without_a_region_are_not_fitted_on():
    _, labels, members = make(ROUND2, 200, [1, 2])
    labels[:100, :17] = 0
    fitted = fit_weights(rows(members, labels), ROUND2, per_group=False)
    labels[:100, 17:] = 1 - labels[:100, 17:]
    assert fit_weights(rows(members, labels), ROUND2, per_group=False) == fitted
    labels[100:, 17:] = 1 - labels[100:, 17:]
    assert fit_weights(rows(members, labels), ROUND2, per_group=False) != fitted


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), n_members=st.integers(1, 4), per_group=st.booleans())
def test_weights_are_shares_and_survive_json(seed, n_members, per_group):
    generator = np.random.default_rng(seed)
    members = list(generator.normal(0, 3, (n_members, 20, 29)))
    labels = generator.integers(0, 2, (20, 29))
    blend = fit_weights(rows(members, labels), ROUND2, per_group)
    for group in blend.groups:
        assert min(group.weights) >= 0 and sum(group.weights) == pytest.approx(1) and group.temperature > 0
    back = BlendWeights.from_json(json.loads(json.dumps(blend.to_json())))
    assert back == blend
    np.testing.assert_array_equal(back.apply(members), blend.apply(members))


@pytest.mark.parametrize("sign, answer", [(1, 0.1), (-1, 1000.0)], ids=["perfect", "hopeless"])
def test_extreme_members_stop_at_the_edge_of_the_temperatures(sign, answer):
    labels = np.arange(34).reshape(2, 17) % 2
    member = sign * 0.001 * (2.0 * labels - 1)
    (blend,) = fit_weights(rows([member, member], labels), ROUND1, per_group=False).groups
    assert blend.temperature == pytest.approx(answer) and sum(blend.weights) == pytest.approx(1)


@pytest.mark.parametrize("task", [ROUND1, ICU, LOS, frames(3)], ids=lambda task: task.name)
def test_of_a_single_report_nothing_is_chosen(task):
    """Holdout of a dozen rows has one to fit on: the members are averaged, and nothing is said of their worth."""
    labels = np.ones((1, 1)) if task.n_labels == 1 else np.eye(task.n_labels)[:1]
    one = rows([labels - 0.5, labels - 0.4], labels)
    assert fit_method(one, task, "auto").method == "mean"
    found = contributions(one, task, {}, ["a", "b"])
    assert found["greedy"] == [] and [member["lost_without"] for member in found["members"].values()] == [None, None]


def test_equal_members_are_averaged_and_a_real_gain_is_taken():
    _, labels, members = make(ROUND1, 1000, [0.5] * 3)
    folds = np.arange(1000) % 5
    calibrated = [member * 1.0 for member in members]
    for member in calibrated:  # brings the mean to temperature one, so that nothing is left to gain
        member /= fit_temperature(rows(members, labels), ROUND1, False).groups[0].temperature
    assert fit_method(rows(calibrated, labels, folds), ROUND1, "auto").method == "mean"
    assert (
        fit_method(rows([3 * member for member in calibrated], labels, folds), ROUND1, "auto").method == "temperature"
    )
    bad = [np.random.default_rng(9).normal(0, 3, labels.shape) for _ in range(2)]
    assert fit_method(rows(calibrated + bad, labels, folds), ROUND1, "auto").method == "weights"


@TASKS
@pytest.mark.parametrize("method", METHODS)
def test_a_folds_blend_does_not_see_its_labels(task, method):
    _, labels, members = make(task, 250, [0.5, 2.0], scale=2.0)
    folds = np.random.default_rng(0).integers(0, 4, 250)
    before = cross_fitted(members, labels, folds, task, method)
    labels[folds == 2] = 1 - labels[folds == 2]
    after = cross_fitted(members, labels, folds, task, method)
    np.testing.assert_array_equal(after[folds == 2], before[folds == 2])
    assert np.isfinite(after).all()
    assert (after[folds != 2] != before[folds != 2]).any() == (method != "mean")


@pytest.mark.parametrize("method", METHODS)
def test_a_holdout_fits_on_one_fold_and_blends_the_other(method):
    _, labels, members = make(ROUND1, 400, [0.5, 2.0], scale=2.0)
    folds = np.repeat([-1, 0, 1], [200, 100, 100])
    for member in members:
        member[folds == -1] = np.nan
    blend = fit_method(rows(members, labels, folds).only(folds == 0), ROUND1, method)
    assert blend.method == ("weights" if method == "auto" else method)
    again = fit_method(rows([member[200:300] for member in members], labels[200:300]), ROUND1, method)
    assert again == blend
    out_of_fold = cross_fitted(members, labels, folds, ROUND1, method)
    assert np.isnan(out_of_fold[:200]).all()
    np.testing.assert_array_equal(out_of_fold[300:], blend.apply([member[300:] for member in members]))


def test_auto_is_chosen_inside_the_other_folds(monkeypatch):
    _, labels, members = make(ROUND2, 150, [0.5, 2.0])
    folds = np.repeat([0, 1, 2, 3], [10, 20, 40, 80])
    fitted = []
    monkeypatch.setattr(
        blending,
        "fit_weights",
        lambda some, task, per_group: (
            fitted.append((len(some.labels), per_group)),
            fit_weights(some, task, per_group),
        )[1],
    )
    fit_method(rows(members, labels, folds).only(folds != 3), ROUND2, "auto")
    assert sorted(fitted[:3]) == [(30, True), (50, True), (60, True)]  # 70 rows less each of their folds
    assert fitted[3:] in ([], [(70, True)])  # then the fit that is used, if weights were chosen


@pytest.mark.parametrize("gain, answer", [(0.0019, "mean"), (0.0021, "weights")])
def test_a_gain_must_exceed_its_standard_error(monkeypatch, gain, answer):
    _, labels, members = make(ROUND1, 60, [1, 1])
    monkeypatch.setattr(blending, "paired_difference", lambda *_: Estimate(gain, 0.002))
    assert fit_method(rows(members, labels, np.arange(60) % 3), ROUND1, "auto").method == answer


def test_a_weight_is_worth_as_many_copies_of_the_row():
    _, labels, members = make(ROUND2, 150, [0.5, 2.0])
    weights = np.random.default_rng(1).integers(0, 4, 150)
    weighed = replace(rows(members, labels), weights=weights.astype(float))
    copied = rows([np.repeat(m, weights, axis=0) for m in members], np.repeat(labels, weights, axis=0))
    (a, *_), (b, *_) = fit_weights(weighed, ROUND2, True).groups, fit_weights(copied, ROUND2, True).groups
    assert a.weights == pytest.approx(b.weights, abs=1e-4) and a.temperature == pytest.approx(b.temperature, rel=1e-4)


def test_copies_of_a_report_do_not_make_a_gain_surer(monkeypatch):
    _, labels, members = make(ROUND1, 120, [1, 1])
    seen = []
    monkeypatch.setattr(blending, "paired_difference", lambda *a: (seen.append(paired_difference(*a)), seen[-1])[1])
    folds = np.arange(120) % 3
    fit_method(rows(members, labels, folds), ROUND1, "auto")
    four = np.tile(np.arange(120), 4)
    copied = Evidence([m[four] for m in members], labels[four], folds[four], np.ones(480), four)
    fit_method(copied, ROUND1, "auto")
    assert seen[2].value == pytest.approx(seen[0].value, abs=1e-6)
    assert seen[2].standard_error == pytest.approx(seen[0].standard_error, rel=0.02)


def test_diversity_counts_errors_and_not_what_the_answer_explains():
    truth, labels, _ = make(ROUND1, 500, [])
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(2, *labels.shape))
    base = 8.0 * labels  # all three are right about everything, and differ in their errors only
    measured = diversity([base + a, base + b, 2 * (base + a) + 5, base], labels)
    correlation = np.array(measured["correlation"][:3], dtype=float)
    np.testing.assert_allclose(correlation[:, :3], [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=0.05)
    assert measured["correlation"][3] == [None] * 4  # no error, no correlation
    assert measured["mean_pairwise"] == pytest.approx(1 / 3, abs=0.05)
    assert diversity([a], labels)["mean_pairwise"] is None


def test_greedy_takes_the_better_member_first():
    _, labels, (worse, better) = make(ROUND1, 1000, [2.0, 0.5], scale=1.5)
    steps = greedy_steps(rows([worse, better], labels, np.arange(1000) % 5), ROUND1)
    assert steps[0].member == 1 and steps[0].agree == steps[0].folds == 5 and steps[0].gain is None
    assert steps[0].bag.weights == (0.0, 1.0)
    alone = fit_temperature(rows([better], labels), ROUND1, per_group=False).groups[0]
    assert steps[0].bag.temperature == pytest.approx(alone.temperature, rel=1e-3)


def test_greedy_finds_nearly_what_fitted_weights_find():
    _, labels, members = make(ROUND2, 2000, [0.5, 0.7, 1.0, 4.0], scale=0.8)
    evidence = rows(members, labels, np.arange(2000) % 5)
    greedy, free = (fit(evidence, ROUND2, True) for fit in (fit_greedy, fit_weights))
    assert len(greedy.groups) == 2 and greedy.groups[1].stop == 29
    assert score(ROUND2, labels, greedy.apply(members)) == pytest.approx(
        score(ROUND2, labels, free.apply(members)), abs=3e-4
    )
    for one, other in zip(greedy.groups, free.groups, strict=True):
        assert one.weights == pytest.approx(other.weights, abs=0.12) and sum(one.weights) == pytest.approx(1)


def test_each_greedy_step_is_the_best_of_all_there_are():
    _, labels, members = make(ROUND2, 300, [0.8, 1.0, 1.2], seed=5, scale=1.4)
    weights = np.random.default_rng(1).gamma(2, 0.5, 300)
    evidence = replace(rows(members, labels, np.arange(300) % 3), weights=weights)

    def best(logits):
        def loss(scale):
            return -official_score(ROUND2, labels, sigmoid(scale * logits), weights).value

        return minimize_scalar(loss, bracket=(0.5, 1)).fun

    counts = np.zeros(3)
    for size, step in enumerate(steps := greedy_steps(evidence, ROUND2), start=1):
        bags = counts + np.eye(3)
        assert step.member == np.argmin([best(np.tensordot(bag / size, members, 1)) for bag in bags])
        counts = bags[step.member]
        assert step.bag.weights == pytest.approx(counts / size)
    assert len(steps) > 2


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), n_members=st.integers(1, 4), per_group=st.booleans())
def test_greedy_is_no_worse_than_the_best_member_with_a_temperature(seed, n_members, per_group):
    noises = np.random.default_rng(seed).uniform(0.1, 4, n_members)
    _, labels, members = make(ROUND2, 60, noises, seed=seed, scale=0.5 + seed % 5)
    blend = fit_greedy(rows(members, labels, np.arange(60) % 3), ROUND2, per_group)
    for member in members:
        alone = fit_temperature(rows([member], labels), ROUND2, per_group)
        assert score(ROUND2, labels, blend.apply(members)) >= score(ROUND2, labels, alone.apply([member])) - 1e-5


def test_the_gains_shown_are_what_the_official_score_says():
    _, labels, members = make(ROUND2, 600, [0.6, 0.8, 2.5], scale=1.3)
    generator = np.random.default_rng(2)
    folds, weights, reports = np.arange(600) // 2 % 3, generator.gamma(2, 0.5, 600), np.arange(600) // 2
    evidence = Evidence(members, labels, folds, weights, reports)
    steps = greedy_steps(evidence, ROUND2)
    assert len(steps) > 1 and {0, 1} <= {step.member for step in steps}

    before = None
    for size in range(1, len(steps) + 1):  # each fold judged by as many steps as the other folds take, made by hand
        after = np.zeros(labels.shape)
        for fold in range(3):
            mine = folds == fold
            bags = blending._greedy(evidence.only(~mine), ROUND2, ROUND2.groups)
            bag = [next(bags) for _ in range(size)][-1][1]
            combined = sum(weight * member[mine] for weight, member in zip(bag.weights, members, strict=True))
            after[mine] = combined / bag.temperature
        step, now = steps[size - 1], sigmoid(after)
        assert step.score.value == pytest.approx(official_score(ROUND2, labels, now, weights, reports).value, abs=1e-12)
        if before is not None:
            gain = paired_difference(ROUND2, labels, now, before, weights, reports)
            assert step.gain.value == pytest.approx(step.score.value - steps[size - 2].score.value, abs=1e-12)
            assert step.gain.standard_error == pytest.approx(gain.standard_error, abs=1e-12)
        before = now
    assert steps[1].gain.value > 0

    found = contributions(evidence, ROUND2, fit_folds(evidence, ROUND2, "mean"), ["a", "b", "c"])
    assert json.loads(json.dumps(found)) == found
    assert [step["member"] for step in found["greedy"]] == ["abc"[step.member] for step in steps]
    alone = official_score(ROUND2, labels, sigmoid(members[2]), weights, reports)
    assert found["members"]["c"]["score"] == alone.to_json()


def test_a_member_that_knows_the_answers_of_one_fold_is_not_credited_for_them():
    """A member with fold 0's labels and noise elsewhere gains nothing: the blend of fold 0 is fitted on other folds."""
    _, labels, (honest,) = make(ROUND1, 900, [0.5])
    folds = np.arange(900) % 3
    noise = np.random.default_rng(3).normal(size=labels.shape)
    cheat = np.where((folds == 0)[:, None], 20 * (2.0 * labels - 1), noise)
    evidence = rows([honest, cheat], labels, folds)
    judge = fit_folds(evidence, ROUND1, "greedy")[0]
    assert judge == fit_folds(rows([honest, noise], labels, folds), ROUND1, "greedy")[0]
    assert judge.groups[0].weights[1] <= 0.1
    # Bags that saw the answers want it, so the check is not idle, and they lose by it on the folds that they judge.
    steps = greedy_steps(evidence, ROUND1)
    apart = cross_fitted([honest], labels, folds, ROUND1, "temperature")
    in_sample = fit_weights(evidence, ROUND1, per_group=False)
    assert in_sample.groups[0].weights[1] > 0.2
    assert score(ROUND1, labels, in_sample.apply([honest, cheat])) > score(ROUND1, labels, apart) + 0.02
    assert steps[-1].score.value < score(ROUND1, labels, apart) + 0.002


@pytest.mark.parametrize("method", ["mean", "temperature"])
def test_without_a_member_is_the_blend_of_the_others(method):
    _, labels, members = make(ROUND2, 400, [0.5, 0.8, 3.0], scale=1.6)
    folds = np.arange(400) % 4
    evidence = rows(members, labels, folds)
    lost = leave_one_out(evidence, ROUND2, fit_folds(evidence, ROUND2, method))
    full = sigmoid(cross_fitted(members, labels, folds, ROUND2, method))
    for i, loss in enumerate(lost):
        rest = sigmoid(cross_fitted(members[:i] + members[i + 1 :], labels, folds, ROUND2, method))
        expected = paired_difference(ROUND2, labels, full, rest)
        assert loss.value == pytest.approx(expected.value, abs=1e-5)
        assert loss.standard_error == pytest.approx(expected.standard_error, rel=1e-2)
    assert lost[0].value > 0 > lost[2].value  # the last is noise, and the blend is better off without it


@pytest.mark.parametrize("is_of_probabilities", [False, True])
def test_without_a_member_of_fixed_weights_are_the_others_by_theirs(is_of_probabilities):
    """Nothing is fitted, a temperature neither."""
    _, labels, members = make(ROUND2, 200, [0.5, 0.8, 3.0], scale=1.6)
    folds, weights = np.arange(200) % 2, [2.0, 1.0, 1.0]

    def blend(of):
        found = fixed_weights([weights[i] for i in of], ROUND2.n_labels)
        found = found.of_probabilities(ROUND2) if is_of_probabilities else found
        return sigmoid(found.apply([members[i] for i in of])), found

    full, fixed = blend([0, 1, 2])
    lost = leave_one_out(rows(members, labels, folds), ROUND2, {0: fixed, 1: fixed})
    for i, loss in enumerate(lost):
        rest, _ = blend([j for j in range(3) if j != i])
        assert loss.value == pytest.approx(paired_difference(ROUND2, labels, full, rest).value, abs=1e-9)


def test_a_member_without_weight_is_not_missed_and_one_that_is_all_cannot_be():
    _, labels, members = make(ROUND1, 400, [0.5, 1.0])
    members[1] = -members[1]  # weights of at least zero have no use for it
    evidence = rows(members, labels, np.arange(400) % 4)
    for method in ("weights", "greedy"):
        all_of_it, none = leave_one_out(evidence, ROUND1, fit_folds(evidence, ROUND1, method))
        assert all_of_it is None and none == Estimate(0.0, 0.0)


def test_malformed_input_raises():
    _, labels, members = make(ROUND2, 20, [1, 2])
    folds = np.arange(20) % 2
    with pytest.raises(UserError, match="'wieghts'.*'weights'"):
        cross_fitted(members, labels, folds, ROUND2, "wieghts")
    with pytest.raises(ValueError, match="\\[0\\]"):
        cross_fitted(members, labels, folds * 0, ROUND2, "mean")
    with pytest.raises(ValueError, match="members"):
        mean_logits([members[0], members[1][:10]])
    with pytest.raises(ValueError, match="members"):
        mean_logits([])
    with pytest.raises(ValueError, match="round1.*17"):
        fit_weights(rows(members, labels), ROUND1, per_group=False)
    with pytest.raises(ValueError, match="labels"):
        fit_weights(rows(members, sigmoid(members[0])), ROUND2, per_group=False)
    with pytest.raises(ValueError, match="labels"):
        greedy_steps(rows(members, sigmoid(members[0])), ROUND2)
    with pytest.raises(ValueError, match="2 members of 29 .* 1 of 29"):
        fit_weights(rows(members, labels), ROUND2, per_group=False).apply(members[:1])
    members[0][3, 4] = np.nan
    with pytest.raises(ValueError, match="predicted"):
        fit_weights(rows(members, labels), ROUND2, per_group=False)
    labels[:, :17] = 0
    with pytest.raises(UserError, match="types"):
        fit_weights(rows([members[1]], labels), ROUND2, per_group=True)


# Clinical tasks


def clinical(task, n=600, seed=0, spread=(0.6, 0.9, 3.0)):
    """Evidence of members of rising noise on one truth, each too sure of itself."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1.5, (n, task.n_labels))
    if task.kind == "regression":
        truth = 2 + truth / 2
        labels = np.expm1(np.maximum(truth + rng.normal(0, 0.3, truth.shape), 0)).round()
    elif task.kind == "binary":
        labels = (rng.random((n, 1)) < task.decode(truth)).astype(np.uint8)
    else:
        chosen = (task.decode(truth).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
        labels = np.eye(task.n_labels, dtype=np.uint8)[chosen]
    sure = 2.0 if task.has_classes else 1.0
    members = [sure * (truth + rng.normal(0, noise, truth.shape)) for noise in spread]
    return Evidence.of(members, labels, np.arange(n) % 4)


CLINICAL = pytest.mark.parametrize("task", [ICU, frames(3), LOS], ids=lambda task: task.name)


@CLINICAL
def test_clinical_weights_are_the_best_of_many(task):
    evidence = clinical(task)
    (group,) = fit_weights(evidence, task, False).groups
    best = task.cells(evidence.labels, task.decode(group.apply(evidence.members))).mean()
    rng = np.random.default_rng(0)
    for _ in range(400):
        weights = rng.dirichlet(np.ones(3))
        temperature = np.exp(rng.normal(0, 0.5)) if task.has_classes else 1.0
        other = sum(weight * member for weight, member in zip(weights, evidence.members, strict=True)) / temperature
        assert best <= task.cells(evidence.labels, task.decode(other)).mean() + 1e-5
    assert sum(group.weights) == pytest.approx(1) and min(group.weights) >= 0
    assert group.weights[0] > group.weights[2]
    assert (group.temperature > 1.2) if task.has_classes else (group.temperature == 1)


def test_two_classes_are_blended_like_one_probability():
    binary = clinical(ICU)
    two = [np.column_stack([np.zeros(600), member[:, 0]]) + 5 for member in binary.members]
    labels = np.column_stack([1 - binary.labels, binary.labels])
    for method in ("temperature", "weights", "greedy"):
        (one,) = fit_method(binary, ICU, method).groups
        (other,) = fit_method(Evidence.of(two, labels, binary.folds), frames(2), method).groups
        assert other.weights == pytest.approx(one.weights, abs=1e-4)
        assert other.temperature == pytest.approx(one.temperature, rel=1e-3)


@CLINICAL
@pytest.mark.parametrize("method", ["mean", "weights", "greedy", "auto"])
def test_clinical_blends_are_cross_fitted_and_no_worse_than_their_members(task, method):
    evidence = clinical(task)
    blends = fit_folds(evidence, task, method)
    blended = task.decode(apply_folds(blends, evidence.members, evidence.folds))
    score = official_score(task, evidence.labels, blended).value
    worst = official_score(task, evidence.labels, task.decode(evidence.members[2])).value
    best = official_score(task, evidence.labels, task.decode(evidence.members[0])).value
    assert score > (worst if method == "mean" else best - 0.01)
    rows = evidence.folds == 2
    moved = replace(evidence, labels=evidence.labels.copy())
    moved.labels[rows] = moved.labels[rows][::-1]
    assert fit_folds(moved, task, method)[2] == blends[2]  # its own rows have no say in a fold's blend
    found = contributions(evidence, task, blends, ["a", "b", "c"])
    assert found["greedy"][0]["member"] == "a" and set(found["members"]) == {"a", "b", "c"}
    json.dumps(found, allow_nan=False)
    assert BlendWeights.from_json(json.loads(json.dumps(blends[0].to_json()))) == blends[0]


def test_a_regression_has_no_temperature():
    evidence = clinical(LOS)
    assert "temperature has no meaning" in error_of(fit_method, evidence, LOS, "temperature")
    assert fit_method(evidence, LOS, "auto").groups[0].temperature == 1


def test_the_metric_says_which_blend_is_best():
    """Members with the same order of rows have no blend with another AUROC, so nothing is fitted."""
    labels, member = clinical(ICU).labels, clinical(ICU).members[0]
    evidence = Evidence.of([member, 3 * member], labels, np.arange(600) % 4)
    assert fit_method(evidence, ICU, "auto").method != "mean"
    assert fit_method(evidence, get_task("icu", "roc_auc"), "auto").method == "mean"
    steps = greedy_steps(evidence, get_task("icu", "roc_auc"))
    assert len(steps) == 1 and steps[0].score.value == pytest.approx(roc_auc_score(labels, member), abs=0.005)


def test_errors_of_clinical_members_are_correlated_where_they_share_them():
    rng = np.random.default_rng(0)
    for task in (LOS, frames(3)):
        labels, members = (evidence := clinical(task)).labels, evidence.members
        own = rng.normal(0, 1, members[0].shape)
        base = np.log1p(labels) if task is LOS else 3.0 * labels
        shift = rng.normal(0, 5, (600, 1)) if task.kind == "multiclass" else 0.0  # means nothing for classes
        found = diversity([base + own, base + own + shift, base + rng.normal(0, 1, own.shape)], labels, task.kind)
        assert found["correlation"][0][1] == pytest.approx(1)
        assert abs(found["correlation"][0][2]) < 0.15
