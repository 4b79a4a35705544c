from __future__ import annotations

import json

import numpy as np
import pytest

from src.errors import UserError
from src.reports import read_reports, write_reports
from src.stages import bench, bench_baselines


def test_the_benchmark_measures_every_method_and_tells_it(tmp_path, capsys, monkeypatch):
    output, work = tmp_path / "figures" / "bench.json", tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(bench.tempfile, "tempdir", str(work))
    result = bench.run(rows=2000, repeats=1, output=output)
    assert json.loads(output.read_text()) == result
    assert not list(work.iterdir())
    assert result["rows"] == 2000 and 35 < result["tokens"] / 2000 < 50 and 0.2 < result["megabytes"] < 0.6
    assert set(result["methods"]) == set(bench.METHODS)
    for figure in result["methods"].values():
        assert figure["seconds"]["n"] == 1
        for name in ("seconds", "cpu_seconds"):
            assert 0 < figure[name]["min"] <= figure[name]["median"] <= figure[name]["max"] < 60
        assert 5 < figure["base_megabytes"]["min"] <= figure["peak_megabytes"]["max"] < 2000
    assert result["times_as_long"][bench.OURS] == 1 and min(result["times_as_long"].values()) > 0
    # pandas is not in the process that reads without it.
    base = {name: figure["base_megabytes"]["median"] for name, figure in result["methods"].items()}
    assert base[bench.OURS] < base["columns"]
    shown = capsys.readouterr().out
    assert all(told in shown for told in bench.METHODS.values()) and "Reading 2,000 reports" in shown
    assert max(map(len, shown.splitlines()), default=0) <= max(80, len(str(output)) + 30)


def test_synthetic_reports_are_like_the_real_ones(tmp_path):
    made = bench.synthetic(3000)
    assert 40 < made.lengths.mean() < 44 and made.lengths.min() >= 4 and made.lengths.max() <= 104
    assert set(np.unique(made.tokens)) == set(range(858))
    assert 0.15 < (~made.labels.any(axis=1)).mean() < 0.35 and made.labels.any(axis=0).all()
    again, other = bench.synthetic(3000), bench.synthetic(3000, seed=1)
    assert np.array_equal(made.tokens, again.tokens) and not np.array_equal(made.labels, other.labels)
    write_reports(tmp_path / "made.csv", made)
    found = read_reports(tmp_path / "made.csv")
    assert np.array_equal(found.tokens, made.tokens) and np.array_equal(found.labels, made.labels)


def test_baselines_do_the_same_work(tmp_path):
    made = bench.synthetic(200)
    write_reports(tmp_path / "made.csv", made)
    total = int(made.tokens.sum(dtype=np.int64))
    assert bench_baselines.columns(tmp_path / "made.csv") == {"rows": 200}
    assert bench_baselines.tokens(tmp_path / "made.csv") == {"rows": 200, "tokens": len(made.tokens), "sum": total}


def test_methods_that_read_something_else_are_found_out(tmp_path):
    made = bench.synthetic(20)
    write_reports(tmp_path / "made.csv", made)
    with pytest.raises(UserError, match="found .* where .* was written"):
        bench._in_a_process_of_its_own(bench.OURS, tmp_path / "made.csv", {"rows": 20, "tokens": 1, "sum": 1})
    with pytest.raises(UserError, match="(?s)failed:.*there is no file"):
        bench._in_a_process_of_its_own(bench.OURS, tmp_path / "none.csv", {"rows": 20, "tokens": 1, "sum": 1})


@pytest.mark.parametrize(("rows", "repeats"), [(0, 1), (10, 0)])
def test_numbers_below_one_are_refused(tmp_path, rows, repeats):
    with pytest.raises(UserError, match="at least 1"):
        bench.read_benchmark(rows, repeats, tmp_path)
