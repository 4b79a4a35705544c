"""What every later stage reads: the encoded corpora in output/data and the manifest that tells what they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src import artifacts, config, folds
from src.artifacts import Output
from src.corpus import Corpus, Vocabulary
from src.errors import UserError
from src.task import Task, get_task


@dataclass(frozen=True)
class Prepared:
    output: Output
    manifest: dict[str, Any]

    @classmethod
    def load(cls, output: Output) -> Prepared:
        return cls(output, artifacts.read_json(artifacts.require(output.data / "manifest.json", "prepare")))

    @property
    def task(self) -> Task:
        return get_task(self.manifest["task"])

    @property
    def train_folder(self) -> Path:
        return self.output.data / "train"

    @property
    def train(self) -> Corpus:
        return Corpus.load(self.train_folder)

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.load(self.output.data / "vocabulary.json")

    @property
    def test_files(self) -> list[str]:
        """Names of the test files, such as `track1_round1_testB.csv`."""
        return list(self.test_texts)

    def test_folder(self, name: str) -> Path:
        return self.output.data / "test" / Path(name).stem

    @property
    def test_texts(self) -> dict[str, str]:
        """What stands for the reports of each test file, by its name."""
        return {file["name"]: file["text"] for file in self.manifest["files"] if file["role"] == "test"}

    def folds_settings(self) -> dict[str, Any]:
        return artifacts.read_json(artifacts.require(self.output.folds_manifest, "folds"))["settings"]

    def load_folds(self) -> folds.Folds:
        """The folds that `./run.sh folds` made for this corpus, by the settings that it noted; read once."""
        return self._folds

    @cached_property  # stages ask several times, and of millions of reports each reading would take half a minute
    def _folds(self) -> folds.Folds:
        artifacts.require(self.output.folds, "folds")
        found = folds.load(self.output.folds, self.train, config.Folds(**self.folds_settings()))
        if found is None:
            raise UserError(f"{self.output.folds} was made for other reports. Run: ./run.sh folds")
        return found
