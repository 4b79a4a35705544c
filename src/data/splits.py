"""Which report is validated by which model: a table made once, keyed by report id and a hash of its text.

Multilabel stratification after Sechidis et al. (2011), by the iterative-stratification package; for families of
near-duplicates, which that package would split, the same idea carried over to groups.
"""

from __future__ import annotations

import csv
import io
import itertools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.settings import Folds as FoldSettings
from src.data.corpus import BLOCK, Corpus, unpad

HOLDOUT_PARTS = {"train": -1, "valid": 0, "test": 1}
IDENTICAL = 0.9999
"""A higher threshold is taken for this one: rounding may leave two reports of the same text just below one."""


@dataclass(frozen=True)
class Split:
    """One model's share of the rows."""

    seed: int
    fold: int
    train_rows: np.ndarray
    valid_rows: np.ndarray
    predicted_rows: np.ndarray
    """Rows that it predicts out of fold: the validation rows, and under holdout the test part too."""


@dataclass(frozen=True)
class Families:
    """Near-duplicates: reports joined by a chain of cosines above the threshold. See similarity.families."""

    of_row: np.ndarray
    """(N,) number of each row's family; a report like no other is a family by itself."""
    threshold: float
    approximate: bool = False
    """Not each report was compared with each, so near-duplicates may have been missed. See similarity.likely_pairs."""

    def facts(self) -> dict[str, Any]:
        """For folds.json: how many families have more than one report, the share of rows in these, the largest."""
        sizes = np.bincount(self.of_row)
        several = sizes[sizes > 1]
        return {
            "threshold": self.threshold,
            "families": len(several),
            "share_of_reports": round(float(several.sum() / sizes.sum()), 6),
            "largest": int(sizes.max()),
        }


@dataclass(frozen=True)
class Folds:
    scheme: str
    seeds: list[int]
    table: np.ndarray
    """(N, len(seeds)) int: fold of each row; under holdout -1, 0 and 1 for train, valid and test."""
    families: Families | None = None
    """What was kept together, where the folds have just been made by scheme families; the table does not tell."""
    dealt: bool = False
    """Whether these folds have just been made of more reports than are stratified one by one."""

    def splits(self) -> list[Split]:
        if self.scheme == "holdout":
            part = {name: np.flatnonzero(self.table[:, 0] == value) for name, value in HOLDOUT_PARTS.items()}
            predicted = np.sort(np.concatenate([part["valid"], part["test"]]))
            return [Split(self.seeds[0], 0, part["train"], part["valid"], predicted)]
        splits = []
        for column, seed in zip(self.table.T, self.seeds, strict=True):
            for fold in range(int(column.max()) + 1):
                held = np.flatnonzero(column == fold)
                splits.append(Split(seed, fold, np.flatnonzero(column != fold), held, held))
        return splits

    @property
    def scored(self) -> np.ndarray:
        """Rows (N,) that a score is quoted on: the test part under holdout, otherwise all."""
        return self.table[:, 0] == HOLDOUT_PARTS["test"] if self.scheme == "holdout" else np.full(len(self.table), True)

    @property
    def first(self) -> np.ndarray:
        """(N,): fold of each row in the first split, for what is fitted across folds."""
        return self.table[:, 0]


def make_folds(corpus: Corpus, settings: FoldSettings) -> Folds:
    """Splits anew. The rows' order in the files has no influence: they are split in the order of their keys.

    Copies of one report (same id and text) share a fold, under families all near-duplicates do; of more than
    settings.max_compared different reports, all that are found. More than settings.max_rows are dealt rather than
    stratified. Raises UserError where there are fewer reports or families than folds.
    """
    hashes = corpus.text_hashes()
    keys, first, inverse = np.unique(_keys(corpus.ids, hashes), return_index=True, return_inverse=True)
    labels = np.asarray(corpus.labels)
    # No abnormality at all is the commonest finding and no label says it: balance it like one.
    labels = np.column_stack([labels, ~labels.any(axis=1)])
    k = 10 if settings.scheme == "holdout" else settings.k
    if len(keys) < k:
        remedy = "Set folds.scheme=kfold" if settings.scheme == "holdout" else "Set a smaller folds.k"
        raise UserError(f"{len(keys)} different reports cannot be split into {k} parts. {remedy}.")
    if settings.scheme == "families":
        families = _find_families(corpus, hashes, first, inverse, settings)
        if (n := families.of_row.max() + 1) < k:
            remedy = "Set a smaller folds.k or a higher folds.threshold"
            raise UserError(f"{n} families of near-duplicates cannot be split into {k} parts. {remedy}.")
        columns = [_deal(families.of_row, labels, k, seed) for seed in settings.seeds]
        return Folds(settings.scheme, settings.seeds, np.column_stack(columns), families)
    dealt = len(keys) > settings.max_rows
    split = _stratify_many if dealt else _stratify
    columns = [split(labels[first], k, seed)[inverse] for seed in settings.seeds]
    if settings.scheme == "holdout":
        columns = [np.where(column <= 1, column, -1).astype(np.int16) for column in columns]
    return Folds(settings.scheme, settings.seeds, np.column_stack(columns), dealt=dealt)


def recorded(settings: FoldSettings, rows: int) -> dict[str, Any]:
    """What the folds of so many reports depend on: the settings that are given, without limits that are not reached."""
    # A threshold that is not given stays out, as do the limits: folds that were made before these were settings are
    # still up to date.
    other = "max_rows" if settings.scheme == "families" else "max_compared"
    values = settings.model_dump(exclude_none=True, exclude={other})
    return {name: value for name, value in values.items() if not (name.startswith("max_") and rows <= value)}


def _stratify(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Fold of each row (N,) int16 that gives every fold about the same share of each label (N, L)."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # imports scikit-learn: a second

    splitter = MultilabelStratifiedKFold(n_splits=k, shuffle=True, random_state=seed)
    column = np.empty(len(labels), dtype=np.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels rarer than k are told of by the stage, by name
        for fold, (_, held) in enumerate(splitter.split(np.zeros(len(labels)), labels)):
            column[held] = fold
    return column


def _stratify_many(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """As _stratify, which loops over the rows, for millions: of rows with the same labels, in random order, k at a time
    go one to each fold; what is left of all, at most 2k - 1 of each kind, is stratified."""
    rng = np.random.default_rng(seed)
    kind = np.zeros(len(labels), dtype=np.uint64)
    for column in labels.T:
        kind = kind * np.uint64(2) + column  # a task has far fewer than 64 labels
    kind = np.unique(kind, return_inverse=True)[1]
    size = np.bincount(kind)
    order = np.lexsort((rng.random(len(kind)), kind))
    place = np.arange(len(kind)) - (np.cumsum(size) - size)[kind[order]]  # among the rows of its kind
    # One round fewer than there could be: it leaves the stratification something to balance with, and k rows at least.
    dealt = place < ((size // k - 1) * k)[kind[order]]
    folds = np.empty(len(kind), dtype=np.int16)
    folds[order[dealt]] = place[dealt] % k
    rest = np.sort(order[~dealt])
    folds[rest] = _stratify(labels[rest], k, seed)
    return folds


def _find_families(
    corpus: Corpus, hashes: np.ndarray, first: np.ndarray, inverse: np.ndarray, settings: FoldSettings
) -> Families:
    """Families among the rows `first`, given to every row by `inverse`. `hashes` (N,) are those of the texts."""
    from src.data import near_duplicates  # imports scikit-learn: a second

    threshold = None if settings.threshold is None else min(settings.threshold, IDENTICAL)
    approximate, copies = len(first) > settings.max_compared, None
    if approximate:  # the same text is found at once, and only different ones are compared
        _, one, member, copies = np.unique(hashes[first], return_index=True, return_inverse=True, return_counts=True)
        first, inverse = first[one], member[inverse]
    vectors = near_duplicates.tfidf([unpad(corpus.tokens[first], corpus.lengths[first])], max_n=3, min_df=2)[0]
    family, used = near_duplicates.families(vectors, threshold, copies, approximate)
    return Families(family[inverse], float(used), approximate)


def _deal(groups: np.ndarray, labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Fold of each row (N,) int16 that splits no group (N,) and gives every fold about the same share of each label
    (N, L) and of the rows.

    Iterative stratification (Sechidis et al. 2011) of groups: one after the other, the largest first and among these
    the one with the rarest label, each goes to the fold where the squared deviations from an equal share, of every
    label's count relative to its total, then have the smallest sum.
    """
    rng = np.random.default_rng(seed)
    columns = np.column_stack([labels, np.ones(len(labels))])
    counts = np.zeros((groups.max() + 1, columns.shape[1]))
    np.add.at(counts, groups, columns)
    totals = np.maximum(counts.sum(axis=0), 1)
    rarest = np.where(counts > 0, totals, np.inf).min(axis=1)
    held = np.zeros((k, columns.shape[1]))
    fold = np.empty(len(counts), dtype=np.int16)
    for group in np.lexsort((rng.random(len(counts)), rarest, -counts[:, -1])):
        # (held + count - share)² grows by 2 · count · held and by what is the same for all folds. So a fold that holds
        # nothing is the cheapest, and none stays empty.
        cost = (held * (counts[group] / totals**2)).sum(axis=1)
        chosen = np.lexsort((rng.random(k), held[:, -1], cost))[0]
        fold[group] = chosen
        held[chosen] += counts[group]
    return fold[groups]


def largest_imbalance(labels: np.ndarray, folds: Folds) -> tuple[float, int]:
    """The largest difference between a label's rate in one fold and in all rows, and the label's column."""
    rates = labels.mean(axis=0)
    worst, where = 0.0, 0
    for column in folds.table.T:
        for fold in np.unique(column):
            difference = np.abs(labels[column == fold].mean(axis=0) - rates)
            if difference.max() > worst:
                worst, where = float(difference.max()), int(difference.argmax())
    return worst, where


def missing_labels(labels: np.ndarray, folds: Folds) -> np.ndarray:
    """Columns of the labels of which some fold has no positive."""
    found = [labels[column == fold].any(axis=0) for column in folds.table.T for fold in np.unique(column)]
    return np.flatnonzero(~np.all(found, axis=0))


def save(path: Path, folds: Folds, corpus: Corpus, sources: list[str]) -> None:
    """A CSV with a line for each report, in the corpus's order; `sources` are the names behind corpus.sources."""

    def write(file: IO[bytes]) -> None:
        file.write(_csv([["source", "id", "text_hash", *(f"fold_{seed}" for seed in folds.seeds)]]))
        hashes = corpus.text_hashes()
        for start in range(0, len(corpus), BLOCK):
            rows = slice(start, start + BLOCK)
            names = [sources[source] for source in corpus.sources[rows].tolist()]
            columns = (corpus.ids[rows].astype(str), hashes[rows].astype(str), *folds.table[rows].T)
            file.write(_csv(zip(names, *(column.tolist() for column in columns), strict=True)))

    storage.write_atomic(path, write)


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def load(path: Path, corpus: Corpus, settings: FoldSettings) -> Folds | None:
    """The folds of `corpus` in its row order, or None where the table lacks a report or a seed."""
    found = _read_table(path, [f"fold_{seed}" for seed in settings.seeds])
    if found is None:
        return None
    known, first = np.unique(found[0], return_index=True)
    keys, inverse = np.unique(_keys(corpus.ids, corpus.text_hashes()), return_inverse=True)
    if not np.array_equal(known, keys):
        return None
    return Folds(settings.scheme, settings.seeds, found[1][first][inverse])


def _read_table(path: Path, columns: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Keys (N,) and these columns (N, len(columns)) int16; None if one is not there or a line is none of ours."""
    keys, table = [], []
    with path.open(newline="") as file:
        lines = filter(None, csv.reader(file))
        try:
            header = next(lines, [])
            if not {"id", "text_hash", *columns} <= set(header):
                return None
            places = [header.index(name) for name in ("id", "text_hash", *columns)]
            while block := list(itertools.islice(lines, BLOCK)):
                ids, hashes, *folds = ([line[place] for line in block] for place in places)
                keys.append(_keys(np.array(ids, dtype=np.bytes_), np.array(hashes, dtype=np.bytes_)))
                table.append(np.array(folds, dtype=np.int16).T)
        except (IndexError, ValueError, OverflowError, csv.Error):  # ValueError: also of an id that is not ASCII
            return None
    return (np.concatenate(keys), np.concatenate(table)) if keys else None


def _keys(ids: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """(N,) bytes: what a report is known by."""
    return np.strings.add(np.strings.add(ids, b" "), hashes)
