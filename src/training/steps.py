"""Steps of training: gradients of a batch, clipped, and the change of the weights; on a GPU as CUDA graphs.

The models are small, and a GPU does the kernels of a step faster than a process starts them one by one. A CUDA graph
starts all of them at once: PyTorch's documentation, "CUDA semantics", section "CUDA graphs".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.models.input_layers import TokenEmbedding
from src.models.recurrent import RecurrentEncoder
from src.models.transformer import TransformerEncoder
from src.training.batching import Batch
from src.training.objective import Objective


class Steps:
    """Steps of an optimizer on the loss of an objective, kernel by kernel."""

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer):
        self.objective, self.optimizer = objective, optimizer

    def take(self, batch: Batch, wanted: Any, rate: float) -> Tensor:
        """Takes a step at a learning rate. Returns (2,): the loss, and the norm of the gradients before clipping."""
        self.set_rate(rate)
        return self.compute(batch, wanted)

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]

    def compute(self, batch: Batch, wanted: Any) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.objective.step(batch, wanted).detach()
        norm = nn.utils.clip_grad_norm_(self.objective.model.parameters(), self.objective.settings.clip_norm)
        self.optimizer.step()
        return torch.stack([loss, norm])


class GraphSteps(Steps):
    """Steps on a GPU that start as one: the first batch of a shape computes kernel by kernel, which loads what they
    need, the second is recorded as a CUDA graph, which then computes it and all that follow.

    All graphs share their memory, as one ends before the next starts, and none reads what another has left.
    """

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer):
        super().__init__(objective, optimizer)
        if torch.cuda.current_stream() == torch.cuda.default_stream():  # which cannot be recorded
            torch.cuda.synchronize()
            torch.cuda.set_stream(torch.cuda.Stream())
        self._memory = torch.cuda.graph_pool_handle()
        self._graphs: dict[tuple[Any, ...], Graph | None] = {}
        for group in optimizer.param_groups:
            group["capturable"], group["lr"] = True, torch.zeros((), device=objective.device)

    def take(self, batch: Batch, wanted: Any, rate: float) -> Tensor:
        self.set_rate(rate)
        given = batch, wanted
        tensors = tensors_of(given)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if shapes not in self._graphs:
            self._graphs[shapes] = None
            return self.compute(batch, wanted)
        if self._graphs[shapes] is None:
            self._graphs[shapes] = self._recorded(given)
        return self._graphs[shapes].replay(tensors)

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate * group["share"])

    def _recorded(self, given: tuple[Batch, Any]) -> Graph:
        kept = with_tensors(given, iter([tensor.clone() for tensor in tensors_of(given)]))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, stream=torch.cuda.current_stream()):
            values = self.compute(*kept)
        return Graph(graph, tensors_of(kept), values)


@dataclass(frozen=True)
class Graph:
    """A step that was recorded."""

    graph: torch.cuda.CUDAGraph
    given: list[Tensor]
    """Tensors of a batch and its targets, which it reads."""
    values: Tensor
    """(2,) that it writes."""

    def replay(self, tensors: list[Tensor]) -> Tensor:
        for kept, tensor in zip(self.given, tensors, strict=True):
            kept.copy_(tensor)
        self.graph.replay()
        return self.values


def is_recordable(model: nn.Module) -> bool:
    """Returns True for models whose steps were tried as graphs: LSTMs and Transformers of tokens."""
    encoder = getattr(model, "encoder", None)
    cells = [*encoder.forwards, *encoder.backwards] if isinstance(encoder, RecurrentEncoder) else []
    is_known = isinstance(encoder, TransformerEncoder) or cells and all(isinstance(cell, nn.LSTM) for cell in cells)
    return bool(is_known) and isinstance(model.input_layer, TokenEmbedding)


def steps_of(objective: Objective, optimizer: torch.optim.Optimizer) -> Steps:
    return (GraphSteps if objective.has_graphs else Steps)(objective, optimizer)


def tensors_of(nested: Any) -> list[Tensor]:
    """Returns the tensors in nested tuples and dictionaries, in their order."""
    if isinstance(nested, Tensor):
        return [nested]
    parts = nested.values() if isinstance(nested, dict) else nested if isinstance(nested, tuple) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def with_tensors(nested: Any, tensors: Any) -> Any:
    """Puts other tensors, an iterator, in the places of tensors_of()."""
    if isinstance(nested, Tensor):
        return next(tensors)
    if isinstance(nested, dict):
        return {key: with_tensors(part, tensors) for key, part in nested.items()}
    if isinstance(nested, tuple):
        parts = [with_tensors(part, tensors) for part in nested]
        return type(nested)(*parts) if hasattr(nested, "_fields") else tuple(parts)
    return nested
