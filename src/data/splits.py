"""Cross-validation folds: a table made once, keyed by report id and a hash of the report's text.

Splits are stratified by all labels (Sechidis et al. 2011) with the iterative-stratification package. Families of
near-duplicates, and clusters of families, which that package would split, are stratified as groups by _deal.
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
from src.core.language import _
from src.core.settings import Folds as FoldSettings
from src.data.corpus import BLOCK, Corpus, unpad
from src.data.domains import Domains

HOLDOUT_PARTS = {"train": -1, "valid": 0, "test": 1}
CLUSTERS_A_FOLD = 10
"""Default of folds.clusters, for each fold. On round 2's 10,053 reports in 4 folds, the nearest training report has a
median cosine of 0.40 under scheme kfold, 0.37 under families, and 0.33 with ten clusters a fold; test reports 0.21."""
IDENTICAL = 0.9999
"""Largest threshold in use: rounding may leave the cosine of two equal texts just below 1."""


@dataclass(frozen=True)
class Split:
    """Rows of one model: training, validation and prediction."""

    seed: int
    fold: int
    train_rows: np.ndarray
    valid_rows: np.ndarray
    predicted_rows: np.ndarray
    """Rows that the model predicts out of fold: the validation rows, and under holdout also the test part."""


@dataclass(frozen=True)
class Families:
    """Families of near-duplicates, as near_duplicates.families finds them."""

    of_row: np.ndarray
    """Family number of each row, (N,); a report without near-duplicates is a family of its own."""
    threshold: float
    """Cosine above which two reports are near-duplicates."""
    approximate: bool = False
    """True if not all pairs were compared, so that some near-duplicates may be missing (likely_pairs)."""
    cluster_of_row: np.ndarray | None = None
    """Cluster number of each row, (N,), under scheme clusters; a family lies in one cluster."""

    def facts(self) -> dict[str, Any]:
        """Returns, for folds.json, the number of families of several reports, their share of rows, and the largest, and
        under scheme clusters the number of clusters and the largest."""
        sizes = np.bincount(self.of_row)
        several = sizes[sizes > 1]
        return {
            "threshold": self.threshold,
            "families": len(several),
            "share_of_reports": round(float(several.sum() / sizes.sum()), 6),
            "largest": int(sizes.max()),
            **({} if self.cluster_of_row is None else {"clusters": _sizes_of(self.cluster_of_row)}),
        }


@dataclass(frozen=True)
class Splits:
    """Fold of each report for each seed."""

    scheme: str
    seeds: list[int]
    table: np.ndarray
    """Fold of each row, (N, len(seeds)) int; under holdout -1, 0 and 1 for train, valid and test."""
    families: Families | None = None
    """Families, if scheme families or clusters has just made these folds; None for loaded folds."""
    dealt: bool = False
    """True if these folds have just been made of more reports than settings.max_rows."""

    def splits(self) -> list[Split]:
        """Returns the training, validation and predicted rows of every fold and seed."""
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
        """Mask (N,) of the rows that are scored: the test part under holdout, otherwise all rows."""
        return self.table[:, 0] == HOLDOUT_PARTS["test"] if self.scheme == "holdout" else np.full(len(self.table), True)

    @property
    def first(self) -> np.ndarray:
        """Fold of each row in the first split, (N,), for cross-fitting."""
        return self.table[:, 0]


def folds_of_domains(domains: Domains, settings: FoldSettings) -> Splits:
    """Makes a fold of each domain, the same for every seed. Raises UserError where folds.k is another number."""
    if settings.k != len(domains):
        told = _("folds.scheme=domains makes a fold of each domain, and there are {n} ({names}): set folds.k={n}")
        names = ", ".join(domains.names)
        if len(domains) < 2:
            told = _("folds.scheme=domains needs two domains, and there is one ({names}): see the section domains")
        raise UserError(told.format(n=len(domains), names=names))
    column = domains.of_row.astype(np.int16)
    return Splits(settings.scheme, settings.seeds, np.column_stack([column] * len(settings.seeds)))


def make_folds(corpus: Corpus, settings: FoldSettings, strata: np.ndarray | None = None) -> Splits:
    """Makes new folds with about equal rates of `strata` (N, K), columns of 0 and 1 (default: the labels).

    The order of rows in the files has no influence: rows are split in the order of their keys.

    Copies of a report (same id and text) share a fold; under schemes families and clusters all near-duplicates do, or,
    above settings.max_compared different reports, the near-duplicates found. Under scheme clusters all reports of a
    cluster share a fold, too. Above settings.max_rows reports, folds are made by _stratify_many. Raises UserError if
    there are fewer reports, families or clusters than folds.
    """
    hashes = corpus.hashes()
    keys, first, inverse = np.unique(_keys(corpus.ids, hashes), return_index=True, return_inverse=True)
    labels = np.asarray(corpus.labels if strata is None else strata)
    # "No abnormality" is the most frequent finding and has no label: balance it like a label. It stands beside a single
    # column of which all rows are positive, too: the stratification wants two.
    if not (has_label := labels.any(axis=1)).all() or labels.shape[1] == 1:
        labels = np.column_stack([labels, ~has_label])
    k = 10 if settings.scheme == "holdout" else settings.k
    if len(keys) < k:
        remedy = _("Set folds.scheme=kfold") if settings.scheme == "holdout" else _("Set a smaller folds.k")
        told = _("{n} different reports cannot be split into {k} parts. {remedy}.")
        raise UserError(told.format(n=len(keys), k=k, remedy=remedy))
    if settings.compares_texts:
        families = _find_families(corpus, hashes, first, inverse, settings)
        if (n := families.of_row.max() + 1) < k:
            told = _(
                "{n} families of near-duplicates cannot be split into {k} parts. "
                "Set a smaller folds.k or a higher folds.threshold."
            )
            raise UserError(told.format(n=n, k=k))
        groups = families.of_row if families.cluster_of_row is None else families.cluster_of_row
        if (n := groups.max() + 1) < k:
            told = _("{n} clusters of similar reports cannot be split into {k} parts. Set a smaller folds.k.")
            raise UserError(told.format(n=n, k=k))
        columns = [_deal(groups, labels, k, seed) for seed in settings.seeds]
        return Splits(settings.scheme, settings.seeds, np.column_stack(columns), families)
    dealt = len(keys) > settings.max_rows
    split = _stratify_many if dealt else _stratify
    columns = [split(labels[first], k, seed)[inverse] for seed in settings.seeds]
    if settings.scheme == "holdout":
        columns = [np.where(column <= 1, column, -1).astype(np.int16) for column in columns]
    return Splits(settings.scheme, settings.seeds, np.column_stack(columns), dealt=dealt)


def recorded(settings: FoldSettings, rows: int) -> dict[str, Any]:
    """Returns the settings that the folds of `rows` reports depend on, without limits that are not reached."""
    # A threshold of None and unused limits are left out, so that folds older than these settings stay current.
    unused = "max_rows" if settings.compares_texts else "max_compared"
    values = settings.model_dump(exclude_none=True, exclude={unused})
    return {name: value for name, value in values.items() if not (name.startswith("max_") and rows <= value)}


def _stratify(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Returns the fold of each row, (N,) int16, with about equal shares of each label (N, L) in all folds."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # imports scikit-learn: a second

    splitter = MultilabelStratifiedKFold(n_splits=k, shuffle=True, random_state=seed)
    column = np.empty(len(labels), dtype=np.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stage names labels rarer than k
        for fold, (_, held) in enumerate(splitter.split(np.zeros(len(labels)), labels)):
            column[held] = fold
    return column


def _stratify_many(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Returns folds like _stratify, without its loop over rows, for millions of rows.

    Rows with equal labels are dealt to the folds in random order, k rows at a time. The rest, at most 2k - 1 rows for
    each combination of labels, is stratified.
    """
    rng = np.random.default_rng(seed)
    kind = np.zeros(len(labels), dtype=np.uint64)
    for start in range(0, labels.shape[1], 32):  # images may have more classes than a number has bits
        for column in labels.T[start : start + 32]:
            kind = kind * np.uint64(2) + column
        kind = np.unique(kind, return_inverse=True)[1].astype(np.uint64)
    kind = kind.astype(np.int64)
    size = np.bincount(kind)
    order = np.lexsort((rng.random(len(kind)), kind))
    place = np.arange(len(kind)) - (np.cumsum(size) - size)[kind[order]]  # rank among the rows of its kind
    # One round fewer than possible: the stratification needs rows to balance with, at least k.
    dealt = place < ((size // k - 1) * k)[kind[order]]
    folds = np.empty(len(kind), dtype=np.int16)
    folds[order[dealt]] = place[dealt] % k
    rest = np.sort(order[~dealt])
    folds[rest] = _stratify(labels[rest], k, seed)
    return folds


def _find_families(
    corpus: Corpus, hashes: np.ndarray, first: np.ndarray, inverse: np.ndarray, settings: FoldSettings
) -> Families:
    """Returns the families, and under scheme clusters the clusters, of the rows `first`, extended to all rows by
    `inverse`. `hashes` (N,): text hashes."""
    from src.data import near_duplicates  # imports scikit-learn: a second

    threshold = None if settings.threshold is None else min(settings.threshold, IDENTICAL)
    approximate, copies = len(first) > settings.max_compared, None
    if approximate:  # equal texts are found by their hash, and only different texts are compared
        _, index, member, copies = np.unique(hashes[first], return_index=True, return_inverse=True, return_counts=True)
        first, inverse = first[index], member[inverse]
    vectors = near_duplicates.tfidf([unpad(corpus.tokens[first], corpus.lengths[first])], max_n=3, min_df=2)[0]
    family, used = near_duplicates.families(vectors, threshold, copies, approximate)
    cluster = None
    if settings.scheme == "clusters":
        n_clusters = CLUSTERS_A_FOLD * settings.k if settings.clusters is None else settings.clusters
        cluster = near_duplicates.clusters(vectors, family, n_clusters)[inverse]
    return Families(family[inverse], float(used), approximate, cluster)


def _sizes_of(groups: np.ndarray) -> dict[str, int]:
    sizes = np.bincount(groups)
    return {"number": len(sizes), "largest": int(sizes.max())}


def _deal(groups: np.ndarray, labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Returns the fold of each row, (N,) int16: no group (N,) is split, labels (N, L) and rows are about balanced.

    Iterative stratification (Sechidis et al. 2011) of groups: groups are dealt in order of size, then of their rarest
    label. Each group goes to the fold with the smallest resulting sum, over labels, of squared deviations of the
    label's relative count from an equal share.
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
        # (held + count - share)² grows by 2 · count · held and by terms equal for all folds. An empty fold is therefore
        # the cheapest, and no fold stays empty.
        cost = (held * (counts[group] / totals**2)).sum(axis=1)
        chosen = np.lexsort((rng.random(k), held[:, -1], cost))[0]
        fold[group] = chosen
        held[chosen] += counts[group]
    return fold[groups]


def largest_imbalance(labels: np.ndarray, folds: Splits) -> tuple[float, int]:
    """Returns the largest difference between a label's rate in a fold and in all rows, and the label's column."""
    rates = labels.mean(axis=0)
    worst, where = 0.0, 0
    for column in folds.table.T:
        for fold in np.unique(column):
            difference = np.abs(labels[column == fold].mean(axis=0) - rates)
            if difference.max() > worst:
                worst, where = float(difference.max()), int(difference.argmax())
    return worst, where


def missing_labels(labels: np.ndarray, folds: Splits) -> np.ndarray:
    """Returns the columns of labels without a positive row in some fold."""
    present = [labels[column == fold].any(axis=0) for column in folds.table.T for fold in np.unique(column)]
    return np.flatnonzero(~np.all(present, axis=0))


def save(path: Path, folds: Splits, corpus: Corpus, sources: list[str]) -> None:
    """Writes a CSV with one line a report, in the corpus's order; `sources` are the file names of corpus.sources."""

    def write(file: IO[bytes]) -> None:
        file.write(_csv([["source", "id", "text_hash", *(f"fold_{seed}" for seed in folds.seeds)]]))
        hashes = corpus.hashes()
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


def load(path: Path, corpus: Corpus, settings: FoldSettings) -> Splits | None:
    """Reads the folds of `corpus` in its row order; returns None if the table lacks a report or a seed."""
    content = _read_table(path, [f"fold_{seed}" for seed in settings.seeds])
    if content is None:
        return None
    table_keys, first = np.unique(content[0], return_index=True)
    keys, inverse = np.unique(_keys(corpus.ids, corpus.hashes()), return_inverse=True)
    if not np.array_equal(table_keys, keys):
        return None
    return Splits(settings.scheme, settings.seeds, content[1][first][inverse])


def torn_copies(path: Path, settings: FoldSettings) -> list[str]:
    """Returns the ids of rows of equal id and text that lie in different folds of a table that load() takes."""
    content = _read_table(path, [f"fold_{seed}" for seed in settings.seeds])
    assert content is not None, "load() comes first"
    keys, table = content
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    torn = (table != table[first][inverse]).any(axis=1)
    return sorted({key.rpartition(b" ")[0].decode() for key in keys[torn].tolist()})


def _read_table(path: Path, columns: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads keys (N,) and `columns` (N, len(columns)) int16; returns None for a missing column or a malformed line."""
    keys, table = [], []
    with path.open(newline="", encoding="utf-8") as file:
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
        except (IndexError, ValueError, OverflowError, csv.Error):  # ValueError: also an id that is not ASCII
            return None
    return (np.concatenate(keys), np.concatenate(table)) if keys else None


def _keys(ids: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Returns the key of each report, id and text hash: (N,) bytes."""
    return np.strings.add(np.strings.add(ids, b" "), hashes)
