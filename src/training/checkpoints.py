"""Weights and training state on disk: safetensors beside JSON, with a checksum, never pickle.

A running job keeps the state of its last two epochs, `state_0007.safetensors` with `state_0007.json`; the JSON is
written last and holds the checksum, so a torn or damaged state is passed over for the one before. A job that is told to
end keeps one more, amid an epoch: `state_0007_000123` is that after 7 epochs and 123 steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as serialise
from torch import Tensor, nn

from src.core import storage
from src.core.errors import Damaged
from src.core.language import _
from src.core.targets import check_file
from src.core.terminal import warn
from src.training.objective import History

KEPT = 2


def save_weights(path: Path, model: nn.Module) -> None:
    save_tensors(path, model.state_dict())


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    content = serialise({name: tensor.contiguous() for name, tensor in tensors.items()})
    storage.write_atomic(path, lambda file: file.write(content))


def load_weights(path: Path, model: nn.Module, result: Mapping[str, Any] | None = None) -> None:
    """Loads weights into `model`, in place; `result`: content of the result.json that notes their checksum.

    Raises UserError if the file is missing, and Damaged if it is not as it was written or holds another model.
    """
    storage.require(path, "train")
    check_file(path, result or {}, "train")
    try:
        model.load_state_dict(load(path.read_bytes()))
    except (SafetensorError, RuntimeError) as error:  # torn, or of another model
        raise Damaged(path, f"it cannot be read as this model's weights ({error})", "train") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Loads the tensors of a file. Raises UserError if it is missing, and Damaged if it is torn."""
    storage.require(path, "train")
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise Damaged(path, f"it cannot be read as weights ({error})", "train") from error


def load_parts(path: Path, model: nn.Module, parts: Sequence[str]) -> None:
    """Loads only the named children of `model`, from a model that has the same. Raises UserError if the file is missing
    or holds other shapes.
    """
    storage.require(path, "pretrain")
    try:
        tensors = load(path.read_bytes())
        for part in parts:
            model.get_submodule(part).load_state_dict(_below(f"{part}.", tensors))
    except (SafetensorError, RuntimeError) as error:
        raise Damaged(path, f"it cannot be read as weights of this model ({error})", "pretrain") from error


def save(
    folder: Path,
    model: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
    history: History,
    seconds: float,
    midway: dict[str, Tensor] | None = None,
    further: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Saves the state after the last epoch of `history` and removes states older than the last two. `seconds`: of the
    training so far, over all starts of the job. `midway` is what a job amid an epoch needs further, with the "values"
    (n, 2) of its n steps. `further`: state of the objective."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items() if optimizer else ():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    tensors |= {f"objective.{name}": tensor for name, tensor in further.items()}
    name = f"state_{int(history[-1]['epoch']) if history else 0:04d}"
    if midway:
        tensors |= {f"midway.{part}": tensor for part, tensor in midway.items()}
        name += f"_{len(midway['values']):06d}"
    content = serialise({name: tensor.contiguous() for name, tensor in tensors.items()})
    storage.write_atomic(folder / f"{name}.safetensors", lambda file: file.write(content))
    facts = {"weights": hashlib.sha256(content).hexdigest(), "history": history, "seconds": round(seconds, 2)}
    storage.write_json(folder / f"{name}.json", facts)
    for old in _states(folder)[KEPT:]:
        _remove(old)


def resume(
    folder: Path, model: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer | None
) -> tuple[History, dict[str, Tensor], dict[str, Tensor]]:
    """Loads the newest sound state of `folder`, in place, and returns its history, and what save() got as `midway` and
    as `further`. All are empty if there is none."""
    for path in _states(folder):
        weights = path.with_suffix(".safetensors")
        note = storage.read_kept(path)
        if note is None or not weights.exists():
            continue
        content = weights.read_bytes()
        if hashlib.sha256(content).hexdigest() != note["weights"]:
            warn(
                _(
                    "{weights} is damaged: its checksum is not the one that {name} notes. Its epoch is trained anew"
                ).format(weights=weights, name=path.name)
            )
            continue
        tensors = load(content)
        model.load_state_dict(_below("model.", tensors))
        if average is not None:
            average.load_state_dict(_below("average.", tensors))
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            index, key = name.split(".", 1)
            states.setdefault(int(index), {})[key] = tensor
        if optimizer is not None:
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        return note["history"], _below("midway.", tensors), _below("objective.", tensors)
    return [], {}, {}


def model_of(folder: Path, epoch: int) -> dict[str, Tensor]:
    """Loads the model's weights in the state after an epoch. Raises UserError if it is missing, and Damaged."""
    path = folder / f"state_{epoch:04d}.safetensors"
    noted = storage.read_json(path.with_suffix(".json"), "train")["weights"]
    tensors = load_tensors(path)
    if storage.file_sha256(path) != noted:
        raise Damaged(
            path, _("its checksum is not the one that {file} notes").format(file=path.stem + ".json"), "train"
        )
    return _below("model.", tensors)


def spent(folder: Path) -> float:
    """Returns the seconds of training up to the newest state whose note can be read, over all starts of the job; 0.0
    where there is none, or an older version wrote it."""
    notes = (storage.read_kept(path) for path in _states(folder))
    return next((note.get("seconds", 0.0) for note in notes if note is not None), 0.0)


def remove_all(folder: Path) -> None:
    """Removes all states, once the job has its result."""
    for path in folder.glob("state_*"):
        path.unlink()


def _states(folder: Path) -> list[Path]:
    """JSON files of the states, newest first."""
    return sorted(folder.glob("state_*.json"), key=lambda path: tuple(map(int, path.stem.split("_")[1:])), reverse=True)


def _remove(state: Path) -> None:
    # The JSON goes last: a kill between the two leaves a state that resume() skips and a later save() removes.
    state.with_suffix(".safetensors").unlink(missing_ok=True)
    state.unlink()


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
