"""Official score and other metrics of predictions, with standard errors.

Arrays are (N, L): N rows (reports, stays or images), L labels in the task's column order. Labels and predictions are in
the task's unit: labels of 0 or 1 and probabilities in [0, 1], or numbers such as days. Standard errors treat rows as
independent draws; as real reports have near-duplicates, standard errors are lower bounds. figures.py computes them.

Runs, blends and trials are ordered by official_score() and paired_difference(), for the figure that Task.metric names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from src.core.errors import UserError
from src.core.language import _, word
from src.core.settings import Operating
from src.data.tasks import EPS, KINDS, SCORE_NAMES, LabelGroup, Task
from src.data.tasks import log_loss_cells as log_loss_cells
from src.data.tasks import sigmoid as sigmoid  # beside its inverse, logit()
from src.evaluation import operating_points
from src.evaluation.figures import (
    CALIBRATION_BINS,
    FIGURES,
    THRESHOLD,
    TOP_SHARE,
    Figure,
    average_precision,
    by_report,
    calibration_curve,
    calibration_error,
    estimate,
    lift,
    macro,
    make_draws,
    min_se_p,
    ratio,
    roc_auc,
    root,
    short_text,
)
from src.evaluation.figures import Estimate as Estimate

N_BOOT = 200
"""Number of bootstrap draws."""
PREDICTION_PARTS = 5
"""Parts of the rows, by their predictions, in which a regression's intervals are looked at."""


def logit(probabilities: np.ndarray, eps: float = EPS) -> np.ndarray:
    """Inverts `sigmoid` in float64; probabilities are clipped to [eps, 1 - eps], so that all logits are finite."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), eps, 1 - eps)
    return np.log(clipped) - np.log1p(-clipped)


def effective_size(weights: np.ndarray) -> float:
    """Returns Kish's effective sample size of `weights` (N,): (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / max((weights**2).sum(), 1e-300))


def official_score(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray | None = None,
    reports: np.ndarray | None = None,
    folds: np.ndarray | None = None,
) -> Estimate:
    """Returns the figure that runs of the task are ordered by, the higher the better.

    Unless Task.metric names another one, it is the sum over label groups of weight * (perfect - loss_scale * mean
    loss): round 1 is 1 - mlogloss; in round 2 the types' mlogloss covers only reports that truly have an abnormal
    region; a length of stay has minus the mean absolute error. `weights` (N,) are sample weights. `reports` (N,) is the
    number of each row's report, if rows are noisy copies of fewer reports: copies are not independent, so the standard
    error is computed over reports. `folds` (N,) are what min_se_p cross-fits its threshold over; default: random parts.
    Raises UserError if no row counts for a group or the figure is not defined, and ValueError like Task.cells.
    """
    return estimate(official_figure(task, labels, predictions, weights, reports, folds))


def official_figure(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray | None = None,
    reports: np.ndarray | None = None,
    folds: np.ndarray | None = None,
) -> Figure:
    """Returns `official_score` with its noise, for differences to figures of the same rows. Arguments and errors are
    those of `official_score`."""
    return _ordering(task, Judged(task, labels, predictions, weights, reports, folds))


def paired_difference(
    task: Task,
    labels: np.ndarray,
    p_a: np.ndarray,
    p_b: np.ndarray,
    weights: np.ndarray | None = None,
    reports: np.ndarray | None = None,
    folds: np.ndarray | None = None,
) -> Estimate:
    """Returns the official score of `p_a` minus that of `p_b` on the same rows: positive if a is better.

    The standard error is that of the paired differences. Arguments and errors are those of `official_score`.
    """
    a, b = (official_figure(task, labels, p, weights, reports, folds) for p in (p_a, p_b))
    return estimate(a - b)


def gain_text(task: Task, gain: Estimate) -> str:
    """Words a paired_difference() for a table: +0.0022±3, the standard error in units of the last digit; of a
    regression +0.051±0.023, both in its unit."""
    return short_text(gain, task.has_classes, "+")


def score_report(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    folds: np.ndarray | None = None,
    n_boot: int = N_BOOT,
    seed: int = 0,
    operating: Operating | None = None,
) -> dict[str, Any]:
    """Returns all metrics of out-of-fold predictions as JSON values, overall and for each fold.

    `folds` is int (N,); rows of a negative fold were not predicted and are left out. An undefined metric (such as the
    ROC-AUC of a label without positives) is null; a mean over labels is over the defined ones and has their number.
    Figures without an influence function are bootstrapped: `n_boot` draws with multinomial weights, fixed by `seed`.
    `operating` says how the threshold of a binary prediction is chosen. Raises the errors of `official_score`, and
    UserError for a regression of a single row, whose interval nothing can be fitted on.

    Every section has `rows` and `score`, the task's own score whatever Task.metric is. Those of a multilabel task are
    described at _multilabel; those of other kinds have `scores`, each figure that runs can be ordered by, and
    `figures`, all figures by name, see _binary, _regression and _multiclass.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions, dtype=np.float64)
    folds = np.zeros(len(labels), dtype=int) if (undivided := folds is None) else np.asarray(folds)
    used, operating = folds >= 0, operating or Operating()
    _score(task, labels[used], predictions[used])  # raises its errors before the long computation
    settings = {"eps": EPS, "threshold": THRESHOLD, "bins": CALIBRATION_BINS, "n_boot": n_boot, "seed": seed}
    if task.kind != "multilabel":
        settings = {"eps": EPS, "bins": CALIBRATION_BINS, "top_share": TOP_SHARE, "n_boot": n_boot, "seed": seed}
        settings |= {"operating": operating.model_dump()} if task.kind == "binary" else {}
    section = {"multilabel": _multilabel, "binary": _binary, "regression": _regression, "multiclass": _multiclass}
    whole = _Whole(task, labels[used], predictions[used], folds[used], operating)
    parts = {"overall": np.full(len(whole.labels), True)}
    parts |= {str(fold): whole.folds == fold for fold in np.unique(whole.folds) if not undivided}
    sections = {name: section[task.kind](whole, rows, n_boot, seed) for name, rows in parts.items()}
    return {"task": task.name, "settings": settings, "overall": sections.pop("overall"), "folds": sections}


TABLES: dict[str, dict[str, str]] = {
    "multilabel": {
        "exact_match": "exact",
        "calibration_error": "ECE",
        "macro.roc_auc": "ROC-AUC",
        "macro.pr_auc": "PR-AUC",
        "macro.sensitivity": "sens.",
        "macro.specificity": "spec.",
    },
    "binary": {
        "figures.roc_auc": "AUROC",
        "figures.pr_auc": "AUPRC",
        "figures.min_se_p": "min(Se,+P)",
        "figures.sensitivity": "sens.",
        "figures.specificity": "spec.",
        "figures.calibration_error": "ECE",
    },
    "regression": {
        "figures.mae": "MAE",
        "figures.gain_over_median": "over median",
        "figures.rmse": "RMSE",
        "figures.r2_log": "R² log",
        "figures.coverage_80": "in 80%",
    },
    "multiclass": {
        "figures.accuracy": "accuracy",
        "figures.log_loss": "log loss",
        "figures.roc_auc": "AUROC",
        "figures.calibration_error": "ECE",
    },
}
"""Figures of a section that tables show beside the score, by kind of task: place in the section, and heading."""


def table_figures(task: Task, section: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Returns the figures of TABLES, value and standard error of each, by heading."""
    found = {}
    for place, heading in TABLES[task.kind].items():
        part: Any = section
        for key in place.split("."):
            part = part[key]
        found[heading] = part
    return found


def ordering_figure(task: Task, section: dict[str, Any]) -> dict[str, float | None]:
    """Returns value and standard error of the figure of a score_report's section that runs are ordered by."""
    return section["scores"][task.metric] if task.metric else section["score"]


class Judged:
    """Labels and predictions (N, L) that a figure is computed of, with sample weights (N,)."""

    def __init__(
        self,
        task: Task,
        labels: np.ndarray,
        predictions: np.ndarray,
        weights: np.ndarray | None = None,
        reports: np.ndarray | None = None,
        folds: np.ndarray | None = None,
        draws: np.ndarray | None = None,
    ):
        """Raises ValueError like Task.cells. `draws` (N, D) of the bootstrap are made if they are not given."""
        self.cells = task.cells(labels, predictions)
        self.labels, self.predictions = np.asarray(labels), np.asarray(predictions, dtype=np.float64)
        self.weights = np.ones(len(self.labels)) if weights is None else np.asarray(weights, dtype=np.float64)
        self.reports, self.folds, self._draws = reports, folds, draws

    @property
    def draws(self) -> np.ndarray:
        if self._draws is None:
            self._draws = make_draws(len(self.labels), N_BOOT, 0, self.reports)
        return self._draws

    def over_reports(self, figure: Figure) -> Figure:
        return by_report(figure, self.reports)


def _min_se_p(judged: Judged) -> Figure:
    y, p, weights = judged.labels[:, 0], judged.predictions[:, 0], judged.weights
    folds = operating_points.dealt(len(y), judged.folds, judged.reports)
    thresholds = operating_points.cross_fitted(operating_points.best_min_se_p, y, p, folds, weights)
    return min_se_p(y, p >= thresholds, judged.draws, weights)


def _rmse(judged: Judged) -> Figure:
    squares = judged.weights * judged.cells[:, 0] ** 2
    return -root(judged.over_reports(ratio(squares, judged.weights)))


def _r2_log(judged: Judged) -> Figure:
    """Share of the variance of log1p(labels) that log1p(predictions) explain."""
    truth, guess = (np.log1p(array[:, 0].astype(np.float64)) for array in (judged.labels, judged.predictions))
    centred = truth - np.average(truth, weights=judged.weights)
    figure = -judged.over_reports(ratio(judged.weights * (truth - guess) ** 2, judged.weights * centred**2))
    figure[0] += 1
    return figure


def _accuracy(judged: Judged) -> Figure:
    right = judged.predictions.argmax(axis=1) == judged.labels.argmax(axis=1)
    return judged.over_reports(ratio(judged.weights * right, judged.weights))


SCORES: dict[str, Callable[[Judged], Figure]] = {
    "roc_auc": lambda judged: judged.over_reports(
        roc_auc(judged.labels[:, 0], judged.predictions[:, 0], judged.weights)
    ),
    "pr_auc": lambda judged: average_precision(
        judged.labels[:, 0],
        judged.predictions[:, 0],
        np.full(len(judged.labels), True),
        judged.draws,
        judged.weights,
    ),
    "min_se_p": _min_se_p,
    "rmse": _rmse,
    "r2_log": _r2_log,
    "accuracy": _accuracy,
}
"""Figures that runs can be ordered by, besides each task's own score; the higher the better. The threshold of min_se_p
is chosen on other folds."""


def _ordering(task: Task, judged: Judged) -> Figure:
    """Figure that runs of the task are ordered by. Raises UserError if it is not defined."""
    if not task.metric:
        return judged.over_reports(_task_score(task, judged)[0])
    figure = SCORES[task.metric](judged)
    if not np.isfinite(figure[0]):
        raise UserError(
            _("{name}: {score} of {n} {noun} is not defined, because all have one label. Set another metric.").format(
                name=task.name, score=SCORE_NAMES[task.metric], n=len(judged.labels), noun=word(task.noun)
            )
        )
    return figure


def score_sums(task: Task, labels: np.ndarray, predictions: np.ndarray) -> list[list[float]]:
    """Returns what a part of the rows, labels and predictions (N, L), contributes to the official score of all rows, to
    be added to that of other parts: sums and products of the 2G + 1 columns 1, each group's loss, and which rows count
    in it. Raises ValueError like Task.cells."""
    cells, columns = task.cells(labels, predictions), [np.ones(len(labels))]
    for _group, part, counted in task.parts(labels):
        columns += [cells[:, part].mean(axis=1) * counted, counted.astype(np.float64)]
    terms = np.stack(columns)
    return (terms @ terms.T).tolist()


def score_of_sums(task: Task, sums: np.ndarray) -> Estimate:
    """Returns official_score() of all rows of a multilabel task from the added score_sums() (2G + 1, 2G + 1) of their
    parts. Raises UserError if no row counts for a group."""
    n, losses, influence = sums[0, 0], {}, np.zeros(len(sums))
    for number, group in enumerate(task.groups):
        loss, counted = 1 + 2 * number, 2 + 2 * number
        if not sums[0, counted]:
            raise _nothing_counts(task, group, int(n))
        losses[group.name] = sums[0, loss] / sums[0, counted]
        share = group.weight * group.loss_scale * n / sums[0, counted]
        influence[[loss, counted]] -= share, -share * losses[group.name]
    variance = influence @ sums @ influence / ((n * (n - 1)) or math.nan)
    return Estimate(float(task.score(losses)), math.sqrt(max(0.0, variance)) if variance == variance else math.nan)


def _nothing_counts(task: Task, group: LabelGroup, n: int) -> UserError:
    return UserError(
        _(
            "{name}: none of {n} {noun} counts in the score of the {group}, because none "
            "has a positive label among the {counted_given}"
        ).format(name=task.name, n=n, noun=word(task.noun), group=group.name, counted_given=group.counted_given)
    )


def _score(task: Task, labels: np.ndarray, predictions: np.ndarray, strict: bool = True) -> tuple[Figure, list]:
    return _task_score(task, Judged(task, labels, predictions), strict)


def _task_score(task: Task, judged: Judged, strict: bool = True) -> tuple[Figure, list]:
    """Returns the score and each group's mean loss, before noise is summed over reports.

    If no row counts for a group, raises UserError, or returns NaN if not `strict`.
    """
    cells, labels, weights = judged.cells, judged.labels, judged.weights
    if cells.shape[1] != task.n_labels:
        raise ValueError(f"{task.name} has {task.n_labels} labels, not {cells.shape[1]}")
    losses = []
    for group in task.groups:
        counted = task.counted(group, labels) * weights
        if strict and not counted.any():
            raise _nothing_counts(task, group, len(labels))
        losses.append(ratio(cells[:, task.columns[group.name]].mean(axis=1) * counted, counted))
    names = [group.name for group in task.groups]
    score = task.score(dict(zip(names, losses, strict=True)))
    score[1:] -= task.score(dict.fromkeys(names, 0.0))  # noise is a change of the score, without its constant
    return score, losses


class _Whole:
    """All rows of a score_report, and what is fitted for each row on the rows of other folds, once."""

    def __init__(
        self, task: Task, labels: np.ndarray, predictions: np.ndarray, folds: np.ndarray, operating: Operating
    ):
        self.task, self.labels, self.predictions, self.folds = task, labels, predictions, folds
        parts = operating_points.dealt(len(labels), folds)
        if task.kind == "binary":
            y, p, ones = labels[:, 0], predictions[:, 0], np.ones(len(labels))
            choose = {"min_se_p": operating_points.best_min_se_p, "operating": _chooser(operating)}
            self.row_thresholds = {
                name: operating_points.cross_fitted(one, y, p, parts) for name, one in choose.items()
            }
            """Threshold of each row (N,), chosen on other folds."""
            self.thresholds = {name: one(y, p, ones) for name, one in choose.items()}
            """Thresholds for new rows, chosen on all rows."""
        if task.kind == "regression":
            if len(labels) < 2:
                raise UserError(
                    _("{name}: figures of a regression need at least 2 {noun}, not {n}").format(
                        name=task.name, noun=word(task.noun), n=len(labels)
                    )
                )
            y, p = labels[:, 0].astype(np.float64), predictions[:, 0]
            self.limits = operating_points.cross_fitted_intervals(y, p, parts)
            self.median = operating_points.cross_fitted_median(y, parts)

    def scores(self, rows: np.ndarray, draws: np.ndarray) -> tuple[dict[str, Any], dict[str, Any], Judged]:
        """Entries that sections of all kinds but multilabel begin with, and each score as a figure."""
        task, judged = self.task, Judged(self.task, self.labels[rows], self.predictions[rows], draws=draws)
        own = _task_score(task, judged, strict=False)[0]
        figures = {KINDS[task.kind].scores[0]: own}
        for name in KINDS[task.kind].scores[1:]:
            figures[name] = SCORES[name](judged) if name != "min_se_p" else self._min_se_p(rows, draws)
        scores = {name: estimate(figure).to_json() for name, figure in figures.items()}
        return {"rows": len(judged.labels), "score": estimate(own).to_json(), "scores": scores}, figures, judged

    def _min_se_p(self, rows: np.ndarray, draws: np.ndarray) -> Figure:
        flagged = self.predictions[rows, 0] >= self.row_thresholds["min_se_p"][rows]
        return min_se_p(self.labels[rows, 0], flagged, draws)


def _chooser(operating: Operating) -> operating_points.Choose:
    if operating.cost_ratio is not None:
        return operating_points.for_cost(operating.cost_ratio)
    return operating_points.for_sensitivity(operating.sensitivity)


def _binary(whole: _Whole, rows: np.ndarray, n_boot: int, seed: int) -> dict[str, Any]:
    """Returns the metrics of one set of rows of a binary task.

    sensitivity, specificity, precision and flagged (share of rows) are at the threshold that `operating` asks for,
    min_se_p at that of the largest min(sensitivity, precision); each row's threshold was chosen on other folds.
    `thresholds` are those of all rows, for new ones.
    """
    draws = make_draws(int(rows.sum()), n_boot, seed)
    section, scores, judged = whole.scores(rows, draws)
    y, p, ones = judged.labels[:, 0], judged.predictions[:, 0], np.ones(len(judged.labels))
    flagged, counted = p >= whole.row_thresholds["operating"][rows], np.full(len(y), True)
    figures = {
        "roc_auc": scores["roc_auc"],
        "pr_auc": scores["pr_auc"],
        "min_se_p": scores["min_se_p"],
        "sensitivity": ratio(flagged & (y == 1), y == 1),
        "specificity": ratio(~flagged & (y == 0), y == 0),
        "precision": ratio(flagged & (y == 1), flagged),
        "flagged": ratio(flagged, ones),
        "log_loss": ratio(judged.cells[:, 0], ones),
        "brier": ratio((p - y) ** 2, ones),
        "calibration_error": calibration_error(y, p, counted, draws),
        "positive_rate": ratio(y == 1, ones),
        "mean_prediction": ratio(p, ones),
        "excess": ratio(p - y, ones),
        "lift": lift(y, p, draws),
    }
    return {
        **section,
        "positives": int(y.sum()),
        "figures": {name: estimate(figure).to_json() for name, figure in figures.items()},
        "thresholds": whole.thresholds,
        "calibration_curve": calibration_curve(y, p),
    }


def _regression(whole: _Whole, rows: np.ndarray, n_boot: int, seed: int) -> dict[str, Any]:
    """Returns the metrics of one set of rows of a regression.

    The median of the other folds' labels is what mae_of_median is of; gain_over_median has the paired standard error.
    coverage_S and width_S are of intervals that should cover S percent of the rows; they add quantiles of the other
    folds' residuals, in log1p, to the prediction (operating_points.Intervals). `intervals` are those of all rows, for
    new ones.
    `calibration` has the coverages, and the mean prediction and label, of PREDICTION_PARTS equal parts of the rows by
    their predictions.
    """
    section, scores, judged = whole.scores(rows, make_draws(int(rows.sum()), n_boot, seed))
    y, p, ones = judged.labels[:, 0].astype(np.float64), judged.predictions[:, 0], np.ones(len(judged.labels))
    mae, of_median = ratio(judged.cells[:, 0], ones), ratio(np.abs(whole.median[rows] - y), ones)
    figures = {
        "mae": mae,
        "mae_of_median": of_median,
        "gain_over_median": of_median - mae,
        "rmse": -scores["rmse"],
        "r2_log": scores["r2_log"],
        "bias": ratio(p - y, ones),
    }
    for share, limits in whole.limits.items():
        low, high = (side[rows] for side in limits)
        figures[f"coverage_{share:.0%}".rstrip("%")] = ratio((low <= y) & (y <= high), ones)
        figures[f"width_{share:.0%}".rstrip("%")] = ratio(high - low, ones)
    limits = np.quantile(p, np.arange(1, PREDICTION_PARTS) / PREDICTION_PARTS)
    part, calibration = np.searchsorted(limits, p, side="right"), []
    for k in np.unique(part):
        inside = part == k
        covered = {
            f"{share:.0%}".rstrip("%"): ratio(((low[rows] <= y) & (y <= high[rows]))[inside], ones[inside])
            for share, (low, high) in whole.limits.items()
        }
        calibration.append(
            {
                "low": float(p[inside].min()),
                "high": float(p[inside].max()),
                "rows": int(inside.sum()),
                "predicted": float(p[inside].mean()),
                "observed": estimate(ratio(y[inside], ones[inside])).to_json(),
                "coverage": {name: estimate(figure).to_json() for name, figure in covered.items()},
            }
        )
    intervals = operating_points.Intervals.fit(whole.labels[:, 0].astype(np.float64), whole.predictions[:, 0])
    return {
        **section,
        "figures": {name: estimate(figure).to_json() for name, figure in figures.items()},
        "calibration": calibration,
        "intervals": intervals.to_json(),
    }


def _multiclass(whole: _Whole, rows: np.ndarray, n_boot: int, seed: int) -> dict[str, Any]:
    """Returns the metrics of one set of rows of a task of C classes.

    roc_auc is the mean over classes of each against the others; calibration_error is of the most likely class.
    `confusion` (C x C) counts rows by true class and most likely class; `labels` has the figures of each class.
    """
    draws = make_draws(int(rows.sum()), n_boot, seed)
    section, scores, judged = whole.scores(rows, draws)
    labels, p, ones = judged.labels, judged.predictions, np.ones(len(judged.labels))
    truth, guess, counted = labels.argmax(axis=1), p.argmax(axis=1), np.full(len(labels), True)
    areas = [roc_auc(labels[:, k], p[:, k], ones) for k in range(labels.shape[1])]
    area = macro(areas)
    area.pop("labels")
    figures = {
        "accuracy": scores["accuracy"],
        "log_loss": ratio(judged.cells.mean(axis=1), ones),
        "brier": ratio(((p - labels) ** 2).sum(axis=1), ones),
        "calibration_error": calibration_error((truth == guess).astype(np.float64), p.max(axis=1), counted, draws),
    }
    classes = {}
    for k, name in enumerate(whole.task.label_names):
        of_class = {
            "recall": ratio((truth == k) & (guess == k), truth == k),
            "precision": ratio((truth == k) & (guess == k), guess == k),
            "log_loss": ratio(judged.cells.mean(axis=1) * (truth == k), truth == k),
            "roc_auc": areas[k],
        }
        classes[name] = {"positives": int((truth == k).sum()), "predicted": int((guess == k).sum())}
        classes[name] |= {name: estimate(figure).to_json() for name, figure in of_class.items()}
    confusion = np.zeros((labels.shape[1],) * 2, dtype=int)
    np.add.at(confusion, (truth, guess), 1)
    return {
        **section,
        "figures": {name: estimate(figure).to_json() for name, figure in figures.items()} | {"roc_auc": area},
        "confusion": confusion.tolist(),
        "labels": classes,
        "calibration_curve": calibration_curve((truth == guess).astype(np.float64), p.max(axis=1)),
    }


def _multilabel(whole: _Whole, rows: np.ndarray, n_boot: int, seed: int) -> dict[str, Any]:
    """Returns the metrics of one set of reports of a multilabel task.

    A label's metrics use the reports that count for its group (`rows`): for round 2's types, reports that truly have an
    abnormal region; `macro` is the mean over the defined labels. `exact_match` is the share of reports with all counted
    cells right; `calibration_error` pools all counted cells; `mlogloss` averages the groups by their weights.
    Calibration errors and `pr_auc` are bootstrapped.
    """
    task, labels, probabilities = whole.task, whole.labels[rows], whole.predictions[rows]
    n = len(labels)
    draws = make_draws(n, n_boot, seed)
    counted = {group.name: task.counted(group, labels) for group in task.groups}
    cells = task.counted_cells(labels)
    right = ((probabilities >= THRESHOLD) == labels) | ~cells
    score, losses = _score(task, labels, probabilities, strict=False)
    section: dict[str, Any] = {
        "rows": n,
        "score": estimate(score).to_json(),
        "mlogloss": estimate(sum(g.weight * loss for g, loss in zip(task.groups, losses, strict=True))).to_json(),
        "exact_match": estimate(ratio(right.all(axis=1), np.ones(n))).to_json(),
        "calibration_error": estimate(calibration_error(labels, probabilities, cells, draws)).to_json(),
        "macro": {},  # filled below, like `labels` and the groups' macro
        "groups": {
            group.name: {
                "rows": int(counted[group.name].sum()),
                "rows_used": f"with a positive label among the {group.counted_given}" if group.counted_given else "all",
                "mlogloss": estimate(loss).to_json(),
                "macro": {},
            }
            for group, loss in zip(task.groups, losses, strict=True)
        },
        "labels": {
            name: {"rows": int(cells[:, k].sum()), "positives": int(labels[cells[:, k], k].sum())}
            for k, name in enumerate(task.label_names)
        },
    }
    for name in task.metrics:  # one metric at a time: each holds (L, N) floats
        figures = [FIGURES[name](labels[:, k], probabilities[:, k], cells[:, k], draws) for k in range(task.n_labels)]
        for label, figure in zip(section["labels"].values(), figures, strict=True):
            label[name] = estimate(figure).to_json()
        section["macro"][name] = macro(figures)
        for group, columns in task.columns.items():
            section["groups"][group]["macro"][name] = macro(figures[columns])
    return section
