"""Structured pruning of a student: attention heads and feed-forward units of a Transformer, hidden units of an LSTM,
GRU or plain recurrence. What is left is an ordinary model of smaller settings.

The importance of a part is that of a gate on what it computes: the sum over batches of the squared gradient of the loss
(Michel et al. 2019 for heads, Molchanov et al. 2019 in general). Every layer keeps as many parts as the others. A short
distillation of the pruned model follows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.run_settings import AnyModel, Recurrent, Transformer
from src.data.corpus import Corpus
from src.data.inputs import token_shape
from src.data.splits import Split
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.models.classifier import Classifier, build_model
from src.models.recurrent import RecurrentEncoder
from src.models.transformer import TransformerEncoder
from src.serving.distillation import Student, folds_of, student_settings, with_run
from src.training import checkpoints
from src.training.batching import length_batches
from src.training.trained_fold import TrainedFold

ROWS, BATCH_SIZE = 1024, 32
"""Train rows that importance is measured on, and those of a batch, whose gradient is squared."""
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
"""Blocks of rows in the matrices of a cell."""
POOLINGS = ("last", "max", "mean", "maxmean", "lastmaxmean", "label")
"""Poolings without layers between features, which would have to be pruned as well."""


def plan_pruned(workspace: Workspace, run: RunFolder, student: Student) -> Student:
    """The student of a run, pruned. Raises UserError for a model whose parts cannot be pruned."""
    compress, model = workspace.settings.compress, pruned_model(student.run.model, workspace.settings.compress.prune)
    name = f"{run.name}_pruned"
    settings = student_settings(workspace.settings, student.model.settings, model, compress.prune_epochs)
    return Student(name, student.model, workspace.variant(with_run(workspace.settings, name, settings)), student.splits)


def pruned_model(model: AnyModel, share: float) -> AnyModel:
    """Settings of a model without the `share` of its parts. Raises UserError for a model without such parts."""

    def kept(size: int) -> int:
        return max(1, round(size * (1 - share)))

    if isinstance(model, Transformer):
        head_size = model.head_size or model.embedding_size // model.heads
        smaller = {"heads": kept(model.heads), "head_size": head_size, "feedforward_size": kept(model.feedforward_size)}
        return model.model_copy(update=smaller)
    if isinstance(model, Recurrent) and model.pooling in POOLINGS:
        return model.model_copy(update={"hidden_size": kept(model.hidden_size)})
    pooling = f" with pooling {model.pooling}" if isinstance(model, Recurrent) else ""
    raise UserError(f"pruning knows Transformers and recurrences with a plain pooling, not {model.encoder}{pooling}")


def described(before: AnyModel, after: AnyModel) -> str:
    """Says what pruning left."""
    names = {"heads": "heads", "feedforward_size": "feed-forward units", "hidden_size": "hidden units"}
    parts = {key: name for key, name in names.items() if hasattr(before, key)}
    return ", ".join(f"{getattr(after, key)} of {getattr(before, key)} {name}" for key, name in parts.items())


def prune_folds(workspace: Workspace, pruned: Student, small: RunFolder, whole: Path) -> Callable[[Split], Path]:
    """Writes the pruned weights of each trained fold of the run `small`, and of the one of all rows; returns the file
    of a split."""
    folder, files = workspace.output.run(pruned.name) / "initial", {}
    for split in pruned.splits:
        fold = whole if split is pruned.splits[-1] else folds_of(small, split)[0]
        trained = TrainedFold.load(fold, torch.device("cpu"), workspace.output.root)
        batches = _batches(workspace, trained, split.train_rows)
        file = folder / f"{split.fold}.{split.seed}.safetensors"
        checkpoints.save_weights(file, pruned_classifier(trained, pruned.run.model, batches))
        files[split.fold, split.seed] = file
    return lambda split: files[split.fold, split.seed]


def _batches(workspace: Workspace, trained: TrainedFold, rows: np.ndarray) -> list[tuple]:
    """Batches of train rows as the model reads them, each with its labels."""
    corpus = Corpus.load(workspace.dataset.train_folder)
    rows = np.random.default_rng(0).permutation(rows)[:ROWS]
    (view, *_) = trained.views(workspace.dataset.train_folder)
    inputs = {name: np.asarray(array[rows]) for name, array in view.items()}
    batches = length_batches(inputs, np.asarray(corpus.lengths[rows]), BATCH_SIZE, trained.device)
    labels = torch.from_numpy(workspace.labels[rows]).float()
    return [(batch.inputs, batch.lengths, labels[torch.from_numpy(batch.rows)]) for batch in batches]


def pruned_classifier(trained: TrainedFold, settings: AnyModel, batches: list[tuple]) -> Classifier:
    """The model of a trained fold in smaller settings, with the parts that matter most for the loss on `batches` of
    (inputs, lengths, labels)."""
    model, task = trained.model.eval(), trained.task
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    importance = _importance(trained, batches)
    if isinstance(model.encoder, TransformerEncoder):
        _prune_transformer(weights, model.encoder, settings, importance)
    else:
        _prune_recurrent(weights, model, settings, importance)
    shape = token_shape(model.input_layer.embedding.num_embeddings)
    smaller = build_model(settings, shape, task.n_labels)
    smaller.load_state_dict(weights)
    return smaller


def _importance(trained: TrainedFold, batches: list[tuple]) -> list[Tensor]:
    """Importance of the parts of each layer: of a Transformer those of its heads (H,) and units (F,) by turns, of
    recurrences those of the forward cells (H,), then of the backward cells."""
    model, task = trained.model, trained.task
    with contextlib.ExitStack() as hooks:
        gates = [_gate(module, parts, hooks) for module, parts in _gated(model.encoder)]
        totals = [torch.zeros_like(gate) for gate in gates]
        for inputs, lengths, labels in batches:
            loss = task.losses(model(inputs, lengths), labels).mean()
            for total, gradient in zip(totals, torch.autograd.grad(loss, gates), strict=True):
                total += gradient**2
    return totals


def _gated(encoder: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """Yields the modules that read the parts of a Transformer or give those of a recurrence, with the number of
    parts."""
    if isinstance(encoder, TransformerEncoder):
        for block in encoder.blocks:
            yield block.attention.project_out, block.attention.heads
            yield block.feedforward[2], block.feedforward[2].in_features
    else:
        for cell in [*encoder.forwards, *encoder.backwards]:
            yield cell, cell.hidden_size


def _gate(module: nn.Module, parts: int, hooks: contextlib.ExitStack) -> Tensor:
    """Puts a gate (parts,) of ones before a linear layer or behind a cell, while `hooks` is open; returns the gate."""
    gate = torch.ones(parts, requires_grad=True)
    if isinstance(module, nn.Linear):

        def before(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            return (inputs[0] * gate.repeat_interleave(inputs[0].shape[-1] // parts),)

        handle = module.register_forward_pre_hook(before)
    else:
        handle = module.register_forward_hook(lambda _module, _inputs, output: (output[0] * gate, output[1]))
    hooks.callback(handle.remove)
    return gate


def _best(importance: Tensor, kept: int) -> Tensor:
    """Places of the most important parts, ascending."""
    return importance.argsort(descending=True, stable=True)[:kept].sort().values


def _prune_transformer(
    weights: dict[str, Tensor], encoder: TransformerEncoder, settings: Transformer, importance: list[Tensor]
) -> None:
    size, head_size = encoder.size, encoder.head_size
    for i, block in enumerate(encoder.blocks):
        heads = _best(importance[2 * i], settings.heads)
        units = _best(importance[2 * i + 1], settings.feedforward_size)
        attention, layers = f"encoder.blocks.{i}.attention.", f"encoder.blocks.{i}.feedforward."
        split = (3, block.attention.heads, head_size)
        weights[attention + "project_in.weight"] = (
            weights[attention + "project_in.weight"].view(*split, size)[:, heads].reshape(-1, size)
        )
        weights[attention + "project_in.bias"] = weights[attention + "project_in.bias"].view(split)[:, heads].flatten()
        weights[attention + "project_out.weight"] = (
            weights[attention + "project_out.weight"].view(size, -1, head_size)[:, heads].reshape(size, -1)
        )
        if attention + "bias.weight" in weights:
            weights[attention + "bias.weight"] = weights[attention + "bias.weight"][:, heads]
        weights[layers + "0.weight"] = weights[layers + "0.weight"][units]
        weights[layers + "0.bias"] = weights[layers + "0.bias"][units]
        weights[layers + "2.weight"] = weights[layers + "2.weight"][:, units]


def _prune_recurrent(
    weights: dict[str, Tensor], model: Classifier, settings: Recurrent, importance: list[Tensor]
) -> None:
    encoder: RecurrentEncoder = model.encoder
    layers, hidden = len(encoder.forwards), encoder.forwards[0].hidden_size
    gates = GATES[settings.cell]
    inputs = torch.arange(encoder.forwards[0].input_size)
    for i in range(layers):
        kept = {"forwards": _best(importance[i], settings.hidden_size)}
        if encoder.backwards:
            kept["backwards"] = _best(importance[layers + i], settings.hidden_size)
        for side, units in kept.items():
            rows = (hidden * torch.arange(gates)[:, None] + units).flatten()
            cell = f"encoder.{side}.{i}."
            weights[cell + "weight_ih_l0"] = weights[cell + "weight_ih_l0"][rows][:, inputs]
            weights[cell + "weight_hh_l0"] = weights[cell + "weight_hh_l0"][rows][:, units]
            for name in ("bias_ih_l0", "bias_hh_l0"):
                weights[cell + name] = weights[cell + name][rows]
        inputs = torch.cat([hidden * place + units for place, units in enumerate(kept.values())])
    # The head reads one block of all features for each mean or maximum of the pooling.
    blocks = model.pooling.size // encoder.size
    columns = (encoder.size * torch.arange(blocks)[:, None] + inputs).flatten()
    weights["head.weight"] = weights["head.weight"][:, columns]
    if model.pooling.kind == "label":
        weights["pooling.score.weight"] = weights["pooling.score.weight"][:, inputs]
