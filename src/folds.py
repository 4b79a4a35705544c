"""Which report is validated by which model: a table made once, keyed by report id and a hash of its text.

Multilabel stratification after Sechidis et al. (2011), by the iterative-stratification package; for families of
near-duplicates, which that package would split, the same idea carried over to groups.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src import artifacts, config
from src.corpus import Corpus, unpad
from src.errors import UserError

HOLDOUT_PARTS = {"train": -1, "valid": 0, "test": 1}
MAX_ROWS = 20_000
"""Different reports that families are looked for among: each is compared with each."""
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


def make_folds(corpus: Corpus, settings: config.Folds) -> Folds:
    """Splits anew. The rows' order in the files has no influence: they are split in the order of their keys.

    Copies of one report (same id and text) share a fold, under families all near-duplicates do. Raises UserError where
    there are fewer reports or families than folds, and where there are too many reports to look for families.
    """
    keys, first, inverse = np.unique(_keys(corpus), return_index=True, return_inverse=True)
    labels = np.asarray(corpus.labels)
    # No abnormality at all is the commonest finding and no label says it: balance it like one.
    labels = np.column_stack([labels, ~labels.any(axis=1)])
    k = 10 if settings.scheme == "holdout" else settings.k
    if len(keys) < k:
        remedy = "Set folds.scheme=kfold" if settings.scheme == "holdout" else "Set a smaller folds.k"
        raise UserError(f"{len(keys)} different reports cannot be split into {k} parts. {remedy}.")
    if settings.scheme == "families":
        families = _find_families(corpus, first, inverse, settings.threshold)
        if (n := families.of_row.max() + 1) < k:
            remedy = "Set a smaller folds.k or a higher folds.threshold"
            raise UserError(f"{n} families of near-duplicates cannot be split into {k} parts. {remedy}.")
        columns = [_deal(families.of_row, labels, k, seed) for seed in settings.seeds]
        return Folds(settings.scheme, settings.seeds, np.column_stack(columns), families)
    columns = [_stratify(labels[first], k, seed)[inverse] for seed in settings.seeds]
    if settings.scheme == "holdout":
        columns = [np.where(column <= 1, column, -1).astype(np.int16) for column in columns]
    return Folds(settings.scheme, settings.seeds, np.column_stack(columns))


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


def _find_families(corpus: Corpus, first: np.ndarray, inverse: np.ndarray, threshold: float | None) -> Families:
    """Families among the rows `first`, given to every row by `inverse`."""
    from src import similarity  # imports scikit-learn: a second

    if len(first) > MAX_ROWS:
        raise UserError(
            f"folds.scheme=families compares each report with each, and is for up to {MAX_ROWS:,} different reports; "
            f"these are {len(first):,}. Set folds.scheme=kfold."
        )
    text = unpad(np.asarray(corpus.tokens)[first], np.asarray(corpus.lengths)[first])
    vectors = similarity.tfidf([text], max_n=3, min_df=2)[0]
    family, used = similarity.families(vectors, None if threshold is None else min(threshold, IDENTICAL))
    return Families(family[inverse], float(used))


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
    import pandas as pd

    table = pd.DataFrame(
        {
            "source": np.array(sources)[corpus.sources],
            "id": corpus.ids.astype(str),
            "text_hash": corpus.text_hashes(),
            **{f"fold_{seed}": folds.table[:, i] for i, seed in enumerate(folds.seeds)},
        }
    )
    artifacts.write_text(path, table.to_csv(index=False))


def load(path: Path, corpus: Corpus, settings: config.Folds) -> Folds | None:
    """The folds of `corpus` in its row order, or None where the table lacks a report or a seed."""
    import pandas as pd

    table = pd.read_csv(path, dtype={"id": str, "text_hash": str}, keep_default_na=False)
    columns = [f"fold_{seed}" for seed in settings.seeds]
    if not {"id", "text_hash", *columns} <= set(table):
        return None
    keyed = table.set_index(table["id"] + " " + table["text_hash"])[columns]
    keyed = keyed[~keyed.index.duplicated()]
    keys = _keys(corpus)
    found = keyed.index.get_indexer(keys)
    if (found < 0).any() or len(keyed) != len(np.unique(keys)):
        return None
    return Folds(settings.scheme, settings.seeds, keyed.to_numpy(dtype=np.int16)[found])


def _keys(corpus: Corpus) -> np.ndarray:
    return np.char.add(np.char.add(corpus.ids.astype(str), " "), np.array(corpus.text_hashes()))
