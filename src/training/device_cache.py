"""Device of this machine, its precision and memory, as torch last found them, noted in output/hardware.

A command that has nothing to compute reads the note, and does not wait for the import of torch.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.core import storage, versions
from src.core.executors import Executor, make_executor
from src.core.settings import Executor as ExecutorSettings
from src.core.settings import fingerprint
from src.core.storage import Output
from src.core.targets import Target
from src.evaluation.workspace import Workspace

CPUINFO = Path("/proc/cpuinfo")
GPU_DRIVERS = ("nvidia*", "kfd", "dxg")
"""Names in /dev: CUDA, ROCm, CUDA under Windows."""
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Machine:
    device: str
    """cpu or cuda."""
    auto_precision: str
    """fp32 or bf16: what train.precision=auto is here."""
    card_jobs: int = 1
    """Number of jobs that the card has memory for; 1 without a card."""

    def precision(self, wish: str) -> str:
        return self.auto_precision if wish == "auto" else wish

    def executor(self, settings: ExecutorSettings, n_jobs: int, deadline: float = math.inf) -> Executor:
        """Returns the executor of `n_jobs` jobs on this device, see make_executor()."""
        return make_executor(settings, self.device, n_jobs, deadline, self.card_jobs)


def find(output: Output, device: str) -> Machine:
    """Asks torch, and notes the answer. Raises UserError for a device that is not there."""
    found = _ask(device)
    storage.write_json(_note(output, device), {"fingerprint": fingerprint(signs()), **asdict(found)})
    return found


def recall(output: Output, device: str) -> Machine | None:
    """The noted answer; None where there is none, or this machine looks different.

    It serves to see that all is done. Before anything is computed torch is asked again: a driver can fail unseen.
    """
    if not Target("", _note(output, device), fingerprint(signs())).is_current():
        return None
    note = storage.read_json(_note(output, device))
    return Machine(note["device"], note["auto_precision"], note["card_jobs"])


def recall_or_find(workspace: Workspace) -> Machine:
    """The noted answer or, where there is none, torch's. A read-only workspace notes nothing."""
    output, device = workspace.output, workspace.settings.device
    noted = recall(output, device)
    if noted is not None:
        return noted
    if not workspace.read_only:
        return find(output, device)
    if not output.runs.exists() and not output.pretrained.exists():
        return Machine("cpu", "fp32")  # nothing is trained, whatever the machine is
    return _ask(device)


def _ask(device: str) -> Machine:
    from src.training import devices

    picked = devices.pick_device(device)
    return Machine(picked.type, devices.pick_precision("auto", picked), devices.jobs_on(picked))


def _note(output: Output, device: str) -> Path:
    return output.hardware / f"{device}.json"


def signs() -> dict[str, Any]:
    """Facts that torch's answer depends on, as far as they can be seen without torch."""
    cpu = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    return {
        "torch": importlib.metadata.version("torch"),
        "platform": [platform.system(), platform.machine()],
        # Other lines, such as the clock's, change by themselves.
        "cpu": sorted({line for line in cpu if line.startswith(("model name", "flags"))}),
        "gpu": sorted(path.name for name in GPU_DRIVERS for path in Path("/dev").glob(name)),
        "environment": {name: os.environ.get(name) for name in GPU_VARIABLES},
        "version": versions.DEVICE,
    }
