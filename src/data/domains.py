"""Domains: the institutions, wards or sources that the train rows of a dataset are from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from src.core import array_files, versions
from src.core.errors import UserError
from src.core.language import _
from src.core.settings import Domains as DomainSettings
from src.core.settings import Folds as FoldSettings
from src.core.settings import fingerprint
from src.data.corpus import Corpus, unpad
from src.data.grid import ICU_TYPES, STATICS

if TYPE_CHECKING:
    from src.data.dataset import Dataset

UNKNOWN = "unknown"
"""Domain of stays whose descriptor is not known."""
DESCRIPTORS = ("ICUType", "Gender")
"""Descriptors of a stay that have few values."""
_GENDERS = {0: "female", 1: "male"}
_ICU_NAMES = {1: "coronary", 2: "cardiac_surgery", 3: "medical", 4: "surgical"}


@dataclass(frozen=True)
class Domains:
    """Domain of each row."""

    names: list[str]
    of_row: np.ndarray
    """(N,) uint16, number of the domain of each row; each number below len(names) occurs."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each domain, (D,)."""
        return np.bincount(self.of_row, minlength=len(self.names))

    def rows(self, domain: int) -> np.ndarray:
        """Rows of a domain, in ascending order."""
        return np.flatnonzero(self.of_row == domain)


def find_domains(dataset: Dataset, settings: DomainSettings) -> Domains:
    """Finds the domain of each train row. Raises UserError where the rows have no such property."""
    if settings.by == "file":
        names = [file["name"] for file in dataset.manifest["files"] if file["role"] == "train"]
        return _without_gaps(names, np.asarray(dataset.train.sources))
    if settings.by == "clusters":
        if dataset.shape.kind != "tokens":
            told = _("domains.by=clusters compares texts; task {task} has none")
            raise UserError(told.format(task=dataset.task.name))
        return Domains([f"cluster_{i}" for i in range(settings.k)], _clusters(dataset, settings.k))
    return described(dataset.train, settings.by)


def described(corpus: Corpus, name: str) -> Domains:
    """Finds the domain of each row by a descriptor of its stay. Raises UserError where there is none of this name."""
    if name not in DESCRIPTORS or "statics" not in corpus.inputs or corpus.inputs["statics"].shape[-1] != len(STATICS):
        told = _("domains.by={by}: these rows have no such property. Choose file, {others}")
        has_statics = "statics" in corpus.inputs
        raise UserError(told.format(by=name, others=", ".join(DESCRIPTORS) if has_statics else "clusters"))
    statics = np.asarray(corpus.inputs["statics"])[:, 0]
    if name == "Gender":
        value = statics[:, STATICS.index("Gender")]
        names = [_GENDERS[0], _GENDERS[1], UNKNOWN]
        return _without_gaps(names, np.where(np.isnan(value), 2, value == 1).astype(np.int64))
    hot = statics[:, [STATICS.index(f"ICUType_{number}") for number in ICU_TYPES]]
    known = ~np.isnan(hot).all(axis=1)
    number = np.where(known, np.nan_to_num(hot).argmax(axis=1), len(ICU_TYPES))
    return _without_gaps([*(_ICU_NAMES[number] for number in ICU_TYPES), UNKNOWN], number)


def _without_gaps(names: list[str], numbers: np.ndarray) -> Domains:
    found, of_row = np.unique(numbers, return_inverse=True)
    return Domains([names[number] for number in found], of_row.astype(np.uint16))


def _clusters(dataset: Dataset, k: int) -> np.ndarray:
    """Cluster of each train row, (N,); kept beside the corpus, named by what it was made of."""
    from src.data import near_duplicates  # imports scikit-learn: a second

    stamp = fingerprint([dataset.manifest["train"], dataset.manifest["vocabulary"], k, versions.FOLDS])
    kept = dataset.output.data / f"clusters.{stamp}.npy"
    if array_files.is_whole(kept):
        return array_files.read_npy(kept)
    corpus = dataset.train
    vectors = near_duplicates.tfidf([unpad(corpus.tokens, corpus.lengths)], max_n=3, min_df=2)[0]
    # Clusters need no exact families: all pairs of many reports take too long.
    family, _used = near_duplicates.families(vectors, approximate=len(corpus) > FoldSettings().max_compared)
    if (n := int(family.max()) + 1) < k:
        told = _("{n} families of near-duplicates cannot be split into {k} domains. Set a smaller domains.k.")
        raise UserError(told.format(n=n, k=k))
    found = near_duplicates.equal_clusters(vectors, family, k).astype(np.uint16)
    if not dataset.read_only:
        array_files.write_npy(kept, found)
    return found
