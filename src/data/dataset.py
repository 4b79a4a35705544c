"""Dataset: the encoded corpora in output/data and their manifest, which every later stage reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage, versions
from src.core.errors import Damaged, UserError
from src.core.settings import Folds as FoldSettings
from src.core.settings import fingerprint
from src.core.storage import Output
from src.core.targets import CHECKSUMS, check_files
from src.data import splits
from src.data.corpus import Corpus, Vocabulary, unpad
from src.data.empty_reports import NONE, EmptyReports
from src.data.inputs import InputShape
from src.data.near_duplicates import pairs_between
from src.data.splits import Splits
from src.data.tasks import Task, get_task

LIKELY_BETWEEN = 2
"""Version of near_duplicates.pairs_between where only likely pairs are compared."""
NEAR = 0.5
"""Cosine above which an extra report is a near-duplicate of a train report where folds have no families. Round 1's
families begin at 0.48; 7% of round 2's reports are that near to one of round 1."""


@dataclass(frozen=True)
class Dataset:
    output: Output
    manifest: dict[str, Any]
    read_only: bool = False
    """Nothing is written, not even a cache."""
    options: str = ""
    """Words behind the verb of a command that an error names, such as `--preset quick task=icu`."""

    @classmethod
    def load(cls, output: Output, read_only: bool = False, options: str = "") -> Dataset:
        remedy = f"prepare {options}".strip()
        manifest = storage.read_json(storage.require(output.data / "manifest.json", remedy), remedy)
        return cls(output, manifest, read_only, options)

    def command(self, verb: str) -> str:
        """A command, without ./run.sh, that makes what is missing."""
        return f"{verb} {self.options}".strip()

    @property
    def task(self) -> Task:
        return get_task(self.manifest["task"])

    @property
    def shape(self) -> InputShape:
        """Shape of the inputs of every corpus."""
        return InputShape.from_json(self.manifest["inputs"])

    @property
    def train_folder(self) -> Path:
        return self.output.data / "train"

    @property
    def outcomes(self) -> dict[str, np.ndarray]:
        """Columns of the outcomes of the train stays, (N,) float32 each, NaN where unknown; empty for other inputs."""
        if "outcomes" not in self.manifest:
            return {}
        return array_files.read_npz(self.output.outcomes, self.command("prepare"))

    @property
    def weights(self) -> np.ndarray | None:
        """Weight of each train row in training, (N,) with mean 1, from paths.weights; None without that."""
        return array_files.read_npy(self.output.row_weights, self.command("prepare")) if self.weighting else None

    @property
    def weighting(self) -> str | None:
        """Fingerprint of `weights`; None without them."""
        return self.manifest.get("weights")

    @property
    def train(self) -> Corpus:
        return Corpus.load(self.train_folder)

    def check(self) -> None:
        """Raises UserError, with the command, where a file of the corpora is missing or not as `prepare` wrote it."""
        remedy = self.command("prepare")
        if not check_files(self.output.data / "manifest.json", remedy):
            for name in self.manifest[CHECKSUMS]:
                storage.require(self.output.data / name, remedy)

    @property
    def vocabulary(self) -> Vocabulary:
        """Raises Damaged where it is not the one that the corpora were encoded with."""
        path = storage.require(self.output.data / "vocabulary.json", self.command("prepare"))
        vocabulary = Vocabulary.load(path)
        if vocabulary.fingerprint != self.manifest["vocabulary"]:
            raise Damaged(path, "its words are not those of the encoded reports", self.command("prepare"))
        return vocabulary

    @property
    def test_files(self) -> list[str]:
        """Names of the test files, such as `track1_round1_testB.csv`."""
        return list(self.test_texts)

    def test_folder(self, name: str) -> Path:
        return self.output.data / "test" / Path(name).stem

    @property
    def test_texts(self) -> dict[str, str]:
        """Fingerprint of the reports of each test file, by its name."""
        return {file["name"]: file["text"] for file in self.manifest["files"] if file["role"] == "test"}

    def empty_reports(self, name: str) -> EmptyReports:
        """Reports of a test file that have no description; its corpus holds the others."""
        (entry,) = (file for file in self.manifest["files"] if file["role"] == "test" and file["name"] == name)
        return EmptyReports.from_json(entry["empty"]) if "empty" in entry else NONE

    @property
    def extra_files(self) -> list[str]:
        """Names of the files of further reports."""
        return list(self.extra_texts)

    @property
    def extra_labelled(self) -> list[str]:
        """Names of those whose labels can train."""
        return list(self.extra_labels)

    def extra_folder(self, name: str) -> Path:
        """Folder of all reports of an extra file, with labels if the file is one of `extra_labelled`."""
        return self.output.data / "extra" / Path(name).stem

    def has_unknown_labels(self, name: str) -> bool:
        """Tells whether an `extra_labelled` file lacks labels of the task, as those of the other round do."""
        labels = Corpus.load(self.extra_folder(name)).labels
        return labels.dtype.kind == "f" and bool(np.isnan(labels).any())

    def extra_rows_path(self, name: str) -> Path:
        """File of an `extra_labelled` one with (n,) int64, the rows whose labels can train. The others have the
        text of a train report, and would tell a model the labels of what it is validated on."""
        return self.output.data / "extra" / f"{Path(name).stem}.rows.npy"

    @property
    def extra_texts(self) -> dict[str, str]:
        """Fingerprint of the reports of each extra file, by its name."""
        return {file["name"]: file["text"] for file in self._extra}

    @property
    def extra_labels(self) -> dict[str, str]:
        """Fingerprint of the rows that can train and of their labels, by the name of the extra file."""
        return {file["name"]: file["labels"] for file in self._extra if file["labels"]}

    @property
    def _extra(self) -> list[dict[str, Any]]:
        return [file for file in self.manifest["files"] if file["role"] == "extra"]

    def near_by(self, most: int) -> dict[str, Any]:
        """Returns how near_train() finds near-duplicates: the cosine above which two reports are such, that of the
        families of folds.json if there are any, and, where more pairs than those of `most` reports are to be compared,
        the names of the extra files of which only likely pairs are."""
        families = storage.read_json(self.output.folds_manifest, self.command("folds")).get("families", {})
        n_rows = sum(file["rows"] for file in self.manifest["files"] if file["role"] == "train")
        sizes = {file["name"]: file["rows"] for file in self._extra if file["labels"]}
        approximate = [name for name, n in sizes.items() if n * n_rows > most**2 / 2]
        return {
            "threshold": families.get("threshold", NEAR),
            "approximate": approximate,
            **({"version": LIKELY_BETWEEN} if approximate else {}),
        }

    def near_train(self, most: int) -> dict[str, np.ndarray]:
        """Near-duplicates of train reports among the labelled reports of each extra file, by its name: pairs (P, 2)
        int32 of a row of the file and a row of train. `most`: folds.max_compared.

        They are kept as arrays beside the corpus, named by what they were made of.
        """
        by = self.near_by(most)
        stamp = fingerprint([self.manifest["train"], self.extra_texts, self.extra_labelled, by, versions.FOLDS])
        kept = self.output.data / f"near.{stamp}.npz"
        if not array_files.is_whole(kept):
            train = unpad(self.train.tokens, self.train.lengths)
            found = {}
            for i, name in enumerate(self.extra_labelled):
                extra = Corpus.load(self.extra_folder(name))
                text = unpad(extra.tokens, extra.lengths)
                found[str(i)] = pairs_between(text, train, by["threshold"], name in by["approximate"])
            array_files.write_npz(kept, **found)
            for other in set(self.output.data.glob("near.*.npz")) - {kept}:
                other.unlink(missing_ok=True)
        pairs = array_files.read_npz(kept)
        return {name: pairs[str(i)] for i, name in enumerate(self.extra_labelled)}

    def splits_settings(self) -> dict[str, Any]:
        """Settings that folds.json notes."""
        path = storage.require(self.output.folds_manifest, self.command("folds"))
        return storage.read_json(path, self.command("folds"))["settings"]

    def fold_words(self) -> dict[str, dict[str, Any]]:
        """Settings that folds.json notes, by their section: those of the folds and, if each is a domain, of domains."""
        domains = storage.read_json(self.output.folds_manifest, self.command("folds")).get("domains")
        return {"folds": self.splits_settings(), **({"domains": domains} if domains else {})}

    def check_folds(self) -> None:
        """Raises UserError where folds.csv was changed since it was made: by the user, or by a damage."""
        table, manifest = self.output.folds, self.output.folds_manifest
        if not (table.exists() and manifest.exists()):
            return
        try:
            noted = storage.read_json(manifest).get(CHECKSUMS, {}).get(table.name)
            wrong = None if noted == storage.file_sha256(table) else f"{table} is not as ./run.sh folds wrote it"
        except Damaged as error:
            wrong = error.what
        if wrong:
            raise UserError(
                f"{wrong}. Make the folds anew: ./run.sh {self.command('folds --anew')}. If you changed {table.name} "
                f"yourself, have its folds used: ./run.sh {self.command('folds --keep')}"
            )

    def find_splits(self, settings: FoldSettings) -> Splits | None:
        """The folds in folds.csv for this corpus, or None where it lacks a report or a seed.

        They are kept as an array beside the corpus, named by what it was made of: to match the table with the reports
        takes a hash of each report's text.
        """
        table = storage.file_sha256(self.output.folds)
        stamp = fingerprint([self.manifest["fingerprint"], table, settings.seeds, versions.FOLDS])
        kept = self.output.data / f"folds.{stamp}.npy"
        if array_files.is_whole(kept):
            return Splits(settings.scheme, settings.seeds, array_files.read_npy(kept))
        found = splits.load(self.output.folds, self.train, settings)
        if found is not None and not self.read_only:
            array_files.write_npy(kept, found.table)
            for other in set(self.output.data.glob("folds.*.npy")) - {kept}:
                other.unlink(missing_ok=True)
        return found

    def load_splits(self) -> Splits:
        """The folds that `./run.sh folds` made for this corpus, by the settings that it noted."""
        storage.require(self.output.folds, self.command("folds"))
        self.check_folds()
        found = self.find_splits(FoldSettings(**self.splits_settings()))
        if found is None:
            raise UserError(
                f"{self.output.folds} was made for other {self.task.noun}. Run: ./run.sh {self.command('folds')}"
            )
        return found

    def made_of(self, made: Splits) -> dict[str, Any]:
        """Fingerprints of the train reports, the test reports and the folds, as runs and validation sets note them."""
        return {
            "train": self.manifest["train"],
            "tests": self.test_texts,
            "folds": storage.array_hash(made.table),
        }
