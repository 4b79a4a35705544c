from __future__ import annotations

import pytest
import torch

from src.core.settings import Executor
from src.core.storage import Output
from src.training import device_cache, devices
from src.training.device_cache import Machine
from tests.conftest import error_of


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(tmp_path)


def test_what_was_found_is_recalled(output):
    assert device_cache.recall(output, "auto") is None
    found = device_cache.find(output, "auto")
    assert found.device == devices.pick_device("auto").type
    assert found.auto_precision == devices.pick_precision("auto", torch.device(found.device))
    assert device_cache.recall(output, "auto") == found
    assert device_cache.recall(output, "cpu") is None, "another wish is another question"


def test_the_card_limits_the_jobs_that_run_side_by_side(output, monkeypatch):
    monkeypatch.setattr("src.core.executors.available_cores", lambda: 16)
    monkeypatch.setattr(devices, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(devices, "jobs_on", lambda device: 3)
    found = device_cache.find(output, "auto")
    assert found == device_cache.recall(output, "auto") == Machine("cuda", "fp32", 3)
    assert [found.executor(Executor(), n_jobs).workers for n_jobs in (2, 10)] == [2, 3]
    assert found.executor(Executor(workers=5), 10).workers == 5


def test_a_wish_is_granted():
    here = Machine("cpu", "bf16")
    assert [here.precision(wish) for wish in ("auto", "fp32", "bf16")] == ["bf16", "fp32", "bf16"]


@pytest.mark.parametrize("change", ["torch", "processor", "driver", "environment"])
def test_a_machine_that_looks_different_is_asked_again(output, tmp_path, monkeypatch, change):
    device_cache.find(output, "cpu")
    if change == "torch":
        monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1")
    elif change == "processor":
        (tmp_path / "cpuinfo").write_text("model name\t: another\n")
        monkeypatch.setattr(device_cache, "CPUINFO", tmp_path / "cpuinfo")
    elif change == "driver":
        monkeypatch.setattr(device_cache, "GPU_DRIVERS", ("null",))
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert device_cache.recall(output, "cpu") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_not_noted(output):
    assert "finds no CUDA device" in error_of(device_cache.find, output, "cuda")
    assert device_cache.recall(output, "cuda") is None
