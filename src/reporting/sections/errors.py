"""Report section on the errors of the best run: hardest reports, confused labels, causes, suspicious labels.

Suspicious labels follow confident learning in its simplest form (Northcutt, Jiang and Chuang 2021): a label is
suspicious if the out-of-fold probability of the opposite label exceeds the mean probability of reports with that label.
"""

from __future__ import annotations

import csv
import io

import numpy as np

from src.evaluation import metrics
from src.reporting import charts
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
    probabilities = findings.dataset.task.decode(best.oof()[rows])
    losses = metrics.log_loss_cells(labels, probabilities).mean(axis=1)
    names = findings.dataset.task.label_names
    result.parts += [
        Text(f"Out-of-fold predictions of {best.name}, by models that were not trained on the report."),
        _share(losses),
        _against(findings, rows, losses),
        _hardest(ids, labels, probabilities, losses, names),
        _pairs(labels, probabilities, names),
    ]
    suspicious = suspicious_labels(labels, probabilities)
    result.parts.append(_contradictions(labels, suspicious, names))
    first = [
        [ids[i].decode(), names[k], _sign(labels[i, k]), f"{probabilities[i, k]:.3f}"]
        for i, k in suspicious[:SUSPICIOUS]
    ]
    caption = f"{len(suspicious):,} labels may be wrong; the {len(first)} most suspicious (suspicious.csv has all)"
    result.parts.append(Table(["report", "label", "value", "probability"], first, caption))
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
    """Returns a CSV of all suspicious labels, for review; without a run only the header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["report", "label", "said", "probability"])
    if findings.best is None:
        return text.getvalue()
    rows = np.flatnonzero(findings.folds.scored)
    train = findings.dataset.train
    labels, ids = np.asarray(train.labels)[rows], np.asarray(train.ids)[rows]
    probabilities = findings.dataset.task.decode(findings.best.oof()[rows])
    for i, k in suspicious_labels(labels, probabilities):
        name = findings.dataset.task.label_names[k]
        writer.writerow([ids[i].decode(), name, int(labels[i, k]), f"{probabilities[i, k]:.4f}"])
    return text.getvalue()


def _share(losses: np.ndarray) -> Chart:
    ordered = np.sort(losses)[::-1]
    share = np.cumsum(ordered) / max(ordered.sum(), 1e-12)
    kept = np.unique(np.linspace(0, len(share) - 1, 200).astype(int))
    with charts.picture("Share of the loss by share of the reports", 2.2) as chart:
        chart.axes.plot(100 * (kept + 1) / len(share), 100 * share[kept], color=charts.COLOURS[0])
        chart.axes.set_xlabel("% of reports, hardest first")
        chart.axes.set_ylabel("% of the loss")
        chart.axes.set_title("Concentration of the loss")
    return Chart(
        chart.svg, f"The hardest tenth of the reports has {share[max(len(share) // 10 - 1, 0)]:.0%} of the loss."
    )


def _against(findings: Findings, rows: np.ndarray, losses: np.ndarray) -> Chart:
    """Returns the mean loss in groups of equal size by length, similarity and noise."""
    causes = {"tokens": np.asarray(findings.dataset.train.lengths)[rows].astype(float)}
    shift = findings.shift
    if shift is not None and shift.tests:
        place = {row: i for i, row in enumerate(shift.rows)}
        cosines = np.array(
            [shift.tests[0].array("similarity")[0][place[row]] if row in place else np.nan for row in rows]
        )
        causes["similarity to other folds"] = cosines
        path = shift.output.shift / "report_noise.npy"
        if path.exists() and len(noise := np.load(path)[:, 0]) == len(shift.rows):
            causes["estimated share of tokens with noise"] = np.array(
                [noise[place[row]] if row in place else np.nan for row in rows]
            )
    pictures = []
    for name, values in causes.items():
        finite = np.isfinite(values)
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
            chart.axes.set_ylabel("mean loss")
            chart.axes.set_ylim(bottom=0)
        pictures.append(chart.svg)
    return Chart(
        pictures, "Groups of equal size, ± one standard error. Similarity is the cosine to the nearest report."
    )


def _hardest(
    ids: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, losses: np.ndarray, names: list[str]
) -> Table:
    rows = []
    for i in np.argsort(-losses)[:HARDEST]:
        cells = metrics.log_loss_cells(labels[i : i + 1], probabilities[i : i + 1])[0]
        worst = [k for k in np.argsort(-cells)[:3] if cells[k] > 0.5]
        errors = ", ".join(f"{names[k]} {_sign(labels[i, k])}, {probabilities[i, k]:.2f}" for k in worst)
        rows.append([ids[i].decode(), f"{losses[i]:.3f}", errors])
    caption = f"The {len(rows)} hardest reports"
    return Table(["report", "loss", "wrong labels with their predicted probability"], rows, caption)


def _pairs(labels: np.ndarray, probabilities: np.ndarray, names: list[str]) -> Table:
    """Returns the most frequent pairs of a false negative and a false positive label in one report."""
    missed = ((labels == 1) & (probabilities < 0.5)).astype(np.float64)
    false = ((labels == 0) & (probabilities >= 0.5)).astype(np.float64)
    both = missed.T @ false
    order = [np.unravel_index(i, both.shape) for i in np.argsort(-both, axis=None)[:PAIRS]]
    rows = [[names[a], names[b], f"{both[a, b]:.0f}", f"{missed[:, a].sum():.0f}"] for a, b in order if both[a, b] > 0]
    return Table(
        ["false negative", "false positive", "reports", "false negatives in all"],
        rows,
        "Confused labels: false negative and false positive in one report",
    )
