"""Tabular models of series: boosted trees, linear and kernel models, fitted by scikit-learn to summary features.

A fitted model is a module like any other: its trees or coefficients lie in buffers, and forward() computes from them
what scikit-learn would, up to rounding. So it is saved, loaded, blended and explained like a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.core.run_settings import Boosting, Kernel, Linear
from src.core.threads import one_thread
from src.data.inputs import InputShape
from src.models.completion import Completion
from src.models.scaling import Fitted
from src.models.summaries import summarise, summary_table, without_statics

Kind = Literal["binary", "multilabel", "regression", "multiclass"]

FIT_ROWS = 20_000
"""Largest number of rows that a kernel model is fitted to, evenly spaced among them: its time grows with the square."""
SCALE_FOLDS = 3
"""Parts of the rows on which a kernel model's decisions are scaled to log-odds, each by a model of the others."""


class TabularModel(Fitted):
    """Inputs {name: (B, T, ...)} and lengths (B,) -> outputs (B, n_labels), from summary features."""

    def __init__(self, shape: InputShape, n_labels: int):
        super().__init__()
        self.shape, self.n_labels = shape, n_labels
        self.hidden: list[int] = []
        """Places of the descriptors that it does not read (features.hidden)."""

    def forward(self, inputs: dict[str, Tensor], lengths: Tensor) -> Tensor:
        return self.outputs(summarise(self.visible(inputs), self.shape, lengths))

    def visible(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return without_statics(inputs, self.hidden)

    def outputs(self, table: Tensor) -> Tensor:
        """Computes the outputs (B, n_labels) of summary features (B, F)."""
        raise NotImplementedError

    def fit(self, table: np.ndarray, targets: np.ndarray, weights: np.ndarray, seed: int, kind: Kind) -> None:
        """Fits to summary features (N, F), see fit_tabular()."""
        raise NotImplementedError


def fit_tabular(
    model: TabularModel,
    inputs: Mapping[str, np.ndarray],
    lengths: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    seed: int,
    kind: Kind,
) -> None:
    """Fits a tabular model to training rows: inputs {name: (N, ...)}, lengths (N,), weights (N,).

    `targets` (N, n_labels) are what the outputs are compared with: log1p of days for a length of stay, one column a
    class for multiclass; probabilities, as of teachers, count as rows of both labels. One thread: the same seed gives
    the same bytes.
    """
    with one_thread("sklearn"):
        table = summary_table(inputs, lengths, model.shape, hidden=model.hidden)
        model.fit(table, np.asarray(targets, np.float64), np.asarray(weights, np.float64), seed, kind)


class BoostedTrees(TabularModel):
    """Boosted trees as flat arrays of nodes; a leaf is its own child, so that all paths have the same length."""

    sized = ("feature", "threshold", "left", "right", "missing_left", "value", "root", "output")

    def __init__(self, settings: Boosting, shape: InputShape, n_labels: int):
        super().__init__(shape, n_labels)
        self.settings = settings
        for name in self.sized:
            kind = torch.float32 if name in ("threshold", "value") else torch.int32
            self.register_buffer(name, torch.zeros(0, dtype=kind))
        self.register_buffer("bias", torch.zeros(n_labels))
        self.register_buffer("depth", torch.zeros(1, dtype=torch.int32))

    def outputs(self, table: Tensor) -> Tensor:
        feature, left, right = self.feature.long(), self.left.long(), self.right.long()
        missing_left = self.missing_left > 0
        node = self.root.long().expand(len(table), -1)  # (256, 1500)
        for _ in range(int(self.depth)):
            x = table.gather(1, feature[node])
            goes_left = torch.where(x.isnan(), missing_left[node], x <= self.threshold[node])
            node = torch.where(goes_left, left[node], right[node])
        outputs = self.bias.double().expand(len(table), -1).clone()
        return outputs.index_add_(1, self.output, self.value[node].double()).float()

    def fit(self, table: np.ndarray, targets: np.ndarray, weights: np.ndarray, seed: int, kind: Kind) -> None:
        table = np.where(np.isnan(table).all(axis=0), 0, table)  # scikit-learn cannot bin a column without values
        trees, bias = [], np.zeros(self.n_labels)
        for member in range(self.settings.members):
            for outputs, estimator in self._members(table, targets, weights, (seed + 1000 * member) % 2**32, kind):
                bias[outputs] += np.ravel(estimator._baseline_prediction) / self.settings.members
                trees += [
                    (output, tree.nodes)
                    for stage in estimator._predictors
                    for output, tree in zip(outputs, stage, strict=True)
                ]
        self.put("bias", bias)
        self._put_trees(trees)

    def _members(
        self, table: np.ndarray, targets: np.ndarray, weights: np.ndarray, seed: int, kind: Kind
    ) -> list[tuple[list[int], Any]]:
        """Fitted estimators, each with the outputs that it has."""
        # Imported here: workers that train networks do not wait for it.
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        options = {
            **self.settings.model_dump(include={"learning_rate", "max_iter", "max_leaf_nodes", "min_samples_leaf"}),
            "max_features": self.settings.max_features,
            "l2_regularization": self.settings.l2,
            "early_stopping": False,
            "random_state": seed,
        }
        if kind == "regression":
            return [
                ([i], HistGradientBoostingRegressor(**options).fit(table, targets[:, i], unless_equal(weights)))
                for i in range(self.n_labels)
            ]
        found = []
        for outputs, rows, classes, row_weights in decisions(targets, weights, kind):
            estimator = HistGradientBoostingClassifier(**options)
            found.append((outputs, estimator.fit(table[rows], classes, row_weights)))
        return found

    def _put_trees(self, trees: list[tuple[int, np.ndarray]]) -> None:
        nodes = np.concatenate([nodes for _, nodes in trees])
        roots = np.cumsum([0, *(len(nodes) for _, nodes in trees)])[:-1]
        start = np.repeat(roots, [len(nodes) for _, nodes in trees])
        is_leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        self.put("feature", np.where(is_leaf, 0, nodes["feature_idx"]).astype(np.int32))
        self.put("threshold", rounded_down(np.where(is_leaf, np.inf, nodes["num_threshold"])))
        self.put("left", np.where(is_leaf, own, start + nodes["left"]).astype(np.int32))
        self.put("right", np.where(is_leaf, own, start + nodes["right"]).astype(np.int32))
        self.put("missing_left", nodes["missing_go_to_left"].astype(np.int32))
        self.put("value", nodes["value"] / self.settings.members)
        self.put("root", roots.astype(np.int32))
        self.put("output", np.array([output for output, _ in trees], np.int32))
        self.put("depth", [int(nodes["depth"].max())])


class LinearModel(TabularModel):
    """Linear functions of standardised summary features, with 0 for missing ones and a flag."""

    def __init__(self, settings: Linear, shape: InputShape, n_labels: int):
        super().__init__(shape, n_labels)
        self.settings = settings
        self.complete = Completion(shape)
        self.register_buffer("weight", torch.zeros(n_labels, self.complete.size))
        self.register_buffer("bias", torch.zeros(n_labels))

    def outputs(self, table: Tensor) -> Tensor:
        return self.outputs_of_complete(self.complete(table))

    def outputs_of_complete(self, complete: Tensor) -> Tensor:
        """Computes the outputs (B, n_labels) of what complete() returned."""
        return complete @ self.weight.T + self.bias

    def fit(self, table: np.ndarray, targets: np.ndarray, weights: np.ndarray, seed: int, kind: Kind) -> None:
        # Imported here: workers that train networks do not wait for it.
        from sklearn.linear_model import LogisticRegression, Ridge

        self.complete.fit(table)
        complete = self.complete(torch.from_numpy(table)).numpy().astype(np.float64)
        complete[:, np.ptp(complete, axis=0) == 0] = 0  # a constant takes no part of the intercept
        weight, bias = np.zeros(self.weight.shape), np.zeros(self.n_labels)
        if kind == "regression":
            ridge = Ridge(1 / self.settings.inverse_penalty, solver="cholesky").fit(complete, targets, weights)
            weight[:], bias[:] = ridge.coef_, ridge.intercept_
        else:
            for outputs, rows, classes, row_weights in decisions(targets, weights, kind):
                estimator = LogisticRegression(C=self.settings.inverse_penalty, max_iter=1000)
                estimator.fit(complete[rows], classes, row_weights)
                weight[outputs], bias[outputs] = estimator.coef_, estimator.intercept_
        self.put("weight", weight)
        self.put("bias", bias)


class KernelModel(TabularModel):
    """Support vector machines with a radial kernel on standardised summary features; a classifier of each output, or a
    regression. Decisions are scaled to log-odds on rows that their machine was not fitted to (Platt 1999)."""

    sized = ("vectors", "coefficients")

    def __init__(self, settings: Kernel, shape: InputShape, n_labels: int):
        super().__init__(shape, n_labels)
        self.settings = settings
        self.complete = Completion(shape)
        self.register_buffer("varies", torch.zeros(self.complete.size))
        self.register_buffer("vectors", torch.zeros(0, self.complete.size))
        self.register_buffer("coefficients", torch.zeros(n_labels, 0))
        self.register_buffer("bias", torch.zeros(n_labels))

    def outputs(self, table: Tensor) -> Tensor:
        complete = self.complete(table) * self.varies
        squares = complete.square().sum(dim=1)[:, None] + self.vectors.square().sum(dim=1)
        with torch.autocast(table.device.type, enabled=False):  # differences of large sums: bfloat16 would lose them
            distances = (squares - 2 * complete @ self.vectors.T).clamp_min(0)
        return (-self._gamma * distances).exp() @ self.coefficients.T + self.bias

    @property
    def _gamma(self) -> float:
        return self.settings.gamma / max(1, int(self.varies.sum()))

    def fit(self, table: np.ndarray, targets: np.ndarray, weights: np.ndarray, seed: int, kind: Kind) -> None:
        # Imported here: workers that train networks do not wait for it.
        from sklearn.svm import SVC, SVR

        chosen = np.unique(np.linspace(0, len(table) - 1, min(len(table), FIT_ROWS)).round().astype(int))
        table, targets, weights = table[chosen], targets[chosen], weights[chosen]
        self.complete.fit(table)
        complete = self.complete(torch.from_numpy(table)).numpy().astype(np.float64)
        varies = np.ptp(complete, axis=0) > 0
        complete *= varies
        self.put("varies", varies)
        options = {"C": self.settings.inverse_penalty, "gamma": self._gamma}
        coefficients, bias = np.zeros((self.n_labels, len(table))), np.zeros(self.n_labels)
        if kind == "regression":
            for i in range(self.n_labels):
                machine = SVR(**options).fit(complete, targets[:, i], unless_equal(weights))
                coefficients[i, machine.support_], bias[i] = machine.dual_coef_[0], machine.intercept_[0]
        else:
            for outputs, rows, classes, row_weights in decisions(targets, weights, kind):
                for output in outputs:
                    is_class = classes if len(outputs) == 1 else (classes == output).astype(int)
                    machine = SVC(**options).fit(complete[rows], is_class, row_weights)
                    slope, shift = _log_odds(SVC(**options), complete, rows, is_class, row_weights, seed)
                    np.add.at(coefficients[output], rows[machine.support_], slope * machine.dual_coef_[0])
                    bias[output] = slope * machine.intercept_[0] + shift
        used = np.flatnonzero(coefficients.any(axis=0))
        self.put("vectors", complete[used])
        self.put("coefficients", coefficients[:, used])
        self.put("bias", bias)


def _log_odds(
    machine: Any, complete: np.ndarray, rows: np.ndarray, classes: np.ndarray, weights: np.ndarray | None, seed: int
) -> tuple[float, float]:
    """Slope and shift that make log-odds of a machine's decisions: on `rows` (R,) of features (N, F), of classes (R,)
    of 0 and 1. Where a class has fewer rows than SCALE_FOLDS, the slope is 0 and the shift the log-odds of the class.
    """
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    share = np.bincount(rows, classes * (1.0 if weights is None else weights), len(complete))
    share /= np.bincount(rows, weights, len(complete)).clip(1e-12)
    likely = (share > 0.5).astype(int)  # a row of both classes is in one fold
    if np.bincount(likely, minlength=2).min() < SCALE_FOLDS:
        rate = np.average(classes, weights=weights)
        return 0.0, float(np.log(rate / (1 - rate)))
    fold, decided = np.empty(len(complete), int), np.empty(len(rows))
    for number, (_, held) in enumerate(
        StratifiedKFold(SCALE_FOLDS, shuffle=True, random_state=seed).split(likely, likely)
    ):
        fold[held] = number
    for number in range(SCALE_FOLDS):
        held = fold[rows] == number
        part = clone(machine).fit(complete[rows[~held]], classes[~held], None if weights is None else weights[~held])
        decided[held] = part.decision_function(complete[rows[held]])
    scaled = LogisticRegression(C=1e6).fit(decided[:, None], classes, weights)
    return float(scaled.coef_[0, 0]), float(scaled.intercept_[0])


TABULAR = {"boosting": BoostedTrees, "linear": LinearModel, "kernel": KernelModel}


def decisions(
    targets: np.ndarray, weights: np.ndarray, kind: Kind
) -> list[tuple[list[int], np.ndarray, np.ndarray, np.ndarray | None]]:
    """Splits classification targets (N, L) into what one classifier decides each: its outputs, rows, classes and
    weights; None where these are equal, for scikit-learn finds weighted quantiles a hundred times slower.

    A probability gives a row for each class, weighted by it. A class without rows gets the first one, so that it is
    unlikely and not impossible. Of two exclusive classes, the second has the logit and the first has 0.
    """
    n_outputs = targets.shape[1]
    found = []
    for outputs in [list(range(n_outputs))] if kind == "multiclass" else [[i] for i in range(n_outputs)]:
        shares = targets[:, outputs] if kind == "multiclass" else np.c_[1 - targets[:, outputs], targets[:, outputs]]
        rows, classes = np.nonzero(shares)
        absent = np.setdiff1d(np.arange(shares.shape[1]), classes)
        row_weights = np.r_[weights[rows] * shares[rows, classes], np.full(len(absent), weights.mean())]
        rows, classes = np.r_[rows, np.zeros(len(absent), int)], np.r_[classes, absent]
        decided = outputs[-1:] if len(outputs) == 2 else outputs
        found.append((decided, rows, classes, unless_equal(row_weights)))
    return found


def unless_equal(weights: np.ndarray) -> np.ndarray | None:
    return None if np.ptp(weights) == 0 else weights


def rounded_down(x: np.ndarray) -> np.ndarray:
    """Largest float32 that is not above x: float32 features compare with it as they do with x."""
    with np.errstate(over="ignore"):
        near = x.astype(np.float32)
    return np.where(near > x, np.nextafter(near, np.float32(-np.inf)), near)
