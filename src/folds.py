"""Which report is validated by which model: a table made once, keyed by report id and a hash of its text.

Multilabel stratification after Sechidis et al. (2011), by the iterative-stratification package.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src import artifacts, config
from src.corpus import Corpus
from src.errors import UserError

HOLDOUT_PARTS = {"train": -1, "valid": 0, "test": 1}


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
class Folds:
    scheme: str
    seeds: list[int]
    table: np.ndarray
    """(N, len(seeds)) int: fold of each row; under holdout -1, 0 and 1 for train, valid and test."""

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
        """Rows (N,) that a score is quoted on: all under kfold, the test part under holdout."""
        return self.table[:, 0] == HOLDOUT_PARTS["test"] if self.scheme == "holdout" else np.full(len(self.table), True)

    @property
    def first(self) -> np.ndarray:
        """(N,): fold of each row in the first split, for what is fitted across folds."""
        return self.table[:, 0]


def make_folds(corpus: Corpus, settings: config.Folds) -> Folds:
    """Splits anew. The rows' order in the files has no influence: they are split in the order of their keys.

    Copies of one report (same id and text) share a fold. Raises UserError where there are fewer reports than folds.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # imports scikit-learn: a second

    keys, first, inverse = np.unique(_keys(corpus), return_index=True, return_inverse=True)
    labels = np.asarray(corpus.labels)[first]
    # No abnormality at all is the commonest finding and no label says it: balance it like one.
    labels = np.column_stack([labels, ~labels.any(axis=1)])
    k = 10 if settings.scheme == "holdout" else settings.k
    if len(keys) < k:
        remedy = "Set a smaller folds.k" if settings.scheme == "kfold" else "Set folds.scheme=kfold"
        raise UserError(f"{len(keys)} different reports cannot be split into {k} parts. {remedy}.")
    columns = []
    for seed in settings.seeds:
        splitter = MultilabelStratifiedKFold(n_splits=k, shuffle=True, random_state=seed)
        column = np.empty(len(keys), dtype=np.int16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # labels rarer than k are told of below, by name
            for fold, (_, held) in enumerate(splitter.split(np.zeros(len(keys)), labels)):
                column[held] = fold
        if settings.scheme == "holdout":
            column = np.where(column == 0, 0, np.where(column == 1, 1, -1)).astype(np.int16)
        columns.append(column[inverse])
    return Folds(settings.scheme, settings.seeds, np.column_stack(columns))


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


def save(path: Path, folds: Folds, corpus: Corpus, sources: list[str]) -> None:
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
