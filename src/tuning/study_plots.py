"""What a study found: the table of its trials, what mattered, and pictures of both and of how the search went."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from src.core import storage
from src.core.terminal import info

if TYPE_CHECKING:
    import optuna

FEWEST = 4
"""Complete trials that importances are taken from."""


def table(study: optuna.Study) -> str:
    """CSV: a line for each trial, with what was drawn and what came of it; `reported` is what
    was last told of its folds, one minus their loss, which in round 2 is no official score."""
    trials = study.get_trials(deepcopy=False)
    names = sorted({name for trial in trials for name in trial.params})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "score", "standard_error", "seconds", "reported", "marks", *names])
    for trial in trials:
        found = trial.user_attrs.get("score", {})
        last = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
        writer.writerow(
            [
                trial.number,
                trial.state.name.lower(),
                found.get("value"),
                found.get("standard_error"),
                trial.user_attrs.get("seconds"),
                last,
                trial.last_step,
                *(trial.params.get(name) for name in names),
            ]
        )
    return text.getvalue()


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each setting in the differences between scores (fANOVA), the largest first; none from few trials."""
    from optuna.importance import get_param_importances

    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if len(complete) < FEWEST or len({trial.values[0] for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return get_param_importances(study, target=lambda trial: trial.values[0])
        except (ValueError, RuntimeError):  # no setting that all trials have, or one that never changed
            return {}


def draw(study: optuna.Study, folder: Path, objectives: list[str]) -> None:
    """history.png, importances.png and parallel.png in the study's folder; of two objectives the Pareto front too."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as charts

    scored = {"target": lambda trial: trial.values[0], "target_name": objectives[0]}
    pictures = {"history": lambda: charts.plot_optimization_history(study, **scored)}
    if importances(study):
        pictures["importances"] = lambda: charts.plot_param_importances(study, **scored)
        pictures["parallel"] = lambda: charts.plot_parallel_coordinate(study, **scored)
    if len(objectives) > 1:
        pictures["pareto"] = lambda: charts.plot_pareto_front(study, target_names=objectives)
    for name, make in pictures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's pictures are experimental, and say so each time
            try:
                axes = make()
            except (ValueError, RuntimeError) as error:  # too few trials that have all settings
                info(f"tune: no {name}.png: {error}")
                continue
        figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
        figure.set_size_inches(9, 5)
        storage.write_atomic(
            folder / f"{name}.png", lambda file, figure=figure: figure.savefig(file, bbox_inches="tight")
        )
        pyplot.close(figure)
