"""Shadow mode: how far a second bundle differs is counted exactly, off the answering path, and never in its way."""

from __future__ import annotations

import logging
import os
import threading
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from src.data.tasks import ICU, LOS, ROUND1, Task, frames
from src.serving import shadow
from src.serving.shadow import Shadow
from tests.conftest import error_of
from tests.waiting import PATIENCE, wait_until


class Prediction(NamedTuple):
    values: np.ndarray
    spread: np.ndarray


class Predictor:
    """Predicts row i as the given answer of that number; a report is [i], a stay "i". It waits for `go`."""

    def __init__(self, answers: np.ndarray, task: Task = ROUND1):
        self.answers, self.task, self.labels = np.asarray(answers, dtype=float), task, tuple(task.label_names)
        self.bundle = SimpleNamespace(name="second", version="0123456789ab")
        self.go = threading.Event()
        self.go.set()
        self.sizes: list[int] = []
        self.niceness: set[int] = set()

    def encode(self, reports):
        assert self.task.input_kind == "reports"
        return [report[0] for report in reports]

    def encode_stay(self, texts):
        assert self.task.input_kind == "stays"
        return [int(text) for text in texts]

    def predict(self, rows):
        assert self.go.wait(PATIENCE)
        if -1 in rows:
            raise RuntimeError("a row that it cannot read")
        self.sizes.append(len(rows))
        self.niceness.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return Prediction(self.answers[rows], np.zeros((len(rows), self.answers.shape[1])))


@pytest.fixture
def started():
    made: list[Shadow] = []

    def start(predictor: Predictor) -> Shadow:
        made.append(Shadow(predictor, predictor.task, predictor.labels))
        return made[-1]

    yield start
    for one in made:
        one._predictor.go.set()
        one.close()


def done(watched: Shadow, rows: int) -> dict:
    wait_until(lambda: (found := watched.figures())["rows"] + found["failed"] >= rows)
    return watched.figures()


def test_differences_are_counted_exactly(started):
    rng = np.random.default_rng(0)
    served, second = rng.random((300, 17)), rng.random((300, 17))
    predictor = Predictor(second)
    watched = started(predictor)
    empty = watched.figures()
    assert empty["rows"] == 0 and empty["disagree"] is empty["mean_difference"] is empty["largest"] is None
    for start in range(0, 300, 7):
        watched.offer([[i] for i in range(start, min(start + 7, 300))], served[start : start + 7])
    found = done(watched, 300)
    apart = (served >= 0.5) != (second >= 0.5)
    assert found["bundle"] == {"name": "second", "version": "0123456789ab"}
    assert (found["rows"], found["dropped"], found["failed"]) == (300, 0, 0)
    assert found["disagree"] == apart.mean()
    assert found["mean_difference"] == pytest.approx(np.abs(served - second).mean())
    assert found["largest"] == np.abs(served - second).max()
    assert [label["name"] for label in found["labels"]] == ROUND1.label_names
    assert [label["disagree"] for label in found["labels"]] == pytest.approx(apart.mean(axis=0))
    assert max(predictor.sizes) <= shadow.BATCH
    assert predictor.niceness == {os.getpriority(os.PRIO_PROCESS, 0) + shadow.NICENESS}
    gauges = {(name, *labels.values()): value for name, labels, value in watched.gauges()}
    assert gauges["shadow_rows",] == 300 and gauges["shadow_disagree",] == found["disagree"]
    assert gauges["shadow_label_largest", "region_3"] == found["labels"][3]["largest"]
    assert len(gauges) == 6 + 3 * 17


def test_the_same_bundle_never_disagrees(started):
    answers = np.random.default_rng(1).random((50, 17))
    watched = started(Predictor(answers))
    watched.offer([[i] for i in range(50)], answers)
    found = done(watched, 50)
    assert (found["disagree"], found["mean_difference"], found["largest"]) == (0, 0, 0)


def test_an_answer_never_waits_and_what_is_too_much_is_dropped(started):
    predictor = Predictor(np.zeros((shadow.WAITING, 17)))
    predictor.go.clear()  # it has not begun to answer
    watched = started(predictor)
    rows = [[i] for i in range(shadow.WAITING)]
    watched.offer(rows[:1], np.ones((1, 17)))
    wait_until(lambda: not watched._waiting)  # the thread has the row
    watched.offer(rows, np.ones((len(rows), 17)))
    watched.offer(rows[:30], np.ones((30, 17)))
    assert watched.figures()["dropped"] == 30
    predictor.go.set()
    found = done(watched, shadow.WAITING + 1)
    assert (found["rows"], found["disagree"], found["largest"]) == (shadow.WAITING + 1, 1, 1)


def test_what_waits_is_bounded_in_bytes(started, monkeypatch):
    monkeypatch.setattr(shadow, "WAITING_BYTES", 100 * shadow.TOKEN_BYTES)
    predictor = Predictor(np.zeros((5, 17)))
    predictor.go.clear()
    watched = started(predictor)
    watched.offer([[0]], np.ones((1, 17)))
    wait_until(lambda: not watched._waiting)
    watched.offer([[1] * 60, [2] * 60, [3] * 40, [4]], np.ones((4, 17)))
    assert watched.figures()["dropped"] == 2
    predictor.go.set()
    assert done(watched, 3)["rows"] == 3
    watched.offer([[1] * 100], np.ones((1, 17)))
    assert done(watched, 4)["rows"] == 4


def test_a_failure_of_the_second_bundle_is_counted_and_logged_without_its_message(started, caplog, monkeypatch):
    # import-linter, in another test of this process, disables all loggers that are there.
    monkeypatch.setattr(logging.getLogger("src.serving"), "disabled", False)
    watched = started(Predictor(np.zeros((5, 17))))
    watched.offer([[-1], [0]], np.ones((2, 17)))
    assert done(watched, 2)["failed"] == 2
    assert "shadow failed" in caplog.text and "a row that it cannot read" not in caplog.text
    (record,) = caplog.records
    assert record.fields["fault"] == "RuntimeError" and record.fields["rows"] == 2
    watched.offer([[1]], np.ones((1, 17)))
    assert done(watched, 3)["rows"] == 1


def test_a_new_bundle_begins_a_new_count(started):
    predictor = Predictor(np.zeros((5, 17)))
    watched = started(predictor)
    watched.offer([[0]], np.ones((1, 17)))
    done(watched, 1)
    predictor.go.clear()
    watched.offer([[1]], np.ones((1, 17)))
    wait_until(lambda: not watched._waiting)
    watched.reset(Predictor(np.zeros((1, 17))))
    predictor.go.set()
    watched.offer([[2]], np.zeros((1, 17)))
    found = done(watched, 1)
    assert (found["rows"], found["largest"]) == (1, 0)  # the answer before, in work meanwhile, is not counted


def test_days_have_no_sides_and_classes_are_compared_by_row(started):
    days = started(Predictor([[3.0], [8.0]], LOS))
    days.offer(["0", "1"], np.array([[4.0], [8.0]]))
    found = done(days, 2)
    assert (found["disagree"], found["mean_difference"], found["largest"]) == (None, 0.5, 1)
    assert found["labels"][0]["disagree"] is None and "shadow_disagree" not in {name for name, _, _ in days.gauges()}
    task = frames(3)
    images = Predictor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], task)
    images.encode_stay = lambda rows: [int(row) for row in rows]
    classes = started(images)
    classes.offer(["0", "1"], np.array([[0.4, 0.3, 0.3], [0.1, 0.3, 0.6]]))
    assert done(classes, 2)["disagree"] == 0.5  # no probability passed a half in the first row, the class is the same


def test_a_bundle_of_another_task_is_refused(started):
    text = error_of(Shadow, Predictor(np.zeros((1, 1)), ICU), ROUND1, ROUND1.label_names)
    assert text == (
        "the shadow bundle second is of task icu (1 labels), the served one of round1 (17 labels). "
        "Choose a bundle of the same task."
    )
    watched = started(Predictor(np.zeros((1, 17))))
    assert "of the same task" in error_of(watched.reset, Predictor(np.zeros((1, 1)), ICU))
