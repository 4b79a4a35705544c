"""Trained folds and denoisers as ONNX graphs, which onnxruntime runs several times as fast as torch at batch 1.

A graph is in float32, for any batch and length. It is parity-tested beside torch for every encoder and pooling. The
exporter is the one that traces: it takes a second, where the other takes up to a minute and leaves the weights of
recurrent cells as computed nodes, which quantisation passes over.

    classifier   tokens (B, T) int64, lengths (B,) int64                       -> logits (B, n_labels)
                 words (B, T, K) int64, shares (B, T, K), lengths (B,) int64   -> the same, of denoised reports
    denoiser     tokens (B, T) int64, lengths (B,) int64                       -> words and shares of one view
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.core import storage
from src.core.errors import UserError
from src.data.corpus import N_SPECIAL, to_indices, to_words
from src.models.classifier import Classifier
from src.models.input_layers import TokenEmbedding
from src.models.layers import FULL, valid_positions
from src.serving.packages import require_packages
from src.training.denoising import MIXED, Denoiser
from src.training.trained_fold import TrainedFold

OPSET = 17
"""Version of the ONNX operators."""
TRACED = (2, 9)
"""Reports and tokens of the batch that the exporter traces; the graph takes any."""


class ClassifierGraph(nn.Module):
    """Classifier of tokens, or of mixtures of `words` by their `shares`, with positional inputs."""

    def __init__(self, model: Classifier, mixtures: bool):
        super().__init__()
        self.model, self.mixtures = model, mixtures

    def forward(self, *inputs: Tensor) -> Tensor:
        *text, lengths = inputs
        if not self.mixtures:
            return self.model({"tokens": text[0]}, lengths)
        words, shares = text
        embedded = (self.model.input_layer.embedding(words) * shares[..., None]).sum(dim=2)
        return self.model.logits(embedded, None, lengths)


class DenoiserGraph(nn.Module):
    """Tokens (B, T) and lengths (B,) -> words (B, T, K) and their shares (B, T, K) in one view; K is 1 for hard."""

    def __init__(self, denoiser: Denoiser, view: str):
        super().__init__()
        self.language, self.view = denoiser.model, view
        self._choose = denoiser.choose

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        batch, width = tokens.shape
        flat = tokens.reshape(-1)
        inside = valid_positions(lengths, width).flatten()
        places = (inside & (flat >= N_SPECIAL)).nonzero()[:, 0]
        logits = self.language({"tokens": tokens}, lengths, places)[0]  # (K, V)
        shown = flat.index_select(0, places)
        found = self._choose(logits, to_words(shown), [self.view])[self.view]
        if self.view == "hard":
            wrong, word = found
            words = flat.index_copy(0, places, torch.where(wrong, to_indices(word), shown))[:, None]
            shares = torch.ones_like(words, dtype=torch.float32)
        else:
            word, share = found
            words = functional.pad(flat[:, None], (0, MIXED - 1)).index_copy(0, places, to_indices(word))
            # A share of a place is kept as 15 bits where models are trained, see layers.mixture.
            rounded = (share * FULL).round() / FULL
            shares = functional.pad(inside.float()[:, None], (0, MIXED - 1)).index_copy(0, places, rounded)
        return words.view(batch, width, -1), shares.view(batch, width, -1)


def export_fold(fold: TrainedFold, path: Path) -> None:
    """Writes a trained fold as an ONNX graph; that of a fold with a denoiser reads mixtures.

    Raises UserError for a model that reads series: ONNX has no running maximum, which their input layer needs, so they
    are served by torch.
    """
    if not isinstance(fold.model, Classifier) or not isinstance(fold.model.input_layer, TokenEmbedding):
        raise UserError(
            "only models of reports are exported to ONNX: the input layer of series needs a running maximum, which "
            "ONNX lacks. Serve this run with engine torch."
        )
    export_classifier(fold.model, path, mixtures=fold.denoiser is not None)


def export_classifier(model: Classifier, path: Path, mixtures: bool = False) -> None:
    """Writes a classifier of reports as an ONNX graph of tokens, or of mixtures of words."""
    lengths = torch.tensor([TRACED[1], 4])
    tokens = torch.full(TRACED, N_SPECIAL)
    if mixtures:
        words = tokens[..., None].expand(-1, -1, MIXED).contiguous()
        arguments = {"words": words, "shares": torch.full(words.shape, 1 / MIXED), "lengths": lengths}
    else:
        arguments = {"tokens": tokens, "lengths": lengths}
    _export(ClassifierGraph(model, mixtures), arguments, ["logits"], path)


def export_denoiser(denoiser: Denoiser, view: str, path: Path) -> None:
    """Writes one view of a denoiser as an ONNX graph. It computes in float32, where torch may have used bfloat16."""
    arguments = {"tokens": torch.full(TRACED, N_SPECIAL), "lengths": torch.tensor([TRACED[1], 4])}
    _export(DenoiserGraph(denoiser, view), arguments, ["words", "shares"], path)


def _expm1(graph: Any, x: Any) -> Any:
    """exp(x) - 1: ONNX has no operator for it. What it is asked of is 0 or more, and not close to 0 where it counts."""
    return graph.op("Sub", graph.op("Exp", x), graph.op("Constant", value_t=torch.tensor(1.0)))


def _export(module: nn.Module, arguments: dict[str, Tensor], outputs: Sequence[str], path: Path) -> None:
    require_packages("compress", "onnx")
    axes = {name: {0: "batch", 1: "length", 2: "words"} for name in ("tokens", "words", "shares")}
    axes |= {name: {0: "batch"} for name in ("lengths", "logits")}
    axes["tokens"].pop(2)
    content = io.BytesIO()
    torch.onnx.register_custom_op_symbolic("aten::expm1", _expm1, OPSET)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval().cpu(),
            tuple(arguments.values()),
            content,
            dynamo=False,
            input_names=list(arguments),
            output_names=list(outputs),
            dynamic_axes={name: axes[name] for name in [*arguments, *outputs]},
            opset_version=OPSET,
        )
    storage.write_atomic(path, lambda file: file.write(content.getvalue()))
