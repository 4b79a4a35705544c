from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from src.training import devices
from src.training.devices import autocast, pick_device, pick_precision

CPU = torch.device("cpu")


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_wish_is_granted():
    assert pick_precision("fp32", CPU) == "fp32" and pick_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize(
    ("has", "agrees", "expected"), [(True, True, "bf16"), (True, False, "fp32"), (False, True, "fp32")]
)
def test_auto_wants_hardware_and_agreement(monkeypatch, has, agrees, expected):
    monkeypatch.setattr(devices, "_has_bf16", lambda: has)
    monkeypatch.setattr(devices, "_bf16_agrees", lambda: agrees)
    assert pick_precision("auto", CPU) == expected
    assert pick_precision("auto", torch.device("cuda")) == "fp32", "bf16 is slower there, whatever the processor has"


def test_the_probe_refuses_nonsense_and_failure(monkeypatch):
    class Broken(torch.nn.LSTM):
        def forward(self, x):
            output, state = super().forward(x)
            return (output * float("nan") if torch.is_autocast_enabled("cpu") else output), state

    class Failing(torch.nn.LSTM):
        def forward(self, x):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("could not create a primitive")
            return super().forward(x)

    for cell in (Broken, Failing):
        monkeypatch.setattr(torch.nn, "LSTM", cell)
        assert devices._bf16_agrees() is False


@pytest.mark.parametrize(("gigabytes", "expected"), [(80, 40), (16, 8), (4, 2), (1.5, 1)])
def test_a_card_has_a_job_for_each_two_gigabytes(monkeypatch, gigabytes, expected):
    facts = SimpleNamespace(total_memory=int(gigabytes * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    assert devices.jobs_on(torch.device("cuda")) == expected
    assert devices.jobs_on(CPU) == 1


def test_the_probe_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pick_precision("auto", CPU)
    assert torch.equal(torch.rand(3), expected)


def test_compiling_shows_its_progress_without_a_semaphore(monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda model, **settings: model)
    devices.compiled(torch.nn.Linear(1, 1), CPU)
    assert isinstance(torch.hub.tqdm.get_lock(), type(threading.RLock()))


def test_autocast_computes_products_in_the_precision():
    a = torch.ones(2, 2)
    with autocast("bf16", CPU):
        assert (a @ a).dtype == torch.bfloat16
    with autocast("fp32", CPU):
        assert (a @ a).dtype == torch.float32
