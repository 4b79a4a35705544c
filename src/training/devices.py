"""Device of this machine, and the precision that is fast and sound on it."""

from __future__ import annotations

import contextlib
import platform
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from src.core.errors import UserError
from src.core.language import _

PROBE_TOLERANCE = 0.05
"""Largest relative difference between the bfloat16 and float32 gradients of the probe; bfloat16 keeps 8 bits."""
CARD_MEMORY = 2 << 30
"""Bytes of a card's memory that a job is reckoned to need: half a GB for its CUDA context, 0.3 to 0.5 GB for
tensors and CUDA graphs of the presets' models, and the rest for larger models."""


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is any. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(_("device=cuda: torch finds no CUDA device here. Leave device=auto, or set device=cpu."))
    return torch.device(name)


def set_up(device: torch.device) -> None:
    """Asks a GPU for what a CPU does anyway: full float32 in recurrences, and the same bytes for the same seed.

    Operations without a deterministic form warn and go on. Attention is by plain products, as the gradients of fused
    kernels have no deterministic form; that trains 3 to 4% fewer reports a second (docs/speed.md).
    """
    if device.type == "cuda":
        for kernel in ("flash", "mem_efficient", "cudnn"):
            getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(False)
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # filling adds a kernel to many others
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def pick_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 on a CPU that multiplies it natively and trains a recurrence in it as in fp32. On a GPU `auto` is
    fp32: casts to bf16 add kernels, so that such small models gain 16% at most, and some nothing (docs/speed.md).
    """
    if name != "auto":
        return name
    return "bf16" if device.type == "cpu" and _has_bf16() and _bf16_agrees() else "fp32"


def jobs_on(device: torch.device) -> int:
    """Returns the number of jobs that a card has memory for, at least one; one without a card."""
    if device.type != "cuda":
        return 1
    return max(1, torch.cuda.get_device_properties(device).total_memory // CARD_MEMORY)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Matrix products in `precision`; weights, sums and the loss stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def compiled(model: torch.nn.Module, device: torch.device) -> Callable[..., Any]:
    """Compiles the model; the weights stay shared. Raises UserError for a GPU, and where a CPU has no compiler."""
    if device.type == "cuda":
        raise UserError(_("train.compile=true is for a CPU; on a GPU steps are CUDA graphs. Leave it off."))
    # torch.fx shows its progress by tqdm, whose own lock is a semaphore: a worker that is stopped would leave it.
    torch.hub.tqdm.set_lock(threading.RLock())
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UserError(_("train.compile=true needs a C++ compiler on a CPU, such as g++, and finds none."))
    return torch.compile(model, dynamic=True)


def _has_bf16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.exists():
        return False
    flags = cpuinfo.read_text(encoding="utf-8")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _bf16_agrees() -> bool:
    """One small LSTM, forward and backward, in both precisions: some processors fail or go astray in bfloat16."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cell = torch.nn.LSTM(32, 32, batch_first=True)
        x = torch.randn(8, 16, 32)
    gradients = []
    for precision in ("fp32", "bf16"):
        cell.zero_grad()
        try:
            with autocast(precision, torch.device("cpu")):
                cell(x)[0].float().square().mean().backward()
        except RuntimeError:
            return False
        gradients.append(cell.weight_hh_l0.grad.clone())
    difference = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    return bool(difference < PROBE_TOLERANCE)  # false for NaN as well
