"""Attribution for series: how much each parameter at each step contributes to the logit of a label.

A model computes its logits from named columns, from summary features beside them (the wide part, or a linear model)
and, in a GRU-D, from the gaps between observations. Integrated gradients go through all of them, from the average
training row to this one; what belongs to one parameter is added up: its value, that it was observed, the time since,
and its transforms. The average row, step by step, is the baseline: contributions say what is unlike other rows. A row
in which nothing was observed is no usual row, and a model says anything of it.

Occlusion is the check that needs no gradients: how far the logit falls when a parameter counts as unobserved, in a
window of steps or altogether. Boosted trees have no gradients, and kernel machines are not taken apart: they get their
contributions by occlusion, without a parameter altogether, because what a window hides is told by the hours around it.

Contributions of one label are (T + 1, P + S): steps and, last, what belongs to no step; parameters, then statics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from src.data.inputs import InputShape
from src.models.classifier import Classifier
from src.models.grud import GRUDEncoder
from src.models.series_input import column_sources
from src.models.summaries import STATISTICS, is_image, score_weights, statistic_shares, summarise
from src.models.tabular import LinearModel, TabularModel
from src.reporting.attribution import attention_of, path_contributions
from src.reporting.series_findings import window_size

REFERENCES = 256
"""Training rows, evenly spaced, whose mean is the baseline."""
SCORED = 32
"""Rows of the baseline that say which parameters a clinical score is usually made of."""
ROWS = 64
"""Occluded rows that a model reads at a time."""


@dataclass(frozen=True)
class Part:
    """One of the tensors that the logits are computed of, of some rows."""

    kind: str
    """columns, gaps or summaries."""
    value: Tensor
    """(B, T, F), (B, T, P) or (B, 2 K)."""


class SeriesExplainer:
    """Explains rows of series by one model. Rows are {"values": (T, P), "statics": (1, S)} without padding."""

    def __init__(
        self, model: Classifier | TabularModel, shape: InputShape, reference: dict[str, Tensor], centred: bool
    ):
        """`reference`: training rows {name: (R, ...)}. `centred`: logits are those above the mean of all labels, for
        classes that exclude each other, whose logits are meant up to a constant."""
        self.model, self.shape, self.centred = model.eval(), shape, centred
        self._reference, self._starts, self._usual = reference, {}, {}
        self.n_sources = len(shape.parameters) + len(shape.statics)

    @property
    def has_gradients(self) -> bool:
        return isinstance(self.model, Classifier | LinearModel)

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, n_labels) of rows of one length, {name: (B, ...)}."""
        values = inputs["values"]
        return self._centre(self.model(inputs, torch.full((len(values),), values.shape[1])))

    @torch.no_grad()
    def start(self, n_steps: int) -> Tensor:
        """Logits (n_labels,) of the baseline of this length; those of trees are the mean over its rows."""
        if self.has_gradients:
            return self._logits_of([part.value[None] for part in self._start(n_steps)])[0]
        return self.logits(self._references(n_steps)).mean(dim=0)

    def integrated_gradients(self, row: dict[str, Tensor], labels: Sequence[int], steps: int) -> Tensor:
        """Contributions (len(labels), T + 1, P + S), whose sum is nearly the logit less that of the baseline."""
        with torch.no_grad():
            parts = [Part(part.kind, part.value[0]) for part in self._parts(batch_of(row))]
            start = self._start(len(row["values"]))
        found = path_contributions(
            [part.value for part in start], [part.value for part in parts], self._logits_of, labels, steps
        )
        kinds = [part.kind for part in parts]
        return torch.stack([self._by_source(kinds, contributions, row) for contributions in found])

    def input_times_gradient(self, row: dict[str, Tensor], labels: Sequence[int]) -> Tensor:
        """Plain gradients times what they are gradients for, (len(labels), T + 1, P + S): the change of the logit if it
        went on to the zero of each column as it begins."""
        with torch.no_grad():
            parts = self._parts(batch_of(row))
        kinds, values = [part.kind for part in parts], [part.value.requires_grad_() for part in parts]
        logits = self._logits_of(values)
        found = []
        for label in labels:
            gradients = torch.autograd.grad(logits[0, label], values, retain_graph=True)
            products = [(gradient * value).detach()[0] for gradient, value in zip(gradients, values, strict=True)]
            found.append(self._by_source(kinds, products, row))
        return torch.stack(found)

    @torch.inference_mode()
    def falls(self, row: dict[str, Tensor]) -> Tensor:
        """Fall of the logits when a parameter counts as unobserved in a window and, last, in all steps, or when a
        static counts as unknown: (n_labels, windows + 1, P + S)."""
        values, size, n_parameters = row["values"], window_size(self.shape.steps), len(self.shape.parameters)
        n_windows = -(-len(values) // size)
        spans = [slice(window * size, (window + 1) * size) for window in range(n_windows)] + [slice(None)]
        cells = [
            (window, i)
            for window, span in enumerate(spans)
            for i in np.flatnonzero((~values[span].isnan()).any(dim=0)).tolist()
        ]
        known = np.flatnonzero(~row["statics"][0].isnan()).tolist() if self.shape.statics else []
        cells += [(n_windows, n_parameters + i) for i in known]
        whole = self.logits(batch_of(row))[0]
        found = torch.zeros(len(whole), n_windows + 1, self.n_sources)
        for first in range(0, len(cells), ROWS):
            some = cells[first : first + ROWS]
            inputs = {name: tensor[None].repeat(len(some), 1, 1) for name, tensor in row.items()}
            for place, (window, i) in enumerate(some):
                if i < n_parameters:
                    inputs["values"][place, spans[window], i] = torch.nan
                else:
                    inputs["statics"][place, 0, i - n_parameters] = torch.nan
            for (window, i), logits in zip(some, self.logits(inputs), strict=True):
                found[:, window, i] = whole - logits
        return found

    def spread(self, falls: Tensor, values: Tensor) -> Tensor:
        """Contributions (n_labels, T + 1, P + S) of falls: those without a parameter altogether, shared among windows
        by their own falls of the same sign, and within a window among the observed steps alike."""
        n_parameters, size = len(self.shape.parameters), window_size(self.shape.steps)
        total = falls[:, -1:]  # (L, 1, P + S)
        observed = (~values.isnan()).float()
        window = torch.arange(len(values)) // size
        counts = torch.zeros(falls.shape[1] - 1, n_parameters).index_add_(0, window, observed)
        same = (falls[:, :-1] * total.sign())[..., :n_parameters].clamp_min(0)
        same = torch.where(same.sum(dim=1, keepdim=True) > 0, same, counts)
        shares = same / same.sum(dim=1, keepdim=True).clamp_min(1e-12)
        by_step = (shares / counts.clamp_min(1))[:, window] * observed * total[..., :n_parameters]
        found = torch.zeros(len(falls), len(values) + 1, self.n_sources)
        found[:, :-1, :n_parameters] = by_step
        found[:, -1, n_parameters:] = falls[:, -1, n_parameters:]
        return found

    def attention(self, row: dict[str, Tensor]) -> Tensor | None:
        """Weights of the pooling (1 or n_labels, T), as attribution.attention_weights()."""
        return attention_of(self.model, batch_of(row)) if isinstance(self.model, Classifier) else None

    @torch.no_grad()
    def filled(self, row: dict[str, Tensor]) -> Tensor | None:
        """Values (T, P) as the model reads them, without gaps, in their units; None for tabular models, which read
        summaries."""
        if not isinstance(self.model, Classifier):
            return None
        layer = self.model.input_layer
        inputs = batch_of(row)
        return layer.unscaled(layer.features(inputs)[:, :, : len(self.shape.parameters)], inputs)[0]

    def _references(self, n_steps: int) -> dict[str, Tensor]:
        return {name: tensor[:, :n_steps] for name, tensor in self._reference.items()}

    def _start(self, n_steps: int) -> list[Part]:
        """Baseline of this length: means over the training rows, each without the first dimension."""
        if n_steps not in self._starts:
            with torch.no_grad():
                parts = self._parts(self._references(n_steps))
            self._starts[n_steps] = [Part(part.kind, part.value.mean(dim=0)) for part in parts]
        return self._starts[n_steps]

    def _parts(self, inputs: dict[str, Tensor]) -> list[Part]:
        model = self.model
        if isinstance(model, LinearModel):
            return [Part("summaries", model.complete(summarise(model.visible(inputs), self.shape)))]
        columns = model.input_layer.features(inputs)
        parts = [Part("columns", columns)]
        if isinstance(model.encoder, GRUDEncoder):
            parts.append(Part("gaps", model.encoder.gaps(columns)))
        if model.input_layer.context_size:
            parts.append(
                Part("summaries", model.input_layer.complete(summarise(model.input_layer.visible(inputs), self.shape)))
            )
        return parts

    def _logits_of(self, parts: list[Tensor]) -> Tensor:
        model = self.model
        if isinstance(model, LinearModel):
            return self._centre(model.outputs_of_complete(parts[0]))
        columns, *others = parts
        lengths = torch.full((len(columns),), columns.shape[1])
        embedded = model.input_layer.project(columns)
        if isinstance(model.encoder, GRUDEncoder):
            features = model.encoder.states(embedded, others.pop(0))
        else:
            features = model.encoder(embedded, lengths)
        context = model.input_layer.wide(others[0]) if others else None
        return self._centre(model.logits_of_features(features, context, lengths))

    def _centre(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(dim=1, keepdim=True) if self.centred else logits

    def _by_source(self, kinds: Sequence[str], parts: Sequence[Tensor], row: dict[str, Tensor]) -> Tensor:
        """Adds up what belongs to one step and parameter or static: (T + 1, P + S)."""
        n_steps, n_parameters = row["values"].shape
        found = torch.zeros(n_steps + 1, self.n_sources)
        for kind, part in zip(kinds, parts, strict=True):
            if kind == "columns":
                sources = torch.tensor(column_sources(self.shape, self.model.input_layer.options))
                found[:-1].index_add_(1, sources, part)
            elif kind == "gaps":
                found[:-1, :n_parameters] += part
            else:
                found += self._of_summaries(part, row)
        found[-1, n_parameters:] += found[:-1, n_parameters:].sum(dim=0)
        found[:-1, n_parameters:] = 0
        return found

    def _of_summaries(self, part: Tensor, row: dict[str, Tensor]) -> Tensor:
        """Contributions of summary features and their flags, (2 K,), by step and source: (T + 1, P + S)."""
        values = row["values"]
        n_steps, n_parameters = values.shape
        found = torch.zeros(n_steps + 1, self.n_sources)
        known, flags = part.chunk(2)
        if is_image(self.shape):
            both = (known + flags)[: self.shape.steps * n_parameters].view(-1, n_parameters)
            found[:-1, :n_parameters] = both[:n_steps]
            return found
        sizes = [len(STATISTICS) * n_parameters, len(self.shape.statics)]
        sizes.append(len(known) - sum(sizes))
        (known, of_statics, of_scores), (flags, unknown, no_scores) = (x.split(sizes) for x in (known, flags))
        found[-1, n_parameters:] = of_statics + unknown
        if sizes[-1]:
            found[-1] += (of_scores + no_scores) @ self._score_shares(row)
        known, flags = (x.view(len(STATISTICS), n_parameters) for x in (known, flags))
        shares = statistic_shares(values, self.shape.steps)  # (11, 48, 37)
        found[:-1, :n_parameters] = (known[:, None] * shares).sum(dim=0)
        # Flags, and values of what was never observed, belong to no step.
        found[-1, :n_parameters] += (flags + known * (1 - shares.sum(dim=1))).sum(dim=0)
        return found

    def _score_shares(self, row: dict[str, Tensor]) -> Tensor:
        """Shares of parameters and statics in each clinical score of a row, (scores, P + S): by what they change in it,
        or, where they change nothing, by what they change in the rows of the baseline."""
        n_steps = len(row["values"])
        if n_steps not in self._usual:
            some = {name: tensor[:SCORED] for name, tensor in self._references(n_steps).items()}
            self._usual[n_steps] = score_weights(some, self.shape).mean(dim=0) + 1e-9
        own = score_weights(batch_of(row), self.shape)[0]
        weights = torch.where(own.sum(dim=1, keepdim=True) > 0, own, self._usual[n_steps])
        return weights / weights.sum(dim=1, keepdim=True)


def batch_of(row: dict[str, Tensor]) -> dict[str, Tensor]:
    """One row as a batch."""
    return {name: tensor[None] for name, tensor in row.items()}
