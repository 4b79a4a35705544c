"""Report section on folds and learning curves."""

from __future__ import annotations

import csv

import numpy as np

from src.core import charts
from src.core.language import _, word
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

MOST = 12
"""Maximum number of runs with chart curves."""
LOSSES = [("train_loss", "-", _("training")), ("valid_loss", "--", _("validation"))]


def section(findings: Findings) -> Section:
    result = Section(_("Folds and learning curves"))
    if findings.folds is None:
        return result
    result.parts.append(_folds(findings))
    gist = _("how the {noun} are divided, and how each run learned")
    result.gist = gist.format(noun=word(findings.dataset.task.noun))
    histories = {
        name: list(csv.DictReader((run.path / "history.csv").open(encoding="utf-8")))
        for name, run in findings.runs.items()
        if (run.path / "history.csv").exists()
    }
    if findings.dataset.shape.kind == "series":  # tabular models are fitted at once
        histories = {name: rows for name, rows in histories.items() if any(int(row["epoch"]) > 1 for row in rows)}
    shown = dict(list(histories.items())[-MOST:])
    if not shown:
        return result
    caption = _(
        "Learning curves, a line for each fold and seed: training loss (with noise) and, dashed, validation loss of "
        "each epoch. All runs have one scale of losses."
    )
    if len(shown) < len(histories):
        more = _("The best {shown} of {all} runs are shown.").format(shown=len(shown), all=len(histories))
        caption = caption + " " + more
    losses = [
        _known(row[column]) for history in shown.values() for row in history for column in (loss[0] for loss in LOSSES)
    ]
    scale = (0.95 * np.nanmin(losses), 1.05 * np.nanmax(losses))
    result.parts.append(Chart([_curves(name, history, scale) for name, history in shown.items()], caption))
    return result


def _known(loss: str) -> float:
    """Value of a cell; NaN for a loss that a federation does not know."""
    return float(loss or "nan")


def _folds(findings: Findings) -> Table | Text:
    folds, labels = findings.folds, np.asarray(findings.dataset.train.labels)
    if folds.scheme == "holdout":
        return Text(_("One split into train, validation and test parts of 8:1:1."))
    task, parts = findings.dataset.task, range(folds.first.max() + 1)
    sizes = [f"{(folds.first == fold).sum():,}" for fold in parts]
    means = np.array([labels[folds.first == fold].mean(axis=0) for fold in parts])
    columns = [_("fold"), word(task.noun)]
    if task.has_classes:
        differences = [f"{np.abs(mean - labels.mean(axis=0)).max():.2%}" for mean in means]
        if task.kind == "multilabel":
            columns.append(_("labels of a {one}, mean").format(one=word(task.one)))
            figures = [[f"{labels[folds.first == fold].sum(axis=1).mean():.3f}"] for fold in parts]
        elif task.kind == "binary":
            columns.append(_("rate of {label}").format(label=task.label_names[0]))
            figures = [[f"{mean[0]:.3f}"] for mean in means]
        else:
            figures = [[] for _ in parts]
        columns.append(_("largest difference of a label's rate"))
        figures = [[*one, difference] for one, difference in zip(figures, differences, strict=True)]
    else:
        columns += [_("mean ({unit})").format(unit=word(task.unit)), _("median ({unit})").format(unit=word(task.unit))]
        figures = [
            [f"{mean[0]:.2f}", f"{np.median(labels[folds.first == fold]):g}"]
            for fold, mean in zip(parts, means, strict=True)
        ]
    rows = [[str(fold), size, *one] for fold, size, one in zip(parts, sizes, figures, strict=True)]
    return Table(columns, rows, _("Folds ({scheme})").format(scheme=folds.scheme))


def _curves(name: str, history: list[dict[str, str]], scale: tuple[float, float]) -> str:
    by_fold: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in history:
        by_fold.setdefault((row["fold"], row["seed"]), []).append(row)
    with charts.picture(_("Learning curves of {run}").format(run=name), 2.5, charts.PANEL) as chart:
        for i, rows in enumerate(by_fold.values()):
            epochs = [int(row["epoch"]) for row in rows]
            for colour, (column, form, name_of_loss) in enumerate(LOSSES):
                style = {"color": charts.COLOURS[colour], "linewidth": 0.9, "alpha": 0.8}
                chart.axes.plot(
                    epochs, [_known(row[column]) for row in rows], form, label=None if i else name_of_loss, **style
                )
        chart.axes.set_ylim(*scale)
        charts.plain_log(chart.axes.yaxis)
        chart.axes.xaxis.get_major_locator().set_params(integer=True)
        chart.axes.set_title(name)
        chart.axes.set_xlabel(_("epoch"))
        chart.axes.set_ylabel(_("loss"))
        chart.axes.legend()
    return chart.svg
