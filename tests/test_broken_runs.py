"""Broken runs, diverged or constant, are recognised and not blended, submitted or handed on without --force."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.data.tasks import ICU, LOS, ROUND1, ROUND2, Task, frames
from src.evaluation.broken_runs import fault
from tests.conftest import run_command, words

TASKS = [ROUND1, ROUND2, ICU, LOS, frames(10)]
ROWS, FOLDS = 300, 5


def labels_of(task: Task, rng: np.random.Generator, rows: int = ROWS) -> np.ndarray:
    """Labels of a task; one row in eight is positive."""
    if task.kind == "regression":
        return rng.gamma(2.0, 5.0, size=(rows, 1))
    if task.kind == "multiclass":
        return np.eye(task.n_labels, dtype=np.uint8)[rng.integers(task.n_labels, size=rows)]
    return (rng.random((rows, task.n_labels)) < 0.125).astype(np.uint8)


def table_of(rng: np.random.Generator, seeds: int = 1, rows: int = ROWS) -> np.ndarray:
    return np.stack([rng.permutation(rows) % FOLDS for _ in range(seeds)], axis=1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("level", [-8.0, 0.0, 1.5, 1e9], ids=str)
def test_the_same_of_all_rows_is_constant(task, seeds, level, rng):
    table = table_of(rng, seeds)
    of_model = level + rng.normal(size=(FOLDS**seeds, task.n_labels))  # each combination of models says something else
    outputs = of_model[np.ravel_multi_index(tuple(table.T), (FOLDS,) * seeds)]
    assert fault(task, labels_of(task, rng), outputs, table).startswith("is constant")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("seeds", [1, 3])
def test_one_model_without_bounds_is_a_run_that_has_diverged(task, seeds, rng):
    table, labels = table_of(rng, seeds), labels_of(task, rng)
    outputs = rng.normal(0.0, 0.1, size=labels.shape)
    own = table[:, -1] == 3
    outputs[own] = 1e9 * rng.choice([-1, 1], size=outputs[own].shape)
    assert fault(task, labels, outputs, table).startswith("has diverged: in fold")


@pytest.mark.parametrize("task", [ROUND1, ROUND2, ICU, frames(10)], ids=lambda task: task.name)
@pytest.mark.parametrize("spread", [0.01, 0.3, 1.0], ids=str)
def test_a_model_that_has_hardly_learned_is_not_broken(task, spread, rng):
    labels = labels_of(task, rng)
    assert fault(task, labels, rng.normal(0.0, spread, size=labels.shape), table_of(rng)) == ""


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_same_of_all_rows_is_right_where_all_labels_are_the_same(task, rng):
    labels = np.repeat(labels_of(task, rng, 1), ROWS, axis=0)
    outputs = np.log1p(labels) if task.kind == "regression" else 5.0 * (2.0 * labels - 1)
    assert fault(task, labels, outputs, table_of(rng)) == ""


def test_weights_that_were_not_trained_are_constant(rng):
    labels = labels_of(ROUND1, rng)
    assert fault(ROUND1, labels, rng.normal(0.0, 1e-4, size=labels.shape), table_of(rng)).startswith("is constant")


def test_a_weak_regression_is_not_broken(rng):
    labels = labels_of(LOS, rng)
    assert fault(LOS, labels, rng.normal(0.5, 0.5, size=labels.shape), table_of(rng)) == ""


def test_a_sure_model_that_is_mostly_right_is_not_broken(rng):
    labels = labels_of(ICU, rng)
    wrong = rng.random(labels.shape) < 0.05
    outputs = 12.0 * np.where(wrong, -1, 1) * (2.0 * labels - 1)
    assert fault(ICU, labels, outputs, table_of(rng)) == ""


def test_few_rows_that_are_wrong_are_bad_luck(rng):
    """One row of a fold of five is certain and wrong: the mean says nothing."""
    labels, table = labels_of(ICU, rng, 25), table_of(rng, rows=25)
    outputs = 3.0 * (2.0 * labels - 1)
    outputs[np.flatnonzero(table[:, 0] == 2)[0]] *= -4
    assert fault(ICU, labels, outputs, table) == ""


@pytest.mark.parametrize("rows", [1, 2])
def test_hardly_any_rows_can_be_judged(rows, rng):
    labels = labels_of(ROUND1, rng, rows)
    assert fault(ROUND1, labels, rng.normal(size=labels.shape), np.arange(rows)[:, None]) == ""


@pytest.fixture(scope="module")
def diverged(made_once, done, tiny_input) -> Path:
    """Output in which the run lstm has diverged and the transformer is as it was."""

    def make(output: Path) -> None:
        shutil.copytree(done, output, dirs_exist_ok=True, copy_function=shutil.copy2)
        run_command(["train", *settings(tiny_input, output)])

    return made_once("diverged", make)


def settings(tiny_input: Path, output: Path) -> list[str]:
    return words(tiny_input, output, "runs.lstm.train.learning_rate=100")


def test_training_and_status_tell_of_it(diverged, tiny_input, capsys):
    run_command(["train", *settings(tiny_input, diverged)])
    assert "warning: run lstm has diverged" in capsys.readouterr().err
    run_command(["status", *settings(tiny_input, diverged)])
    assert "has diverged" in capsys.readouterr().out
    run_command(["score", *settings(tiny_input, diverged)])
    assert "! lstm has diverged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "verb",
    ["submit lstm", "blend lstm transformer --name two", "bundle lstm", "leaderboard lstm", "leaderboard ask lstm",
     "predict lstm {file}"],
)  # fmt: skip
def test_a_broken_run_that_is_named_is_refused(diverged, tiny_input, capsys, verb):
    before = sorted(diverged.rglob("*"))
    named = verb.format(file=next(tiny_input.glob("*testA*"))).split()
    assert main([*named, *settings(tiny_input, diverged)]) == 2
    told = capsys.readouterr().err
    assert "run lstm has diverged" in told and "--force" in told and "learning_rate" in told
    assert [path for path in sorted(diverged.rglob("*")) if path not in before and path.suffix != ".lock"] == []


def test_a_broken_run_that_is_not_named_is_left_out(diverged, tiny_input, capsys):
    run_command(["blend", *settings(tiny_input, diverged)])
    assert "blend: left out lstm, which has diverged" in capsys.readouterr().err
    record = json.loads((diverged / "runs/blend/run.json").read_text())
    assert list(record["members"]) == ["transformer"]
    run_command(["leaderboard", *settings(tiny_input, diverged)])
    seen = capsys.readouterr()
    assert "left out lstm" in seen.err and "\nlstm " not in seen.out
    run_command(["submit", *settings(tiny_input, diverged)])


def test_force_takes_it_all_the_same(diverged, tiny_input, capsys):
    run_command(["submit", "lstm", "--force", *settings(tiny_input, diverged)])
    assert "used all the same" in capsys.readouterr().err
    assert (diverged / "submission_lstm_sample_testA.csv").exists()
    run_command(["blend", "--force", *settings(tiny_input, diverged)])
    record = json.loads((diverged / "runs/blend/run.json").read_text())
    assert list(record["members"]) == ["lstm", "transformer"]


def test_without_any_other_run_the_pipeline_stops_and_says_why(diverged, tiny_input, capsys):
    assert main(["blend", "--model", "lstm", *settings(tiny_input, diverged)]) == 2
    assert "run lstm has diverged" in capsys.readouterr().err
