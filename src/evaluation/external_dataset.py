"""A labelled file of another pool beside train and the target test file: the noise that it lacks, and weights that make
it as much, or as little, like train as the target is.

./run.sh standin makes test files of it, ./run.sh predict --shifted scores runs on it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from src.core.errors import UserError
from src.core.settings import Config
from src.core.storage import Output
from src.core.terminal import info
from src.data import near_duplicates
from src.data.corruption import NoiseRates, corrupt
from src.data.dataset import Dataset
from src.data.input_files import InputFiles
from src.data.ngrams import Text, join, take
from src.data.report_reader import Reports, read_reports
from src.data.tasks import Task
from src.evaluation import covariate_shift, noise_estimation
from src.evaluation.noise_estimation import NoiseEstimate
from src.evaluation.runs import command
from src.evaluation.validation_sets import ValidationSets

SEED = 0
"""Of the reports that are looked at, and of all that is made of the pool."""
ROUNDS = 2
"""The first leaves out that a word which a frame takes as language may be hit too; a third would follow the draw."""


@dataclass(frozen=True)
class DensityRatio:
    """How like train the reports of a text are."""

    cosines: np.ndarray
    """(N,) of each report to the train report nearest to it."""
    target_cosines: np.ndarray
    """(M,) of each report of the target."""
    weights: np.ndarray
    """(N,) of mean one, that give the cosines the distribution of the target's."""


@dataclass(frozen=True, eq=False)
class Pool:
    reports: Reports
    task: Task
    """Of the train files."""
    train: Text
    target: Text
    """Of train and target no more than shift.max_rows reports each."""
    target_name: str
    words: np.ndarray
    """(V,) that intruders are drawn from."""
    clip: float

    @classmethod
    def load(cls, config: Config, files: InputFiles, reports: Reports, verb: str) -> Pool:
        """`files` are those of the input folder; `verb` is the command that what is left out is told by.

        Raises UserError where there is no test file, or where the prepared data is of other files.
        """
        dataset = Dataset.load(Output(config.paths.output))
        target = ValidationSets.load(dataset, config).target(config.target)
        if target is None:
            raise UserError(f"there is no test file in {config.paths.input} that {reports.path} could be made like")
        train = [read_reports(path) for path in files.train]
        aimed = [read_reports(path) for path in files.test if path.name == target.name]
        made_of = [
            file["sha256"]
            for file in dataset.manifest["files"]
            if file["role"] == "train" or file["name"] == target.name
        ]
        if [file.sha256 for file in train + aimed] != made_of:
            raise UserError(
                f"{dataset.output.data} was made of other files than are in {config.paths.input}. Name the folder of "
                f"those, paths.input=DIR, or run: ./run.sh {command('shift', config)}"
            )
        return cls(
            reports,
            dataset.task,
            _drawn(join([(file.tokens, file.offsets) for file in train]), config.shift.max_rows, "train", verb),
            _drawn((aimed[0].tokens, aimed[0].offsets), config.shift.max_rows, target.name, verb),
            target.name,
            dataset.vocabulary.words,
            config.shift.clip,
        )

    @property
    def text(self) -> Text:
        return self.reports.tokens, self.reports.offsets

    @functools.cached_property
    def frames(self) -> list[noise_estimation.Frames]:
        """Learned from the pool, train and the target."""
        return noise_estimation.learn_frames([self.train, self.target, self.text])

    def noise(self, text: Text) -> NoiseEstimate:
        """Of the pool's text, of that with noise, or of the target. Raises UserError where it is too small to tell."""
        counts = noise_estimation.count_outcomes(self.frames, text)
        estimate = noise_estimation.estimate_noise(self.frames, counts, text[0][:0], len(self.words))
        if estimate is None:
            raise UserError(f"{self.reports.path} or {self.target_name} has too little text to tell how noisy it is")
        return estimate

    def missing_replacement(self) -> float:
        """Share of the pool's tokens to replace (by the draw of SEED) for as many frames to hold another word as in
        the target; 0 where as many do already. Raises UserError as `noise` does."""
        want, rate = self.noise(self.target).odd_middles, 0.0
        for _ in range(ROUNDS):
            have = self.noise(self.replaced(rate)).odd_middles
            rate = max(0.0, 1 - (1 - rate) * (1 - want) / max(1 - have, 1e-9))
        return rate

    def replaced(self, rate: float) -> Text:
        """The pool's text with so many of its tokens replaced, by the draw of SEED."""
        return self.noised(NoiseRates(replacement=rate), np.random.default_rng(SEED))

    def noised(self, extra: NoiseRates, rng: np.random.Generator) -> Text:
        return corrupt(*self.text, extra, rng, self.words)

    def likeness(self, text: Text) -> DensityRatio:
        """Of the pool's text, or of that with noise."""
        seen, *queries = near_duplicates.tfidf([self.train, self.target, text], 2)
        target, own = (near_duplicates.nearest(one, seen, np.zeros(seen.shape[0], dtype=int))[:, 0] for one in queries)
        return DensityRatio(own, target, covariate_shift.similarity_weights(own, target, self.clip))

    def with_text(self, text: Text) -> Reports:
        """The pool's reports, in their order and with their labels, with other text."""
        tokens, offsets = text
        return replace(self.reports, tokens=tokens, offsets=offsets, sha256="")


def _drawn(text: Text, most: int, name: str, verb: str) -> Text:
    """The reports, or so many of them: the pool is compared with each."""
    if (n := len(text[1]) - 1) <= most:
        return text
    info(f"{verb}: of the {n:,} reports of {name} {most:,} are looked at (shift.max_rows)")
    return take(*text, np.sort(np.random.default_rng(SEED).choice(n, most, replace=False)))
