"""Files that ./run.sh predict reads: reports, stays or images, encoded as the models of a run read them."""

from __future__ import annotations

import abc
from pathlib import Path

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.core.settings import Config, Grid, fingerprint
from src.core.terminal import warn
from src.data import sources
from src.data.corpus import Corpus, Vocabulary, encode
from src.data.empty_reports import NONE, EmptyReports
from src.data.file_kinds import open_bytes
from src.data.image_reader import Images, read_images
from src.data.report_reader import Reports, read_reports
from src.data.series_dataset import encode_images, encode_stays, image_shape, labels_beside
from src.data.tasks import Task
from src.evaluation.runs import RunFolder


class PredictedFile(abc.ABC):
    """Rows to predict."""

    path: Path
    sha256: str
    """Checksum by which a run knows what it was trained on; empty for what is in memory alone or was not trained on."""
    ids: np.ndarray
    """(N,) bytes"""
    empty: EmptyReports = NONE
    """Reports of the file that have no description; they are not among the N."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    @abc.abstractmethod
    def key(self) -> str:
        """Text that stands for the content."""

    @abc.abstractmethod
    def encode(self, run: RunFolder, folder: Path) -> Path:
        """Writes the rows to `folder` as the models of `run` read them; returns the folder where they lie, which is
        another one where the rows were written for another run that reads them alike."""

    @abc.abstractmethod
    def labels_for(self, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows (K,) of the whole file whose labels are known, and these labels (K, n_labels); None where there are
        none. Raises UserError where they are another task's."""


class ReportFile(PredictedFile):
    def __init__(self, reports: Reports):
        self.path, self.sha256, self.ids, self._reports = reports.path, reports.sha256, reports.ids, reports
        self.empty = reports.empty
        self._folders: dict[str, Path] = {}

    @property
    def key(self) -> str:
        return self.sha256[:16] or storage.array_hash(self._reports.tokens, self._reports.offsets)

    def encode(self, run: RunFolder, folder: Path) -> Path:
        """Warns of unknown words and truncated reports. Runs that read reports alike share a folder, and so denoised
        copies."""
        vocabulary, data = Vocabulary.load(run.path / "vocabulary.json"), run.record["data"]
        alike = fingerprint({"words": vocabulary.fingerprint, "data": data})
        if alike in self._folders:
            return self._folders[alike]
        self._folders[alike] = folder
        _corpus, losses = encode([self._reports], vocabulary, None, **data, folder=folder)
        if losses.unknown_tokens:
            words = ", ".join(map(str, losses.unknown_words[:10])) + (", …" if len(losses.unknown_words) > 10 else "")
            warn(
                _(
                    "{name}: {unknown_tokens:,} tokens of {n_unknown_words} words were not in the files "
                    "that the run was trained with and are read as unknown: {words}"
                ).format(
                    name=run.name,
                    unknown_tokens=losses.unknown_tokens,
                    n_unknown_words=len(losses.unknown_words),
                    words=words,
                )
            )
        if losses.truncated:
            warn(
                _("{truncated:,} reports are longer than max_len={max_len}: their {keep} is kept").format(
                    truncated=losses.truncated, max_len=data["max_len"], keep=data["keep"]
                )
            )
        return folder

    def labels_for(self, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
        if self._reports.labels is None:
            return None
        labels = self._reports.truth_for(task)
        if self.empty.labels is not None:
            _, labels = self.empty.complete(self.ids, labels, self.empty.labels[:, : task.n_labels])
        return np.arange(len(labels)), labels


class SeriesFile(PredictedFile):
    """A set of stays, in a folder, a zip or a tar, whose outcomes are looked for beside it; or images in a .npz file,
    those of its test part where it has one."""

    def __init__(self, path: Path, settings: Config):
        if not path.is_dir():
            open_bytes(path).close()
        self.path, self._checksum = path, sources.source_of(settings).checksum(path)
        self._corpus: Corpus | None = None
        self._images: Images | None = None
        self._folders: dict[str, Path] = {}

    @property
    def key(self) -> str:
        return self._checksum[:16]

    @property
    def ids(self) -> np.ndarray:
        return self._encoded.ids

    @property
    def _encoded(self) -> Corpus:
        if self._corpus is None:
            raise RuntimeError(f"{self.path} is not encoded yet")
        return self._corpus

    def encode(self, run: RunFolder, folder: Path) -> Path:
        """Raises UserError for images of another size than the run's."""
        alike = fingerprint({"inputs": run.record["inputs"], "data": run.record["data"]})
        if alike not in self._folders:
            self._corpus = self._encode(run, folder)
            self._folders[alike] = folder
        return self._folders[alike]

    def _encode(self, run: RunFolder, folder: Path) -> Corpus:
        if run.task.input_kind == "images":
            parts = read_images(self.path)
            self._images = parts.get("test", parts["train"])
            shape, wanted = image_shape(self._images), run.record["inputs"]
            if shape.to_json() != wanted:
                raise UserError(
                    _(
                        "{path} holds images of {steps} rows x {columns} columns; {name} was trained on "
                        "{wanted_steps} x {wanted_columns}"
                    ).format(
                        path=self.path,
                        steps=shape.steps,
                        columns=len(shape.parameters),
                        name=run.name,
                        wanted_steps=wanted["steps"],
                        wanted_columns=len(wanted["parameters"]),
                    )
                )
            self.sha256 = "" if self._images.split == "test" else self._checksum
            return encode_images([self._images], folder)
        made = encode_stays([self.path], [None], Grid(**run.record["data"]), run.task, folder)
        self.sha256 = made.facts[0].sha256
        return made.corpus

    def labels_for(self, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
        if self._images is not None:
            labels = self._encoded.labels
            return None if labels is None else (np.arange(len(self)), labels)
        return labels_beside(self.path, self.ids, task)


def predicted_file(path: Path, settings: Config) -> PredictedFile:
    """Opens the rows of a file of the task that settings name."""
    return SeriesFile(path, settings) if settings.is_clinical else ReportFile(read_reports(path, may_be_empty=True))
