"""Report section on the errors of the best run: hardest rows, confused labels, causes, suspicious labels.

Suspicious labels follow confident learning in its simplest form (Northcutt, Jiang and Chuang 2021): a label is
suspicious if the out-of-fold probability of the opposite label exceeds the mean probability of reports with that label.
"""

from __future__ import annotations

import csv
import io

import numpy as np

from src.core import array_files, charts
from src.data.tasks import Task
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

HARDEST = 20
SUSPICIOUS = 25
PAIRS = 12
GROUPS = 8


def section(findings: Findings) -> Section:
    result = Section("Errors")
    best = findings.best
    if best is None:
        return result
    rows = np.flatnonzero(findings.folds.scored)
    train = findings.dataset.train
    labels, ids = np.asarray(train.labels)[rows], np.asarray(train.ids)[rows]
    task = findings.dataset.task
    predictions = task.decode(best.oof()[rows])
    losses = task.cells(labels, predictions).mean(axis=1)
    result.parts += [
        Text(f"Out-of-fold predictions of {best.name}, by models that were not trained on the {task.one}."),
        _share(task, losses),
        _against(findings, rows, losses),
        _hardest(task, ids, labels, predictions, losses),
    ]
    if task.kind in ("multilabel", "multiclass"):
        result.parts.append(_pairs(task, labels, predictions))
    if not task.has_classes:
        return result
    suspicious = suspicious_labels(labels, predictions)
    result.parts.append(_contradictions(labels, suspicious, task.label_names))
    first = [
        [ids[i].decode(), task.label_names[k], _sign(labels[i, k]), f"{predictions[i, k]:.3f}"]
        for i, k in suspicious[:SUSPICIOUS]
    ]
    caption = f"{len(suspicious):,} labels may be wrong; the {len(first)} most suspicious (suspicious.csv has all)"
    result.parts.append(Table([task.one, "label", "value", "probability"], first, caption))
    return result


def _sign(label: int) -> str:
    return "positive" if label else "negative"


def _contradictions(labels: np.ndarray, suspicious: list[tuple[int, int]], names: list[str]) -> Table:
    """Returns the numbers of positives and negatives of each label that confident predictions contradict."""
    counts = np.zeros((len(names), 2), dtype=int)
    for i, k in suspicious:
        counts[k, labels[i, k]] += 1
    rows = [
        [name, f"{n:,}", f"{suspect[1]:,}", f"{len(labels) - n:,}", f"{suspect[0]:,}"]
        for name, n, suspect in zip(names, labels.sum(axis=0), counts, strict=True)
    ]
    columns = ["label", "positives", "suspicious positives", "negatives", "suspicious negatives"]
    return Table(columns, rows, "Labels that confident predictions contradict", open=False)


def suspicious_labels(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, int]]:
    """Returns (row, label) of cells whose label contradicts a confident prediction, the most confident first."""
    cells = []
    for k in range(labels.shape[1]):
        positive = labels[:, k] == 1
        if not positive.any() or positive.all():
            continue
        p = probabilities[:, k]
        wrong = (~positive & (p >= p[positive].mean())) | (positive & (1 - p >= (1 - p[~positive]).mean()))
        cells += [(int(i), k) for i in np.flatnonzero(wrong)]
    return sorted(cells, key=lambda cell: -abs(labels[cell] - probabilities[cell]))


def suspicious_table(findings: Findings) -> str:
    """Returns a CSV of all suspicious labels, for review; without a run, or without labels of 0 and 1, only the
    header."""
    text, task = io.StringIO(), findings.dataset.task
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([task.one, "label", "said", "probability"])
    if findings.best is None or not task.has_classes:
        return text.getvalue()
    rows = np.flatnonzero(findings.folds.scored)
    train = findings.dataset.train
    labels, ids = np.asarray(train.labels)[rows], np.asarray(train.ids)[rows]
    probabilities = findings.dataset.task.decode(findings.best.oof()[rows])
    for i, k in suspicious_labels(labels, probabilities):
        name = findings.dataset.task.label_names[k]
        writer.writerow([ids[i].decode(), name, int(labels[i, k]), f"{probabilities[i, k]:.4f}"])
    return text.getvalue()


def _share(task: Task, losses: np.ndarray) -> Chart:
    ordered = np.sort(losses)[::-1]
    share = np.cumsum(ordered) / max(ordered.sum(), 1e-12)
    kept = np.unique(np.linspace(0, len(share) - 1, 200).astype(int))
    with charts.picture(f"Share of the loss by share of the {task.noun}", 2.2) as chart:
        chart.axes.plot(100 * (kept + 1) / len(share), 100 * share[kept], color=charts.COLOURS[0])
        chart.axes.set_xlabel(f"% of {task.noun}, hardest first")
        chart.axes.set_ylabel("% of the loss")
        chart.axes.set_title("Concentration of the loss")
    return Chart(
        chart.svg, f"The hardest tenth of the {task.noun} has {share[max(len(share) // 10 - 1, 0)]:.0%} of the loss."
    )


def _causes(findings: Findings, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns figures of the rows, each (n,), that the loss may depend on."""
    dataset, train = findings.dataset, findings.dataset.train
    if dataset.shape.kind == "tokens":
        return {"tokens": np.asarray(train.lengths)[rows].astype(float)}
    values, causes = train.inputs["values"], {}
    if not dataset.task.has_classes:
        causes[f"{dataset.task.label_names[0]} in {dataset.task.unit}"] = np.asarray(train.labels)[rows, 0]
    causes["observed values"] = np.array([(~np.isnan(values[row])).sum() for row in rows], dtype=float)
    if "Age" in dataset.shape.statics:
        age = dataset.shape.statics.index("Age")
        causes["age"] = np.asarray(train.inputs["statics"])[rows, 0, age].astype(float)
    return causes


def _against(findings: Findings, rows: np.ndarray, losses: np.ndarray) -> Chart:
    """Returns the mean loss in groups of equal size by length or observed values, similarity and noise."""
    task, causes = findings.dataset.task, _causes(findings, rows)
    shift = findings.shift
    if shift is not None and shift.tests:
        place = {row: i for i, row in enumerate(shift.rows)}
        cosines = np.array(
            [shift.tests[0].array("similarity")[0][place[row]] if row in place else np.nan for row in rows]
        )
        causes["similarity to other folds"] = cosines
        path = shift.output.shift / "report_noise.npy"
        if path.exists() and len(noise := array_files.read_npy(path, "shift")[:, 0]) == len(shift.rows):
            causes["estimated share of tokens with noise"] = np.array(
                [noise[place[row]] if row in place else np.nan for row in rows]
            )
    pictures = []
    for name, values in causes.items():
        finite = np.isfinite(values)
        if findings.dataset.shape.kind == "series" and np.ptp(values[finite]) == 0:
            continue  # images are all of one size
        edges = np.unique(np.quantile(values[finite], np.linspace(0, 1, GROUPS + 1)))
        group = np.clip(np.searchsorted(edges, values[finite], side="right") - 1, 0, max(len(edges) - 2, 0))
        sizes = np.maximum(np.bincount(group), 1)
        means, centres = (np.bincount(group, cells) / sizes for cells in (losses[finite], values[finite]))
        spread = np.sqrt(np.maximum(np.bincount(group, losses[finite] ** 2) / sizes - means**2, 0) / sizes)
        kept = np.bincount(group) > 0
        with charts.picture(f"Loss against {name}", 2.2, charts.PANEL) as chart:
            chart.axes.errorbar(
                centres[kept], means[kept], spread[kept], fmt="o-", markersize=3, linewidth=1, color=charts.COLOURS[0]
            )
            chart.axes.set_xlabel(name)
            chart.axes.set_ylabel(f"mean error ({task.unit})" if task.unit else "mean loss")
            chart.axes.set_ylim(bottom=0)
        pictures.append(chart.svg)
    caption = "Groups of equal size, ± one standard error."
    if any(name.startswith("similarity") for name in causes):
        caption += f" Similarity is the cosine to the nearest {task.one}."
    return Chart(pictures, caption)


def _hardest(task: Task, ids: np.ndarray, labels: np.ndarray, predictions: np.ndarray, losses: np.ndarray) -> Table:
    names, hardest = task.label_names, np.argsort(-losses)[:HARDEST]
    columns, rows = [task.one, "loss"], [[ids[i].decode(), f"{losses[i]:.3f}"] for i in hardest]
    cells = task.cells(labels[hardest], predictions[hardest])
    if task.kind == "regression":
        columns = [task.one, f"error in {task.unit}", "in truth", "predicted"]
        more = [[f"{labels[i, 0]:g}", f"{predictions[i, 0]:.1f}"] for i in hardest]
    elif task.kind == "multiclass":
        columns += ["class", "its probability", "predicted", "probability"]
        true, said = labels[hardest].argmax(axis=1), predictions[hardest].argmax(axis=1)
        more = [
            [names[a], f"{predictions[i, a]:.3f}", names[b], f"{predictions[i, b]:.3f}"]
            for i, a, b in zip(hardest, true, said, strict=True)
        ]
    else:
        columns.append("wrong labels with their predicted probability")
        more = []
        for i, losses_of in zip(hardest, cells, strict=True):
            worst = [k for k in np.argsort(-losses_of)[:3] if losses_of[k] > 0.5]
            more.append([", ".join(f"{names[k]} {_sign(labels[i, k])}, {predictions[i, k]:.2f}" for k in worst)])
    rows = [[*row, *others] for row, others in zip(rows, more, strict=True)]
    return Table(columns, rows, f"The {len(rows)} hardest {task.noun}")


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
        return Table(["class", "predicted", task.noun, "errors of the class in all"], rows, "Confused classes")
    return Table(
        ["false negative", "false positive", task.noun, "false negatives in all"],
        rows,
        f"Confused labels: false negative and false positive in one {task.one}",
    )
