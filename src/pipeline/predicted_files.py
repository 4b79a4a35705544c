"""Files that ./run.sh predict reads: reports, stays or images, encoded in shards as the models of a run read them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage
from src.core.errors import UserError
from src.core.language import _
from src.core.settings import Config, Grid, fingerprint
from src.core.terminal import warn
from src.data import sources
from src.data.corpus import Corpus, Losses, Vocabulary, encode, losses_of
from src.data.empty_reports import SHOWN, EmptyReports
from src.data.file_kinds import open_bytes
from src.data.image_reader import Images, read_images
from src.data.report_reader import Reports, read_shards
from src.data.series_dataset import encode_images, encode_stays, image_shape, labels_beside
from src.data.tasks import REPORT_TASKS, Task
from src.evaluation.runs import RunFolder


class PredictedFile(abc.ABC):
    """Rows to predict, which encode() writes to a folder in shards:

    read.json                    what was found in the file, written last
    rows/00000.npz               ids of all rows of shard 0; of reports also the rows without a description, and labels
    ENCODING/00000/              corpus of the others, as the models of that encoding read them
    """

    path: Path
    sha256: str
    """Checksum by which a run knows what it was trained on; empty for what is in memory alone or was not trained on."""

    @property
    @abc.abstractmethod
    def key(self) -> str:
        """Text that stands for the content."""

    @abc.abstractmethod
    def encoding(self, run: RunFolder) -> str:
        """Name of the encoding that a trained run reads: runs that read the file alike share one, and so denoised
        copies."""

    @abc.abstractmethod
    def encode(
        self, runs: Sequence[RunFolder], folder: Path, size: int, is_needed: Callable[[int], bool] = lambda number: True
    ) -> dict[str, Any]:
        """Writes the shards whose number `is_needed`, for trained runs, and returns the content of read.json:

        `rows` of each shard; `empty`, the number of rows without a description, and the `first` of them; of reports
        also `positives`, how often each label is given (null without labels), and the `losses` of each encoding.
        """

    @abc.abstractmethod
    def labels_for(self, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows (K,) of the whole file whose labels are known, and these labels (K, n_labels); None where there are
        none, or where has_labels_for() is True. Raises UserError where they are another task's."""

    def tell(self, runs: Sequence[RunFolder], facts: dict[str, Any]) -> None:  # noqa: B027 - series lose nothing
        """Warns of what the encodings of trained runs lose."""

    def has_labels_for(self, task: Task, facts: dict[str, Any]) -> bool:
        """Returns True where the shards hold labels of a task. Raises UserError where these are another task's."""
        return False


def corpus_folder(folder: Path, encoding: str, number: int) -> Path:
    return folder / encoding / f"{number:05d}"


def rows_file(folder: Path, number: int) -> Path:
    return folder / "rows" / f"{number:05d}.npz"


def is_encoded(folder: Path, encoding: str, number: int) -> bool:
    """Returns True if a shard is there, whole."""
    corpus = corpus_folder(folder, encoding, number)
    files = [corpus / f"{name}.npy" for name in ("tokens", "lengths", "ids", "sources")]
    return all(map(array_files.is_whole, [rows_file(folder, number), *files]))


class ReportFile(PredictedFile):
    """Reports in a file, which is never in memory as a whole, or in memory."""

    def __init__(self, path: Path, sha256: str, key: str, read: Callable[[int], Iterator[Reports]]):
        """`read` yields the reports in shards of a size."""
        self.path, self.sha256, self._key, self._read = path, sha256, key, read

    @classmethod
    def at(cls, path: Path) -> ReportFile:
        """The reports of a file. Raises UserError if it cannot be read."""
        open_bytes(path).close()
        sha256 = storage.file_sha256(path)
        return cls(path, sha256, sha256[:16], lambda size: read_shards(path, size, sha256))

    @classmethod
    def of(cls, reports: Reports) -> ReportFile:
        """Reports in memory, all of which have a description."""

        def read(size: int) -> Iterator[Reports]:
            for start in range(0, len(reports), size):
                yield reports.only(np.arange(start, min(start + size, len(reports))))

        key = reports.sha256[:16] or storage.array_hash(reports.tokens, reports.offsets)
        return cls(reports.path, reports.sha256, key, read)

    @property
    def key(self) -> str:
        return self._key

    def encoding(self, run: RunFolder) -> str:
        return fingerprint({"words": _vocabulary(run).fingerprint, "data": run.record["data"]})

    def encode(
        self, runs: Sequence[RunFolder], folder: Path, size: int, is_needed: Callable[[int], bool] = lambda number: True
    ) -> dict[str, Any]:
        encodings = {self.encoding(run): (_vocabulary(run), run.record["data"]) for run in runs}
        losses = dict.fromkeys(encodings, Losses(0, 0, ()))
        rows, empty, task, positives, n_empty = [], [], None, 0, 0
        for number, reports in enumerate(self._read(size)):
            first_row, n_rows = sum(rows), len(reports) + len(reports.empty)
            rows.append(n_rows)
            empty = [*empty, *(first_row + reports.empty.rows[:SHOWN]).tolist()][:SHOWN]
            n_empty += len(reports.empty)
            if (task := reports.task) is not None:
                positives = positives + reports.labels.sum(axis=0, dtype=np.int64)
            if is_needed(number):
                array_files.write_npz(rows_file(folder, number), **_rows_of(reports))
            for name, (vocabulary, data) in encodings.items():
                if is_needed(number):
                    place = corpus_folder(folder, name, number)
                    lost = encode([reports], vocabulary, None, **data, folder=place)[1]
                else:
                    lost = losses_of([reports], vocabulary, data["max_len"])
                losses[name] += lost
        facts = {
            "rows": rows,
            "empty": n_empty,
            "first": empty,
            "task": task and task.name,
            "positives": positives.tolist() if task else None,
            "losses": {name: asdict(lost) for name, lost in losses.items()},
        }
        storage.write_json(folder / "read.json", facts)
        return facts

    def tell(self, runs: Sequence[RunFolder], facts: dict[str, Any]) -> None:
        told = set()
        for run in runs:
            if (name := self.encoding(run)) not in told:
                told.add(name)
                _tell(run, Losses(**facts["losses"][name]))

    def has_labels_for(self, task: Task, facts: dict[str, Any]) -> bool:
        if facts["task"] is None:
            return False
        # One report with the labels that any report of the file has raises what all of them would.
        labels = (np.array([facts["positives"]]) > 0).astype(np.uint8)
        none = np.zeros(0, np.uint16)
        one = Reports(self.path, none, none, none, labels, REPORT_TASKS[facts["task"]])
        return bool(one.truth_for(task).any())

    def labels_for(self, task: Task) -> None:
        return None


def _vocabulary(run: RunFolder) -> Vocabulary:
    return Vocabulary.load(run.path / "vocabulary.json")


def _rows_of(reports: Reports) -> dict[str, np.ndarray]:
    """Arrays of rows_file(), of all rows of a shard in their order."""
    empty = reports.empty
    unlabelled = np.zeros((len(reports), 0), np.uint8)
    labels = unlabelled if reports.labels is None else reports.labels
    ids, labels = empty.complete(reports.ids, labels, np.zeros(0) if empty.labels is None else empty.labels)
    found = {"ids": ids, "empty": empty.rows}
    return found if reports.labels is None else {**found, "labels": labels.astype(np.uint8)}


def completed(rows: dict[str, np.ndarray], values: np.ndarray, own: Sequence[float] | None) -> np.ndarray:
    """Values (n + k, L) of all rows of a shard, from those of the n with a description, (n, L), and the `own` (L,) of
    the k others; `rows`: the arrays of rows_file()."""
    empty = EmptyReports(rows["empty"], rows["ids"][rows["empty"]])
    if not len(empty):
        return values
    read = np.delete(rows["ids"], rows["empty"])
    return empty.complete(read, values, np.array(own))[1]


def _tell(run: RunFolder, losses: Losses) -> None:
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
                truncated=losses.truncated, max_len=run.record["data"]["max_len"], keep=run.record["data"]["keep"]
            )
        )


class SeriesFile(PredictedFile):
    """A set of stays, in a folder, a zip or a tar, whose outcomes are looked for beside it; or images in a .npz file,
    those of its test part where it has one. It is one shard."""

    def __init__(self, path: Path, settings: Config):
        if not path.is_dir():
            open_bytes(path).close()
        self.path, self._checksum = path, sources.source_of(settings).checksum(path)
        self._corpus: Corpus | None = None
        self._images: Images | None = None

    @property
    def key(self) -> str:
        return self._checksum[:16]

    @property
    def _encoded(self) -> Corpus:
        if self._corpus is None:
            raise RuntimeError(f"{self.path} is not encoded yet")
        return self._corpus

    def encoding(self, run: RunFolder) -> str:
        return fingerprint({"inputs": run.record["inputs"], "data": run.record["data"]})

    def encode(
        self, runs: Sequence[RunFolder], folder: Path, size: int, is_needed: Callable[[int], bool] = lambda number: True
    ) -> dict[str, Any]:
        """Raises UserError for images of another size than a run's."""
        for run in {self.encoding(run): run for run in reversed(runs)}.values():
            self._corpus = self._encode(run, corpus_folder(folder, self.encoding(run), 0))
        ids = np.asarray(self._encoded.ids)
        array_files.write_npz(rows_file(folder, 0), ids=ids, empty=np.zeros(0, np.int64))
        return {"rows": [len(ids)], "empty": 0, "first": []}

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
            return None if labels is None else (np.arange(len(self._encoded)), labels)
        return labels_beside(self.path, np.asarray(self._encoded.ids), task)


def predicted_file(path: Path, settings: Config) -> PredictedFile:
    """Opens the rows of a file of the task that settings name."""
    return SeriesFile(path, settings) if settings.is_clinical else ReportFile.at(path)
