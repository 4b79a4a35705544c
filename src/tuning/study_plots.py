"""Table and plots of the trials of a study."""

from __future__ import annotations

import csv
import io
import warnings

from optuna.trial import TrialState

from src.core import storage
from src.core.terminal import info
from src.tuning.study import Study

FEWEST = 4
"""Complete trials that importances need."""


def table(study: Study) -> str:
    """CSV with a line for each trial: parameters and results. `reported` is the mean of its folds at the last mark:
    one minus the loss, which in round 2 is not the official score."""
    trials = study.trials()
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


def importances(study: Study) -> dict[str, float]:
    """Share of each setting in the variance of the first objective (fANOVA), largest first; none from few trials."""
    from optuna.importance import get_param_importances

    complete = study.trials(TrialState.COMPLETE)
    if len(complete) < FEWEST or len({trial.values[0] for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return get_param_importances(study.record, target=lambda trial: trial.values[0])
        except (ValueError, RuntimeError):  # all trials share no setting, or one never changed
            return {}


def draw(study: Study) -> None:
    """Writes importances.json, history.png, importances.png and parallel.png to the study's folder; with two objectives
    also the Pareto front."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as charts

    shares, record, objectives = importances(study), study.record, study.settings.objectives
    storage.write_json(study.folder / "importances.json", shares)
    scored = {"target": lambda trial: trial.values[0], "target_name": objectives[0]}
    pictures = {"history": lambda: charts.plot_optimization_history(record, **scored)}
    if shares:
        pictures["importances"] = lambda: charts.plot_param_importances(record, **scored)
        pictures["parallel"] = lambda: charts.plot_parallel_coordinate(record, **scored)
    if len(objectives) > 1:
        pictures["pareto"] = lambda: charts.plot_pareto_front(record, target_names=objectives)
    for name, make in pictures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each of Optuna's pictures warns that it is experimental
            try:
                axes = make()
            except (ValueError, RuntimeError) as error:  # too few trials that have all settings
                info(f"tune: no {name}.png: {error}")
                continue
        figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
        figure.set_size_inches(9, 5)
        path = study.folder / f"{name}.png"
        storage.write_atomic(path, lambda file, figure=figure: figure.savefig(file, bbox_inches="tight"))
        pyplot.close(figure)
