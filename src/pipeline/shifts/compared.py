"""Rows of train and of each test file that ./run.sh shift compares."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.core.language import _
from src.core.storage import Output
from src.data.corpus import Corpus
from src.data.dataset import Dataset
from src.training.job_specs import reference


@dataclass(frozen=True)
class Compared:
    """Rows of a corpus that are compared: all, or a sample of a large one, ascending."""

    train: np.ndarray
    """(M,) rows of train."""
    tests: dict[str, np.ndarray]
    """(m,) rows of each test file, by its name."""

    @classmethod
    def choose(cls, dataset: Dataset, most: int, seed: int) -> Compared:
        """Chooses at most `most` rows of each file."""
        tests = {
            name: _sample(len(Corpus.load(dataset.test_folder(name))), most, [seed, number(name)])
            for name in dataset.test_files
        }
        return cls(_sample(len(dataset.train), most, [seed, 0]), tests)

    def counts(self, dataset: Dataset) -> dict[str, Mapping[str, int]]:
        """Rows of each file, and how many of them are compared, as shift.json has them."""
        return {
            "rows": {"train": len(dataset.train)}
            | {file["name"]: file["rows"] for file in dataset.manifest["files"] if file["role"] == "test"},
            "sampled": {"train": len(self.train)} | {name: len(rows) for name, rows in self.tests.items()},
        }


def compared_files(output: Output, dataset: Dataset, test: str) -> dict[str, str]:
    """Names the files of the job that compares a test file with train, as its payload has them."""
    files = {"train": dataset.train_folder, "test": dataset.test_folder(test), "rows": output.shift / "rows.npy"}
    files["folder"] = output.shift_of(test)
    return {"output": str(output.root), **{name: reference(path, output.root) for name, path in files.items()}}


def read_files(payload: dict[str, Any], copies: Iterable[str] = ()) -> list[str]:
    """Names what that job reads, with `copies` of train in its folder."""
    folder = payload["folder"]
    corpora = [payload["train"], payload["test"], *(f"{folder}/{copy}" for copy in copies)]
    return [payload["rows"], f"{folder}/test_rows.npy", *(f"{corpus}/" for corpus in corpora)]


def number(name: str) -> int:
    """Returns what the random draws of a test file start from: other test files beside it change nothing."""
    return zlib.crc32(name.encode())


PARTS = {
    "missing values": _("missing values"),
    "features": _("features"),
    "values alone": _("values alone"),
    "words": _("words"),
    "words at equal noise": _("words at equal noise"),
    "train reports": _("train reports"),
    "noisy copies": _("noisy copies"),
}
"""Words for what a job compares."""


def described(news: dict[str, Any]) -> tuple[float, str]:
    """Words the news of a job."""
    return news["share"], _("{part} compared").format(part=PARTS.get(news["done"], news["done"]))


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Returns how values (n,) spread."""
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {"p10": float(low), "median": float(middle), "p90": float(high)}


def _sample(n: int, most: int, seed: list[int]) -> np.ndarray:
    rows = np.arange(n)
    return rows if n <= most else np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
