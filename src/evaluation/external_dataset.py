"""Labelled file of another source as a proxy of the target test file: missing noise, and density-ratio weights.

./run.sh standin makes labelled proxy tests of the file, ./run.sh predict --shifted scores runs on it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from src.core.errors import UserError
from src.core.language import _
from src.core.terminal import info
from src.data import near_duplicates
from src.data.corruption import NoiseRates, corrupt
from src.data.ngrams import Text, join, take
from src.data.report_reader import Reports, read_reports
from src.data.tasks import Task
from src.evaluation import covariate_shift, noise_estimation
from src.evaluation.noise_estimation import NoiseEstimate
from src.evaluation.workspace import Workspace

SEED = 0
"""Seed of the sampled reports and of the noise."""
ROUNDS = 2
"""Rounds of the noise estimate: the first ignores noise on tokens that are language; a third would fit the draw."""


@dataclass(frozen=True)
class DensityRatio:
    """Similarity of reports to train, and weights that give it the distribution of the target's."""

    cosines: np.ndarray
    """Cosine of each report to its nearest train report, (N,)."""
    target_cosines: np.ndarray
    """Cosine of each target report to its nearest train report, (M,)."""
    weights: np.ndarray
    """Density ratio of each report, (N,), with mean 1."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Labelled reports of another source, beside train and target."""

    reports: Reports
    task: Task
    """Task of the train files."""
    train: Text
    """Train reports, at most shift.max_rows."""
    target: Text
    """Reports of the target test file, at most shift.max_rows."""
    target_name: str
    words: np.ndarray
    """Alphabet of the noise, (V,)."""
    clip: float
    """Maximum weight relative to the mean."""

    @classmethod
    def load(cls, workspace: Workspace, reports: Reports, verb: str) -> Pool:
        """Loads train and target from the input folder; `verb` is the command for messages.

        Raises UserError if there is no test file, and like Workspace.dataset.
        """
        settings, dataset, files = workspace.settings, workspace.dataset, workspace.input_files
        target = workspace.target
        folder, max_rows = settings.paths.input, settings.shift.max_rows
        if target is None:
            raise UserError(
                _("{folder} has no test file to compare {path} with. Add a test file.").format(
                    folder=folder, path=reports.path
                )
            )
        train = [read_reports(path) for path in files.train]
        (found,) = (path for path in files.test if path.name == target.name)
        target_reports = read_reports(found, may_be_empty=True)
        return cls(
            reports,
            dataset.task,
            _sampled(join([(file.tokens, file.offsets) for file in train]), max_rows, "train", verb),
            _sampled((target_reports.tokens, target_reports.offsets), max_rows, target.name, verb),
            target.name,
            dataset.vocabulary.words,
            settings.shift.clip,
        )

    @property
    def text(self) -> Text:
        return self.reports.tokens, self.reports.offsets

    @functools.cached_property
    def frames(self) -> list[noise_estimation.Frames]:
        """Frames learned from the pool, train and the target."""
        return noise_estimation.learn_frames([self.train, self.target, self.text])

    def noise(self, text: Text) -> NoiseEstimate:
        """Estimates the noise of the pool's text, plain or noised, or of the target; UserError for too little text."""
        counts = noise_estimation.count_outcomes(self.frames, text)
        estimate = noise_estimation.estimate_noise(self.frames, counts, text[0][:0], len(self.words))
        if estimate is None:
            raise UserError(
                _("{path} or {target_name} has too little text to estimate its noise").format(
                    path=self.reports.path, target_name=self.target_name
                )
            )
        return estimate

    def missing_replacement(self) -> float:
        """Returns the replacement rate that gives the pool, drawn with SEED, the odd_middles of the target; 0 if the
        pool's are higher. Raises the UserError of `noise`."""
        want, rate = self.noise(self.target).odd_middles, 0.0
        for _round in range(ROUNDS):
            have = self.noise(self.replaced(rate)).odd_middles
            rate = max(0.0, 1 - (1 - rate) * (1 - want) / max(1 - have, 1e-9))
        return rate

    def replaced(self, rate: float) -> Text:
        """Returns the pool's text with the share `rate` of its tokens replaced, drawn with SEED."""
        return self.noised(NoiseRates(replacement=rate), np.random.default_rng(SEED))

    def noised(self, extra: NoiseRates, rng: np.random.Generator) -> Text:
        """Returns the pool's text with the noise `extra`."""
        return corrupt(*self.text, extra, rng, self.words)

    def density_ratio(self, text: Text) -> DensityRatio:
        """Returns the density ratio of the pool's text, plain or noised, to the target."""
        train, *queries = near_duplicates.tfidf([self.train, self.target, text], 2)
        groups = np.zeros(train.shape[0], dtype=int)
        target, own = (near_duplicates.nearest(vectors, train, groups)[:, 0] for vectors in queries)
        return DensityRatio(own, target, covariate_shift.similarity_weights(own, target, self.clip))

    def with_text(self, text: Text) -> Reports:
        """Returns the pool's reports with their ids and labels and another `text`."""
        tokens, offsets = text
        return replace(self.reports, tokens=tokens, offsets=offsets, sha256="")


def _sampled(text: Text, max_rows: int, name: str, verb: str) -> Text:
    """Returns the reports of `text`, or a random sample of `max_rows`."""
    if (n := len(text[1]) - 1) <= max_rows:
        return text
    info(
        _("{verb}: {max_rows:,} of the {n:,} reports of {name} are compared (shift.max_rows)").format(
            verb=verb, max_rows=max_rows, n=n, name=name
        )
    )
    return take(*text, np.sort(np.random.default_rng(SEED).choice(n, max_rows, replace=False)))
