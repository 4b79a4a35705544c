"""Rows: the reports that a fold is trained on or validated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from src.core import array_files
from src.data.corpus import Corpus, Stacked
from src.data.tasks import Task
from src.models.series_input import SeriesInput
from src.training.job_specs import Beside

COMPUTED_BYTES = 512 << 20
"""Largest size of what an input layer of series computes once for the rows of a job."""
CHUNK = 1024
"""Rows that it is computed for at a time."""


@dataclass(frozen=True)
class Chosen:
    """Some rows of an array that may be a memory map; they are copied when they are asked for."""

    array: np.ndarray | Stacked
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        return np.asarray(self.array[self.rows[places]])


@dataclass(frozen=True)
class Rows:
    """Chosen reports of a corpus, whose arrays may be memory maps. The texts are not copied, so that folds side by side
    share one corpus of any size."""

    inputs: Mapping[str, np.ndarray | Stacked]
    """{name: (all, max_len, ...)} of the whole corpus, as in Batch.inputs; {"tokens": (all, max_len) uint16}"""
    lengths: np.ndarray | Stacked
    """(all,) int32, of the whole corpus"""
    labels: np.ndarray
    """(N, n_labels) uint8, of the chosen reports; float32 where some labels are a teacher's probabilities,
    and NaN where a label is unknown"""
    ids: np.ndarray
    """(N,) bytes, of the chosen reports"""
    weights: np.ndarray
    """(N,) float32, weight of each chosen report in the loss; train reports average 1"""
    domain: np.ndarray
    """(N,) number of the domain or file that each chosen report is from, see Batch.domain"""
    n_domains: int
    """Domains or files of the whole corpus."""
    chosen: np.ndarray
    """(N,) rows of inputs and lengths"""
    is_extra: np.ndarray | None = None
    """(N,) bool, labelled reports of an extra file; None: none is"""

    def __len__(self) -> int:
        return len(self.chosen)

    def only(self, places: np.ndarray) -> Rows:
        """Takes the chosen reports at `places` (M,)."""
        arrays = {name: getattr(self, name)[places] for name in ("labels", "ids", "weights", "domain", "chosen")}
        return replace(self, **arrays, is_extra=None if self.is_extra is None else self.is_extra[places])

    def chosen_inputs(self) -> dict[str, Chosen]:
        """Returns {name: (N, ...)}, the inputs of the chosen rows alone."""
        return {name: Chosen(array, self.chosen) for name, array in self.inputs.items()}

    @classmethod
    def of(cls, corpus: Corpus, rows: np.ndarray) -> Rows:
        """Takes some rows of an encoded corpus, all with weight 1."""
        return cls._taken(corpus, rows, np.asarray(corpus.labels[rows]), 1.0)

    @classmethod
    def beside(cls, beside: Beside, locate: Callable[[str], Path], task: Task) -> Rows:
        """Loads reports of another corpus, with their own labels (unknown where it has none), with the mean prediction
        of teachers, or with that where their own are unknown. `locate` turns a reference into a path, as
        TrainingJob.locate."""
        corpus = Corpus.load(locate(beside.corpus))
        rows = np.arange(len(corpus)) if beside.rows is None else array_files.read_npy(locate(beside.rows))
        if beside.logits:
            total = 0.0
            for file in beside.logits:  # one after the other: all at once would take their number times the memory
                total = total + array_files.read_npy(locate(file), mapped=True)[rows]
            labels = task.decode(total / len(beside.logits)).astype(np.float32)
            if beside.fills:
                own = np.asarray(corpus.labels[rows])
                labels = np.where(np.isnan(own), labels, own)
        elif corpus.labels is None:
            labels = np.full((len(rows), task.n_labels), np.nan, dtype=np.float32)
        else:
            labels = np.asarray(corpus.labels[rows])
        found = cls._taken(corpus, rows, labels, beside.weight)
        return replace(found, is_extra=np.ones(len(rows), dtype=bool)) if beside.is_extra else found

    @classmethod
    def _taken(cls, corpus: Corpus, rows: np.ndarray, labels: np.ndarray, weight: float) -> Rows:
        return cls(
            inputs=corpus.inputs,
            lengths=corpus.lengths,
            labels=labels,
            ids=np.asarray(corpus.ids[rows]),
            weights=np.full(len(rows), weight, dtype=np.float32),
            domain=np.asarray(corpus.sources[rows]),
            n_domains=n_files(corpus),
            chosen=rows,
        )

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """Joins rows of several corpora, one behind the other; their domains are numbered on."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.lengths) for part in parts)])
        return cls(
            inputs={name: Stacked([part.inputs[name] for part in parts]) for name in parts[0].inputs},
            lengths=Stacked([part.lengths for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            ids=np.concatenate([part.ids for part in parts]),
            weights=np.concatenate([part.weights for part in parts]),
            domain=numbered_on([part.domain for part in parts], [part.n_domains for part in parts]),
            n_domains=sum(part.n_domains for part in parts),
            chosen=np.concatenate([start + part.chosen for start, part in zip(starts, parts, strict=False)]),
            is_extra=_concatenated_extra(parts),
        )

    @classmethod
    def judged(cls, path: Path, corpus: Corpus, inputs: Mapping[str, Stacked], lengths: Stacked) -> Rows:
        """Loads a FoldJob's `valid`: rows of its valid_corpora, whose inputs and lengths are given, with the labels of
        the train reports in `corpus` that they are copies of."""
        known = array_files.read_npz(path)
        rows, weights, chosen = known["rows"], known["weights"].astype(np.float32), known["chosen"]
        whole = cls.of(corpus, rows)
        return replace(whole, inputs=inputs, lengths=lengths, weights=weights, chosen=chosen)


def computed_once(rows: Rows, layer: SeriesInput, device: torch.device) -> Rows:
    """Returns the same rows with what the fitted input layer computes of them beside their inputs, so that no epoch
    computes it again; the rows as they are if that would take more than COMPUTED_BYTES."""
    parts: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for start in range(0, len(rows), CHUNK):
            chunk = rows.chosen[start : start + CHUNK]
            inputs = {name: torch.from_numpy(np.asarray(array[chunk])) for name, array in rows.inputs.items()}
            found = layer.computed({name: tensor.to(device) for name, tensor in inputs.items()})
            if sum(tensor[0].nbytes for tensor in found.values()) * len(rows) > COMPUTED_BYTES:
                return rows
            for name, tensor in found.items():
                parts.setdefault(name, []).append(tensor.cpu().numpy())
    inputs = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    lengths = np.asarray(rows.lengths[rows.chosen])
    return replace(rows, inputs=inputs, lengths=lengths, chosen=np.arange(len(rows)))


def _concatenated_extra(parts: Sequence[Rows]) -> np.ndarray | None:
    """Rows.is_extra of several parts, one behind the other."""
    if all(part.is_extra is None for part in parts):
        return None
    return np.concatenate([np.zeros(len(p), dtype=bool) if p.is_extra is None else p.is_extra for p in parts])


def n_files(corpus: Corpus) -> int:
    """Counts the files that a corpus was encoded from."""
    return int(corpus.sources.max()) + 1


def numbered_on(domains: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Joins the domains of several corpora; those of each are numbered on from the corpus before, which has `counts`
    files: uint16 (N,)."""
    starts = np.cumsum([0, *counts])
    parts = [(start + domain).astype(np.uint16) for start, domain in zip(starts, domains, strict=False)]
    return np.concatenate(parts)
