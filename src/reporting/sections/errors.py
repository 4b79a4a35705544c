"""Where the best run is wrong: which reports, which labels for which, and whether length, noise or rarity do it.

Suspicious labels: confident learning in its simplest form (Northcutt, Jiang and Chuang 2021). A label is suspicious
where the out-of-fold probability of the other answer is above the mean probability that reports with that answer get.
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
    found = Section("Errors")
    best = findings.best
    if best is None:
        return found
    rows = np.flatnonzero(findings.folds.scored)
    train = findings.dataset.train
    labels, ids = np.asarray(train.labels)[rows], np.asarray(train.ids)[rows]
    probabilities = findings.dataset.task.decode(best.oof()[rows])
    losses = metrics.log_loss_cells(labels, probabilities).mean(axis=1)
    names = findings.dataset.task.label_names
    found.parts.append(
        Text(f"Of {best.name}, out of fold: each report is judged by models that did not learn from it.")
    )
    found.parts.append(_share(losses))
    found.parts.append(_against(findings, rows, losses))
    found.parts.append(_hardest(ids, labels, probabilities, losses, names))
    found.parts.append(_pairs(labels, probabilities, names))
    suspicious = suspicious_labels(labels, probabilities)
    found.parts.append(_doubts(labels, suspicious, names))
    shown = [
        [ids[i].decode(), names[k], "there" if labels[i, k] else "not there", f"{probabilities[i, k]:.3f}"]
        for i, k in suspicious[:SUSPICIOUS]
    ]
    told = f"{len(suspicious):,} labels may be wrong; the {len(shown)} most suspicious (all are in suspicious.csv)"
    found.parts.append(Table(["report", "label", "is said to be", "probability"], shown, told))
    return found


def _doubts(labels: np.ndarray, suspicious: list[tuple[int, int]], names: list[str]) -> Table:
    """How often what is said of a label contradicts a sure prediction."""
    counts = np.zeros((len(names), 2), dtype=int)
    for i, k in suspicious:
        counts[k, labels[i, k]] += 1
    there = labels.sum(axis=0)
    rows = [
        [name, f"{n:,}", f"{wrong[1]:,}", f"{len(labels) - n:,}", f"{wrong[0]:,}"]
        for name, n, wrong in zip(names, there, counts, strict=True)
    ]
    columns = ["label", "said to be there", "surely not", "said not to be there", "surely there"]
    return Table(columns, rows, "What is said of each label, and how often the run is sure of the contrary", open=False)


def suspicious_labels(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, int]]:
    """(row, label) of cells whose label contradicts a sure prediction, the surest first."""
    found = []
    for k in range(labels.shape[1]):
        there = labels[:, k] == 1
        if not there.any() or there.all():
            continue
        p = probabilities[:, k]
        wrong = (~there & (p >= p[there].mean())) | (there & (1 - p >= (1 - p[~there]).mean()))
        found += [(int(i), k) for i in np.flatnonzero(wrong)]
    return sorted(found, key=lambda cell: -abs(labels[cell] - probabilities[cell]))


def suspicious_table(findings: Findings) -> str:
    """CSV of all of them, for review; without a run the head alone."""
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
    with charts.picture("Share of the loss by share of the reports", 2.2) as drawn:
        drawn.axes.plot(100 * (kept + 1) / len(share), 100 * share[kept], color=charts.COLOURS[0])
        drawn.axes.set_xlabel("% of reports, the hardest first")
        drawn.axes.set_ylabel("% of the loss")
        drawn.axes.set_title("A few reports make most of the loss")
    return Chart(drawn.svg, f"The hardest tenth of the reports makes {share[max(len(share) // 10 - 1, 0)]:.0%} of it.")


def _against(findings: Findings, rows: np.ndarray, losses: np.ndarray) -> Chart:
    """Loss in groups of equal size along what may cause it."""
    known = {"tokens": np.asarray(findings.dataset.train.lengths)[rows].astype(float)}
    shift = findings.shift
    if shift is not None and shift.tests:
        place = {row: i for i, row in enumerate(shift.rows)}
        like = np.array([shift.tests[0].array("similarity")[0][place[row]] if row in place else np.nan for row in rows])
        known["likeness to other folds"] = like
        path = shift.output.shift / "report_noise.npy"
        if path.exists() and len(noise := np.load(path)[:, 0]) == len(shift.rows):
            known["estimated share of tokens hit"] = np.array(
                [noise[place[row]] if row in place else np.nan for row in rows]
            )
    pictures = []
    for name, values in known.items():
        seen = np.isfinite(values)
        edges = np.unique(np.quantile(values[seen], np.linspace(0, 1, GROUPS + 1)))
        group = np.clip(np.searchsorted(edges, values[seen], side="right") - 1, 0, max(len(edges) - 2, 0))
        sizes = np.maximum(np.bincount(group), 1)
        means, centres = (np.bincount(group, cells) / sizes for cells in (losses[seen], values[seen]))
        spread = np.sqrt(np.maximum(np.bincount(group, losses[seen] ** 2) / sizes - means**2, 0) / sizes)
        kept = np.bincount(group) > 0
        with charts.picture(f"Loss against {name}", 2.2, charts.PANEL) as drawn:
            drawn.axes.errorbar(
                centres[kept], means[kept], spread[kept], fmt="o-", markersize=3, linewidth=1, color=charts.COLOURS[0]
            )
            drawn.axes.set_xlabel(name)
            drawn.axes.set_ylabel("mean loss")
            drawn.axes.set_ylim(bottom=0)
        pictures.append(drawn.svg)
    return Chart(
        pictures, "Groups of equally many reports, ± a standard error. Likeness is the cosine to the nearest report."
    )


def _hardest(
    ids: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, losses: np.ndarray, names: list[str]
) -> Table:
    rows = []
    for i in np.argsort(-losses)[:HARDEST]:
        cells = metrics.log_loss_cells(labels[i : i + 1], probabilities[i : i + 1])[0]
        worst = [k for k in np.argsort(-cells)[:3] if cells[k] > 0.5]
        told = ", ".join(
            f"{names[k]} {'there' if labels[i, k] else 'not there'}, {probabilities[i, k]:.2f}" for k in worst
        )
        rows.append([ids[i].decode(), f"{losses[i]:.3f}", told])
    caption = f"The {len(rows)} hardest reports"
    return Table(["report", "loss", "what it got wrong, and the probability it gave"], rows, caption)


def _pairs(labels: np.ndarray, probabilities: np.ndarray, names: list[str]) -> Table:
    """Labels that are said where another is the truth: of reports that lack the one and have the other."""
    missed = ((labels == 1) & (probabilities < 0.5)).astype(np.float64)
    invented = ((labels == 0) & (probabilities >= 0.5)).astype(np.float64)
    both = missed.T @ invented
    order = [np.unravel_index(i, both.shape) for i in np.argsort(-both, axis=None)[:PAIRS]]
    rows = [[names[a], names[b], f"{both[a, b]:.0f}", f"{missed[:, a].sum():.0f}"] for a, b in order if both[a, b] > 0]
    return Table(
        ["is there but missed", "said instead", "reports", "missed in all"],
        rows,
        "Labels that are taken for one another",
    )
