"""Report section on scores: baselines and runs, validations, labels, and calibration."""

from __future__ import annotations

import numpy as np

from src.core import charts, storage
from src.data.tasks import Task
from src.evaluation import metrics, runs
from src.evaluation.figures import number_text
from src.evaluation.runs import RunFolder
from src.evaluation.validation_sets import VALIDATIONS, validation
from src.reporting.html_page import Chart, Section, Table
from src.reporting.sections import Findings

INTERVAL = 1.96
"""Standard errors on each side of a 95% interval."""
PERFECT = 1e-6
"""Smallest loss on the logarithmic scale."""
ROOM = 0.15
"""Share of the chart's width for the number beside the best score."""
BINS = 12
"""Bins of a reliability diagram."""
FITTED = 5000
"""Maximum number of rows to fit a temperature on."""
CURVES = 5
"""Number of labels with coloured curves, those with the largest share of the loss."""


def section(findings: Findings) -> Section:
    result = Section("Scores")
    if not findings.runs:
        return result
    baselines = {
        path.parent.name: storage.read_json(path, "baselines")
        for path in findings.dataset.output.baselines.glob("*/score.json")
    }
    current = findings.runs[list(findings.runs)[-1]].score["folds_table"]
    scores = {name: score for name, score in baselines.items() if score.get("folds_table") == current}
    scores |= {name: run.score for name, run in findings.runs.items()}
    result.parts += _all_scores(findings, scores)
    result.parts += validations(findings)
    best = findings.best
    task = findings.workspace.task
    if best is not None and task.kind == "multilabel":
        result.parts += _labels(findings, best)
    if best is not None and task.has_classes:
        result.parts += _curves(findings, best)
        result.parts += _reliability(findings, best)
    if best is not None and task.kind == "multiclass":
        result.parts += _confusion(task, best)
    if best is not None and task.kind == "regression":
        result.parts += _intervals(task, best)
    return result


def _all_scores(findings: Findings, scores: dict) -> list:
    task, metric = findings.workspace.task, findings.config.metric
    ordered = runs.ordered(scores, metric)
    values = [runs.figure_of(scores[name], metric) for name in ordered]
    is_log = task.has_classes  # in the loss 1 - score; an error in days has no best score of 1
    with charts.picture("Scores out of fold with their 95% intervals", 0.7 + 0.3 * len(ordered)) as chart:
        for place, (name, score) in enumerate(zip(ordered, values, strict=True)):
            lost = max(1 - score["value"], PERFECT) if is_log else score["value"]
            colour = charts.COLOURS[0 if name in findings.runs else 5]
            spread = INTERVAL * (score["standard_error"] or 0.0)
            chart.axes.errorbar(lost, place, xerr=spread, fmt="o", markersize=4, color=colour, ecolor=charts.INK)
            at, beside = (lost, place), {"textcoords": "offset points", "xytext": (0, 4), "ha": "center"}
            chart.axes.annotate(f"{score['value']:.4f}", at, fontsize=8, **beside)
        if is_log:
            charts.plain_log(chart.axes.xaxis, lambda lost: 1 - lost)
        low, high = chart.axes.get_xlim()
        chart.axes.set_xlim(*((high, low * (low / high) ** ROOM) if is_log else (low, high + (high - low) * ROOM)))
        chart.axes.set_yticks(range(len(ordered)), ordered)
        chart.axes.set_ylim(-0.6, len(ordered) - 0.4)
        named = "Official score" if task.kind == "multilabel" else task.score_name
        chart.axes.set_title(f"{named} out of fold, with 95% intervals")
    caption = f"On plain {task.noun}; baselines are grey."
    if is_log:
        caption += " The axis is logarithmic in the loss (1 - score)."
    rows = []
    for name in reversed(ordered):
        overall = scores[name]["overall"]
        if task.kind != "multilabel":
            figures = metrics.table_figures(task, overall)
            columns = ["run", task.score_name, *figures]
            cells = [runs.figure_of(scores[name], metric), *figures.values()]
            rows.append([name, *(_with_error(cell) for cell in cells)])
            continue
        cells = [overall["score"], overall["exact_match"], overall["calibration_error"]]
        macro = [overall["macro"][key] for key in ("roc_auc", "pr_auc")]
        rows.append([name, *(_with_error(cell) for cell in cells), *(_figure(cell["value"]) for cell in macro)])
        columns = ["run", "score", "exact match", "calibration error", "ROC-AUC", "PR-AUC"]
    broken = [f"; run {name} {fault}" for name in ordered if (fault := scores[name].get("fault"))]
    return [Chart(chart.svg, caption), Table(columns, rows, f"Out of fold, ± one standard error{''.join(broken)}")]


def validations(findings: Findings) -> list[Table]:
    """Returns the scores of the runs under each validation for the target, and the expected scores."""
    if findings.shift is None or not findings.shift.tests:
        return []
    target, rows = findings.shift.target(findings.config.target), []
    for name, run in reversed(findings.runs.items()):
        if target.name in (boards := run.boards()):
            board = boards[target.name]
            expected = board["expected"]
            between = " to ".join(number_text(expected[end], ".3f") for end in ("low", "high"))
            cells = [_with_error(board["validations"][key]) for key in VALIDATIONS]
            rows.append([name, *cells, f"{expected['value']:.3f} ({between})"])
    if not rows:
        return []
    caption = f"Validation scores for {target.name}; models are selected on {findings.config.select_on}"
    return [Table(["run", *VALIDATIONS, "expected online"], rows, caption)]


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
    return [Table(columns, rows, f"{best.name} by label, out of fold")]


def _scored(findings: Findings, best) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and logits of the scored rows, (n, L) each."""
    rows = findings.folds.scored
    return np.asarray(findings.dataset.train.labels)[rows], best.oof()[rows].astype(np.float64)


def _confusion(task: Task, best: RunFolder) -> list:
    counts = np.array(best.score["overall"]["confusion"], dtype=float)
    names = [name.removeprefix("class_") for name in task.label_names]
    with charts.picture("Confusion of classes", 0.8 + 0.28 * len(names), charts.PANEL) as chart:
        charts.shades(chart.axes, counts, names, counts.max(), task.noun)
        chart.axes.set_xticks(range(len(names)), names)
        chart.axes.set_xlabel("predicted class")
        chart.axes.set_ylabel("true class")
        chart.axes.set_title("Confusion, out of fold")
    wrong = int(counts.sum() - np.trace(counts))
    off = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    most = np.unravel_index(off.argmax(), off.shape)
    caption = f"{best.name}: {wrong:,} of {counts.sum():,.0f} {task.noun} are wrong"
    if wrong:
        caption += f", most often class {names[most[0]]} taken for {names[most[1]]} ({off.max():.0f})"
    return [Chart(chart.svg, f"{caption}.")]


def _intervals(task: Task, best: RunFolder) -> list:
    """Calibration of a regression: what was observed, and the coverage of intervals, by fifth of the prediction."""
    parts = best.score["overall"]["calibration"]
    predicted = [part["predicted"] for part in parts]
    with charts.picture("Observed by predicted", 3.0, charts.PANEL) as observed:
        means = [part["observed"]["value"] for part in parts]
        spread = [INTERVAL * (part["observed"]["standard_error"] or 0.0) for part in parts]
        observed.axes.errorbar(predicted, means, yerr=spread, fmt="o", markersize=4, color=charts.COLOURS[0])
        ends = [min(predicted + means), max(predicted + means)]
        observed.axes.plot(ends, ends, color=charts.FAINT, linewidth=0.8)
        observed.axes.set_title("Observed by predicted")
        observed.axes.set_xlabel(f"predicted {task.unit}, mean of a fifth")
        observed.axes.set_ylabel(f"observed {task.unit}, mean")
    with charts.picture("Coverage of intervals", 3.0, charts.PANEL) as coverage:
        for colour, level in enumerate(("50", "80", "90")):
            shares = [part["coverage"][level]["value"] for part in parts]
            coverage.axes.plot(predicted, shares, "o-", markersize=3, color=charts.COLOURS[colour], label=f"{level}%")
            coverage.axes.axhline(int(level) / 100, color=charts.FAINT, linewidth=0.8)
        coverage.axes.set_ylim(0, 1)
        coverage.axes.set_title("Coverage of intervals")
        coverage.axes.set_xlabel(f"predicted {task.unit}, mean of a fifth")
        coverage.axes.set_ylabel("share inside")
        coverage.axes.legend()
    caption = (
        f"{best.name}, out of fold, with 95% intervals. A prediction is near the median of {task.noun} like this one, "
        "and the mean lies above the median where some stay very long. Intervals are fitted on the other folds."
    )
    return [Chart([observed.svg, coverage.svg], caption)]


def _curves(findings: Findings, best) -> list:
    from sklearn.metrics import precision_recall_curve, roc_curve

    labels, logits = _scored(findings, best)
    losses = metrics.log_loss_cells(labels, findings.dataset.task.decode(logits)).mean(axis=0)
    ranked = [k for k in np.argsort(-losses) if 0 < labels[:, k].sum() < len(labels)]
    curves = {}
    for k in ranked:
        false, true, _ = roc_curve(labels[:, k], logits[:, k])
        precision, recall, _ = precision_recall_curve(labels[:, k], logits[:, k])
        curves[k] = ((false, true), (recall, precision))
    least = 1 / len(labels)
    pictures = []
    for place, (title, x_name, y_name) in enumerate(
        [("ROC", "false positive rate", "true positive rate"), ("Precision and recall", "recall", "precision")]
    ):
        with charts.picture(f"{title} of each label", 3.0, charts.PANEL) as chart:
            for rank, k in reversed(list(enumerate(ranked))):
                x, y = curves[k][place]
                kept = np.unique(np.linspace(0, len(x) - 1, 200).astype(int))
                coloured = rank < CURVES
                chart.axes.plot(
                    np.maximum(x[kept], least) if place == 0 else x[kept],
                    y[kept],
                    color=charts.COLOURS[rank] if coloured else charts.FAINT,
                    label=findings.dataset.task.label_names[k] if coloured else None,
                    linewidth=1.3 if coloured else 0.6,
                )
            if place == 0:
                charts.plain_log(chart.axes.xaxis)
            chart.axes.set_title(title)
            chart.axes.set_xlabel(x_name)
            chart.axes.set_ylabel(y_name)
            chart.axes.legend(reverse=True)
        pictures.append(chart.svg)
    costly = min(CURVES, len(ranked))
    caption = f"{best.name}, out of fold"
    if len(ranked) > 1:
        caption += f"; the {costly} labels with the largest loss are coloured"
    return [Chart(pictures, f"{caption}.")]


def _reliability(findings: Findings, best) -> list:
    """Returns reliability diagrams on plain reports and on those of select_on, with a cross-fitted temperature."""
    kinds = {"plain": _scored(findings, best)}
    weights = {"plain": None}
    reports = {"plain": np.arange(int(findings.folds.scored.sum()))}
    if findings.shift is not None and findings.shift.tests and findings.config.select_on != "clean":
        target = findings.shift.target(findings.config.target)
        rows = validation(findings.config.select_on, findings.shift.rows, target, findings.folds).only(
            findings.folds.scored
        )
        all_labels = np.asarray(findings.dataset.train.labels)
        kinds[findings.config.select_on] = (all_labels[rows.rows], rows.logits(best.oof(), best.copies(target.name)))
        weights[findings.config.select_on], reports[findings.config.select_on] = rows.weights, rows.rows
    noun, fitted, pictures = findings.workspace.task.noun, [], []
    for name, (labels, logits) in kinds.items():
        temperatures = _temperatures(findings.workspace.task, labels, logits, weights[name], reports[name])
        cooled = logits / temperatures[:, None]
        with charts.picture(f"Reliability on {name} train {noun}", 3.0, charts.PANEL) as chart:
            for colour, (which, values) in enumerate((("as predicted", logits), ("with a temperature", cooled))):
                x, y = _reliable(labels, findings.dataset.task.decode(values), weights[name])
                chart.axes.plot(x, y, "o-", markersize=3, linewidth=1, color=charts.COLOURS[colour], label=which)
            chart.axes.plot([0, 1], [0, 1], color=charts.FAINT, linewidth=0.8)
            chart.axes.set_title(f"Reliability, {name} train {noun}")
            chart.axes.set_xlabel("predicted")
            chart.axes.set_ylabel("observed")
            chart.axes.legend()
        pictures.append(chart.svg)
        fitted.append(f"{name}: {temperatures.mean():.2f}")
    caption = (
        f"{best.name}: positive rate of labels by predicted probability. Cross-fitted temperatures: "
        f"{'; '.join(fitted)}; above 1 the run is overconfident."
    )
    return [Chart(pictures, caption)]


def _temperatures(
    task: Task, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None, reports: np.ndarray
) -> np.ndarray:
    """Returns for each row, (N,), the temperature fitted on the reports of the other four fifths; 1 without any."""
    from scipy.optimize import minimize_scalar

    rng = np.random.default_rng(0)
    deal = (rng.permutation(reports.max() + 1) % 5)[reports]
    result = np.ones(len(labels))

    def loss(log_temperature: float, rows: np.ndarray) -> float:
        cells = task.cells(labels[rows], task.decode(logits[rows] / np.exp(log_temperature)))
        return float(np.average(cells.mean(axis=1), weights=None if weights is None else weights[rows]))

    for part in range(5):
        others = rng.permutation(np.flatnonzero(deal != part))[:FITTED]
        if len(others):
            result[deal == part] = np.exp(minimize_scalar(loss, bounds=(-1, 1.5), args=(others,), method="bounded").x)
    return result


def _reliable(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean prediction and positive rate in bins of equal width."""
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
