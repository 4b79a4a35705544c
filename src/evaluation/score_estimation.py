"""Estimation of a run's own score on a test file without labels.

A calibrator is fitted to out-of-fold predictions of train rows, plain and with noise up to that of the test files. It
is a logistic regression of the labels on four features: the run's logit, the mean logit of the other runs (committee),
the report's similarity to the model's training reports, and the noise of the file. The calibrator shows whether a run
is overconfident on dissimilar, noisy reports. On the test file it gives the probability of each label, and so the
expected loss of each prediction.

Two corrections follow. Out-of-fold predictions come from one fold's models; the mean over folds has a lower loss, by
`fold_gain`, which is exact and needs no labels. Reports of another source have a higher loss than train reports of
equal similarity. That excess cannot be learned from train; in the experiment of notebooks/validation.ipynb it is about
the fold gain of a single model. The expected loss is therefore that of a fold, minus the fold gain of the run, plus the
mean fold gain of its models: for a single model both terms cancel, a blend keeps the difference. Without the last term
the error would be more than twice as large.

Of a task of classes each class is a label of the calibrator, by its logit against all others, and the probabilities of
a row are made to sum to one. A regression has no calibrator: weighted_expectation() is its out-of-fold error on train
rows weighted like the test file. TRANSFER_ERROR was measured on reports; for other tasks it is a guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.data.tasks import EPS, LOGITS, Average, LabelGroup, Task
from src.evaluation.figures import Estimate

TRANSFER_ERROR = 0.009
"""Standard error of the method for a file of any size: a little more than the root mean square error in the experiment
on which the method was chosen (0.008, nine runs and four files)."""
QUANTILE = 1.96


@dataclass(frozen=True)
class LabelledPredictions:
    """Out-of-fold predictions of M train rows in S versions: plain and noisy copies."""

    logits: np.ndarray
    """Logits of the run, (S, M, L)."""
    committee: np.ndarray
    """Mean logits of the other runs, (S, M, L); the run's logits if there are no others."""
    labels: np.ndarray
    """Labels, (M, L)."""
    similarity: np.ndarray
    """Largest cosine to a training report of the model, (S, M)."""
    noise: np.ndarray
    """Share of tokens with noise, (S,)."""


@dataclass(frozen=True)
class UnlabelledPredictions:
    """Predictions of m rows of a test file by the models of k folds."""

    logits: np.ndarray
    """Logits of the run, (k, m, L)."""
    committee: np.ndarray
    """Mean logits of the other runs, (k, m, L)."""
    models: Sequence[np.ndarray]
    """Logits of each model of a blend, (k, m, L) each; the run's logits if the run is no blend."""
    similarity: np.ndarray
    """Largest cosine to a training report, (m,)."""
    noise: float
    """Share of tokens with noise."""
    reports: int
    """Reports of the whole file; the m rows are all of them or a sample."""
    average: Average = LOGITS
    """Mean over the folds."""


@dataclass(frozen=True)
class Expectation:
    """Expected score with its 95% interval (low, high) for the sampling of reports and TRANSFER_ERROR."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Returns the three numbers; null where the interval is unknown, as for a single row."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}


class Calibrator:
    """Logistic regression for each label group: label probability from predictions, similarity and noise."""

    def __init__(self, task: Task, labelled: LabelledPredictions):
        from sklearn.linear_model import LogisticRegression

        self.task = task
        # A single noise level is no feature.
        self.levels = len(np.unique(labelled.noise)) > 1
        self.models = {}
        for group in task.groups:
            rows, columns = task.counted(group, labelled.labels), task.columns[group.name]
            logits, committee = (
                against_others(task, logits[:, rows, columns]) for logits in (labelled.logits, labelled.committee)
            )
            labels = np.broadcast_to(labelled.labels[None, rows, columns], logits.shape)
            features = self._features(logits, committee, labelled.similarity[:, rows], labelled.noise)
            if labels.min() < labels.max():
                self.models[group.name] = LogisticRegression(C=1e4, max_iter=500).fit(features, labels.ravel())

    def probabilities(self, test: UnlabelledPredictions, group: LabelGroup) -> np.ndarray:
        """Returns the probabilities of a group's labels: (k, m, size of the group)."""
        columns = self.task.columns[group.name]
        logits, committee = test.logits[..., columns], test.committee[..., columns]
        if group.name not in self.models:
            return self.task.decode(logits)
        similarity = np.broadcast_to(test.similarity, logits.shape[:2])
        own, others = (against_others(self.task, one) for one in (logits, committee))
        features = self._features(own, others, similarity, np.full(len(logits), test.noise))
        found = self.models[group.name].predict_proba(features)[:, 1].reshape(logits.shape)
        return found / found.sum(axis=-1, keepdims=True) if self.task.kind == "multiclass" else found

    def _features(
        self, logits: np.ndarray, committee: np.ndarray, similarity: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        """Returns the features (cells, features) of logits (S, M, L), similarity (S, M) and noise (S,).

        Slopes and offset of the logits vary with similarity and noise; squares model the overconfidence of extreme
        logits.
        """
        own, others = np.asarray(logits, dtype=np.float64), np.asarray(committee, dtype=np.float64)
        close = np.broadcast_to(similarity[:, :, None], own.shape)
        columns = [
            own,
            others,
            own * np.abs(own) / 10,
            others * np.abs(others) / 10,
            own * close,
            others * close,
            close,
        ]
        if self.levels:
            level = np.broadcast_to(noise[:, None, None], own.shape)
            columns += [own * level, others * level, level]
        return np.stack([column.ravel() for column in columns], axis=1)


def against_others(task: Task, logits: np.ndarray) -> np.ndarray:
    """Returns the logit of each label's probability, same shape: of a class, against all other classes."""
    if task.kind != "multiclass":
        return logits
    probabilities = np.clip(task.decode(logits), EPS, 1 - EPS)
    return np.log(probabilities) - np.log1p(-probabilities)


def weighted_expectation(score: Estimate) -> Expectation:
    """Returns the expectation of a regression from its score on out-of-fold train rows weighted like the test file.

    Its interval is that of the score's standard error alone: what the mean over folds gains, and what other stays lose,
    are not in it.
    """
    spread = QUANTILE * score.standard_error
    return Expectation(score.value, score.value - spread, score.value + spread)


def _class_losses(logits: np.ndarray) -> np.ndarray:
    """Returns the part of the cross-entropy of logits (…, C) that does not depend on the class: (…,)."""
    top = logits.max(axis=-1)
    return top + np.log(np.exp(logits - top[..., None]).sum(axis=-1))


def _expected_losses(
    task: Task, logits: np.ndarray, truth: np.ndarray, models: Sequence[np.ndarray], average: Average = LOGITS
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the expected loss of each row of a group, (m,), and a variance over random labels, (m,): that of the loss
    of a row of classes, or that of the sum of the losses of all labels.

    `logits` and the probabilities `truth` are (k, m, L), and so are those of `models`. The loss of their mean logit is
    that of a fold minus the fold gain; that of another `average` differs from it by both losses under the mean truth.
    """
    mean, chance = logits.mean(axis=0), truth.mean(axis=0)
    final = average.outputs(average.terms(logits).mean(axis=0))
    if task.kind == "multiclass":
        losses = (_class_losses(logits) - (truth * logits).sum(axis=-1)).mean(axis=0)
        gains = [
            _class_losses(model := np.asarray(one, dtype=np.float64)).mean(axis=0) - _class_losses(model.mean(axis=0))
            for one in (*models, logits)
        ]
        losses += np.mean(gains[:-1], axis=0) - gains[-1]
        losses += _class_losses(final) - _class_losses(mean) - (chance * (final - mean)).sum(axis=1)
        return losses, (chance * final**2).sum(axis=1) - (chance * final).sum(axis=1) ** 2
    losses = (np.logaddexp(0, logits) - truth * logits).mean(axis=(0, 2))
    transfer_loss = np.mean([fold_gain(model) for model in models], axis=0)
    losses += (transfer_loss - fold_gain(logits)).mean(axis=1)
    losses += (np.logaddexp(0, final) - np.logaddexp(0, mean) - chance * (final - mean)).mean(axis=1)
    # Variance of the loss over random labels: z^2 p (1 - p) a cell.
    return losses, (final**2 * chance * (1 - chance)).sum(axis=1)


def fold_gain(logits: np.ndarray) -> np.ndarray:
    """Returns the mean loss of k folds' `logits` (k, m, L) minus the loss of their mean logit: (m, L).

    The gain does not depend on the label: the label enters the cross-entropy of a logit only by a linear term, which
    the mean keeps (Heskes 1998, Neural Computation 10, 1425-1433).
    """
    logits = np.asarray(logits, dtype=np.float64)
    return np.logaddexp(0, logits).mean(axis=0) - np.logaddexp(0, logits.mean(axis=0))


def expect_score(task: Task, calibrator: Calibrator, test: UnlabelledPredictions) -> Expectation:
    """Returns the expected score of the task, whatever Task.metric is, and its interval.

    For a group that counts only some reports, such as the types, reports are weighted by the probability to count.
    """
    score, per_report, chance = 0.0, np.zeros(test.logits.shape[1]), np.zeros(test.logits.shape[1])
    probabilities = {group.name: calibrator.probabilities(test, group) for group in task.groups}
    for group in task.groups:
        logits = np.asarray(test.logits[..., task.columns[group.name]], dtype=np.float64)
        models = [model[..., task.columns[group.name]] for model in test.models]
        losses, variance = _expected_losses(task, logits, probabilities[group.name], models, test.average)
        counts = np.ones(len(losses))
        if group.counted_given is not None:
            counts = 1 - np.prod(1 - probabilities[group.counted_given].mean(axis=0), axis=1)
        share = counts / counts.mean()
        weight = group.weight * group.loss_scale
        score += group.weight - weight * float((share * losses).mean())
        per_report += weight * share * losses
        size = 1 if task.kind == "multiclass" else group.size
        chance += (weight * share / size) ** 2 * variance
    sampling = (per_report.var() + chance.mean()) / test.reports
    spread = QUANTILE * math.sqrt(sampling + TRANSFER_ERROR**2)
    return Expectation(score, score - spread, score + spread)
