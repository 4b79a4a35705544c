from __future__ import annotations

import json

import pytest

from src.core import executors
from src.core.errors import UserError
from src.core.settings import Executor
from src.training import device_cache, worker_tuning
from src.training.worker_tuning import Layout, candidates, pick


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Makes a machine of 8 cores, and of timings a table; the list tells which were asked for."""
    asked, rates = [], {}
    for module in (worker_tuning, executors):
        monkeypatch.setattr(module, "available_cores", lambda: 8)
    monkeypatch.setattr(worker_tuning, "NOTES", tmp_path)

    def measure(one: Layout, device: str, precision: str) -> float:
        asked.append(one)
        rate = rates.get((one.workers, one.threads), 100.0)
        if rate is None:
            raise UserError("out of memory")
        return rate

    monkeypatch.setattr(worker_tuning, "measure", measure)
    return asked, rates


def test_candidates_run_from_side_by_side_to_in_turn():
    assert candidates("cpu", 1, 10) == [Layout(1, 1)]
    assert candidates("cpu", 2, 10) == [Layout(2, 1), Layout(1, 2)]
    assert candidates("cpu", 6, 10) == [Layout(6, 1), Layout(3, 2), Layout(1, 6)]
    assert candidates("cpu", 16, 5) == [Layout(5, 3), Layout(2, 8), Layout(1, 16)]
    assert candidates("cpu", 8, 1) == [Layout(1, 8)]
    assert candidates("cuda", 16, 30) == [Layout(1, 1), Layout(2, 1), Layout(4, 1), Layout(8, 1)]
    assert candidates("cuda", 16, 1) == [Layout(1, 1)]


def test_the_fastest_is_taken_once_and_told(tmp_path, timed, capsys):
    asked, rates = timed
    rates[4, 2] = 150.0
    assert pick(Executor(), "cpu", "bf16", 10) == Layout(4, 2)
    assert asked == candidates("cpu", 8, 10)
    assert "8 x 1: 100, 4 x 2: 150, 2 x 4: 100, 1 x 8: 100; 4 x 2 is taken" in capsys.readouterr().out
    rates[4, 2] = 1.0
    assert pick(Executor(), "cpu", "bf16", 10) == pick(Executor(), "cpu", "bf16", 9) == Layout(4, 2)
    assert len(asked) == 4
    (note,) = tmp_path.glob("layout_cpu_*.json")
    assert json.loads(note.read_text())["layouts"][1] == {"workers": 4, "threads": 2, "reports_per_second": 150.0}


def test_another_machine_precision_or_number_of_jobs_is_timed_anew(timed, monkeypatch):
    asked, rates = timed
    pick(Executor(), "cpu", "bf16", 10)
    pick(Executor(), "cpu", "fp32", 10)
    assert len(asked) == 8
    pick(Executor(), "cpu", "fp32", 3)
    assert asked[8:] == [Layout(3, 2), Layout(1, 8)]
    monkeypatch.setattr(device_cache, "signs", lambda: {"cpu": "another"})
    pick(Executor(), "cpu", "bf16", 10)
    assert len(asked) == 14


def test_a_draw_goes_to_side_by_side(timed):
    timed[1].update({(4, 2): 124.0, (1, 8): 105.0})
    assert pick(Executor(), "cpu", "fp32", 10) == Layout(8, 1)


def test_a_layout_that_does_not_run_is_told_and_not_taken(timed, capsys):
    timed[1].update({(8, 1): None, (2, 4): None})
    assert pick(Executor(), "cpu", "fp32", 10) == Layout(4, 2)
    assert "8 jobs side by side could not be timed, so they are not tried: out of memory" in capsys.readouterr().err


def test_what_is_given_is_not_timed(timed):
    given = {(3, "auto"): (3, 2), ("auto", 2): (4, 2), ("auto", 1): (8, 1), (5, 3): (5, 3)}
    for (workers, threads), expected in given.items():
        assert pick(Executor(workers=workers, threads=threads), "cpu", "fp32", 10) == Layout(*expected)
    assert pick(Executor(threads=2), "cuda", "bf16", 10) == Layout(1, 2)
    assert pick(Executor(), "cpu", "fp32", 1) == Layout(1, 8)
    assert not timed[0]


def test_workers_are_really_timed_together():
    assert worker_tuning.measure(Layout(2, 1), "cpu", "fp32") > 50


def test_a_worker_that_does_not_come_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_tuning, "LIMIT", 0.2)
    payload = {"folder": str(tmp_path), "workers": 2, "worker": 0, "device": "cpu", "precision": "fp32"}
    with pytest.raises(UserError, match="2 workers to be timed some were not ready.*executor.workers=N"):
        worker_tuning.steps(payload, lambda news: None)
