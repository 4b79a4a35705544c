"""What a run will score on a test file whose labels nobody has.

How much a prediction is worth under a shift is learned where labels are: on the out-of-fold predictions of the train
rows, as they are and with noise up to the tests'. A logistic regression of the labels tells how probable a label truly
is, given the run's own logit, the mean logit of the other runs (their committee: where they differ from a run, it is
unsure of itself for a reason), how like the report is to what the models have seen, and how noisy its file is. So a run
that is surer of itself than it may be on strange, noisy reports is told from one that is not. On the test file the same
four things are known, and with them the expected loss of every prediction.

Two things more. Out-of-fold predictions are by one fold's models, and the mean over folds loses less, by as much as the
folds differ: `fold_gain`, which is exact and needs no labels. And reports of another pool cost more than their likeness
tells, because no train row is so strange. What that costs cannot be learned from train; in the proof
(notebooks/validation.ipynb) it is about as much as the fold gain of a single model, another measure of how unsure a
model is where it has seen little. So the expected loss is that of a fold, less the gain of the run, plus the mean gain
of its models: for a single model the last two cancel, a blend keeps the difference. To credit the gain alone would make
the error more than twice as large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.data.tasks import LabelGroup, Task
from src.evaluation.metrics import sigmoid

TRANSFER_ERROR = 0.009
"""What no sample size takes away: a little more than the root mean square error in the proof (0.008, nine runs and four
files), on which the method was chosen too."""
QUANTILE = 1.96


@dataclass(frozen=True)
class Judged:
    """Predictions of train rows by models that have not seen them: S versions (as they are, noisy copies), M rows."""

    logits: np.ndarray
    """(S, M, L) of the run."""
    committee: np.ndarray
    """(S, M, L) mean of the other runs' logits; the run's own where there are no others."""
    labels: np.ndarray
    """(M, L)"""
    similarity: np.ndarray
    """(S, M) largest cosine to a report that the model has seen."""
    noise: np.ndarray
    """(S,) share of tokens hit."""


@dataclass(frozen=True)
class Unjudged:
    """Predictions of a test file by each of k folds' models, m rows."""

    logits: np.ndarray
    """(k, m, L)"""
    committee: np.ndarray
    """(k, m, L)"""
    models: Sequence[np.ndarray]
    """(k, m, L) of each model that the run is blended of; of the run itself if it is no blend."""
    similarity: np.ndarray
    """(m,)"""
    noise: float
    reports: int
    """Reports of the whole file, of which the m are all or a sample."""


@dataclass(frozen=True)
class Expectation:
    value: float
    low: float
    high: float
    """95% interval: chance in which reports the file holds, and TRANSFER_ERROR."""


class Calibrator:
    """Probability of a label, group by group, from a prediction and its circumstances."""

    def __init__(self, task: Task, judged: Judged):
        from sklearn.linear_model import LogisticRegression

        self.task = task
        # One version has one noise level: nothing to learn from it.
        self.levels = len(np.unique(judged.noise)) > 1
        self.models = {}
        for group in task.groups:
            rows, columns = task.counted(group, judged.labels), task.columns[group.name]
            logits, committee = judged.logits[:, rows, columns], judged.committee[:, rows, columns]
            labels = np.broadcast_to(judged.labels[None, rows, columns], logits.shape)
            features = self._features(logits, committee, judged.similarity[:, rows], judged.noise)
            if labels.min() < labels.max():
                self.models[group.name] = LogisticRegression(C=1e4, max_iter=500).fit(features, labels.ravel())

    def probabilities(self, unjudged: Unjudged, group: LabelGroup) -> np.ndarray:
        """(k, m, size of the group)."""
        columns = self.task.columns[group.name]
        logits, committee = unjudged.logits[..., columns], unjudged.committee[..., columns]
        if group.name not in self.models:
            return sigmoid(logits)
        similarity = np.broadcast_to(unjudged.similarity, logits.shape[:2])
        features = self._features(logits, committee, similarity, np.full(len(logits), unjudged.noise))
        return self.models[group.name].predict_proba(features)[:, 1].reshape(logits.shape)

    def _features(
        self, logits: np.ndarray, committee: np.ndarray, similarity: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        """(cells, features) of logits (S, M, L), similarity (S, M) and noise (S,). Slopes and offset of the logits vary
        with both; the squares let very sure predictions be worth less than they say."""
        own, others = np.asarray(logits, dtype=np.float64), np.asarray(committee, dtype=np.float64)
        like = np.broadcast_to(similarity[:, :, None], own.shape)
        columns = [own, others, own * np.abs(own) / 10, others * np.abs(others) / 10, own * like, others * like, like]
        if self.levels:
            level = np.broadcast_to(noise[:, None, None], own.shape)
            columns += [own * level, others * level, level]
        return np.stack([column.ravel() for column in columns], axis=1)


def fold_gain(logits: np.ndarray) -> np.ndarray:
    """(m, L): by how much the mean logit of k folds, (k, m, L), loses less than they do on average, whatever the label.

    The cross-entropy of a logit is convex in it but for a term that is linear, which the mean keeps (Heskes 1998,
    Neural Computation 10, 1425-1433).
    """
    logits = np.asarray(logits, dtype=np.float64)
    return np.logaddexp(0, logits).mean(axis=0) - np.logaddexp(0, logits.mean(axis=0))


def expect_score(task: Task, calibrator: Calibrator, unjudged: Unjudged) -> Expectation:
    """The official score to expect, and its interval.

    A group that counts only some reports, such as the types, is averaged with the probability that a report counts.
    """
    score, per_report, chance = 0.0, np.zeros(unjudged.logits.shape[1]), np.zeros(unjudged.logits.shape[1])
    probabilities = {group.name: calibrator.probabilities(unjudged, group) for group in task.groups}
    for group in task.groups:
        logits = np.asarray(unjudged.logits[..., task.columns[group.name]], dtype=np.float64)
        truth = probabilities[group.name]
        losses = (np.logaddexp(0, logits) - truth * logits).mean(axis=(0, 2))
        strangeness = np.mean([fold_gain(model[..., task.columns[group.name]]) for model in unjudged.models], axis=0)
        losses += (strangeness - fold_gain(logits)).mean(axis=1)
        counts = np.ones(len(losses))
        if group.counted_given is not None:
            counts = 1 - np.prod(1 - probabilities[group.counted_given].mean(axis=0), axis=1)
        share = counts / counts.mean()
        weight = group.weight * group.loss_scale
        score += group.weight - weight * float((share * losses).mean())
        per_report += weight * share * losses
        # What the labels, once they are drawn, add: z^2 p (1 - p) a cell.
        mean, truth = logits.mean(axis=0), truth.mean(axis=0)
        chance += (weight * share / group.size) ** 2 * (mean**2 * truth * (1 - truth)).sum(axis=1)
    sampling = (per_report.var() + chance.mean()) / unjudged.reports
    spread = QUANTILE * math.sqrt(sampling + TRANSFER_ERROR**2)
    return Expectation(score, score - spread, score + spread)
