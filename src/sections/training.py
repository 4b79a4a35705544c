"""Folds and learning curves."""

from __future__ import annotations

import csv

import numpy as np

from src import charts
from src.page import Chart, Section, Table, Text
from src.sections import Findings

MOST = 12
"""Runs whose curves are drawn."""


def section(findings: Findings) -> Section:
    found = Section("Folds and learning")
    if findings.folds is None:
        return found
    found.parts.append(_folds(findings))
    trained = {name: run for name, run in findings.runs.items() if (run.path / "history.csv").exists()}
    shown = dict(list(trained.items())[-MOST:])
    if not shown:
        return found
    rows = -(-len(shown) // 2)
    with charts.picture("Learning curves of every fold", 2.4 * rows, rows, 2, squeeze=False) as drawn:
        cells = drawn.axes.ravel()
        for axes, (name, run) in zip(cells, shown.items(), strict=False):
            _curves(axes, name, list(csv.DictReader((run.path / "history.csv").open())))
        for axes in cells[len(shown) :]:
            axes.set_visible(False)
    said = "" if len(shown) == len(trained) else f" Of {len(trained)} runs the best {len(shown)}."
    found.parts.append(
        Chart(
            drawn.svg,
            "A line for each fold and seed: solid on what it learns from (noisy, as it is shown), dashed on what it is "
            f"validated on, after each epoch.{said}",
        )
    )
    return found


def _folds(findings: Findings) -> Table | Text:
    folds, labels = findings.folds, np.asarray(findings.prepared.train.labels)
    if folds.scheme == "holdout":
        return Text("One split into train, validation and test parts of 8:1:1.")
    rates = np.array([labels[folds.first == fold].mean(axis=0) for fold in range(folds.first.max() + 1)])
    return Table(
        ["fold", "reports", "labels a report", "largest difference of a label's rate"],
        [
            [str(fold), f"{(folds.first == fold).sum():,}", f"{labels[folds.first == fold].sum(axis=1).mean():.3f}",
             f"{np.abs(rate - labels.mean(axis=0)).max():.2%}"]
            for fold, rate in enumerate(rates)
        ],
        f"Folds ({folds.scheme})",
    )  # fmt: skip


def _curves(axes, name: str, history: list[dict[str, str]]) -> None:
    by_fold: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in history:
        by_fold.setdefault((row["fold"], row["seed"]), []).append(row)
    for rows in by_fold.values():
        epochs = [int(row["epoch"]) for row in rows]
        axes.plot(epochs, [float(row["train_loss"]) for row in rows], color=charts.COLOURS[0], linewidth=0.9, alpha=0.7)
        axes.plot(
            epochs, [float(row["valid_loss"]) for row in rows], "--", color=charts.COLOURS[1], linewidth=0.9, alpha=0.8
        )
    axes.set_title(name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
