"""Files that ./run.sh predict reads: reports, stays or images, encoded as the models of a run read them."""

from __future__ import annotations

import abc
from pathlib import Path

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.settings import Config, Grid
from src.core.terminal import warn
from src.data import sources
from src.data.corpus import Corpus, Vocabulary, encode
from src.data.report_reader import Reports
from src.data.tasks import Task
from src.evaluation.runs import RunFolder


class PredictedFile(abc.ABC):
    """Rows to predict."""

    path: Path
    sha256: str
    """Checksum of the file; empty for what is in memory alone."""
    ids: np.ndarray
    """(N,) bytes"""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    @abc.abstractmethod
    def key(self) -> str:
        """Text that stands for the content."""

    @abc.abstractmethod
    def encode(self, run: RunFolder, folder: Path) -> None:
        """Writes the rows to `folder` as the models of `run` read them."""

    @abc.abstractmethod
    def labels_for(self, task: Task) -> np.ndarray | None:
        """Labels (N, n_labels); None where there are none. Raises UserError where they are another task's."""


class ReportFile(PredictedFile):
    def __init__(self, reports: Reports):
        self.path, self.sha256, self.ids, self._reports = reports.path, reports.sha256, reports.ids, reports

    @property
    def key(self) -> str:
        return self.sha256[:16] or storage.array_hash(self._reports.tokens, self._reports.offsets)

    def encode(self, run: RunFolder, folder: Path) -> None:
        """Warns of unknown words and truncated reports."""
        vocabulary, data = Vocabulary.load(run.path / "vocabulary.json"), run.record["data"]
        _, losses = encode([self._reports], vocabulary, None, **data, folder=folder)
        if losses.unknown_tokens:
            words = ", ".join(map(str, losses.unknown_words[:10])) + (", …" if len(losses.unknown_words) > 10 else "")
            warn(
                f"{run.name}: {losses.unknown_tokens:,} tokens of {len(losses.unknown_words)} words were not in the "
                f"files that the run was trained with and are read as unknown: {words}"
            )
        if losses.truncated:
            warn(
                f"{losses.truncated:,} reports are longer than max_len={data['max_len']}: their {data['keep']} is kept"
            )

    def labels_for(self, task: Task) -> np.ndarray | None:
        return None if self._reports.labels is None else self._reports.labels_for(task)


class StaySet(PredictedFile):
    """A set of stays, in a folder, a zip or a tar. Outcomes are looked for beside it."""

    def __init__(self, path: Path, settings: Config):
        self.path, self.sha256 = path, sources.source_of(settings).checksum(path)
        self._corpus: Corpus | None = None

    @property
    def key(self) -> str:
        return self.sha256[:16]

    @property
    def ids(self) -> np.ndarray:
        if self._corpus is None:
            raise UserError(f"{self.path} is not encoded yet")
        return self._corpus.ids

    def encode(self, run: RunFolder, folder: Path) -> None:
        from src.data.series_dataset import encode_stays

        self._corpus = encode_stays([self.path], [None], Grid(**run.record["data"]), run.task, folder).corpus

    def labels_for(self, task: Task) -> np.ndarray | None:
        from src.data.series_dataset import labels_beside

        return labels_beside(self.path, self.ids, task)
