"""Folds and learning curves."""

from __future__ import annotations

import csv

import numpy as np

from src.reporting import charts
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

MOST = 12
"""Runs whose curves are drawn."""
LOSSES = [("train_loss", "-", "learns from"), ("valid_loss", "--", "validated on")]


def section(findings: Findings) -> Section:
    found = Section("Folds and learning")
    if findings.folds is None:
        return found
    found.parts.append(_folds(findings))
    trained = {name: run for name, run in findings.runs.items() if (run.path / "history.csv").exists()}
    shown = dict(list(trained.items())[-MOST:])
    if not shown:
        return found
    said = "" if len(shown) == len(trained) else f" Of {len(trained)} runs the best {len(shown)}."
    found.parts.append(
        Chart(
            [_curves(name, list(csv.DictReader((run.path / "history.csv").open()))) for name, run in shown.items()],
            "Learning curves, a line for each fold and seed: loss on what it learns from (noisy, as it is shown) and, "
            f"dashed, on what it is validated on, after each epoch.{said}",
        )
    )
    return found


def _folds(findings: Findings) -> Table | Text:
    folds, labels = findings.folds, np.asarray(findings.dataset.train.labels)
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


def _curves(name: str, history: list[dict[str, str]]) -> str:
    by_fold: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in history:
        by_fold.setdefault((row["fold"], row["seed"]), []).append(row)
    with charts.picture(f"Learning curves of {name}", 2.5, charts.PANEL) as drawn:
        for i, rows in enumerate(by_fold.values()):
            epochs = [int(row["epoch"]) for row in rows]
            for colour, (column, form, told) in enumerate(LOSSES):
                style = {"color": charts.COLOURS[colour], "linewidth": 0.9, "alpha": 0.8}
                drawn.axes.plot(epochs, [float(row[column]) for row in rows], form, label=None if i else told, **style)
        charts.plain_log(drawn.axes.yaxis)
        drawn.axes.xaxis.get_major_locator().set_params(integer=True)
        drawn.axes.set_title(name)
        drawn.axes.set_xlabel("epoch")
        drawn.axes.set_ylabel("loss")
        drawn.axes.legend()
    return drawn.svg
