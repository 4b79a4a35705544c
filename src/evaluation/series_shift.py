"""Covariate shift between train and a test file of series: what tells the files apart, and what each of them lacks.

Files are compared by summary features, a fixed number of columns a series (models/summaries.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.data.inputs import InputShape
from src.evaluation.covariate_shift import ADVERSARIAL_FOLDS, Adversarial, auc_error, odds_weights, similarity_weights

TREES = {"max_iter": 60, "learning_rate": 0.1, "max_depth": 3, "max_features": 0.3, "early_stopping": False}
"""Settings of the boosted trees that tell the files apart. Shallow trees on a third of the features at a time cost a
fifth of the library's own settings and find a shift of one parameter as well."""
TELLING = 8
"""Number of features that are listed, at most one of each parameter."""
CHUNK = 4096
"""Series in memory at a time."""


def adversarial(
    train: np.ndarray, test: np.ndarray, names: Sequence[str], owners: Sequence[str], seed: int = 0
) -> Adversarial:
    """Cross-validates boosted trees that tell train (N, F) from test (M, F); log odds are as if both had one size.

    Features may be NaN. `names` (F) are those of the features, `owners` (F) the parameters that they are made of.
    Raises ValueError if a file has fewer rows than ADVERSARIAL_FOLDS.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    sizes = len(train), len(test)
    if min(sizes) < ADVERSARIAL_FOLDS:
        raise ValueError(f"adversarial validation needs {ADVERSARIAL_FOLDS} rows of each file, not {sizes}")
    features, is_test = np.concatenate([train, test]), np.repeat([0, 1], sizes)
    logits = np.empty(len(is_test))
    for fit, judged in StratifiedKFold(ADVERSARIAL_FOLDS, shuffle=True, random_state=seed).split(features, is_test):
        known = np.isfinite(features[fit]).any(axis=0)  # scikit-learn cannot bin a column without a value
        model = HistGradientBoostingClassifier(**TREES, random_state=seed).fit(features[fit][:, known], is_test[fit])
        # Weights of the classes would do the same, but weighted bins take thirty times as long.
        prior = math.log(is_test[fit].sum() / (1 - is_test[fit]).sum())
        logits[judged] = model.decision_function(features[judged][:, known]) - prior
    auc = float(roc_auc_score(is_test, logits))
    telling = telling_features(train, test, names, owners)
    return Adversarial(auc, auc_error(auc, *sizes), logits[is_test == 0], logits[is_test == 1], telling)


def values_alone(
    train: np.ndarray, test: np.ndarray, names: Sequence[str], shape: InputShape
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns the features that do not depend on how often a parameter is observed: the mean of each parameter and the
    statics, with the train median for what is unknown; of train (N, V) and test (M, V), and their names.

    Weights are made of them. A file of another hospital may have fewer values of each parameter while its patients are
    as ill; weights by all features would look for healthy patients in train, who have few values there.
    """
    kept = [f"{name} mean" for name in shape.parameters] + list(shape.statics)
    columns = [names.index(name) for name in kept]
    tables = [np.asarray(table[:, columns], dtype=np.float64) for table in (train, test)]
    for k in range(len(kept)):
        known = np.isfinite(tables[0][:, k])
        middle = np.median(tables[0][known, k]) if known.any() else 0.0
        for table in tables:
            table[~np.isfinite(table[:, k]), k] = middle
    return *tables, kept


def similarity(logits: np.ndarray) -> np.ndarray:
    """Returns the probability of being a train row (N,) from log odds of being a test row, with both files weighted
    equally: near 0 for rows that only the test file has, 0.5 where the files do not differ."""
    return 1 / (1 + np.exp(np.clip(logits, -30, 30)))


def weights(found: Adversarial | None, judged: np.ndarray, method: str, clip: float) -> np.ndarray:
    """Returns weights (N,) that make the train rows in `judged`, bool (N,), distributed like the test file; their mean
    is 1, the other rows weigh nothing.

    `method` similarity: by the histogram of similarity(), which cannot be overconfident; odds: by the odds themselves.
    Without `found` (a file is too small) all rows weigh the same.
    """
    result = np.zeros(len(judged))
    if found is None:
        result[judged] = 1
    elif method == "similarity":
        own = similarity(found.train_logits[judged])
        result[judged] = similarity_weights(own, similarity(found.test_logits), clip)
    else:
        result[judged] = odds_weights(found.train_logits[judged], clip)
    return result


def telling_features(
    train: np.ndarray, test: np.ndarray, names: Sequence[str], owners: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the features with the most significant difference of ranks, the first of each owner: name, mean in both
    files, AUC (share of pairs in which the test row has more) and its z, all of observed values."""
    scores = [
        _rank_test(*(column[np.isfinite(column)] for column in pair)) for pair in zip(train.T, test.T, strict=True)
    ]
    kept: dict[str, dict[str, Any]] = {}
    for i in sorted(range(len(names)), key=lambda i: -abs(scores[i][1])):
        if scores[i][1] != 0:
            means = {"train": float(np.nanmean(train[:, i])), "test": float(np.nanmean(test[:, i]))}
            kept.setdefault(owners[i], {"feature": names[i], **means, "auc": scores[i][0], "z": scores[i][1]})
    return list(kept.values())[:TELLING]


def owners_of(names: Sequence[str], parameters: Sequence[str]) -> list[str]:
    """Returns the parameter of each feature, whose name starts with it, or the feature itself."""
    return [max((p for p in parameters if f"{name} ".startswith(f"{p} ")), key=len, default=name) for name in names]


def coverage(values: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the share of time steps in which each parameter was observed, (n, P), in the `rows` (n,) of values
    (N, T, P) of `lengths` (N,)."""
    result = np.empty((len(rows), values.shape[2]))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        length = np.asarray(lengths[chunk])[:, None]
        inside = np.arange(values.shape[1]) < length
        observed = np.isfinite(values[chunk]) & inside[:, :, None]
        result[start : start + CHUNK] = observed.sum(axis=1) / length
    return result


def missingness(train: np.ndarray, test: np.ndarray, parameters: Sequence[str]) -> list[dict[str, Any]]:
    """Compares coverage() of train (N, P) and test (M, P), for each parameter: share of time steps and share of rows
    with an observation. Empty where nothing is missing in either file."""
    if min(train.min(initial=1), test.min(initial=1)) == 1:
        return []
    return [
        {
            "parameter": name,
            "steps": difference(train[:, i], test[:, i]),
            "rows": difference(train[:, i] > 0, test[:, i] > 0),
        }
        for i, name in enumerate(parameters)
    ]


def statics(train: np.ndarray, test: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Compares statics of train (N, S) and test (M, S), NaN where unknown: share of rows in which each is known, and
    the mean of what is known (None where a file knows none)."""
    known = [np.isfinite(table) for table in (train, test)]
    return [
        {
            "name": name,
            "known": difference(known[0][:, i], known[1][:, i]),
            "value": difference(train[known[0][:, i], i], test[known[1][:, i], i]),
        }
        for i, name in enumerate(names)
    ]


def difference(train: np.ndarray, test: np.ndarray) -> dict[str, float] | None:
    """Returns the means of train (N,) and test (M,), test minus train and its standard error; None without a value."""
    if not len(train) or not len(test):
        return None
    means = [float(np.mean(values, dtype=np.float64)) for values in (train, test)]
    variance = sum(float(np.var(values, dtype=np.float64)) / len(values) for values in (train, test))
    return {
        "train": means[0],
        "test": means[1],
        "difference": means[1] - means[0],
        "standard_error": math.sqrt(variance),
    }


def significance(found: Mapping[str, float]) -> float:
    """Returns the z of a difference(); 0 where neither file varies."""
    return found["difference"] / found["standard_error"] if found["standard_error"] else 0.0


def _rank_test(train: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    """Returns the AUC of one feature, (N,) and (M,) values, and its z (Mann and Whitney, corrected for ties)."""
    from scipy.stats import rankdata

    n, m = len(train), len(test)
    values = np.concatenate([train, test])
    ties = np.unique(values, return_counts=True)[1].astype(np.float64)
    if not n or not m or len(ties) < 2:
        return 0.5, 0.0
    auc = float(rankdata(values)[n:].sum() - m * (m + 1) / 2) / (n * m)
    total = n + m
    variance = (total + 1 - (ties**3 - ties).sum() / (total * (total - 1))) / (12 * n * m)
    return auc, (auc - 0.5) / math.sqrt(variance)
