"""Validation sets that ./run.sh shift makes: train rows made like those of each test file.

output/shift/
    shift.json, shift.md, shift.png      what was found: for machines, in words and tables, and drawn
    rows.npy                             (M,) train rows that were looked at; all, or a sample of a large file
    TEST/test_rows.npy                   (m,) rows of the test file that were looked at
    TEST/noised_K/                       the train rows with noise up to the test's, a corpus for each draw
    TEST/{similarity,weights}.npy        (1 + D, M): of the train rows as they are, and of each draw
    TEST/test_similarity.npy             (m,)

Similarity says how like train a row is. Reports: the largest cosine to a training report of the model. Stays and
images: the out-of-fold probability of being a train row and none of TEST by its values alone, as if both files had one
size; they have no token noise, so D is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage
from src.core.errors import UserError, unknown
from src.core.language import Message, _, word
from src.core.storage import Output
from src.data.splits import Splits
from src.data.tasks import Task, get_task
from src.evaluation import metrics

VALIDATIONS = ("clean", "noised", "weighted", "shifted")


def names_of_figures(task: Task) -> Message:
    """Says which figures validations and expected scores are, where `metric` makes these different ones."""
    return _("validations are of {score_name} (metric), expected of {board_score}").format(
        score_name=word(task.score_name), board_score=word(get_task(task.name).score_name)
    )


@dataclass(frozen=True)
class ShiftedTest:
    """One test file, and the train rows made like it."""

    name: str
    folder: Path
    facts: dict[str, Any]
    """Its entry in shift.json."""
    remedy: str
    """Command that makes the folder."""

    @property
    def noised(self) -> list[Path]:
        """Folders of the noisy copies; none where the test is no noisier than train."""
        return [self.folder / f"noised_{draw}" for draw in range(self.facts["draws"])]

    @property
    def noise_levels(self) -> np.ndarray:
        """(1 + D,) share of tokens hit, in train and in each noisy copy."""
        return np.array([self.facts["train_noise_total"], *[self.facts["noised_total"]] * self.facts["draws"]])

    def array(self, name: str) -> np.ndarray:
        """similarity, weights, test_similarity or test_rows."""
        return array_files.read_npy(self.folder / f"{name}.npy", self.remedy)


@dataclass(frozen=True)
class ValidationSets:
    output: Output
    facts: dict[str, Any]
    remedy: str
    """Command that makes them."""

    @classmethod
    def load(cls, output: Output, made_of: dict[str, Any], remedy: str) -> ValidationSets:
        """Raises UserError, with the command `remedy`, where they are missing or were made of other reports or folds
        than `made_of`."""
        facts = storage.read_json(output.shift / "shift.json", remedy)
        if facts["made_of"] != made_of:
            raise UserError(
                _("{shift} was made of other files or folds than are there now. Run: ./run.sh {remedy}").format(
                    shift=output.shift, remedy=remedy
                )
            )
        return cls(output, facts, remedy)

    @property
    def fingerprint(self) -> str:
        return self.facts["fingerprint"]

    @property
    def rows_path(self) -> Path:
        return self.output.shift / "rows.npy"

    @property
    def rows(self) -> np.ndarray:
        return array_files.read_npy(self.rows_path, self.remedy)

    @property
    def tests(self) -> list[ShiftedTest]:
        tests = self.facts["tests"].items()
        return [ShiftedTest(name, self.output.shift_of(name), facts, self.remedy) for name, facts in tests]

    def target(self, name: str) -> ShiftedTest | None:
        """The test file called `name`, with or without its ending, or the last; None where there is no test file."""
        tests = {test.name: test for test in self.tests}
        if name == "last":
            return tests[max(tests)] if tests else None
        named = [test for test in tests.values() if name in (test.name, Path(test.name).stem)]
        if not named:
            raise unknown("target", name, tests)
        return named[0]


@dataclass(frozen=True)
class Validation:
    """Rows to judge a run by. A train row may be there several times, as noisy copies."""

    name: str
    rows: np.ndarray
    """(R,) train row of each."""
    weights: np.ndarray
    """(R,) of mean one."""
    copies: np.ndarray | None
    """(R,) index into the (D * M) noisy copies; None: the rows as they are."""

    def logits(self, oof: np.ndarray, noised: np.ndarray | None) -> np.ndarray:
        """(R, n_labels) of a run's out-of-fold logits (N, n_labels) and those of its noisy copies, (D, M, n_labels)."""
        if self.copies is None:
            return oof[self.rows]
        return noised.reshape(-1, noised.shape[-1])[self.copies]

    @property
    def effective_size(self) -> float:
        """Effective number of reports (Kish); copies count as one report."""
        return metrics.effective_size(np.bincount(self.rows, weights=self.weights))

    def described(self, test: ShiftedTest | None) -> str:
        """In words, with the test file that it has in view."""
        noisy = ["as noisy as"] if self.copies is not None else []
        weighted = ["weighted like"] if self.name in ("weighted", "shifted") else []
        if test is None or not (noisy or weighted):
            return "train rows as they are"
        return f"train rows {' and '.join(noisy + weighted)} {test.name}"

    def only(self, kept: np.ndarray) -> Validation:
        """Keeps the rows whose train row is in `kept`, bool (N,)."""
        chosen = kept[self.rows]
        copies = None if self.copies is None else self.copies[chosen]
        weights = self.weights[chosen]
        return Validation(self.name, self.rows[chosen], weights / max(weights.mean(), 1e-300), copies)


def as_they_are(splits: Splits, name: str = "clean") -> Validation:
    """All train rows that a model may judge, without noise or weights; it needs no validation sets on disk."""
    n = len(splits.first)
    return Validation(name, np.arange(n), np.ones(n), None).only(splits.first >= 0)


def validation(name: str, rows: np.ndarray, test: ShiftedTest | None, splits: Splits) -> Validation:
    """The validation `name` for a test file; without one, or with one no noisier than train, noised is clean.

    `rows` (M,) are those of ShiftFolder. Rows that no model may judge are left out.
    """
    judged = splits.first >= 0
    noised = name in ("noised", "shifted") and test is not None and bool(test.noised)
    weighted = name in ("weighted", "shifted") and test is not None
    if name == "clean" or not (noised or weighted):
        return as_they_are(splits, name)
    draws = test.facts["draws"] if noised else 1
    weights = np.ones((draws, len(rows)))
    if weighted:
        weights = test.array("weights")[1:] if noised else test.array("weights")[:1]
    copies = np.arange(draws * len(rows)) if noised else None
    return Validation(name, np.tile(rows, draws), weights.ravel(), copies).only(judged)
