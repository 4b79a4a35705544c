"""Tables of scores: each kind of task has its own figures, and settings.metric says which run is best."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from src.__main__ import main
from src.core.settings_loader import load_config
from src.data.series_reader import OUTCOMES_HEADER
from src.data.submission_files import write_submission
from src.data.tasks import ICU, KINDS, LOS, ROUND1, frames, get_task
from src.evaluation import runs
from src.evaluation.metrics import TABLES, Estimate, gain_text, score_report, table_figures
from src.pipeline.stages import train
from tests.conftest import error_of

TASKS = pytest.mark.parametrize("task", [ROUND1, ICU, LOS, frames(3)], ids=lambda task: task.name)


def score_of(task, noise, seed=0, bias=0.0):
    """Content of a score.json of 300 rows, the better the less noise."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1.5, (300, task.n_labels))
    labels = (rng.random(truth.shape) < 0.5) if task.kind == "multilabel" else truth > 0
    if task.kind == "multiclass":
        labels = truth.argmax(axis=1)[:, None] == np.arange(task.n_labels)
    if task.kind == "regression":
        truth = truth / 2 + 2
        labels = np.expm1(truth).clip(0)
    elif task.kind == "multilabel":
        truth = np.where(labels, 1.0, -1.0)
    outputs = truth + noise * rng.normal(size=truth.shape) + bias
    report = score_report(task, labels * 1, task.decode(outputs), np.arange(300) % 3, n_boot=5)
    return {"how": "out of fold", "optimistic": False, "rows": 300, **report}


@TASKS
def test_every_kind_is_shown_with_its_own_figures(task, capsys):
    score = score_of(task, 0.5)
    runs.show_scores({"one": score})
    runs.show_details(SimpleNamespace(score=score, task=task, name="one"))
    told = capsys.readouterr().out
    assert all(heading in told for heading in TABLES[task.kind].values())
    value = runs.figure_of(score)["value"]
    assert f"{value:.4f}" in told and f"{value:.4f}" in runs.headline(score)
    assert f"300 {task.noun}" in runs.headline(score)
    figures = table_figures(task, score["overall"])
    assert len(figures) == len(TABLES[task.kind])
    assert all(set(figure) >= {"value", "standard_error"} for figure in figures.values())


def test_details_begin_with_the_figure_that_orders_runs(capsys):
    score, task = score_of(ICU, 0.5), get_task("icu", "roc_auc")
    runs.show_details(SimpleNamespace(score=score, task=task, name="one"))
    first, *_ = re.findall(rf"^ *{task.score_name} +(\S+)", capsys.readouterr().out, re.MULTILINE)
    assert first == f"{score['overall']['figures']['roc_auc']['value']:.4f}"


@TASKS
def test_the_best_run_is_last_and_shown_first(task, capsys):
    scores = {"good": score_of(task, 0.3), "bad": score_of(task, 3.0), "fair": score_of(task, 1.0)}
    for metric in ("auto", *KINDS[task.kind].scores):
        assert runs.ordered(scores, metric) == ["bad", "fair", "good"]
    runs.show_scores(scores)
    lines = re.findall(r"^ *(good|bad|fair) ", capsys.readouterr().out, re.MULTILINE)
    assert lines[:3] == ["good", "fair", "bad"]


def test_a_metric_may_order_runs_otherwise():
    """A shift of all logits ruins the log loss and keeps the order of rows; noise does the reverse."""
    scores = {"shifted": score_of(ICU, 0.3, bias=6.0), "noisy": score_of(ICU, 1.5)}
    assert runs.ordered(scores) == ["shifted", "noisy"]
    assert runs.ordered(scores, "roc_auc") == ["noisy", "shifted"]
    assert runs.figure_of(scores["noisy"], "pr_auc") == scores["noisy"]["overall"]["figures"]["pr_auc"]
    assert get_task("icu", "pr_auc").score_name in runs.headline(scores["noisy"], "pr_auc")
    assert "roc_auc" in error_of(runs.ordered, scores, "mae")


def test_a_run_without_a_defined_figure_is_first():
    scores = {"good": score_of(ICU, 0.3), "none": score_of(ICU, 0.3)}
    scores["none"]["overall"]["scores"]["roc_auc"]["value"] = None
    assert runs.ordered(scores, "roc_auc") == ["none", "good"]


def test_a_submission_is_judged_at_the_threshold_that_is_asked_for(tmp_path, capsys):
    rng, ids = np.random.default_rng(0), np.arange(400)
    truth = rng.normal(size=400)
    lines = [f"{i},10,5,9,-1,{int(value > 1)}" for i, value in zip(ids, truth, strict=True)]
    outcomes, submission = tmp_path / "Outcomes-b.txt", tmp_path / "submission_set-b.csv"
    outcomes.write_text("\n".join([OUTCOMES_HEADER, *lines]) + "\n")
    predictions = ICU.decode(truth + rng.normal(size=400))[:, None]
    write_submission(submission, np.char.mod("%d", ids).astype(bytes), predictions, 1e-7, ICU)
    shown = []
    for wished in (0.5, 0.95):
        words = ["--task", "icu", f"operating.sensitivity={wished}", f"paths.input={tmp_path}", "--json"]
        assert main(["score", "--labels", str(outcomes), str(submission), *words]) == 0
        (row,) = json.loads(capsys.readouterr().out)["tables"][0]["rows"]
        shown.append(float(row["sens."]))
    assert shown[0] == pytest.approx(0.5, abs=0.15) and shown[1] == pytest.approx(0.95, abs=0.08)


def test_a_gain_in_days_has_its_error_in_days():
    gain = Estimate(0.0512, 0.0234)
    assert gain_text(LOS, gain) == "+0.051±0.023" and gain_text(ICU, gain) == "+0.0512±234"


def test_one_stay_has_no_interval():
    assert "2 stays" in error_of(score_report, LOS, np.array([[3.0]]), np.array([[2.0]]))


@pytest.mark.parametrize(("name", "is_optimistic"), [("gru", True), ("linear", False)])
def test_a_model_without_epochs_stops_at_none(name, is_optimistic):
    config = load_config("sample", ["task=icu", "train.patience=2"])
    workspace = SimpleNamespace(settings=config, splits=SimpleNamespace(scheme="kfold"))
    assert train._how(workspace, name)[1] == is_optimistic
