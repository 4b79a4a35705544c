"""Report section on scores: baselines and runs, validations, labels, and calibration."""

from __future__ import annotations

import itertools

import numpy as np

from src.core import charts
from src.core.language import _, joined, word
from src.data.tasks import Task, get_task
from src.evaluation import metrics, runs
from src.evaluation.figures import number_text
from src.evaluation.runs import RunFolder
from src.evaluation.shift_words import short_names
from src.evaluation.stored_sentences import message_of
from src.evaluation.validation_sets import VALIDATIONS, names_of_figures
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings, summary

INTERVAL = 1.96
"""Standard errors on each side of a 95% interval."""
MARKERS = "osD^vPX*"
"""Markers of what a legend tells apart, beside its colours."""
FOLD_RUNS, LABEL_RUNS = 8, 15
"""Most runs in the pictures of folds and of labels, the best."""
BINS = 12
"""Bins of a reliability diagram."""
FITTED = 5000
"""Maximum number of rows to fit a temperature on."""
CURVES = 5
"""Number of labels with coloured curves, those with the largest share of the loss."""


def section(findings: Findings) -> Section:
    result = Section(_("Scores"))
    if not findings.runs:
        return result
    scores = {**summary.baseline_scores(findings), **{name: run.score for name, run in findings.runs.items()}}
    result.parts += [*_expected(findings), *_by_fold(findings), *_by_label(findings), *_rates(findings)]
    result.parts.append(_all_scores(findings, scores))
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


def _expected(findings: Findings) -> list[Chart]:
    """Draws the score of each run out of fold and the one that is expected of each test file, with their intervals."""
    workspace = findings.workspace
    task, boards = workspace.task, {name: workspace.boards(run) for name, run in findings.runs.items()}
    tests = list(dict.fromkeys(test for found in boards.values() for test in found))
    if not tests:
        return []
    names, short = list(reversed(findings.runs)), short_names(findings.dataset.test_files)
    what = _("Expected score and score out of fold of each run, with 95% intervals")
    with charts.picture(what, 1.3 + (0.24 + 0.14 * len(tests)) * len(names)) as chart:
        step = 0.62 / len(tests)
        for row, name in enumerate(names):
            own = findings.runs[name].score["overall"]["score"]
            spread = INTERVAL * (own["standard_error"] or 0.0)
            shown = [(own["value"], [spread, spread])]
            for test in tests:
                expected = boards[name].get(test, {}).get("expected") or {}
                value = np.nan if expected.get("value") is None else expected["value"]
                low, high = (value if expected.get(end) is None else expected[end] for end in ("low", "high"))
                shown.append((value, [value - low, high - value]))
            labels = [_("out of fold"), *(_("expected on {test}").format(test=short[test]) for test in tests)]
            for i, ((value, ends), label, marker) in enumerate(zip(shown, labels, itertools.cycle(MARKERS))):
                colour = charts.COLOURS[i % len(charts.COLOURS)]
                chart.axes.errorbar(
                    value,
                    row + (i - len(tests) / 2) * step,
                    xerr=np.maximum(np.array(ends)[:, None], 0),
                    fmt=marker,
                    markersize=5,
                    color=colour,
                    label=label if row == 0 else None,
                )
        charts.rows(chart.axes, names)
        chart.axes.set_title(_("Expected score against score out of fold"))
        chart.axes.set_xlabel(_("{score}, higher is better").format(score=word(get_task(task.name).score_name)))
        chart.axes.set_ylabel(_("run"))
        chart.axes.figure.legend(loc="outside lower left", ncols=2)
    caption = _(
        "Lines are 95% intervals. Where the two scores of a run lie further apart than their lines, the test file "
        "differs from train: trust the expected score."
    )
    return [Chart(chart.svg, caption)]


def _by_fold(findings: Findings) -> list[Chart]:
    """Draws the score of each of the best runs on each fold."""
    task, scores = findings.workspace.task, {}
    for name, run in list(reversed(findings.runs.items()))[:FOLD_RUNS]:
        folds = run.score.get("folds", {})
        found = {int(fold): part["score"]["value"] for fold, part in folds.items()}
        if len(found) > 1:
            scores[name] = found
    if not scores:
        return []
    with charts.picture(_("Score of each run on each fold"), 2.8, charts.PANEL) as chart:
        for i, (name, found) in enumerate(scores.items()):
            values = [np.nan if value is None else value for value in found.values()]
            marker = MARKERS[i % len(MARKERS)]
            chart.axes.plot(list(found), values, marker=marker, markersize=4, label=name, **charts.look(i))
        chart.axes.set_xticks(sorted({fold for found in scores.values() for fold in found}))
        chart.axes.set_title(_("Scores fold by fold"))
        chart.axes.set_xlabel(_("fold"))
        chart.axes.set_ylabel(_("{score}, higher is better").format(score=word(get_task(task.name).score_name)))
        chart.axes.figure.legend(loc="outside lower left", ncols=2)
    caption = _("Each point is out of fold. A fold on which all runs are low is hard; lines that cross are chance.")
    return [Chart(chart.svg, caption)]


def _by_label(findings: Findings) -> list[Chart]:
    """Draws the loss of each of the best runs at each label."""
    task, names = findings.workspace.task, list(reversed(findings.runs))[:LABEL_RUNS]
    if task.n_labels < 2 or not task.has_classes:
        return []
    rows = findings.folds.scored
    labels = findings.workspace.labels[rows]
    predictions = [task.judged(labels, task.decode(findings.runs[name].oof()[rows])) for name in names]
    losses = np.array([task.cells(labels, one) for one in predictions]).mean(axis=1)
    losses = losses / np.maximum(task.counted_cells(labels).mean(axis=0), 1 / len(labels))
    if task.kind == "multiclass":  # a row's loss is that of its class
        losses = losses * len(labels) / np.maximum(labels.sum(axis=0), 1) / task.n_labels
    columns = _short(task)
    with charts.picture(
        _("Loss of each run at each label"), 1.1 + 0.27 * len(names), 1.8 + 0.33 * len(columns)
    ) as chart:
        charts.heat_table(chart.axes, losses, names, columns, lambda loss: f"{loss:.2f}".removeprefix("0"))
        chart.axes.set_title(_("Log loss of each run at each label, out of fold"))
        chart.axes.set_xlabel(_label_axis(task))
        chart.axes.set_ylabel(_("run"))
    caption = _("The deeper the colour, the larger the loss. All cells are on one scale, from 0 to {most:.2f}.")
    return [Chart(chart.svg, caption.format(most=float(losses.max())), wide=True)]


def _rates(findings: Findings) -> list[Chart | Text]:
    """Draws the mean prediction for each test file against the rate in train, label by label."""
    best, task = findings.best, findings.workspace.task
    boards = findings.workspace.boards(best)
    rates = {test: board["label_rates"] for test, board in boards.items() if board.get("label_rates")}
    if not rates:
        return []
    short = short_names(findings.dataset.test_files)
    if task.n_labels == 1:
        return [
            Text(
                _("{run} predicts a rate of {predicted:.1%} on {test}; in train it is {train:.1%}.").format(
                    run=best.name, predicted=found["predicted"][0], test=short[test], train=found["train"][0]
                )
            )
            for test, found in rates.items()
        ]
    columns, places = _short(task), np.arange(task.n_labels)
    what = _("Rate of each label in train, and predicted on the test files")
    with charts.picture(what, 2.9, max(charts.WIDTH, 1.2 + 0.25 * len(columns))) as chart:
        train = 100 * np.array(next(iter(rates.values()))["train"])
        chart.axes.bar(places, train, 0.8, color=charts.COLOURS[5], alpha=0.5, label=_("rate in train"))
        for i, (test, found) in enumerate(rates.items()):
            at = places + (i - (len(rates) - 1) / 2) * 0.35
            label = _("mean prediction on {test}").format(test=short[test])
            predicted, colour = 100 * np.array(found["predicted"]), charts.COLOURS[i % len(charts.COLOURS)]
            chart.axes.plot(
                at,
                predicted,
                MARKERS[i % len(MARKERS)],
                markersize=4,
                color=colour,
                label=label,
            )
        chart.axes.set_xticks(places, columns)
        chart.axes.grid(visible=False, axis="x")
        chart.axes.set_title(_("Rate of each label: predicted on test, and in train"))
        chart.axes.set_xlabel(_label_axis(task))
        chart.axes.set_ylabel(_("% of {noun}").format(noun=word(task.noun)))
        chart.axes.figure.legend(loc="outside lower left", ncols=2)
    caption = _(
        "{run}. A marker above its bar: the run predicts the label more often than train has it. The rates of a test "
        "file may truly differ, or the run may be less sure there."
    )
    return [Chart(chart.svg, caption.format(run=best.name), wide=True)]


def _short(task: Task) -> list[str]:
    """Returns label names without what they share: 3 of region_3, t2 of type_2."""
    return [name.removeprefix("region_").removeprefix("class_").replace("type_", "t") for name in task.label_names]


def _label_axis(task: Task) -> str:
    if task.kind == "multiclass":
        return _("class")
    return _("label (t: type)") if "type_0" in task.label_names else _("label")


def _all_scores(findings: Findings, scores: dict) -> Table:
    task, rows = findings.workspace.task, []
    for name in reversed(runs.ordered(scores, findings.config.metric)):
        overall = scores[name]["overall"]
        if task.kind != "multilabel":
            figures = metrics.table_figures(task, overall)
            columns = [_("run"), word(task.score_name), *map(word, figures)]
            cells = [runs.figure_of(scores[name], findings.config.metric), *figures.values()]
            rows.append([name, *(_with_error(cell) for cell in cells)])
            continue
        cells = [overall["score"], overall["exact_match"], overall["calibration_error"]]
        macro = [overall["macro"][key] for key in ("roc_auc", "pr_auc")]
        rows.append([name, *(_with_error(cell) for cell in cells), *(_figure(cell["value"]) for cell in macro)])
        columns = [_("run"), _("score"), _("exact match"), _("calibration error"), "ROC-AUC", "PR-AUC"]
    broken = [
        _("; run {name} {fault}").format(name=name, fault=message_of(fault))
        for name in scores
        if (fault := scores[name].get("fault"))
    ]
    return Table(columns, rows, joined("", [_("Out of fold, ± one standard error"), *broken]))


def validations(findings: Findings) -> list[Table]:
    """Returns the scores of the runs under each validation for the target, and the expected scores."""
    if findings.shift is None or not findings.shift.tests:
        return []
    target = findings.shift.target(findings.config.target)
    workspace, names = findings.workspace, reversed(findings.runs)
    boards = {name: board for name in names if (board := workspace.boards(findings.runs[name]).get(target.name))}
    if not boards:
        return []
    is_noised = any(board["validations"]["noised"] != board["validations"]["clean"] for board in boards.values())
    shown = VALIDATIONS if is_noised else ("clean", "weighted")
    caption = _("Validation scores for {test}, ± one standard error; models are selected on {validation}").format(
        test=target.name, validation=findings.config.select_on
    )
    if not is_noised:
        caption = caption + "; " + _("without added noise, noised is clean and shifted is weighted")
    if workspace.task.metric:
        caption = caption + "; " + names_of_figures(workspace.task)
    rows = []
    for name, board in boards.items():
        expected = board["expected"]
        numbers = {key: number_text(expected[key], ".3f") for key in ("value", "low", "high")}
        cells = [_with_error(board["validations"][key]) for key in shown]
        rows.append([name, *cells, _("{value} ({low} to {high})").format(**numbers)])
    return [Table([_("run"), *shown, _("expected (95% interval)")], rows, caption)]


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
    columns = [_("label"), _("positives"), _("rate"), _("log loss"), _("share of loss"), "ROC-AUC", "PR-AUC"]
    columns += [_("sensitivity"), _("specificity")]
    return [Table(columns, rows, _("{run} by label, out of fold").format(run=best.name))]


def _scored(findings: Findings, best) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and logits of the scored rows, (n, L) each."""
    rows = findings.folds.scored
    return np.asarray(findings.dataset.train.labels)[rows], best.oof()[rows].astype(np.float64)


def _confusion(task: Task, best: RunFolder) -> list:
    counts = np.array(best.score["overall"]["confusion"], dtype=float)
    names = [name.removeprefix("class_") for name in task.label_names]
    with charts.picture(_("Confusion of classes"), 0.8 + 0.28 * len(names), charts.PANEL) as chart:
        charts.shades(chart.axes, counts, names, counts.max(), task.noun)
        chart.axes.set_xticks(range(len(names)), names)
        chart.axes.set_xlabel(_("predicted class"))
        chart.axes.set_ylabel(_("true class"))
        chart.axes.set_title(_("Confusion, out of fold"))
    wrong = int(counts.sum() - np.trace(counts))
    off = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    most = np.unravel_index(off.argmax(), off.shape)
    caption = _("{run}: {wrong:,} of {all:,.0f} {noun} are wrong.")
    if wrong:
        caption = _(
            "{run}: {wrong:,} of {all:,.0f} {noun} are wrong, most often class {class_} taken for {said} ({n:.0f})."
        )
    given = {"run": best.name, "wrong": wrong, "all": counts.sum(), "noun": word(task.noun), "n": off.max()}
    return [Chart(chart.svg, caption.format(class_=names[most[0]], said=names[most[1]], **given))]


def _intervals(task: Task, best: RunFolder) -> list:
    """Calibration of a regression: what was observed, and the coverage of intervals, by fifth of the prediction."""
    parts = best.score["overall"]["calibration"]
    predicted = [part["predicted"] for part in parts]
    with charts.picture(_("Observed by predicted"), 3.0, charts.PANEL) as observed:
        means = [part["observed"]["value"] for part in parts]
        spread = [INTERVAL * (part["observed"]["standard_error"] or 0.0) for part in parts]
        observed.axes.errorbar(predicted, means, yerr=spread, fmt="o", markersize=4, color=charts.COLOURS[0])
        ends = [min(predicted + means), max(predicted + means)]
        observed.axes.plot(ends, ends, color=charts.FAINT, linewidth=0.8)
        observed.axes.set_title(_("Observed by predicted"))
        observed.axes.set_xlabel(_("predicted {unit}, mean of a fifth").format(unit=word(task.unit)))
        observed.axes.set_ylabel(_("observed {unit}, mean").format(unit=word(task.unit)))
    with charts.picture(_("Coverage of intervals"), 3.0, charts.PANEL) as coverage:
        for colour, level in enumerate(("50", "80", "90")):
            shares = [part["coverage"][level]["value"] for part in parts]
            coverage.axes.plot(predicted, shares, marker="o", markersize=3, label=f"{level}%", **charts.look(colour))
            coverage.axes.axhline(int(level) / 100, color=charts.FAINT, linewidth=0.8)
        coverage.axes.set_ylim(0, 1)
        coverage.axes.set_title(_("Coverage of intervals"))
        coverage.axes.set_xlabel(_("predicted {unit}, mean of a fifth").format(unit=word(task.unit)))
        coverage.axes.set_ylabel(_("share inside"))
        coverage.axes.legend()
    caption = _(
        "{run}, out of fold, with 95% intervals. A prediction is near the median of {noun} like this one, and the mean "
        "lies above the median where some stay very long. Intervals are fitted on the other folds."
    )
    return [Chart([observed.svg, coverage.svg], caption.format(run=best.name, noun=word(task.noun)))]


def _curves(findings: Findings, best) -> list:
    from sklearn.metrics import precision_recall_curve, roc_curve

    labels, logits = _scored(findings, best)
    task = findings.dataset.task
    counted = task.counted_cells(labels)
    losses = metrics.log_loss_cells(labels, task.judged(labels, task.decode(logits))).mean(axis=0)
    losses = losses / np.maximum(counted.mean(axis=0), 1 / len(labels))
    ranked = [k for k in np.argsort(-losses) if 0 < labels[:, k].sum() < counted[:, k].sum()]
    curves = {}
    for k in ranked:
        rows = counted[:, k]
        false, true, *_thresholds = roc_curve(labels[rows, k], logits[rows, k])
        precision, recall, *_thresholds = precision_recall_curve(labels[rows, k], logits[rows, k])
        curves[k] = ((false, true), (recall, precision))
    least = 1 / len(labels)
    pictures = []
    for place, (title, x_name, y_name) in enumerate(
        [
            (_("ROC"), _("false positive rate"), _("true positive rate")),
            (_("Precision and recall"), _("recall"), _("precision")),
        ]
    ):
        with charts.picture(_("{curve} of each label").format(curve=title), 3.0, charts.PANEL) as chart:
            for rank, k in reversed(list(enumerate(ranked))):
                x, y = curves[k][place]
                kept = np.unique(np.linspace(0, len(x) - 1, 200).astype(int))
                coloured = rank < CURVES
                chart.axes.plot(
                    np.maximum(x[kept], least) if place == 0 else x[kept],
                    y[kept],
                    label=findings.dataset.task.label_names[k] if coloured else None,
                    **(charts.look(rank) if coloured else {"color": charts.FAINT, "linewidth": 0.6}),
                )
            if place == 0:
                charts.plain_log(chart.axes.xaxis)
            chart.axes.set_title(title)
            chart.axes.set_xlabel(x_name)
            chart.axes.set_ylabel(y_name)
            chart.axes.legend(reverse=True)
        pictures.append(chart.svg)
    costly = min(CURVES, len(ranked))
    caption = _("{run}, out of fold.")
    if len(ranked) > 1:
        caption = _("{run}, out of fold; the {n} labels with the largest loss are coloured.")
    return [Chart(pictures, caption.format(run=best.name, n=costly))]


def _reliability(findings: Findings, best) -> list:
    """Returns reliability diagrams on plain reports and on those of select_on, with a cross-fitted temperature."""
    kinds = {_("plain"): _scored(findings, best)}
    weights = {_("plain"): None}
    reports = {_("plain"): np.arange(int(findings.folds.scored.sum()))}
    if findings.shift is not None and findings.shift.tests and findings.config.select_on != "clean":
        target = findings.shift.target(findings.config.target)
        rows = findings.workspace.validation_for([best], test=target).only(findings.folds.scored)
        all_labels = np.asarray(findings.dataset.train.labels)
        kinds[rows.name] = (all_labels[rows.rows], rows.logits(best.oof(), best.copies(target.name)))
        weights[rows.name], reports[rows.name] = rows.weights, rows.rows
    noun, fitted, pictures = word(findings.workspace.task.noun), [], []
    for name, (labels, logits) in kinds.items():
        temperatures = _temperatures(findings.workspace.task, labels, logits, weights[name], reports[name])
        cooled = logits / temperatures[:, None]
        what = _("Reliability on {validation} train {noun}").format(validation=name, noun=noun)
        with charts.picture(what, 3.0, charts.PANEL) as chart:
            for colour, (which, values) in enumerate(((_("as predicted"), logits), (_("with a temperature"), cooled))):
                task = findings.dataset.task
                x, y = _reliable(labels, task.decode(values), weights[name], task.counted_cells(labels))
                chart.axes.plot(x, y, marker=MARKERS[colour], markersize=3.5, label=which, **charts.look(colour))
            chart.axes.plot([0, 1], [0, 1], color=charts.FAINT, linewidth=0.8)
            chart.axes.set_title(_("Reliability, {validation} train {noun}").format(validation=name, noun=noun))
            chart.axes.set_xlabel(_("predicted probability"))
            chart.axes.set_ylabel(_("observed rate"))
            chart.axes.legend()
        pictures.append(chart.svg)
        fitted.append(joined("", [name, f": {temperatures.mean():.2f}"]))
    caption = _(
        "{run}: positive rate of labels by predicted probability. Cross-fitted temperatures: {temperatures}; above 1 "
        "the run is overconfident."
    )
    return [Chart(pictures, caption.format(run=best.name, temperatures=joined("; ", fitted)))]


def _temperatures(
    task: Task, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None, reports: np.ndarray
) -> np.ndarray:
    """Returns for each row, (N,), the temperature fitted on the reports of the other four fifths; 1 without any."""
    from scipy.optimize import minimize_scalar

    rng = np.random.default_rng(0)
    deal = (rng.permutation(reports.max() + 1) % 5)[reports]
    result = np.ones(len(labels))

    def loss(log_temperature: float, rows: np.ndarray) -> float:
        predictions = task.judged(labels[rows], task.decode(logits[rows] / np.exp(log_temperature)))
        cells = task.cells(labels[rows], predictions)
        return float(np.average(cells.mean(axis=1), weights=None if weights is None else weights[rows]))

    for part in range(5):
        others = rng.permutation(np.flatnonzero(deal != part))[:FITTED]
        if len(others):
            result[deal == part] = np.exp(minimize_scalar(loss, bounds=(-1, 1.5), args=(others,), method="bounded").x)
    return result


def _reliable(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None, counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean prediction and positive rate of the `counted` cells (N, L) in bins of equal width."""
    weigh = np.ones(len(labels)) if weights is None else weights
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1).ravel()
    weigh = np.repeat(weigh, labels.shape[1]) * counted.ravel()
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
