"""Encoding of stays and images as corpora of series."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from src.core import array_files
from src.core.errors import UserError
from src.core.language import _
from src.core.settings import Grid
from src.data.corpus import BLOCK, Corpus, source_numbers
from src.data.grid import KINDS, PARAMETERS, STATICS, GridBlock, grid
from src.data.image_reader import Images
from src.data.inputs import InputShape
from src.data.plausible import SERIES
from src.data.series_reader import LAST_MINUTE, Facts, Outcomes, StayBlock, join, read_outcomes, read_stays
from src.data.tasks import Task

TARGETS = {"icu": "In-hospital_death", "los": "Length_of_stay"}
"""Column of the outcomes that each task predicts."""
FURTHER = {"icu": ("SAPS-I", "SOFA", "Length_of_stay"), "los": ("SAPS-I", "SOFA")}
"""Other columns, which a model may learn to predict beside it (train.outcome_weight). Survival would tell death."""
HOURS = LAST_MINUTE // 60


@dataclass
class EncodedStays:
    """Corpus of some sets of stays, and what is told of them."""

    corpus: Corpus
    facts: list[Facts]
    """Counts of each set."""
    n_unlabelled: int
    """Stays that were left out because their target is unknown."""
    outcomes: dict[str, np.ndarray]
    """Columns of the outcomes, (N,) float32 each, NaN where unknown; empty without outcomes."""


def stay_shape(settings: Grid, task: Task) -> InputShape:
    """Shape of the corpora that encode_stays makes."""
    steps = round(HOURS / settings.step)
    return InputShape("series", 0, steps, PARAMETERS, KINDS, STATICS, FURTHER[task.name])


def encode_stays(
    paths: Sequence[Path], outcomes: Sequence[Outcomes | None], settings: Grid, task: Task, folder: Path
) -> EncodedStays:
    """Encodes sets of stays as one corpus in `folder`, in their order, with one block of stays in memory at a time.

    A set with `outcomes` is labelled: each of its stays must have one, and stays whose target is unknown are left out.
    Raises the UserErrors of read_stays and grid, and one for stays that their outcomes lack.
    """
    encoding = _Encoding(settings, task)
    blocks = itertools.chain.from_iterable(
        encoding.blocks(path, known) for path, known in zip(paths, outcomes, strict=True)
    )
    shape = stay_shape(settings, task)
    size = (None, shape.steps, len(shape.parameters))
    array_files.write_npy_blocks(folder / "values.npy", size, np.dtype(np.float32), blocks)
    statics = np.concatenate(encoding.statics)
    array_files.write_npy(folder / "statics.npy", statics)
    labels = np.concatenate(encoding.labels) if encoding.labels else None
    corpus = Corpus(
        inputs={"values": array_files.read_npy(folder / "values.npy", mapped=True), "statics": statics},
        lengths=np.full(len(statics), shape.steps, dtype=np.int32),
        ids=np.concatenate(encoding.ids),
        labels=labels,
        sources=source_numbers(encoding.rows),
    )
    corpus.save_beside_inputs(folder)
    columns = {name: np.concatenate(parts) for name, parts in encoding.outcomes.items()}
    return EncodedStays(corpus, encoding.facts, encoding.n_unlabelled, columns)


@dataclass
class _Encoding:
    """Parts of all blocks that are kept, but their values."""

    settings: Grid
    task: Task
    statics: list[np.ndarray] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    outcomes: dict[str, list[np.ndarray]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    """Kept stays of each set."""
    facts: list[Facts] = field(default_factory=list)
    n_unlabelled: int = 0

    def blocks(self, path: Path, outcomes: Outcomes | None) -> Iterator[np.ndarray]:
        """Yields the values of a set, block by block, and keeps the rest."""
        self.facts.append(facts := Facts())
        self.rows.append(0)
        for block in grid(read_stays(path, facts=facts), HOURS, self.settings.step, aggregations(self.settings)):
            kept = self._labelled(block, outcomes) if outcomes is not None else np.ones(len(block.ids), dtype=bool)
            self.statics.append(block.statics[kept])
            self.ids.append(block.ids[kept])
            self.rows[-1] += int(kept.sum())
            yield block.values[kept]

    def _labelled(self, block: GridBlock, outcomes: Outcomes) -> np.ndarray:
        """Keeps the labels of a block; returns which of its stays have one, (n,) bool."""
        joined = join(block.ids, outcomes)
        joined.require_outcomes(outcomes.path)
        labels = target_of(self.task, outcomes)[joined.rows]
        kept = ~np.isnan(labels)
        self.n_unlabelled += int((~kept).sum())
        self.labels.append(labels[kept][:, None].astype(np.uint8 if self.task.has_classes else np.float32))
        for name, column in outcomes.columns.items():
            self.outcomes.setdefault(name, []).append(column[joined.rows][kept].astype(np.float32))
        return kept


def aggregations(settings: Grid) -> dict[str, str]:
    """Returns the rule by which several values of a step become one, by the name of each parameter."""
    return {parameter.name: getattr(settings, parameter.kind) for parameter in SERIES}


def grid_of(block: StayBlock, settings: Grid) -> GridBlock:
    """Puts stays that were parsed elsewhere on the grid of encode_stays."""
    (made,) = grid([block], HOURS, settings.step, aggregations(settings))
    return made


def target_of(task: Task, outcomes: Outcomes) -> np.ndarray:
    """Target of each line of the outcomes, (n,) float64, NaN where unknown."""
    return outcomes.columns[TARGETS[task.name]]


def outcomes_beside(path: Path) -> Path | None:
    """The file of outcomes beside a set of stays: Outcomes-b.txt for set-b.zip; None where there is none."""
    name = path.name.partition(".")[0].removeprefix("set-")
    found = path.with_name(f"Outcomes-{name}.txt")
    return found if os.path.lexists(found) else None


def labels_beside(path: Path, ids: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and labels like those of labels_of, from the outcomes beside the set of the stays; None where there are
    none."""
    file = outcomes_beside(path)
    return None if file is None else labels_of(file, ids, task)


def labels_of(file: Path, ids: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Rows (K,) of the stays `ids` (N,) whose target is known, and their labels (K, 1), from a file of outcomes.

    Raises UserError for stays that the outcomes lack, and where no target is known.
    """
    outcomes = read_outcomes(file)
    joined = join(ids, outcomes)
    joined.require_outcomes(file)
    labels = target_of(task, outcomes)[joined.rows]
    rows = np.flatnonzero(~np.isnan(labels))
    if not len(rows):
        raise UserError(
            _("{file}: {targets} of every stay is unknown (-1), so none can be scored").format(
                file=file, targets=TARGETS[task.name]
            )
        )
    return rows, labels[rows, None].astype(np.uint8 if task.has_classes else np.float32)


def image_shape(images: Images) -> InputShape:
    """Shape of images as series of rows: one parameter a column of pixels."""
    columns = images.parameters
    return InputShape("series", steps=images.pixels.shape[1], parameters=columns, kinds=("pixel",) * len(columns))


def encode_images(parts: Sequence[Images], folder: Path) -> Corpus:
    """Encodes images as one corpus in `folder`: each is a series of its rows."""
    n = sum(map(len, parts))
    blocks = (part.values(slice(start, start + BLOCK)) for part in parts for start in range(0, len(part), BLOCK))
    size = (None, *parts[0].values(slice(0, 1)).shape[1:])
    array_files.write_npy_blocks(folder / "values.npy", size, np.dtype(np.float32), blocks)
    is_labelled = all(part.labels is not None for part in parts)
    classes = np.concatenate([part.labels for part in parts]) if is_labelled else None
    corpus = Corpus(
        inputs={"values": array_files.read_npy(folder / "values.npy", mapped=True)},
        lengths=np.full(n, size[1], dtype=np.int32),
        ids=np.concatenate([part.ids for part in parts]),
        labels=None if classes is None else np.eye(parts[0].n_classes, dtype=np.uint8)[classes],
        sources=np.zeros(n, dtype=np.uint8),
    )
    corpus.save_beside_inputs(folder)
    return corpus
