"""./run.sh bench gpu: what it measures, that it notes what fails, and that it goes on with what is missing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from src.__main__ import main
from src.bench import gpu
from src.core import storage
from src.core.errors import UserError
from src.core.run_settings import Run
from src.core.settings import ROOT
from src.core.settings_loader import load_config
from src.evaluation.workspace import Workspace
from src.pipeline import gpu_bench
from src.pipeline.commands import bench
from tests.conftest import TINY, error_of
from tests.waiting import wait_until

LSTM = load_config("quick", ["model.embedding_size=8", "model.hidden_size=8"], models=["lstm"]).runs["lstm"]


def test_each_kind_of_step_is_measured_once():
    found = gpu.encoders({name: load_config(name) for name in gpu_bench.PRESETS})
    used = [name for one in found.values() for name in one["used_by"]]
    assert len(used) == len(set(used)) == sum(len(load_config(name).runs) for name in gpu_bench.PRESETS)
    assert found["quick/lstm"]["used_by"][:2] == ["quick/lstm", "standard/lstm"]
    assert found["full/transformer"]["run"].model.embedding_size == 192 and "standard/transformer" in found
    assert [one.name for one in gpu.variants()] == ["fp32, CUDA graphs", "fp32", "bf16, CUDA graphs", "bf16"]


def test_the_share_is_that_of_the_named_card_or_none():
    assert gpu.share("NVIDIA H200", "bf16", 1e9, 98_940) == pytest.approx(0.1)
    assert gpu.share("NVIDIA H200", "fp32", 1e9, 66_900) == pytest.approx(1)
    assert gpu.share("NVIDIA H200 MIG 1g.18gb", "bf16", 1e9, 98_940) is None


def test_operations_are_counted_with_those_of_an_attack():
    rows = gpu.random_rows(64, seed=1)
    run = LSTM.model_dump(mode="json")
    plain = gpu._operations(run, rows, 64)
    run["train"]["attack"] = "fgm"
    attacked = gpu._operations(run, rows, 64)
    assert attacked["train_operations"] == 2 * plain["train_operations"] > 4 * plain["predict_operations"] > 0


def test_a_job_waits_for_its_wave_until_one_moment_whenever_it_arrives(tmp_path):
    wave = {"wave": str(tmp_path), "jobs": 2, "name": "own"}
    with gpu._turn(wave | {"until": time.time() - 1}):
        assert len(list(tmp_path.glob("*.ready"))) == 1, "its time is over: it measures without the other"
    other = threading.Timer(0.2, gpu.mark, [wave | {"name": "other"}, gpu.READY])
    other.start()
    with gpu._turn(wave | {"until": time.time() + 600}):
        assert len(list(tmp_path.glob("*.ready"))) == 2
    other.join()


def test_jobs_of_a_wave_measure_in_smaller_and_smaller_numbers_without_one_that_fails(tmp_path):
    wave = {"wave": str(tmp_path), "jobs": 4, "counts": [4, 2, 1], "until": time.time() + 600}
    measured: list[str] = []

    def measures(name: str) -> dict[str, float]:
        measured.append(name)
        if name == "fold.0":
            raise MemoryError
        return {gpu.TRAINED: 1.0}

    def run(name: str) -> dict[str, dict[str, float]]:
        one = wave | {"name": name}
        try:
            return gpu._together(one, lambda: measures(name))
        except MemoryError:
            return {}
        finally:
            gpu.mark(one, gpu.ENDED)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(run, [f"fold.{i}" for i in range(4)]))
    assert [sorted(one) for one in found] == [[], ["1", "2", "4"], ["2", "4"], ["4"]]
    assert sorted(measured[:4]) == [f"fold.{i}" for i in range(4)] and sorted(measured[4:6]) == ["fold.1", "fold.2"]


def test_jobs_whose_time_is_over_do_not_measure_without_the_others(tmp_path):
    wave = {"wave": str(tmp_path), "jobs": 2, "name": "own", "counts": [2, 1], "until": time.time() + 0.1}
    assert gpu._together(wave, lambda: {gpu.TRAINED: 1.0}) == {}
    with pytest.raises(UserError, match="its process ended while it measured"):
        gpu.measure(wave, lambda news: None)


def test_the_slowest_encoder_and_most_folds_are_measured_side_by_side_first(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_bench, "available_cores", lambda: 8)
    command = gpu_bench.GpuBench(Workspace(load_config("quick", [f"paths.output={tmp_path}"])), 60, dry_run=True)
    command.sizes = gpu.Sizes()
    command.found = command._begun()
    for name, rate in (("quick/lstm", 9.0), ("standard/transformer", 2.0)):
        command.found["rates"][name]["variants"] = {"fp32": {gpu.TRAINED: rate / 9}, "bf16": {gpu.TRAINED: rate}}
    assert command._side_encoders() == ["standard/transformer", "quick/lstm"]
    assert command._uncounted("quick/lstm") == [8, 4, 2, 1]
    command.found["side_by_side"] = {"quick/lstm": {"1": {gpu.TRAINED: 2.0}, "8": {"error": "out of memory"}}}
    assert command._uncounted("quick/lstm") == [4, 2]


def test_without_a_card_the_command_names_the_dry_run(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    workspace = Workspace(load_config("quick", [f"paths.output={tmp_path}"]))
    told = error_of(bench.gpu, workspace, 9.0)
    assert "needs a CUDA device" in told and "./run.sh bench gpu --dry-run" in told and not list(tmp_path.iterdir())
    assert "more than 0 minutes" in error_of(bench.gpu, workspace, 0.0)
    stays = Workspace(load_config("quick", [f"paths.output={tmp_path}", "task=icu"]))
    assert "models of reports, not of icu" in error_of(bench.gpu, stays, 9.0)
    assert "run it by itself" in error_of(bench.measure, workspace, ["gpu", "read"])


@pytest.fixture
def small(tmp_path, monkeypatch, copy, tiny_input) -> Path:
    """Output folder of a dry run whose only preset is that of the finished pipeline, which it holds already; with one
    encoder that is measured and one that cannot be built."""
    folder = tmp_path / "bench/gpu_dry_run"
    shutil.copytree(tiny_input, folder / "input")
    shutil.move(copy, folder / "pipeline")
    for name in ("PRESETS", "MADE"):
        monkeypatch.setattr(gpu_bench, name, ("sample",))
    words = [word for word in TINY if "=" in word]
    monkeypatch.setattr(gpu_bench, "SMALL_WORDS", ["device=cpu", *words])
    grud = Run.model_validate({"model": {"encoder": "grud"}, "features": {"imputer": "decay", "observed": True}})
    found = {"sample/lstm": {"run": LSTM, "used_by": ["sample/lstm"]}, "none": {"run": grud, "used_by": ["none"]}}
    monkeypatch.setattr(gpu, "encoders", lambda configs: found)
    monkeypatch.setattr(gpu, "PRECISIONS", ("fp32",))
    return folder


def test_a_dry_run_measures_notes_errors_and_goes_on(small, monkeypatch, capsys):
    words = ["bench", "gpu", "--dry-run", f"paths.output={small.parent}"]

    def end(*given):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(gpu_bench.GpuBench, "_side_by_side", end)
        assert main(words) == 2
    first = storage.read_json(small / "bench.json")
    assert set(first["rates"]["sample/lstm"]["variants"]) == {"fp32, CUDA graphs", "fp32"}
    rate = first["rates"]["sample/lstm"]["variants"]["fp32"]
    assert rate["precision"] == "fp32" and min(rate[gpu.TRAINED], rate[gpu.PREDICTED], rate["train_operations"]) > 0
    assert "grud" in first["rates"]["none"]["variants"]["fp32"]["error"]
    assert first["sessions"] == [{"limit": 540.0, "seconds": None}] and not first["presets"]
    assert "Not measured yet: 1 folds of sample/lstm side by side" in (small / "bench.md").read_text()

    capsys.readouterr()
    assert main(words) == 0
    second = storage.read_json(small / "bench.json")
    assert second["rates"] == first["rates"]
    folds = second["side_by_side"]["sample/lstm"]
    assert set(folds) == {"1", "2"} and all(one[gpu.TRAINED] > 0 for one in folds.values())
    made = second["presets"]["sample"]
    assert made["is_done"] and made["trained"] == "4 of 4" and made["train_rows"] == 300
    assert made["train_files"] == ["sample_train.csv"]
    score = storage.read_json(small / "pipeline/runs/blend/score.json")["overall"]["score"]
    assert made["scores"]["blend"].startswith(f"{score['value']:.4f} ±")
    assert made["seconds"] == pytest.approx(sum(made["stages"].values()), abs=1)
    told = capsys.readouterr().out
    assert "Folds of sample/lstm side by side" in told and "not measured yet" not in told
    assert "All parts are measured." in (small / "bench.md").read_text()


def test_figures_of_another_machine_are_not_mixed(tmp_path):
    workspace = Workspace(load_config("quick", [f"paths.output={tmp_path}"]))
    command = gpu_bench.GpuBench(workspace, 60, dry_run=True)
    new = command._begun()
    storage.write_json(command.folder / "bench.json", {**new, "machine": {**new["machine"], "device": "NVIDIA L4"}})
    with pytest.raises(UserError, match="measured elsewhere .device NVIDIA L4, here cpu.*paths.output=DIR"):
        command._begun()


def test_a_preset_that_cannot_be_made_has_its_error_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    for name in ("_rates", "_side_by_side"):
        monkeypatch.setattr(gpu_bench.GpuBench, name, lambda *given: None)
    folder = tmp_path / "gpu_dry_run"
    (folder / "input").mkdir(parents=True)
    (folder / "input/sample_train.csv").write_text("no report\n")
    assert main(["bench", "gpu", "--dry-run", f"paths.output={tmp_path}"]) == 0
    presets = storage.read_json(folder / "bench.json")["presets"]
    assert set(presets) == set(gpu_bench.MADE)
    for one in presets.values():
        assert "sample_train.csv" in one["error"] and not one["scores"] and "trained" not in one
    assert "sample_train.csv" in (folder / "bench.md").read_text() and "not finished" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_dry_run_loses_no_figure(tmp_path):
    words = [sys.executable, "-m", "src", "bench", "gpu", "--dry-run", "--minutes", "60", f"paths.output={tmp_path}"]
    environment, written = {**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path / "gpu_dry_run/bench.json"
    command = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)

    def stages() -> dict[str, float]:
        presets = storage.read_json(written)["presets"] if written.exists() else {}
        return presets.get("standard", {}).get("stages", {})

    wait_until(lambda: "shift" in stages() or command.poll() is not None)
    command.send_signal(signal.SIGKILL)
    command.wait()
    first = storage.read_json(written)
    started = time.monotonic()
    assert subprocess.run(words, env=environment, capture_output=True).returncode == 0
    second = storage.read_json(written)
    assert second["rates"] == first["rates"] and second["side_by_side"] == first["side_by_side"]
    assert [one["seconds"] is None for one in second["sessions"]] == [True, False]
    assert second["sessions"][1]["seconds"] <= time.monotonic() - started
    standard, full = second["presets"]["standard"], second["presets"]["full"]
    assert standard["is_done"] and standard["sessions"][0] is None and standard["seconds"] is None
    assert full["is_done"] and full["trained"] == "30 of 30" and full["seconds"] > 0
    assert set(full["scores"]) == {*load_config("full").runs, "blend"}
    assert not any("error" in one for found in second["rates"].values() for one in found["variants"].values())
