from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.bench import agree, measure, plain, product, scale, service
from src.bench.data import MAX_LEN, encoded, synthetic
from src.bench.measure import Contender, compare
from src.bench.parts import PARTS, Setting
from src.core import storage
from src.core.errors import UserError
from src.core.executors import available_cores
from src.core.settings_loader import load_config
from src.data.corpus import Corpus
from src.data.report_reader import read_reports, write_reports
from src.data.tasks import ROUND1
from src.evaluation.workspace import Workspace
from src.pipeline.commands import bench
from tests.waiting import wait_until

LSTM = load_config(
    "quick",
    ["model.embedding_size=8", "model.hidden_size=8", "train.batch_size=16", "train.join=0"],
    models=["lstm"],
).runs["lstm"].model_dump(mode="json")  # fmt: skip


def works(work: int = 10, found: float = 1.0, cpu: float = 0.0, meet: str = "", crew: int = 1):
    """Contender with `work` in each turn but the first, the warm-up, and with `cpu` processor seconds.

    The `crew` processes of a contender wait for each other in the folder `meet`.
    """
    turns = itertools.count()

    def once():
        started, turn = time.process_time(), next(turns)
        if meet:
            Path(meet, f"{turn}_{os.getpid()}").touch()
            wait_until(lambda: len(list(Path(meet).glob(f"{turn}_*"))) == crew)
        while time.process_time() - started < cpu:
            pass
        return {"work": work if turn else 1, "found": found}

    return once, {"info": work}


def broken():
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"service": {}, "naive": {"200": 3}}, "no answer of the service came within 0.001 seconds of load. Ask for"),
        ({"service": {"200": 3}, "naive": {}}, "no answer of the naive service came within 0.001 seconds of load"),
        ({"service": {"422": 3}, "naive": {"422": 3}}, "within 0.001 seconds, only: 422"),
    ],
)
def test_a_load_without_an_answer_says_so(tmp_path, monkeypatch, answers, told):
    ports = itertools.cycle(("service", "naive"))
    monkeypatch.setattr(service, "free_port", ports.__next__)
    monkeypatch.setattr(service, "running", lambda *_: contextlib.nullcontext(os.getpid()))
    monkeypatch.setattr(service, "start_load", lambda port, *_: port)
    monkeypatch.setattr(
        service, "result_of", lambda port: {"statuses": answers[port], "per_second": answers[port].get("200", 0)}
    )
    with pytest.raises(UserError, match=told):
        service.measure(tmp_path / "a.bundle", tmp_path / "a.bundle", tmp_path, 0.001, 0, lambda line: None)


def test_contenders_are_timed_by_unit_of_work(tmp_path, monkeypatch):
    """Seconds a turn by the clock of the test, which moves by one second a turn."""
    monkeypatch.setattr(measure.time, "perf_counter", itertools.count().__next__)
    one = Contender("one", "One", "tests.test_bench:works")
    pair = {"meet": str(tmp_path), "crew": 2}
    two = Contender("two", "Two side by side", "tests.test_bench:works", pair, processes=2)
    rare = Contender("rare", "Rare", "tests.test_bench:works", {"work": 5, "cpu": 0.2}, rarely=True)
    found = compare([one, two, rare], repeats=3)
    # Two do twice the work in the time of one; the warm-up, which does less, is not counted.
    wanted = {"one": (1 / 10, 3), "two": (1 / 20, 3), "rare": (1 / 5, 1)}
    for name, (seconds, turns) in wanted.items():
        assert found[name]["seconds"] == {"min": seconds, "median": seconds, "max": seconds, "n": turns}
        assert 5 < found[name]["peak_megabytes"]["median"] < 1000
    assert found["one"]["cpu_seconds"]["median"] < 0.2 / 5 <= found["rare"]["cpu_seconds"]["min"] < 0.4 / 5
    assert found["rare"]["info"] == {"info": 5}


def test_threads_and_memory_are_set_before_the_child_starts():
    given = {"function": "tests.test_bench:variables"}
    found = compare([Contender("a", "A", **given, threads=3, product=True), Contender("b", "B", **given)], repeats=1)
    assert found["a"]["info"] == {"threads": "3", "kept": str(2**30)}
    assert found["b"]["info"] == {"threads": "1", "kept": None}


def variables():
    info = {"threads": os.environ["OMP_NUM_THREADS"], "kept": os.environ.get("MALLOC_TRIM_THRESHOLD_")}
    return lambda: {"work": 1}, info


def test_contenders_that_disagree_or_fail_are_named():
    one, other = (Contender(str(i), str(i), "tests.test_bench:works", {"found": i}) for i in (5, 6))
    with pytest.raises(UserError, match=r"6: found is 6, but 5 for 5"):
        compare([one, other], repeats=1)
    with pytest.raises(UserError, match=r"(?s)benchmark of B failed:.*ValueError: no such thing"):
        compare([Contender("b", "B", "tests.test_bench:broken")], repeats=1)


def loud(breaks: bool):
    sys.stderr.write("warning\n" * 100_000)  # more than any pipe holds
    if breaks:
        raise ValueError("no such thing")
    return lambda: {"work": 1}


def test_a_contender_may_write_much():
    found = compare([Contender("a", "A", "tests.test_bench:loud", {"breaks": False})], repeats=1)
    assert found["a"]["seconds"]["n"] == 1
    with pytest.raises(UserError, match=r"(?s)benchmark of B failed:.*ValueError: no such thing") as caught:
        compare([Contender("b", "B", "tests.test_bench:loud", {"breaks": True})], repeats=1)
    assert len(str(caught.value)) < 20_000


def test_the_plain_side_does_the_same_work(tmp_path):
    made = synthetic(200)
    path = str(tmp_path / "made.csv")
    write_reports(tmp_path / "made.csv", made)
    total = {"work": 200, "rows": 200, "tokens": len(made.tokens), "sum": int(made.tokens.sum(dtype=np.int64))}
    assert product.read(path)() == plain.read_tokens(path)() == total
    assert plain.read_columns(path)() == {"work": 200, "rows": 200}
    assert product.tfidf(300)() == pytest.approx(plain.tfidf(300)(), rel=1e-5)
    assert product.batches(100, 16)() == plain.batches(100, 16)()
    once, info = product.predict(LSTM, 40, [7])
    assert info["flops"] > 0
    found = once()
    assert found == pytest.approx(
        {**plain.predict(LSTM, 40, 16)(), **plain.predict(LSTM, 7, 1)(), "work": 40}, rel=1e-4
    )
    assert {"logits of 40", "logits of 7"} < set(found)


def test_operations_are_those_of_the_matrix_products():
    import torch

    from src.training.batching import length_batches

    tokens, lengths, _ = encoded(64)
    batches = length_batches({"tokens": tokens}, np.full(64, 50, dtype=np.int32), 16, torch.device("cpu"))
    model = product.built(LSTM)
    size, gates, directions = 8, 4 * 8, 2
    recurrence = 2 * 50 * directions * (size + size) * gates
    queries = means = 2 * 50 * directions * size * 17  # of each label's own attention; its head multiplies no matrices
    assert product.flops(model, batches) == recurrence + queries + means


def test_the_textbook_loop_learns(tmp_path):
    rng = np.random.default_rng(0)
    tokens = np.where(np.arange(12) < 9, rng.integers(3, 20, (400, 12)), 0).astype(np.uint16)
    labels = np.stack([(tokens == 5).any(axis=1), (tokens == 9).any(axis=1)], axis=1).astype(np.uint8)
    data = (tokens, np.full(400, 9, dtype=np.int32), labels)
    run = {**LSTM, "train": {**LSTM["train"], "epochs": 6, "learning_rate": 0.02}}
    loop = plain.Textbook(run, data, data, 2, 20, "fp32", seed=0)
    losses = [loop.train_epoch() for _ in range(6)]
    assert losses[-1] < 0.6 * losses[0]
    right = (loop.predict() > 0) == labels
    assert right.mean() > 0.85


def test_synthetic_reports_are_like_the_real_ones(tmp_path):
    made = synthetic(3000)
    assert 40 < made.lengths.mean() < 44 and made.lengths.min() >= 4 and made.lengths.max() <= MAX_LEN
    assert set(np.unique(made.tokens)) == set(range(858))
    assert 0.15 < (~made.labels.any(axis=1)).mean() < 0.35 and made.labels.any(axis=0).all()
    again, other = synthetic(3000), synthetic(3000, seed=1)
    assert np.array_equal(made.tokens, again.tokens) and not np.array_equal(made.labels, other.labels)
    write_reports(tmp_path / "made.csv", made)
    found = read_reports(tmp_path / "made.csv")
    assert np.array_equal(found.tokens, made.tokens) and np.array_equal(found.labels, made.labels)


def workspace(tmp_path, *words: str) -> Workspace:
    return Workspace(load_config("quick", [f"paths.output={tmp_path / 'out'}", *words]))


def test_the_verb_measures_shows_and_writes(tmp_path, capsys, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(bench.tempfile, "tempdir", str(work))
    result = bench.measure(workspace(tmp_path), ["read", "limits"], rows=2000, repeats=1)
    assert storage.read_json(tmp_path / "out/bench.json") == result
    assert not list(work.iterdir())
    assert list(result["parts"]) == ["limits", "read"]  # limits come first: the others are a share of them
    assert set(result["ratios"]) == {"read/columns", "read/tokens"} and min(result["ratios"].values()) > 0
    figures = result["parts"]["read"]["contenders"]
    assert result["ratios"]["read/tokens"] == pytest.approx(
        figures["tokens"]["seconds"]["median"] / figures["ours"]["seconds"]["median"]
    )
    shown = capsys.readouterr().out
    assert "Reading 2,000 reports" in shown and "pandas, then integers" in shown and "…" not in shown
    assert max(len(line) for line in shown.splitlines() if "bench.json" not in line) <= 80


def test_every_part_can_be_made(tmp_path):
    setting = Setting(cores=2, rows=10, folder=tmp_path, onnx=True)
    for name, make in PARTS.items():
        part = make(setting)
        names = [contender.name for contender in part.contenders]
        assert len(set(names)) == len(names) > 0
        for contender in part.contenders:
            module, function = contender.function.split(":")
            assert callable(getattr({"src.bench.product": product, "src.bench.plain": plain}[module], function)), name


def test_worse_ratios_fail_the_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "COMMITTED", tmp_path / "committed.json")
    machine = {"cores": available_cores()}

    def commit(ratios: dict, machine: dict = machine) -> None:
        bench.COMMITTED.write_text(json.dumps({"machine": machine, "ratios": ratios}))

    commit({"read/columns": 1e-6, "train_lstm/textbook": 6.0})
    bench.measure(workspace(tmp_path), ["read"], rows=500, repeats=1, check=True)
    assert "1 ratios are not more than 40% below those of committed.json" in capsys.readouterr().out
    commit({"read/columns": 1e6, "read/tokens": 1e-6})
    with pytest.raises(UserError, match=r"(?s)1 of 2 ratios are worse by more than 40%:\nread/columns: .*1000000"):
        bench.measure(workspace(tmp_path), ["read"], rows=500, repeats=1, check=True)
    commit({"batch/dataloader": 1.0})
    with pytest.raises(UserError, match="nothing can be compared"):
        bench.measure(workspace(tmp_path), ["read"], rows=500, repeats=1, check=True)
    commit({"read/columns": 1e-6}, {"cores": 99})
    with pytest.raises(UserError, match="measured on 99 cores"):
        bench.measure(workspace(tmp_path), ["read"], rows=500, repeats=1, check=True)
    bench._check({"a": 0.61}, {"a": 1.0})
    with pytest.raises(UserError):
        bench._check({"a": 0.59}, {"a": 1.0})


def test_the_committed_figures_are_of_the_parts_there_are():
    committed = json.loads(bench.COMMITTED.read_text())
    assert {name.split("/")[0] for name in committed["ratios"]} <= {*PARTS, bench.PIPELINE}
    assert len(committed["ratios"]) > 15


def test_agreement_is_measured_against_the_textbook():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 17)) < 0.1).astype(np.uint8)
    good, bad = np.where(labels, 0.9, 0.02), np.full(labels.shape, 0.1)
    found = bench._agreement(ROUND1, labels, {"fit": [good, good], "textbook": [bad, bad]})
    assert found["textbook"] == {"score": pytest.approx(1 - 0.325, abs=0.03), "difference": 0.0, "standard_error": 0.0}
    assert found["fit"]["difference"] == pytest.approx(found["fit"]["score"] - found["textbook"]["score"])
    assert 0 < found["fit"]["standard_error"] < 0.05


@pytest.mark.slow
def test_scale_runs_the_stages_on_generated_files(tmp_path):
    assert scale.sizes(1_000_000) == [10_000, 100_000, 1_000_000] and scale.sizes(50_000) == [10_000, 50_000]
    info = []
    found = scale.measure(600, tmp_path, info.append)
    reports = read_reports(tmp_path / "in/train.csv")
    assert len(reports) == 600 and reports.labels.any() and len(read_reports(tmp_path / "in/test.csv")) == 60
    assert set(found) == {"megabytes", "prepare", "folds", "shift", "train", "predict"} and len(info) == 3
    for stage in scale.STAGES:
        assert found[stage]["seconds"] > 0 and 30 < found[stage]["peak_megabytes"] < 3000
    assert min(found[name]["reports_per_second"] for name in ("train", "predict")) > 0


@pytest.mark.slow
def test_scale_measures_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "TRAINED", 120)
    monkeypatch.setattr(scale, "sizes", lambda largest: [150])
    small = Workspace(load_config("quick", ["task=icu", "grid.step=2", f"paths.output={tmp_path / 'out'}"]))
    found = bench.measure(small, ["scale"])
    assert storage.read_json(tmp_path / "out/scale.json") == found
    (steps,) = found.values()
    assert list(found) == ["150"] and set(steps) == {"sample", "prepare", "write", "gru", "boosting", "predict"}
    for step in ("sample", "prepare", "predict"):
        assert 0 < steps[step]["cpu_seconds"] and 0 < steps[step]["seconds"]
        assert steps[step]["stays_per_cpu_second"] == pytest.approx(150 / steps[step]["cpu_seconds"])
    assert min(figures[f"stays_per_{name}"] for figures in steps.values() for name in ("second", "cpu_second")) > 0
    assert all(30 < figures["peak_megabytes"] < 3000 for figures in steps.values())
    assert 150 * 24 * 37 * 4 / 1e6 < steps["prepare"]["disk_megabytes"] < 1.2 * 150 * 24 * 37 * 4 / 1e6
    assert 0 < steps["predict"]["disk_megabytes"] < 0.02, "lines of one run; what they were made of is removed"
    frames = Workspace(load_config("quick", ["task=frames"]))
    with pytest.raises(UserError, match="reports or stays"):
        bench.measure(frames, ["scale"])


def test_a_failing_command_is_no_measurement(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        scale.run(["prepare", f"paths.input={tmp_path}"])


@pytest.mark.parametrize(("rows", "repeats"), [(0, 1), (10, 0)])
def test_numbers_below_one_are_refused(tmp_path, rows, repeats):
    with pytest.raises(UserError, match="at least 1"):
        bench.measure(workspace(tmp_path), ["read"], rows, repeats)


def test_unknown_parts_are_refused(tmp_path):
    with pytest.raises(UserError, match="(?s)part of the benchmark.*'raed'.*read"):
        bench.measure(workspace(tmp_path), ["raed"])
    with pytest.raises(UserError, match="agree takes no turns"):
        bench.measure(workspace(tmp_path), ["agree", "read"])
    with pytest.raises(UserError, match="scale takes no turns .* and has no ratios"):
        bench.measure(workspace(tmp_path), ["scale"], check=True)
    with pytest.raises(UserError, match="scale begins with 10,000 reports"):
        bench.measure(workspace(tmp_path), ["scale"], rows=5000)


def test_the_textbook_loop_refuses_what_it_does_not_know():
    run = {**LSTM, "train": {**LSTM["train"], "ema_decay": 0.9}}
    with pytest.raises(UserError, match="textbook loop.*noise.replacement"):
        plain.epoch(run, 20, 10, "fp32")


@pytest.mark.parametrize("way", ["fit", "textbook"])
def test_both_ways_of_training_are_judged_on_the_same_rows(tmp_path, way):
    tokens, lengths, labels = encoded(60)
    Corpus({"tokens": tokens}, lengths, np.arange(60).astype("S"), labels, np.zeros(60, dtype=np.uint8)).save(
        tmp_path / "corpus"
    )
    rows = {"train_rows": np.arange(40), "valid_rows": np.arange(40, 60)}
    for name, array in rows.items():
        np.save(tmp_path / f"{name}.npy", array)
    given = {name: str(tmp_path / f"{name}.npy") for name in rows}
    run = {**LSTM, "train": {**LSTM["train"], "epochs": 2}}
    payload = {"run": run, "task": "round1", "vocabulary_size": 861, "way": way, "seed": 1}
    payload["corpus"] = str(tmp_path / "corpus")
    news = []
    agree.train({**payload, **given, "out": str(tmp_path / "logits.npy")}, news.append)
    assert np.load(tmp_path / "logits.npy").shape == (20, 17) and news[-1]["epoch"] == 2


def test_the_time_to_score_with_the_textbook_loop(tmp_path, monkeypatch):
    """4 + 6 epochs of 8,000 reports in five folds, and 10,000 + 5 x 2 x 3,000 + 2 x 2 x 10,000
    predictions each."""
    commands = []
    fixed = ["folds.k=5", "runs.transformer.train.epochs=4", "runs.lstm.train.epochs=6"]
    monkeypatch.setattr(bench, "load_config", lambda preset: load_config(preset, fixed))

    def run(words):
        commands.append(words)
        (tmp_path / "out").mkdir(exist_ok=True)
        storage.write_json(tmp_path / "out/pipeline.json", {"seconds": {"prepare": 2.0, "train": 100.0}})
        return {"seconds": 110.0, "peak_megabytes": 1000.0}

    monkeypatch.setattr(bench.scaling, "run", run)

    def part(name: str, seconds: float) -> dict:
        return {"contenders": {name: {"seconds": {"median": seconds}}}}

    parts = {f"train_{model}": part("textbook", 0.002) for model in ("lstm", "transformer")}
    assert "textbook_seconds" not in bench._pipeline(tmp_path, parts)
    parts |= {f"predict_{model}": part("padded", 0.0005) for model in ("lstm", "transformer")}
    found = bench._pipeline(tmp_path, parts)
    assert [words[0] for words in commands] == ["sample", "--preset"] * 2
    assert found["textbook_train_seconds"] == pytest.approx(0.002 * 40_000 * 10 + 0.0005 * 80_000 * 2)
    assert found["textbook_seconds"] == pytest.approx(found["textbook_train_seconds"] + 10)
    assert found["times_as_long"] == pytest.approx(found["textbook_seconds"] / 110)
