"""Scores and their standard errors, against scikit-learn, plain loops and simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    precision_score,
    r2_score,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)

from src.core.errors import UserError
from src.core.settings import Operating
from src.data.tasks import ICU, KINDS, LOS, ROUND1, ROUND2, frames, get_task
from src.evaluation.metrics import (
    EPS,
    Estimate,
    log_loss_cells,
    logit,
    official_score,
    ordering_figure,
    paired_difference,
    score_report,
    sigmoid,
)
from src.evaluation.operating_points import best_min_se_p, cross_fitted, cross_fitted_intervals

TASKS = pytest.mark.parametrize("task", [ROUND1, ROUND2], ids=lambda task: task.name)


def make(task, n, seed=0, generator=None):
    """Draws labels and probabilities whose losses vary between reports, like real losses."""
    generator = generator or np.random.default_rng(seed)
    truth = generator.normal(-1.5, 1.5, (n, task.n_labels)) + generator.normal(0, 1, (n, 1))
    labels = (generator.random(truth.shape) < sigmoid(truth)).astype(np.int8)
    return labels, sigmoid(1.3 * truth + generator.normal(0, 1, truth.shape))


def loop_score(task, labels, probabilities):
    """Computes the official score by the rules' text, one cell at a time."""
    scale, weights = (1, {"regions": 1}) if task is ROUND1 else (2, {"regions": 0.6, "types": 0.4})
    score = 0.0
    for name, columns in task.columns.items():
        losses = []
        for truths, guesses in zip(labels.tolist(), probabilities.tolist(), strict=True):
            if name == "regions" or any(truths[:17]):
                for truth, p in zip(truths[columns], guesses[columns], strict=True):
                    p = min(max(p, 1e-7), 1 - 1e-7)
                    losses.append(-math.log(p) if truth == 1 else -math.log(1 - p))
        score += weights[name] * (1 - scale * sum(losses) / len(losses))
    return score


@TASKS
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 30), hard=st.booleans())
def test_score_is_the_rules_written_as_loops(task, seed, n, hard):
    labels, probabilities = make(task, n, seed)
    labels[0, 0] = 1  # round 2 needs a report that counts for the types,
    labels[1, :17] = 0  # and here has one that does not
    if hard:
        probabilities = probabilities.round()  # zeros and ones, which only the clip keeps finite
    assert official_score(task, labels, probabilities).value == pytest.approx(loop_score(task, labels, probabilities))


def test_scores_of_simple_predictions():
    labels, half = np.eye(4, 29), np.full((4, 29), 0.5)
    assert official_score(ROUND1, labels[:, :17], half[:, :17]).value == pytest.approx(1 - math.log(2))
    assert official_score(ROUND2, labels, half).value == pytest.approx(1 - 2 * math.log(2))
    assert official_score(ROUND2, labels, labels).value == pytest.approx(1, abs=1e-6)


def test_cells_are_scikit_learns_log_loss_of_each_column_and_clipped():
    labels, probabilities = make(ROUND1, 200)
    columns = [log_loss(labels[:, k], probabilities[:, k]) for k in range(17)]
    np.testing.assert_allclose(log_loss_cells(labels, probabilities).mean(axis=0), columns)
    cells = log_loss_cells(np.array([[1, 0, 1]]), np.array([[0, 1, 1]], dtype=np.float32))
    np.testing.assert_allclose(cells, [[-math.log(EPS), -math.log(EPS), -math.log1p(-EPS)]], rtol=1e-6)
    assert log_loss_cells(np.array([[1]]), np.array([[0.0]]), eps=1e-15)[0, 0] == pytest.approx(15 * math.log(10))


@given(st.floats(-1e4, 1e4))
def test_sigmoid_and_logit_are_inverse_and_finite(x):
    p = sigmoid(np.array(x, dtype=np.float32))
    assert p.dtype == np.float64 and 0 <= p <= 1
    assert p + sigmoid(np.array(-x, dtype=np.float32)) == pytest.approx(1)
    assert logit(p) == pytest.approx(np.clip(x, logit(0.0), logit(1.0)), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.01, 1.01])
@pytest.mark.parametrize("function", [official_score, score_report], ids=lambda function: function.__name__)
def test_probabilities_that_are_none_raise(function, bad):
    labels, probabilities = make(ROUND1, 10)
    probabilities[3, 4] = bad
    with pytest.raises(ValueError, match="finite"):
        function(ROUND1, labels, probabilities)


def test_swapped_or_misshapen_arguments_raise():
    labels, probabilities = make(ROUND1, 10)
    with pytest.raises(ValueError, match="swapped"):
        official_score(ROUND1, probabilities, labels)
    with pytest.raises(ValueError, match="swapped"):
        paired_difference(ROUND1, probabilities, labels, labels)
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        official_score(ROUND1, labels * 2, probabilities)
    for y, p in [(labels, probabilities[:9]), (labels[:0], probabilities[:0]), (labels[0], probabilities[0])]:
        with pytest.raises(ValueError, match="shape"):
            official_score(ROUND1, y, p)
    with pytest.raises(ValueError, match="round2.*29.*17"):
        official_score(ROUND2, labels, probabilities)


def test_no_report_that_counts_is_a_clear_error():
    labels, probabilities = make(ROUND2, 10)
    labels[:, :17] = 0
    for function in (official_score, score_report):
        with pytest.raises(UserError, match="10 reports.*types"):
            function(ROUND2, labels, probabilities)


@TASKS
def test_standard_errors_are_the_spread_over_samples(task):
    generator = np.random.default_rng(1)
    scores, differences = [], []
    for _ in range(600):
        labels, probabilities = make(task, 120, generator=generator)
        scores.append(official_score(task, labels, probabilities))
        differences.append(paired_difference(task, labels, probabilities, sigmoid(0.6 * logit(probabilities))))
    for estimates in (scores, differences):
        spread = np.std([estimate.value for estimate in estimates])
        claimed = np.sqrt(np.mean([estimate.standard_error**2 for estimate in estimates]))
        assert claimed == pytest.approx(spread, rel=0.12)


def test_standard_errors_of_the_report_are_the_spread_over_samples():
    generator = np.random.default_rng(2)
    reports = []
    for _ in range(150):
        labels, probabilities = make(ROUND1, 150, generator=generator)
        report = score_report(ROUND1, labels, probabilities, n_boot=50)["overall"]
        reports.append({"exact_match": report["exact_match"]} | report["macro"])
    for name in ("exact_match", "positive_rate", "log_loss", "roc_auc", "pr_auc", "sensitivity", "specificity"):
        spread = np.std([report[name]["value"] for report in reports])
        claimed = np.sqrt(np.mean([report[name]["standard_error"] ** 2 for report in reports]))
        assert claimed == pytest.approx(spread, rel=0.2), name


@TASKS
def test_paired_difference_is_the_difference_and_far_surer_than_the_scores(task):
    labels, probabilities = make(task, 300)
    other = sigmoid(0.95 * logit(probabilities))
    a, b = official_score(task, labels, probabilities), official_score(task, labels, other)
    gain = paired_difference(task, labels, probabilities, other)
    assert gain.value == pytest.approx(a.value - b.value)
    assert gain.standard_error < 0.2 * a.standard_error
    assert paired_difference(task, labels, other, probabilities).value == pytest.approx(-gain.value)
    assert paired_difference(task, labels, other, other) == Estimate(0.0, 0.0)


def loop_calibration_error(labels, probabilities):
    """Computes the expected calibration error of flat arrays, one bin at a time."""
    error = 0.0
    for i in range(15):
        inside = [j for j, p in enumerate(probabilities) if i / 15 <= p < (i + 1) / 15 or (i == 14 and p == 1)]
        if inside:
            error += abs(np.mean(probabilities[inside]) - np.mean(labels[inside])) * len(inside) / len(labels)
    return error


@TASKS
def test_report_agrees_with_scikit_learn_on_the_rows_that_count(task):
    labels, probabilities = make(task, 300)
    labels[:80] = 0
    labels[80:90, :17] = 0  # round 2: types without a region, which must not count
    probabilities = probabilities.round(2)  # many ties
    report = score_report(task, labels, probabilities, n_boot=10)["overall"]
    for k, name in enumerate(task.label_names):
        rows = labels[:, :17].any(axis=1) if name.startswith("type") else np.full(300, True)
        y, p, figures = labels[rows, k], probabilities[rows, k], report["labels"][name]
        assert (figures["rows"], figures["positives"]) == (rows.sum(), y.sum())
        expected = {
            "positive_rate": y.mean(),
            "log_loss": log_loss_cells(y[:, None], p[:, None]).mean(),
            "roc_auc": roc_auc_score(y, p),
            "pr_auc": average_precision_score(y, p),
            "sensitivity": recall_score(y, p >= 0.5),
            "specificity": recall_score(1 - y, p < 0.5),
            "calibration_error": loop_calibration_error(y, p),
        }
        assert {figure: figures[figure]["value"] for figure in expected} == pytest.approx(expected)
    for figure in expected:
        values = [label[figure]["value"] for label in report["labels"].values()]
        assert report["macro"][figure]["value"] == pytest.approx(np.mean(values))
        assert report["groups"]["regions"]["macro"][figure]["value"] == pytest.approx(np.mean(values[:17]))
    cells = np.ones(labels.shape, dtype=bool)
    cells[:, 17:] = labels[:, :17].any(axis=1)[:, None]
    assert report["calibration_error"]["value"] == pytest.approx(
        loop_calibration_error(labels[cells], probabilities[cells])
    )
    assert report["exact_match"]["value"] == accuracy_score(labels * cells, (probabilities >= 0.5) & cells)
    assert report["score"]["value"] == pytest.approx(loop_score(task, labels, probabilities))
    assert report["score"]["value"] == pytest.approx(1 - task.groups[0].loss_scale * report["mlogloss"]["value"])
    assert report["groups"]["regions"]["mlogloss"]["value"] == pytest.approx(
        report["groups"]["regions"]["macro"]["log_loss"]["value"]
    )


def test_bootstrap_is_that_of_scikit_learn_with_the_same_weights():
    labels, probabilities = make(ROUND1, 60)
    probabilities = probabilities.round(1)
    report = score_report(ROUND1, labels, probabilities, n_boot=30, seed=5)["overall"]
    generator = np.random.default_rng(5)
    draws = [np.bincount(generator.integers(0, 60, 60), minlength=60) for _ in range(30)]
    precisions = np.array(
        [
            [average_precision_score(labels[:, k], probabilities[:, k], sample_weight=draw) for k in range(17)]
            for draw in draws
        ]
    )
    for k, name in enumerate(ROUND1.label_names):
        assert report["labels"][name]["pr_auc"]["standard_error"] == pytest.approx(precisions[:, k].std(ddof=1))
    assert report["macro"]["pr_auc"]["standard_error"] == pytest.approx(precisions.mean(axis=1).std(ddof=1))
    errors = [
        loop_calibration_error(np.repeat(labels[:, 0], draw), np.repeat(probabilities[:, 0], draw)) for draw in draws
    ]
    assert report["labels"]["region_0"]["calibration_error"]["standard_error"] == pytest.approx(np.std(errors, ddof=1))


def test_bootstrap_in_small_chunks_is_the_same(monkeypatch):
    labels, probabilities = make(ROUND2, 100)
    whole = score_report(ROUND2, labels, probabilities, n_boot=20)
    monkeypatch.setattr("src.evaluation.figures.DRAW_CELLS", 300)
    assert score_report(ROUND2, labels, probabilities, n_boot=20) == whole
    assert score_report(ROUND2, labels, probabilities, n_boot=20, seed=1) != whole


def test_undefined_figures_are_null_and_left_out_of_the_mean():
    labels, probabilities = make(ROUND1, 80)
    labels[:, 0], labels[:, 1], labels[:, 3], probabilities[:, 2] = 0, 1, np.arange(80) == 7, 0.3
    report = score_report(ROUND1, labels, probabilities, n_boot=10)
    json.dumps(report, allow_nan=False)
    null, figures = {"value": None, "standard_error": None}, report["overall"]["labels"]
    assert figures["region_0"]["roc_auc"] == figures["region_0"]["pr_auc"] == figures["region_0"]["sensitivity"] == null
    assert figures["region_1"]["roc_auc"] == figures["region_1"]["specificity"] == null
    assert figures["region_2"]["roc_auc"]["value"] == 0.5
    assert figures["region_2"]["pr_auc"]["value"] == pytest.approx(labels[:, 2].mean())
    assert figures["region_3"]["pr_auc"]["value"] == average_precision_score(labels[:, 3], probabilities[:, 3])
    assert figures["region_3"]["pr_auc"]["standard_error"] > 0  # from the draws that have the one positive report
    macro = report["overall"]["macro"]
    assert [macro[name]["labels"] for name in ("roc_auc", "pr_auc", "sensitivity", "log_loss")] == [15, 16, 16, 17]
    defined = [label["roc_auc"]["value"] for name, label in figures.items() if name not in ("region_0", "region_1")]
    assert macro["roc_auc"]["value"] == pytest.approx(np.mean(defined))
    one = official_score(ROUND1, labels[:1], probabilities[:1])
    assert one.to_json() == {"value": one.value, "standard_error": None}


def test_folds_are_reports_of_their_rows_and_negative_folds_are_left_out():
    labels, probabilities = make(ROUND2, 120)
    folds = np.arange(120) % 4 - 1
    probabilities[folds == -1] = math.nan
    report = score_report(ROUND2, labels, probabilities, folds, n_boot=10)
    assert set(report["folds"]) == {"0", "1", "2"} and report["overall"]["rows"] == 90
    for fold, section in report["folds"].items():
        rows = folds == int(fold)
        assert section == score_report(ROUND2, labels[rows], probabilities[rows], n_boot=10)["overall"]
    labels[folds == 1, :17] = 0  # one fold in which no report counts for the types
    section = score_report(ROUND2, labels, probabilities, folds, n_boot=10)["folds"]["1"]
    assert section["score"]["value"] is None and section["groups"]["types"]["mlogloss"]["value"] is None
    assert section["groups"]["regions"]["mlogloss"]["value"] > 0
    json.dumps(section, allow_nan=False)


@pytest.mark.parametrize("task", [ROUND1, ROUND2], ids=lambda task: task.name)
def test_a_weight_is_worth_as_many_copies_of_the_report(task):
    rng = np.random.default_rng(0)
    labels, p, other = rng.integers(0, 2, (60, task.n_labels)), *rng.random((2, 60, task.n_labels))
    weights = rng.integers(0, 4, 60)
    copied = [np.repeat(array, weights, axis=0) for array in (labels, p, other)]
    reports = np.repeat(np.arange(60), weights)
    weighed = official_score(task, labels, p, weights)
    again = official_score(task, *copied[:2], reports=reports)
    assert weighed.value == pytest.approx(again.value, abs=1e-12)
    assert weighed.standard_error == pytest.approx(again.standard_error, rel=0.02)
    gain = paired_difference(task, labels, p, other, weights)
    assert gain.value == pytest.approx(paired_difference(task, *copied, reports=reports).value, abs=1e-12)


def test_copies_of_reports_do_not_lower_the_standard_error():
    rng = np.random.default_rng(1)
    labels, p = rng.integers(0, 2, (300, 17)), rng.random((300, 17))
    once = official_score(ROUND1, labels, p)
    four = official_score(ROUND1, np.tile(labels, (4, 1)), np.tile(p, (4, 1)), reports=np.tile(np.arange(300), 4))
    naive = official_score(ROUND1, np.tile(labels, (4, 1)), np.tile(p, (4, 1)))
    assert four.standard_error == pytest.approx(once.standard_error, rel=0.01)
    assert naive.standard_error == pytest.approx(once.standard_error / 2, rel=0.01)


def test_the_standard_error_of_a_weighted_score_is_its_spread_over_samples():
    rng = np.random.default_rng(2)
    scores = []
    for _ in range(400):
        labels, p = rng.integers(0, 2, (200, 17)), rng.random((200, 17))
        weights = rng.exponential(size=200)
        scores.append(official_score(ROUND1, labels, p, weights))
    spread = np.std([score.value for score in scores])
    assert np.mean([score.standard_error for score in scores]) == pytest.approx(spread, rel=0.12)


def test_a_group_of_which_every_row_weighs_nothing_raises():
    labels = np.zeros((2, 29), dtype=int)
    labels[0, [0, 17]] = 1
    with pytest.raises(UserError, match="types"):
        official_score(ROUND2, labels, np.full((2, 29), 0.5), np.array([0.0, 1.0]))


# Clinical tasks


def clinical(task, n=400, seed=0):
    """Labels and predictions (n, n_labels) of a clinical task."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(-1.5, 1.5, (n, task.n_labels))
    if task.kind == "regression":
        outputs = 2 + 0.4 * outputs
        return np.expm1(np.maximum(outputs + rng.normal(0, 0.6, (n, 1)), 0)).round(), task.decode(outputs)
    if task.kind == "binary":
        return (rng.random((n, 1)) < sigmoid(outputs)).astype(np.uint8), sigmoid(outputs + rng.normal(0, 0.5, (n, 1)))
    chosen = (task.decode(outputs).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return np.eye(task.n_labels, dtype=np.uint8)[chosen], task.decode(outputs + rng.normal(0, 0.5, outputs.shape))


CLINICAL = [ICU, LOS, frames(4)]
NAMED = [get_task(task.name, name) for task in CLINICAL for name in KINDS[task.kind].scores]
EACH_METRIC = pytest.mark.parametrize("task", NAMED, ids=lambda task: f"{task.name}-{task.metric}")


def values(figures):
    return {name: figure["value"] for name, figure in figures.items()}


def test_binary_figures_are_scikit_learns():
    labels, predictions = clinical(ICU)
    predictions = predictions.round(2)  # ties
    y, p = labels[:, 0], predictions[:, 0]
    folds = np.arange(len(y)) % 4
    section = score_report(ICU, labels, predictions, folds, n_boot=10)["overall"]
    top = 1.0 / 0.1 / y.sum()
    by_rank = np.argsort(-p, kind="stable")
    sure, tied = p > p[by_rank[39]], p == p[by_rank[39]]  # 40 rows are a tenth
    hits = y[sure].sum() + y[tied].sum() * (40 - sure.sum()) / tied.sum()
    expected = {
        "roc_auc": roc_auc_score(y, p),
        "pr_auc": average_precision_score(y, p),
        "log_loss": log_loss(y, p.clip(EPS, 1 - EPS)),
        "brier": brier_score_loss(y, p),
        "calibration_error": loop_calibration_error(y, p),
        "positive_rate": y.mean(),
        "mean_prediction": p.mean(),
        "excess": p.mean() - y.mean(),
        "lift": hits * top,
    }
    found = values(section["figures"])
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert section["score"]["value"] == section["scores"]["log_loss"]["value"] == pytest.approx(1 - found["log_loss"])
    curve = section["calibration_curve"]
    assert sum(part["rows"] for part in curve) == len(y)
    gaps = [abs(part["predicted"] - part["observed"]["value"]) * part["rows"] for part in curve]
    assert sum(gaps) / len(y) == pytest.approx(found["calibration_error"])


def flagged_by_loops(y, p, folds, best):
    """Flags each row with the threshold that is best on the other folds, trying all of them."""
    flagged = np.zeros(len(y), dtype=bool)
    for fold in np.unique(folds):
        others = folds != fold
        tried = np.append(np.unique(p[others])[::-1], 0)
        threshold = best(tried, [(y[others], p[others] >= one) for one in tried])
        flagged[folds == fold] = p[folds == fold] >= threshold
    return flagged


@pytest.mark.parametrize("rule", [{"sensitivity": 0.8}, {"sensitivity": 1.0}, {"cost_ratio": 5.0}])
def test_thresholds_are_chosen_on_other_folds(rule):
    labels, predictions = clinical(ICU)
    y, p, folds = labels[:, 0], predictions[:, 0].round(1), np.arange(400) % 4

    def by_sensitivity(tried, made):
        return next(one for one, (truth, said) in zip(tried, made, strict=True)
                    if recall_score(truth, said) >= rule["sensitivity"] - 1e-9)  # fmt: skip

    def by_cost(tried, made):
        costs = [5 * (truth & ~said).sum() + (~truth.astype(bool) & said).sum() for truth, said in made]
        return tried[int(np.argmin(costs))]

    def by_smaller(tried, made):
        smaller = [min(recall_score(*one), precision_score(*one, zero_division=0)) for one in made]
        return tried[int(np.argmax(smaller))]

    report = score_report(ICU, labels, p[:, None], folds, n_boot=10, operating=Operating(**rule))
    found = values(report["overall"]["figures"])
    said = flagged_by_loops(y, p, folds, by_cost if "cost_ratio" in rule else by_sensitivity)
    assert found["sensitivity"] == pytest.approx(recall_score(y, said))
    assert found["specificity"] == pytest.approx(recall_score(1 - y, ~said))
    assert found["precision"] == pytest.approx(precision_score(y, said))
    assert found["flagged"] == pytest.approx(said.mean())
    said = flagged_by_loops(y, p, folds, by_smaller)
    smaller = min(recall_score(y, said), precision_score(y, said))
    assert found["min_se_p"] == report["overall"]["scores"]["min_se_p"]["value"] == pytest.approx(smaller)
    one = get_task("icu", "min_se_p")
    assert official_score(one, labels, p[:, None], folds=folds).value == pytest.approx(smaller)
    assert report["folds"]["2"]["figures"]["sensitivity"]["value"] is not None
    if "sensitivity" in rule:  # for new rows, by all rows
        threshold = report["overall"]["thresholds"]["operating"]
        assert recall_score(y, p >= threshold) >= rule["sensitivity"] > recall_score(y, p > threshold)


def test_the_label_of_a_row_does_not_move_its_own_threshold():
    labels, predictions = clinical(ICU)
    folds = np.arange(400) % 4
    thresholds = cross_fitted(best_min_se_p, labels[:, 0], predictions[:, 0], folds)
    other = np.where(folds == 1, 1 - labels[:, 0], labels[:, 0])
    moved = cross_fitted(best_min_se_p, other, predictions[:, 0], folds)
    assert (thresholds == moved)[folds == 1].all() and (thresholds != moved)[folds != 1].any()


def test_regression_figures_are_scikit_learns():
    labels, predictions = clinical(LOS)
    folds = np.arange(400) % 4
    section = score_report(LOS, labels, predictions, folds, n_boot=10)["overall"]
    y, p = labels[:, 0], predictions[:, 0]
    median = np.array([np.median(y[folds != fold]) for fold in folds])
    inside, width = np.zeros(400, dtype=bool), np.zeros(400)
    for fold in range(4):
        others = folds != fold
        middle = np.quantile(p[others], [1 / 3, 2 / 3])  # 300 rows are enough for three ranges
        residuals, of_row = np.log1p(y) - np.log1p(p), np.digitize(p, middle)
        for k in range(3):
            rows = ~others & (of_row == k)
            limits = np.quantile(residuals[others & (of_row == k)], [0.1, 0.9])
            low, high = (np.expm1(np.log1p(p[rows]) + limit).clip(0) for limit in limits)
            inside[rows], width[rows] = (low <= y[rows]) & (y[rows] <= high), high - low
    expected = {
        "mae": mean_absolute_error(y, p),
        "mae_of_median": mean_absolute_error(y, median),
        "gain_over_median": mean_absolute_error(y, median) - mean_absolute_error(y, p),
        "rmse": root_mean_squared_error(y, p),
        "r2_log": r2_score(np.log1p(y), np.log1p(p)),
        "bias": (p - y).mean(),
        "coverage_80": inside.mean(),
        "width_80": width.mean(),
    }
    found = values(section["figures"])
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert section["score"]["value"] == pytest.approx(-expected["mae"])
    assert values(section["scores"]) == pytest.approx(
        {"mae": -expected["mae"], "rmse": -expected["rmse"], "r2_log": expected["r2_log"]}
    )
    assert [found[f"coverage_{share}"] for share in (50, 80, 90)] == pytest.approx([0.5, 0.8, 0.9], abs=0.06)
    parts = section["calibration"]
    assert [part["rows"] for part in parts] == [80] * 5
    assert np.mean([part["coverage"]["80"]["value"] for part in parts]) == pytest.approx(found["coverage_80"])
    assert np.mean([part["observed"]["value"] for part in parts]) == pytest.approx(y.mean())
    gain = section["figures"]["gain_over_median"]["standard_error"]
    assert gain == pytest.approx((np.abs(median - y) - np.abs(p - y)).std(ddof=1) / 20, rel=0.01)


def test_multiclass_figures_are_scikit_learns():
    task = frames(4)
    labels, predictions = clinical(task)
    section = score_report(task, labels, predictions, np.arange(400) % 4, n_boot=10)["overall"]
    truth, guess = labels.argmax(axis=1), predictions.argmax(axis=1)
    expected = {
        "accuracy": accuracy_score(truth, guess),
        "log_loss": log_loss(truth, predictions),
        "roc_auc": roc_auc_score(truth, predictions, multi_class="ovr"),
        "brier": ((labels - predictions) ** 2).sum() / 400,
        "calibration_error": loop_calibration_error((truth == guess).astype(int), predictions.max(axis=1)),
    }
    assert values(section["figures"]) == pytest.approx(expected)
    assert section["confusion"] == confusion_matrix(truth, guess).tolist()
    recalls = [section["labels"][f"class_{k}"]["recall"]["value"] for k in range(4)]
    assert recalls == pytest.approx(recall_score(truth, guess, average=None))
    precisions = [section["labels"][f"class_{k}"]["precision"]["value"] for k in range(4)]
    assert precisions == pytest.approx(precision_score(truth, guess, average=None))


@EACH_METRIC
def test_the_figure_that_orders_is_that_of_the_report(task):
    labels, predictions = clinical(task)
    folds = np.arange(400) % 4
    report = score_report(task, labels, predictions, folds)
    json.dumps(report, allow_nan=False)
    score = official_score(task, labels, predictions, folds=folds)
    assert ordering_figure(task, report["overall"]) == pytest.approx(score.to_json())
    assert score.standard_error > 0
    named = task.metric or KINDS[task.kind].scores[0]
    sign = -1 if named in ("mae", "rmse") else 1
    figure = report["overall"]["figures"][named]
    assert score.value == pytest.approx(1 - figure["value"] if named == "log_loss" else sign * figure["value"])
    assert set(report["folds"]) == {"0", "1", "2", "3"}


@EACH_METRIC
def test_a_better_prediction_has_a_higher_figure(task):
    labels, predictions = clinical(task)
    best = labels.astype(float)
    assert official_score(task, labels, best).value > official_score(task, labels, predictions).value
    gain = paired_difference(task, labels, best, predictions)
    assert gain.value > 3 * gain.standard_error > 0
    assert paired_difference(task, labels, predictions, predictions) == Estimate(0.0, 0.0)


@EACH_METRIC
def test_a_weight_is_worth_as_many_copies_under_every_metric(task):
    labels, predictions = clinical(task, 300)
    weights = np.random.default_rng(1).integers(0, 4, 300)
    copied, reports = [np.repeat(array, weights, axis=0) for array in (labels, predictions)], np.arange(300)
    folds = np.arange(300) % 5
    weighed = official_score(task, labels, predictions, weights, folds=folds)
    again = official_score(task, *copied, reports=np.repeat(reports, weights), folds=np.repeat(folds, weights))
    assert weighed.value == pytest.approx(again.value, abs=1e-9)
    assert weighed.standard_error == pytest.approx(again.standard_error, rel=0.2)
    # Copies of all rows are no further evidence.
    once = official_score(task, labels, predictions, folds=folds)
    four = (np.tile(array, (4, 1)) for array in (labels, predictions))
    tiled = official_score(task, *four, reports=np.tile(reports, 4), folds=np.tile(folds, 4))
    assert tiled.standard_error == pytest.approx(once.standard_error, rel=0.02)


@EACH_METRIC
def test_standard_errors_are_the_spread_over_samples_under_every_metric(task):
    scores, gains = [], []
    for seed in range(150):
        labels, predictions = clinical(task, 250, seed)
        other = task.decode(np.random.default_rng(seed).normal(0, 1, predictions.shape))
        folds = np.arange(250) % 5
        scores.append(official_score(task, labels, predictions, folds=folds))
        gains.append(paired_difference(task, labels, predictions, other, folds=folds))
    for estimates in (scores, gains):
        spread = np.std([one.value for one in estimates])
        claimed = np.sqrt(np.mean([one.standard_error**2 for one in estimates]))
        # A threshold's choice adds to the spread, and its noise is not in the standard error.
        assert claimed == pytest.approx(spread, rel=0.3 if task.metric in ("min_se_p", "rmse") else 0.2)


def test_a_metric_without_both_labels_is_a_clear_error():
    predictions = np.full((20, 1), 0.3)
    for metric in ("roc_auc", "pr_auc", "min_se_p"):
        with pytest.raises(UserError, match="metric"):
            official_score(get_task("icu", metric), np.zeros((20, 1), dtype=int), predictions)
    report = score_report(ICU, np.zeros((20, 1), dtype=int), predictions)["overall"]
    assert report["figures"]["roc_auc"]["value"] is report["figures"]["min_se_p"]["value"] is None
    json.dumps(report, allow_nan=False)


def test_intervals_cover_where_errors_grow_with_the_prediction():
    rng = np.random.default_rng(0)
    outputs = rng.uniform(1, 4, (4000, 1))
    labels = np.expm1(np.maximum(outputs + rng.normal(0, 0.15 * outputs), 0))
    section = score_report(LOS, labels, LOS.decode(outputs), np.arange(4000) % 5, n_boot=5)["overall"]
    for part in section["calibration"]:
        assert [part["coverage"][share]["value"] for share in ("50", "80", "90")] == pytest.approx(
            [0.5, 0.8, 0.9], abs=0.05
        )
    # The label of a row does not move its own interval.
    folds = np.arange(4000) % 5
    before = cross_fitted_intervals(labels[:, 0], LOS.decode(outputs)[:, 0], folds)
    after = cross_fitted_intervals(np.where(folds == 2, 0, labels[:, 0]), LOS.decode(outputs)[:, 0], folds)
    for share in (0.5, 0.8, 0.9):
        same = [
            np.array_equal(one[folds == 2], two[folds == 2])
            for one, two in zip(before[share], after[share], strict=True)
        ]
        moved = [(one != two)[folds != 2].any() for one, two in zip(before[share], after[share], strict=True)]
        assert all(same) and any(moved)
