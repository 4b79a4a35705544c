"""How good the runs are: the ladder, the validations, label by label, and how far probabilities can be believed."""

from __future__ import annotations

import numpy as np

from src import artifacts, charts, metrics
from src.page import Chart, Section, Table
from src.sections import Findings
from src.shifted import VALIDATIONS, validation

BINS = 12
FITTED = 5000
"""Rows that a temperature is fitted on."""
CURVES = 6
"""Labels whose curves are drawn, those with the largest share of the loss."""


def section(findings: Findings) -> Section:
    found = Section("Scores")
    if not findings.runs:
        return found
    baselines = {
        path.parent.name: artifacts.read_json(path) for path in findings.prepared.output.baselines.glob("*/score.json")
    }
    now = findings.runs[list(findings.runs)[-1]].score["folds_table"]
    scores = {name: score for name, score in baselines.items() if score.get("folds_table") == now}
    scores |= {name: run.score for name, run in findings.runs.items()}
    found.parts += _ladder(scores)
    found.parts += validations(findings)
    best = findings.best
    if best is not None:
        found.parts += _labels(findings, best)
        found.parts += _curves(findings, best)
        found.parts += _reliability(findings, best)
    return found


def _ladder(scores: dict) -> list:
    ordered = sorted(scores, key=lambda name: scores[name]["overall"]["score"]["value"])
    values = [scores[name]["overall"]["score"] for name in ordered]
    floor = min([0.7, *(v["value"] for v in values if v["value"] > 0.5)]) - 0.02
    with charts.picture("Scores out of fold with their standard errors", 0.6 + 0.26 * len(ordered)) as drawn:
        places = np.arange(len(ordered))
        drawn.axes.barh(places, [max(v["value"], floor) for v in values], color=charts.COLOURS[0], height=0.65)
        drawn.axes.set_yticks(places, ordered)
        drawn.axes.set_xlim(floor, 1.0)
        for place, value in zip(places, values, strict=True):
            drawn.axes.text(max(value["value"], floor) + 0.003, place, f"{value['value']:.4f}", va="center", fontsize=8)
        drawn.axes.grid(visible=False, axis="y")
        drawn.axes.set_title("Official score out of fold, on the reports as they are")
    rows = []
    for name in reversed(ordered):
        overall = scores[name]["overall"]
        cells = [overall["score"], overall["exact_match"], overall["calibration_error"]]
        macro = [overall["macro"][key] for key in ("roc_auc", "pr_auc")]
        rows.append([name, *(_with_error(cell) for cell in cells), *(_figure(cell["value"]) for cell in macro)])
    columns = ["run", "score", "all labels right", "calibration error", "ROC-AUC", "PR-AUC"]
    return [Chart(drawn.svg, "zeros, prior, random and tfidf are the ladder."), Table(columns, rows)]


def validations(findings: Findings) -> list[Table]:
    """The runs under each validation for the target, and what they are expected to score there."""
    if findings.shift is None or not findings.shift.tests:
        return []
    target, rows = findings.shift.target(findings.config.target), []
    for name, run in reversed(findings.runs.items()):
        if target.name in (boards := run.boards()):
            board = boards[target.name]
            expected = board["expected"]
            cells = [_with_error(board["validations"][key]) for key in VALIDATIONS]
            rows.append([name, *cells, f"{expected['value']:.3f} ({expected['low']:.3f} to {expected['high']:.3f})"])
    if not rows:
        return []
    told = f"By validation, for {target.name}; choices go by {findings.config.select_on}"
    return [Table(["run", *VALIDATIONS, "expected online"], rows, told)]


def _labels(findings: Findings, best) -> list:
    labels = best.score["overall"]["labels"]
    total = sum(label["log_loss"]["value"] or 0.0 for label in labels.values())
    rows = [
        [
            name,
            f"{label['positives']:,}",
            _figure(label["positive_rate"]["value"]),
            _with_error(label["log_loss"]),
            f"{(label['log_loss']['value'] or 0.0) / max(total, 1e-12):.0%}",
            *(_figure(label[key]["value"]) for key in ("roc_auc", "pr_auc", "sensitivity", "specificity")),
        ]
        for name, label in labels.items()
    ]
    columns = [
        "label",
        "positives",
        "rate",
        "log loss",
        "share of loss",
        "ROC-AUC",
        "PR-AUC",
        "sensitivity",
        "specificity",
    ]
    return [Table(columns, rows, f"{best.name}, label by label, out of fold")]


def _scored(findings: Findings, best) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits of the scored rows."""
    rows = findings.folds.scored
    return np.asarray(findings.prepared.train.labels)[rows], best.oof()[rows].astype(np.float64)


def _curves(findings: Findings, best) -> list:
    from sklearn.metrics import precision_recall_curve, roc_curve

    labels, logits = _scored(findings, best)
    losses = metrics.log_loss_cells(labels, metrics.sigmoid(logits)).mean(axis=0)
    worst = [k for k in np.argsort(-losses) if 0 < labels[:, k].sum() < len(labels)][:CURVES]
    with charts.picture("ROC and precision-recall curves", 3.2, columns=2) as drawn:
        for i, k in enumerate(worst):
            name, colour = findings.prepared.task.label_names[k], charts.COLOURS[i]
            false, true, _ = roc_curve(labels[:, k], logits[:, k])
            precision, recall, _ = precision_recall_curve(labels[:, k], logits[:, k])
            for axes, x, y in ((drawn.axes[0], false, true), (drawn.axes[1], recall, precision)):
                kept = np.unique(np.linspace(0, len(x) - 1, 200).astype(int))
                axes.plot(x[kept], y[kept], color=colour, label=name, linewidth=1.2)
        for axes, title, x, y in (
            (drawn.axes[0], "ROC", "false positive rate", "true positive rate"),
            (drawn.axes[1], "Precision and recall", "recall", "precision"),
        ):
            axes.set_title(title)
            axes.set_xlabel(x)
            axes.set_ylabel(y)
        drawn.axes[0].legend(fontsize=7)
    return [Chart(drawn.svg, f"{best.name}, the {len(worst)} labels that cost most, out of fold.")]


def _reliability(findings: Findings, best) -> list:
    """On reports as they are and on those of select_on; a temperature fitted on four fifths is shown on the rest."""
    kinds = {"as they are": _scored(findings, best)}
    weights = {"as they are": None}
    reports = {"as they are": np.arange(int(findings.folds.scored.sum()))}
    if findings.shift is not None and findings.shift.tests and findings.config.select_on != "clean":
        target = findings.shift.target(findings.config.target)
        rows = validation(findings.config.select_on, findings.shift.rows, target, findings.folds).only(
            findings.folds.scored
        )
        all_labels = np.asarray(findings.prepared.train.labels)
        kinds[findings.config.select_on] = (all_labels[rows.rows], rows.logits(best.oof(), best.copies(target.name)))
        weights[findings.config.select_on], reports[findings.config.select_on] = rows.weights, rows.rows
    said = []
    with charts.picture("Reliability diagrams", 3.2, columns=len(kinds), squeeze=False) as drawn:
        for axes, (name, (labels, logits)) in zip(drawn.axes[0], kinds.items(), strict=True):
            temperatures = _temperatures(labels, logits, weights[name], reports[name])
            cooled = logits / temperatures[:, None]
            for colour, (which, seen) in enumerate((("as predicted", logits), ("with a temperature", cooled))):
                x, y = _reliable(labels, metrics.sigmoid(seen), weights[name])
                axes.plot(x, y, "o-", markersize=3, linewidth=1, color=charts.COLOURS[colour], label=which)
            axes.plot([0, 1], [0, 1], color=charts.FAINT, linewidth=0.8)
            axes.set_title(f"Train reports {name}")
            axes.set_xlabel("predicted")
            axes.set_ylabel("observed")
            said.append(f"{name}: {temperatures.mean():.2f}")
        drawn.axes[0, 0].legend(fontsize=8)
    caption = (
        f"{best.name}: of the labels given a probability, the share that is there. Temperatures, cross-fitted: "
        f"{'; '.join(said)}; above 1 it is too sure."
    )
    return [Chart(drawn.svg, caption)]


def _temperatures(
    labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None, reports: np.ndarray
) -> np.ndarray:
    """(N,) the temperature fitted on reports of the four fifths that a row's is not in."""
    from scipy.optimize import minimize_scalar

    rng = np.random.default_rng(0)
    deal = (rng.permutation(reports.max() + 1) % 5)[reports]
    found = np.empty(len(labels))

    def loss(log_temperature: float, rows: np.ndarray) -> float:
        cells = metrics.log_loss_cells(labels[rows], metrics.sigmoid(logits[rows] / np.exp(log_temperature)))
        return float(np.average(cells.mean(axis=1), weights=None if weights is None else weights[rows]))

    for part in range(5):
        others = rng.permutation(np.flatnonzero(deal != part))[:FITTED]
        found[deal == part] = np.exp(minimize_scalar(loss, bounds=(-1, 1.5), args=(others,), method="bounded").x)
    return found


def _reliable(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean prediction and observed share in bins of equal width."""
    weigh = np.ones(len(labels)) if weights is None else weights
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1).ravel()
    weigh = np.repeat(weigh, labels.shape[1])
    total = np.bincount(bins, weigh, BINS)
    kept = total > 0
    sums = [np.bincount(bins, weigh * cells.ravel(), BINS)[kept] / total[kept] for cells in (probabilities, labels)]
    return sums[0], sums[1]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _with_error(figure: dict) -> str:
    if figure["value"] is None:
        return "–"
    error = figure.get("standard_error")
    return _figure(figure["value"]) + ("" if error is None else f" ± {error:.4f}")
