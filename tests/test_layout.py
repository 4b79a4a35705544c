from __future__ import annotations

import json

import pytest

from src import layout, machine
from src.artifacts import Output
from src.config import Executor
from src.layout import Layout, candidates, pick


@pytest.fixture
def timed(monkeypatch):
    """Makes a machine of 8 cores, and of timings a table; the list tells which were asked for."""
    asked, rates = [], {}
    monkeypatch.setattr(layout, "available_cores", lambda: 8)

    def measure(one: Layout, device: str, precision: str) -> float:
        asked.append(one)
        return rates.get((one.workers, one.threads), 100.0)

    monkeypatch.setattr(layout, "measure", measure)
    return asked, rates


def test_candidates_run_from_side_by_side_to_in_turn():
    assert candidates("cpu", 1) == [Layout(1, 1)]
    assert candidates("cpu", 2) == [Layout(2, 1), Layout(1, 2)]
    assert candidates("cpu", 6) == [Layout(6, 1), Layout(3, 2), Layout(1, 4), Layout(1, 6)]
    assert candidates("cuda", 16) == [Layout(1, 1), Layout(2, 1), Layout(4, 1), Layout(8, 1)]


def test_the_fastest_is_taken_once_and_told(tmp_path, timed, capsys):
    asked, rates = timed
    rates[4, 2] = 150.0
    assert pick(Output(tmp_path), Executor(), "cpu", "bf16", 10) == Layout(4, 2)
    assert asked == candidates("cpu", 8)
    assert "8 x 1: 100, 4 x 2: 150, 2 x 4: 100, 1 x 8: 100; 4 x 2 is taken" in capsys.readouterr().out
    rates[4, 2] = 1.0
    assert pick(Output(tmp_path), Executor(), "cpu", "bf16", 10) == Layout(4, 2) and len(asked) == 4
    note = json.loads((tmp_path / "hardware/layout_cpu_bf16.json").read_text())
    assert note["layouts"][1] == {"workers": 4, "threads": 2, "reports_per_second": 150.0}


def test_another_machine_or_precision_is_timed_anew(tmp_path, timed, monkeypatch):
    asked, rates = timed
    pick(Output(tmp_path), Executor(), "cpu", "bf16", 10)
    pick(Output(tmp_path), Executor(), "cpu", "fp32", 10)
    assert len(asked) == 8
    monkeypatch.setattr(machine, "signs", lambda: {"cpu": "another"})
    pick(Output(tmp_path), Executor(), "cpu", "bf16", 10)
    assert len(asked) == 12


def test_a_draw_goes_to_one_thread_each(tmp_path, timed):
    timed[1].update({(4, 2): 109.0, (1, 8): 105.0})
    assert pick(Output(tmp_path), Executor(), "cpu", "fp32", 10) == Layout(8, 1)


def test_what_is_given_is_not_timed(tmp_path, timed):
    given = {(3, "auto"): (3, 2), ("auto", 2): (4, 2), ("auto", 1): (8, 1), (5, 3): (5, 3)}
    for (workers, threads), expected in given.items():
        found = pick(Output(tmp_path), Executor(workers=workers, threads=threads), "cpu", "fp32", 10)
        assert found == Layout(*expected)
    assert pick(Output(tmp_path), Executor(threads=2), "cuda", "bf16", 10) == Layout(1, 2)
    assert not timed[0]


def test_few_jobs_share_the_cores(tmp_path, timed):
    assert pick(Output(tmp_path), Executor(), "cpu", "fp32", 3) == Layout(3, 2)
    assert pick(Output(tmp_path), Executor(), "cpu", "fp32", 1) == Layout(1, 8)
    assert pick(Output(tmp_path), Executor(), "cuda", "fp32", 1) == Layout(1, 1)


def test_workers_are_really_timed_together():
    assert layout.measure(Layout(2, 1), "cpu", "fp32") > 50


def test_a_worker_that_does_not_come_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "LIMIT", 0.2)
    payload = {"folder": str(tmp_path), "workers": 2, "worker": 0, "device": "cpu", "precision": "fp32"}
    with pytest.raises(layout.UserError, match="2 workers to be timed some were not ready"):
        layout.steps(payload, lambda news: None)
