"""Report section on the errors of the best run: hardest rows, confused labels, causes, suspicious labels.

A label is suspicious if it is more likely wrong than right. Under the model of `_fitted` a share of the labels is
wrong, at random, and the others come about as often as the predictions say. The share that explains the labels best is
taken if it does so much better than none: improbable labels alone are no evidence, since chance makes some.
"""

from __future__ import annotations

import csv
import io

import numpy as np

from src.core import array_files, charts
from src.core.language import Message, _, joined, word
from src.data.tasks import EPS, Task, sigmoid
from src.reporting.html_page import Chart, Link, Part, Section, Table, Text
from src.reporting.sections import Findings
from src.reporting.sections.explanations import anchor_of

HARDEST = SUSPICIOUS = PAIRS = 12
"""Rows of each table."""
GROUPS = 8
SIMILARITY = _("similarity to other folds")
WRONG = (0.0, 0.0003, 0.001, 0.003, 0.01, 0.03)
"""Shares of wrong labels that are tried."""
EVIDENCE = 5.0
"""Gain in log likelihood from which a share of wrong labels is believed in."""
FITTED = 10_000
"""Most rows that the model of wrong labels is fitted on."""


def section(findings: Findings) -> Section:
    result = Section(_("Errors"))
    best = findings.best
    if best is None:
        return result
    rows = np.flatnonzero(findings.folds.scored)
    train = findings.dataset.train
    labels, ids = np.asarray(train.labels)[rows], np.asarray(train.ids)[rows]
    task = findings.dataset.task
    predictions = task.decode(best.oof()[rows])
    predictions = task.judged(labels, predictions)
    losses = task.cells(labels, predictions).mean(axis=1)
    gist = _("the hardest {noun}, what makes them hard, and labels that may be wrong")
    result.gist = gist.format(noun=word(task.noun))
    result.parts += [
        Text(_("Out-of-fold predictions of {run}.").format(run=best.name)),
        _share(task, losses),
        *_against(findings, rows, losses),
        _hardest(findings, ids, labels, predictions, losses),
    ]
    if task.kind in ("multilabel", "multiclass"):
        result.parts.append(_pairs(task, labels, predictions))
    if task.has_classes:
        result.parts += _suspicious(findings)
    return result


def _suspicious(findings: Findings) -> list[Part]:
    """Says how many labels are more likely wrong than right, and shows the most improbable ones."""
    found, task, links = _found(findings), findings.dataset.task, explained_rows(findings)
    if not found:
        told = _("Nothing says that labels are wrong: improbable ones are as rare as chance makes them.")
        return [Text(told)]
    first = [
        [linked(name, links), task.label_names[k], _sign(said), f"{chance:.4f}"]
        for name, k, said, chance in found[:SUSPICIOUS]
    ]
    caption = _(
        "{n:,} labels are more likely wrong than right; the {shown} most improbable of them (suspicious.csv has all)"
    ).format(n=len(found), shown=len(first))
    return [Table([word(task.one), _("label"), _("value"), _("its probability")], first, caption)]


def _found(findings: Findings) -> list[tuple[str, int, int, float]]:
    """Returns id, label, value and its probability of the suspicious labels of the best run."""

    def find() -> list[tuple[str, int, int, float]]:
        rows, train = np.flatnonzero(findings.folds.scored), findings.dataset.train
        labels, ids = np.asarray(train.labels)[rows], np.asarray(train.ids)[rows]
        found = suspicious_labels(findings.dataset.task, labels, findings.best.oof()[rows])
        return [(ids[i].decode(), k, int(labels[i, k]), chance) for i, k, chance in found]

    return findings.workspace.keep(f"suspicious labels of {findings.best.name}", find)


def _sign(label: int) -> Message:
    return _("positive") if label else _("negative")


def explained_rows(findings: Findings) -> dict[str, str]:
    """Returns the links from ids to their explanations on this page."""
    best = findings.best
    record = findings.workspace.findings(best, "explained.json", "explain")
    return {one["report"]: f"#{anchor_of(one['report'])}" for one in record.get("reports", [])}


def linked(name: str, links: dict[str, str]) -> str:
    return Link(name, links[name]) if name in links else name


def suspicious_labels(task: Task, labels: np.ndarray, logits: np.ndarray) -> list[tuple[int, int, float]]:
    """Returns row, label and probability of the labels that are more likely wrong than right, the most improbable
    first.

    `labels` and `logits` are (N, L); of classes only the one that a row has is looked at. Labels that the score does
    not count may have any prediction, and none of them is suspicious.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if task.version:
        logits = np.where(task.counted_cells(labels), logits, task.encode(labels))
    some = np.sort(np.random.default_rng(0).permutation(len(labels))[:FITTED])
    fits = [_fitted(task, labels[some], logits[some], share) for share in WRONG]
    best = max(range(len(WRONG)), key=lambda i: fits[i][0])
    if fits[best][0] - fits[0][0] < EVIDENCE:
        return []
    parameters, share = fits[best][1], WRONG[best]
    probabilities = task.decode(parameters[:, 0] * logits + parameters[:, 1])
    chances = np.where(labels == 1, probabilities, 1 - probabilities)
    mistaken = share * (1 - chances) / _others(task)
    wrong = mistaken / (mistaken + (1 - share) * chances)
    cells = np.argwhere((wrong > 0.5) & ((labels == 1) | (task.kind != "multiclass")))
    found = [(int(i), int(k), float(chances[i, k])) for i, k in cells]
    return sorted(found, key=lambda cell: cell[2])


def _fitted(task: Task, labels: np.ndarray, logits: np.ndarray, wrong: float) -> tuple[float, np.ndarray]:
    """Returns the largest log likelihood of the labels if a share `wrong` of them is wrong, and the slope and offset of
    each label's logits, (L, 2), that give it. Slopes are at most 1: nothing is surer than the run itself."""
    from scipy.optimize import minimize

    mistaken = wrong / _others(task)  # of a label that is wrong, any other value is as likely
    bounds, start = [(0.0, 1.0), (-5.0, 5.0)], [0.9, 0.0]
    if task.kind == "multiclass":  # one slope for all classes, no offsets
        said = labels == 1

        def loss_of(slope: np.ndarray) -> float:
            chances = task.decode(slope[0] * logits)[said]
            return -float(np.log(mistaken + (1 - wrong - mistaken) * np.maximum(chances, EPS)).sum())

        fit = minimize(loss_of, start[:1], bounds=bounds[:1])
        return -float(fit.fun), np.array([[fit.x[0], 0.0]] * labels.shape[1])

    def loss(parameters: np.ndarray, signs: np.ndarray, column: np.ndarray) -> tuple[float, np.ndarray]:
        chances = np.maximum(sigmoid(signs * (parameters[0] * column + parameters[1])), EPS)
        mixed = mistaken + (1 - wrong - mistaken) * chances
        change = -(1 - wrong - mistaken) * chances * (1 - chances) * signs / mixed
        return -float(np.log(mixed).sum()), np.array([change @ column, change.sum()])

    columns = zip((2.0 * labels - 1).T, logits.T, strict=True)
    fits = [minimize(loss, start, column, jac=True, bounds=bounds) for column in columns]
    return -float(sum(fit.fun for fit in fits)), np.array([fit.x for fit in fits])


def _others(task: Task) -> int:
    """Returns the number of values that a label might have instead of its own."""
    return task.n_labels - 1 if task.kind == "multiclass" else 1


def suspicious_table(findings: Findings) -> str:
    """Returns a CSV of all suspicious labels, for review; without a run, or without labels of 0 and 1, only the
    header. `probability` is that of the label being 1."""
    text, task = io.StringIO(), findings.dataset.task
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([task.one, "label", "said", "probability"])
    if findings.best is None or not task.has_classes:
        return text.getvalue()
    for name, k, said, chance in _found(findings):
        writer.writerow([name, task.label_names[k], said, f"{chance if said else 1 - chance:.4f}"])
    return text.getvalue()


def _share(task: Task, losses: np.ndarray) -> Chart:
    ordered = np.sort(losses)[::-1]
    share = np.cumsum(ordered) / max(ordered.sum(), 1e-12)
    kept = np.unique(np.linspace(0, len(share) - 1, 200).astype(int))
    with charts.picture(_("Share of the loss by share of the {noun}").format(noun=word(task.noun)), 2.2) as chart:
        chart.axes.plot(100 * (kept + 1) / len(share), 100 * share[kept], color=charts.COLOURS[0])
        chart.axes.set_xlabel(_("% of {noun}, hardest first").format(noun=word(task.noun)))
        chart.axes.set_ylabel(_("% of the loss"))
        chart.axes.set_title(_("Concentration of the loss"))
    caption = _("The hardest tenth of the {noun} has {share:.0%} of the loss.")
    return Chart(chart.svg, caption.format(noun=word(task.noun), share=share[max(len(share) // 10 - 1, 0)]))


def _causes(findings: Findings, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns figures of the rows, each (n,), that the loss may depend on."""
    dataset, train = findings.dataset, findings.dataset.train
    if dataset.shape.kind == "tokens":
        return {_("tokens"): np.asarray(train.lengths)[rows].astype(float)}
    values, causes = train.inputs["values"], {}
    if not dataset.task.has_classes:
        in_truth = _("{label} in {unit}").format(label=dataset.task.label_names[0], unit=word(dataset.task.unit))
        causes[in_truth] = np.asarray(train.labels)[rows, 0]
    causes[_("observed values")] = np.array([(~np.isnan(values[row])).sum() for row in rows], dtype=float)
    if "Age" in dataset.shape.statics:
        age = dataset.shape.statics.index("Age")
        causes[_("age in years")] = np.asarray(train.inputs["statics"])[rows, 0, age].astype(float)
    return causes


def _against(findings: Findings, rows: np.ndarray, losses: np.ndarray) -> list[Chart]:
    """Returns the mean loss in groups of equal size by length or observed values, similarity and noise; none where
    nothing is known that differs between the rows."""
    task, causes = findings.dataset.task, _causes(findings, rows)
    shift = findings.shift
    if shift is not None and shift.tests:
        place = {row: i for i, row in enumerate(shift.rows)}
        cosines = np.array(
            [shift.tests[0].array("similarity")[0][place[row]] if row in place else np.nan for row in rows]
        )
        causes[SIMILARITY] = cosines
        path = shift.output.shift / "report_noise.npy"
        if path.exists() and len(noise := array_files.read_npy(path, "shift")[:, 0]) == len(shift.rows):
            causes[_("noise, share of tokens")] = np.array(
                [noise[place[row]] if row in place else np.nan for row in rows]
            )
    groups = {}
    for name, values in causes.items():
        finite = np.isfinite(values)
        if not finite.any():
            continue  # such as the similarity of rows that the model of shift does not have
        if findings.dataset.shape.kind == "series" and np.ptp(values[finite]) == 0:
            continue  # images are all of one size
        edges = np.unique(np.quantile(values[finite], np.linspace(0, 1, GROUPS + 1)))
        group = np.clip(np.searchsorted(edges, values[finite], side="right") - 1, 0, max(len(edges) - 2, 0))
        sizes = np.maximum(np.bincount(group), 1)
        means, centres = (np.bincount(group, cells) / sizes for cells in (losses[finite], values[finite]))
        spread = np.sqrt(np.maximum(np.bincount(group, losses[finite] ** 2) / sizes - means**2, 0) / sizes)
        kept = np.bincount(group) > 0
        groups[name] = centres[kept], means[kept], spread[kept]
    if not groups:
        return []
    highest = max((means + spread).max() for _centres, means, spread in groups.values())
    measure = _("mean error ({unit})").format(unit=word(task.unit)) if task.unit else _("mean loss")
    pictures = []
    for name, (centres, means, spread) in groups.items():
        with charts.picture(_("Loss by {cause}").format(cause=name), 2.4, charts.PANEL) as chart:
            chart.axes.errorbar(centres, means, spread, fmt="o-", markersize=3, linewidth=1, color=charts.COLOURS[0])
            chart.axes.set_title(_("Loss by {cause}").format(cause=name))
            chart.axes.set_xlabel(name)
            chart.axes.set_ylabel(measure)
            chart.axes.set_ylim(0, 1.05 * highest)
        pictures.append(chart.svg)
    caption = _("Groups of equal size, ± one standard error, all on one scale of losses.")
    if SIMILARITY in causes and findings.dataset.shape.kind == "tokens":
        caption = caption + " " + _("Similarity is the cosine to the nearest {one}.").format(one=word(task.one))
    return [Chart(pictures, caption)]


def _hardest(
    findings: Findings, ids: np.ndarray, labels: np.ndarray, predictions: np.ndarray, losses: np.ndarray
) -> Table:
    task, links = findings.dataset.task, explained_rows(findings)
    names, hardest = task.label_names, np.argsort(-losses, kind="stable")[:HARDEST]
    columns, rows = [word(task.one), _("loss")], [[linked(ids[i].decode(), links), f"{losses[i]:.3f}"] for i in hardest]
    cells = task.cells(labels[hardest], predictions[hardest])
    if task.kind == "regression":
        columns = [word(task.one), _("error in {unit}").format(unit=word(task.unit)), _("in truth"), _("predicted")]
        more = [[f"{labels[i, 0]:g}", f"{predictions[i, 0]:.1f}"] for i in hardest]
    elif task.kind == "multiclass":
        columns += [_("class"), _("its probability"), _("predicted"), _("probability")]
        true, said = labels[hardest].argmax(axis=1), predictions[hardest].argmax(axis=1)
        more = [
            [names[a], f"{predictions[i, a]:.3f}", names[b], f"{predictions[i, b]:.3f}"]
            for i, a, b in zip(hardest, true, said, strict=True)
        ]
    else:
        columns.append(_("wrong labels with their predicted probability"))
        more = []
        for i, losses_of in zip(hardest, cells, strict=True):
            worst = [k for k in np.argsort(-losses_of)[:3] if losses_of[k] > 0.5]
            told = [joined(" ", [names[k], _sign(labels[i, k]), f"{predictions[i, k]:.2f}"]) for k in worst]
            more.append([joined(", ", told)])
    rows = [[*row, *others] for row, others in zip(rows, more, strict=True)]
    caption = _("The {n} hardest {noun}; those with a link are explained below, others by: {command}").format(
        n=len(rows),
        noun=word(task.noun),
        command="./run.sh " + findings.workspace.command("explain", findings.best.name, "--id", "ID"),
    )
    return Table(columns, rows, caption)


def _pairs(task: Task, labels: np.ndarray, probabilities: np.ndarray) -> Table:
    """Returns the most frequent pairs of a false negative and a false positive label in one row; of classes, the pairs
    that are confused."""
    if task.kind == "multiclass":
        said = np.eye(labels.shape[1])[probabilities.argmax(axis=1)]
    else:
        said = (probabilities >= 0.5).astype(np.float64)
    missed = (labels == 1) * (1 - said)
    false = (labels == 0) * said
    both = missed.T @ false
    names = task.label_names
    order = [np.unravel_index(i, both.shape) for i in np.argsort(-both, axis=None)[:PAIRS]]
    rows = [[names[a], names[b], f"{both[a, b]:.0f}", f"{missed[:, a].sum():.0f}"] for a, b in order if both[a, b] > 0]
    if task.kind == "multiclass":
        columns = [_("class"), _("predicted"), word(task.noun), _("errors of the class in all")]
        return Table(columns, rows, _("Confused classes"))
    return Table(
        [_("false negative"), _("false positive"), word(task.noun), _("false negatives in all")],
        rows,
        _("Confused labels: false negative and false positive in one {one}").format(one=word(task.one)),
    )
