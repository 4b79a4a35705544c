"""EpochReader: the batches of a training epoch, with noise, denoising, joined and reordered reports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.core.run_settings import Train
from src.data.corpus import pad, unpad
from src.data.corruption import NoiseRates, corrupt
from src.data.tasks import Task
from src.training.batching import POOL, Batch, alphabet_of, length_batches, widths_on
from src.training.clauses import reorder, separators_of
from src.training.denoising import Denoiser
from src.training.joining import Pairs, draw_pairs, join_pairs, unite
from src.training.rows import Rows


class Wanted(NamedTuple):
    """Targets of a batch."""

    targets: Tensor
    """(B, n_labels) float32, probabilities where they are a teacher's, NaN where they are unknown"""
    weights: Tensor
    """(B,) float32"""
    twin: Batch | None
    """Copy of the batch with other noise, and with settings.reorder with clauses in another order."""


class EpochReader:
    """Reads the reports of an epoch in a new order, with new noise, POOL batches at a time.

    With settings.join some reports are joined with others of any pool. Noise and the denoiser meet both parts as single
    reports, as in prediction. A joined report has the row and domain of the report of this pool. With settings.reorder
    the clauses of some reports stand in random order before all that.

    Of the texts only one pool is in memory; what grows with the file is the order alone, eight bytes a report.
    """

    def __init__(
        self,
        train: Rows,
        settings: Train,
        device: torch.device,
        denoiser: Denoiser | None = None,
        task: Task | None = None,
    ):
        """`task`: that of the labels, which settings.group_rows=counted needs where reports are joined."""
        self._train = train
        self._conditional = task if settings.group_rows == "counted" else None
        self._denoiser = denoiser
        self._batch_size = settings.batch_size
        self._device = device
        self._multiple = widths_on(device)
        self._twins = settings.consistency > 0
        self._join = settings.join
        self._lengths = np.asarray(train.lengths[train.chosen]) if self._join else None
        self._reorder = settings.reorder
        self._separators = separators_of(train) if self._reorder else None
        self._rates = NoiseRates(**settings.noise.model_dump())
        self._alphabet = alphabet_of(train.inputs["tokens"], train.chosen) if self._rates.total else None
        self.n_batches = math.ceil(len(train) / settings.batch_size)

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Batch, Wanted]]:
        """Yields each batch, whose `rows` are places in `train`, with its targets."""
        order = rng.permutation(len(self._train))
        for start in range(0, len(order), POOL * self._batch_size):
            pool = order[start : start + POOL * self._batch_size]
            pairs = self._pairs(pool, rng)
            batches = self._pool(pool, pairs, rng)
            sorted_rows = np.concatenate([batch.rows for batch in batches])
            twins = self._pool(pool, pairs, rng, sorted_rows) if self._twins else [None] * len(batches)
            labels, weights = self._judged(pool, pairs)
            targets = torch.from_numpy(labels[sorted_rows]).to(self._device, torch.float32)
            weights = torch.from_numpy(weights[sorted_rows]).to(self._device)
            sorted_rows = pool[sorted_rows]
            for i in rng.permutation(len(batches)):
                part = slice(i * self._batch_size, (i + 1) * self._batch_size)
                wanted = Wanted(targets[part], weights[part], twins[i])
                yield batches[i]._replace(rows=sorted_rows[part]), wanted

    def sampled(self, rng: np.random.Generator) -> Iterator[tuple[Batch, Wanted]]:
        """Yields as many batches as batches(), each with every report at a probability of batch_size / N (Poisson
        sampling, which the accounting of differential privacy asks for). A batch may be empty, with no inputs."""
        share = min(1.0, self._batch_size / len(self._train))
        for _ in range(self.n_batches):
            pool = np.flatnonzero(rng.random(len(self._train)) < share)
            labels, weights = (torch.from_numpy(part).to(self._device) for part in self._judged(pool, None))
            if len(pool):
                (batch,) = self._pool(pool, None, rng, size=len(pool))
                order, batch = torch.from_numpy(batch.rows), batch._replace(rows=pool[batch.rows])
                labels, weights = labels[order.to(self._device)], weights[order.to(self._device)]
            else:
                batch = Batch({}, torch.zeros(0, dtype=torch.int64, device=self._device), pool)
            yield batch, Wanted(labels.to(torch.float32), weights, None)

    def _pairs(self, pool: np.ndarray, rng: np.random.Generator) -> Pairs | None:
        if self._lengths is None:
            return None
        return draw_pairs(pool, self._lengths, self._train.inputs["tokens"].shape[1], self._join, rng)

    def _judged(self, pool: np.ndarray, pairs: Pairs | None) -> tuple[np.ndarray, np.ndarray]:
        """Labels (N, n_labels) and weights (N,) of a pool; joined reports have the union and the mean of both."""
        labels, weights = self._train.labels[pool], self._train.weights[pool]
        if pairs is not None:
            labels = labels.astype(np.float32)
            both = labels[pairs.places], self._train.labels[pairs.partners].astype(np.float32)
            if self._conditional:  # a type is likelier in a report with an abnormal region than in one of two reports
                united = self._conditional.conditional(unite(*map(self._conditional.marginal, both)))
            else:
                united = unite(*both)
            labels[pairs.places] = united
            weights[pairs.places] = (weights[pairs.places] + self._train.weights[pairs.partners]) / 2
        return labels, weights

    def _pool(
        self,
        pool: np.ndarray,
        pairs: Pairs | None,
        rng: np.random.Generator,
        order: np.ndarray | None = None,
        size: int | None = None,
    ) -> list[Batch]:
        """Cuts one copy of the reports of a pool into batches of `size` (default: batch_size), with noise of its
        own."""
        chosen = self._train.chosen[pool if pairs is None else np.concatenate([pool, pairs.partners])]
        inputs = {name: array[chosen] for name, array in self._train.inputs.items()}
        lengths = np.asarray(self._train.lengths[chosen])
        if self._separators is not None:
            text, offsets = unpad(inputs["tokens"], lengths)
            text = reorder(text, offsets, self._separators, rng.random(len(chosen)) < self._reorder, rng)
            inputs["tokens"], lengths = pad(text, offsets, inputs["tokens"].shape[1])
        if self._alphabet is not None:
            tokens = inputs["tokens"]
            noisy = corrupt(*unpad(tokens, lengths), self._rates, rng, self._alphabet)
            inputs["tokens"], lengths = pad(*noisy, tokens.shape[1])
        if self._denoiser:
            view = rng.choice(self._denoiser.settings.views)
            (inputs["tokens"],) = self._denoiser(inputs["tokens"], lengths, [view])
        if pairs is not None:
            inputs["tokens"], lengths = join_pairs(inputs["tokens"], lengths, pairs)
        domain = self._train.domain[pool]
        return length_batches(inputs, lengths, size or self._batch_size, self._device, self._multiple, order, domain)
