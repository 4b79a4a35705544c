"""Shadow mode: a second bundle predicts what the served one has answered, and the differences are counted.

The second bundle works in a thread of low priority, behind a bounded queue: an answer never waits for the comparison,
and what the thread has no time for is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core.errors import UserError
from src.data.tasks import Task
from src.serving.json_logs import fault_fields, log

if TYPE_CHECKING:
    from src.serving.predictor import Predictor, Rows

WAITING = 2000
"""Maximum number of rows that wait for the second bundle."""
WAITING_BYTES = 64 << 20
"""Maximum memory of these rows."""
TOKEN_BYTES = 36
"""Memory of a token in a list: a pointer and an integer."""
BATCH = 64
"""Maximum number of rows that the second bundle predicts at a time."""
NICENESS = 10
"""Added to the thread's niceness, so that answers come first where cores are scarce."""
SIDE = 0.5
"""Probability at and above which a label counts as predicted."""

Report = Sequence[int] | str
"""Token ids of a report, or the text of a stay."""


class Shadow:
    """Counts how far a second bundle differs from the served one since the start, or the last reset().

    Raises UserError if the second bundle does not predict `labels` of `task`.
    """

    def __init__(self, predictor: Predictor, task: Task, labels: Sequence[str]):
        self._predictor, self.task, self.labels = predictor, task, tuple(labels)
        check_same(predictor, task, self.labels)
        self._waiting: deque[tuple[Report, np.ndarray]] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._round = 0
        self._clear()
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, reports: Sequence[Report], values: np.ndarray) -> None:
        """Takes rows and the answers to them (B, L); returns at once."""
        with self._change:
            for report, answer in zip(reports, np.array(values, dtype=np.float64), strict=True):
                size = _bytes_of(report)
                if len(self._waiting) < WAITING and self._bytes + size <= WAITING_BYTES:
                    self._waiting.append((report, answer))
                    self._bytes += size
                else:
                    self.dropped += 1
            self._change.notify()

    def figures(self) -> dict[str, Any]:
        """Returns the second bundle's name and version, how many rows were compared, dropped and failed, and of all
        labels and of each: share on another side of SIDE (of classes: share of rows with another likeliest class; null
        for a regression), mean absolute and largest difference; null before the first row."""
        bundle = self._predictor.bundle
        with self._change:
            rows, by_label = (
                self.rows,
                [
                    (name, int(other), float(total), float(largest))
                    for name, other, total, largest in zip(
                        self.labels, self.other_side, self.difference, self.largest, strict=True
                    )
                ],
            )
            counts = {"rows": rows, "dropped": self.dropped, "failed": self.failed}
            overall = self._overall()
        labels = [
            {
                "name": name,
                "disagree": other / rows if rows and self._has_sides else None,
                "mean_difference": total / rows if rows else None,
                "largest": largest if rows else None,
            }
            for name, other, total, largest in by_label
        ]
        return {"bundle": {"name": bundle.name, "version": bundle.version}, **counts, **overall, "labels": labels}

    def gauges(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yields name, labels and value of each gauge of figures()."""
        found = self.figures()
        for key in ("rows", "dropped", "failed", "disagree", "mean_difference", "largest"):
            if found[key] is not None:
                yield f"shadow_{key}", {}, found[key]
        for label in found["labels"]:
            for key in ("disagree", "mean_difference", "largest"):
                if label[key] is not None:
                    yield f"shadow_label_{key}", {"label": label["name"]}, label[key]

    def reset(self, predictor: Predictor) -> None:
        """Forgets all differences, after the served bundle was replaced by that of `predictor`. Raises UserError if it
        predicts other labels than the second bundle."""
        check_same(self._predictor, predictor.task, predictor.labels)
        with self._change:
            self._clear()

    def close(self) -> None:
        """Ends the thread, after the batch that it is at."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    @property
    def _has_sides(self) -> bool:
        return self.task.kind != "regression"

    def _clear(self) -> None:
        self._round += 1  # a batch of the round before is not counted
        self._waiting.clear()
        self._bytes = 0
        self.rows = self.dropped = self.failed = 0
        self.other_side = np.zeros(len(self.labels), dtype=np.int64)
        self.difference = np.zeros(len(self.labels))
        self.largest = np.zeros(len(self.labels))

    def _overall(self) -> dict[str, float | None]:
        if not self.rows:
            return dict.fromkeys(("disagree", "mean_difference", "largest"))
        # A row with another class leaves one label and enters another: it counts once.
        cells = self.rows * (2 if self.task.kind == "multiclass" else len(self.labels))
        return {
            "disagree": int(self.other_side.sum()) / cells if self._has_sides else None,
            "mean_difference": float(self.difference.mean()) / self.rows,
            "largest": float(self.largest.max()),
        }

    def _work(self) -> None:
        # On Linux the number of a thread is taken for that of a process, and niceness belongs to the thread.
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                self._bytes -= sum(_bytes_of(report) for report, _ in taken)
                at = self._round
            try:
                own = self._predictor.predict(self._encoded([report for report, _ in taken])).values
            except Exception as error:  # whatever the second bundle does, the service goes on
                log("shadow failed", logging.WARNING, rows=len(taken), **fault_fields(error))
                own = None
            with self._change:
                if at == self._round:
                    self._count(np.stack([answer for _, answer in taken]), own)

    def _encoded(self, reports: Sequence[Report]) -> Rows:
        return (
            self._predictor.encode(reports)
            if self.task.input_kind == "reports"
            else self._predictor.encode_stay(reports)
        )

    def _count(self, answers: np.ndarray, own: np.ndarray | None) -> None:
        """Counts the differences of answers (B, L) and the second bundle's, None where it failed."""
        if own is None:
            self.failed += len(answers)
            return
        differences = np.abs(own - answers)
        self.rows += len(answers)
        if self.task.kind == "multiclass":
            sides = [np.eye(len(self.labels), dtype=bool)[table.argmax(axis=1)] for table in (own, answers)]
        else:
            sides = [table >= SIDE for table in (own, answers)]
        self.other_side += (sides[0] != sides[1]).sum(axis=0)
        self.difference += differences.sum(axis=0)
        self.largest = np.maximum(self.largest, differences.max(axis=0))


def _bytes_of(report: Report) -> int:
    return len(report) * (1 if isinstance(report, str) else TOKEN_BYTES)


def check_same(shadow: Predictor, task: Task, labels: Sequence[str]) -> None:
    """Raises UserError if a second bundle does not predict `labels` of `task`."""
    if (shadow.task.name, tuple(shadow.labels)) != (task.name, tuple(labels)):
        raise UserError(
            f"the shadow bundle {shadow.bundle.name} is of task {shadow.task.name} ({len(shadow.labels)} labels), the "
            f"served one of {task.name} ({len(labels)} labels). Choose a bundle of the same task."
        )
