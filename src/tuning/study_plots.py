"""Table and plots of the trials of a study."""

from __future__ import annotations

import csv
import io
import warnings
from functools import partial

from optuna.trial import TrialState

from src.core import charts, storage
from src.evaluation import study_pictures
from src.tuning.study import IN_USE, Study

FEWEST = 4
"""Complete trials that importances need."""


def table(study: Study) -> str:
    """CSV with a line for each trial: parameters and results. `gain` is over the trial with the settings in use, which
    is marked by `in_use`. `reported` is the mean of its folds at the last mark: one minus the loss, which in round 2 is
    not the official score."""
    trials = study.trials()
    names = sorted({name for trial in trials for name in trial.params})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    results = ["score", "standard_error", "in_use", "gain", "gain_standard_error", "seconds", "reported", "marks"]
    writer.writerow(["trial", "state", *results, *names])
    for trial in trials:
        found = trial.user_attrs.get("score", {})
        gain = study.gain(trial) if found else None
        last = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
        writer.writerow(
            [
                trial.number,
                trial.state.name.lower(),
                found.get("value"),
                found.get("standard_error"),
                str(bool(trial.user_attrs.get(IN_USE))).lower(),
                gain and gain.value,
                gain and gain.standard_error,
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
    """Writes importances.json, history.png and, from enough trials, importances.png and parallel.png to the study's
    folder; with two objectives also the Pareto front."""
    shares, trials = importances(study), list(csv.DictReader(io.StringIO(table(study))))
    storage.write_json(study.folder / "importances.json", shares)
    drawn = {"history": partial(study_pictures.history, name=study.name, trials=trials)}
    if shares:
        drawn["importances"] = partial(study_pictures.importances, name=study.name, shares=shares)
        drawn["parallel"] = partial(study_pictures.parallel, name=study.name, trials=trials)
    if len(study.settings.objectives) > 1:
        drawn["pareto"] = partial(study_pictures.pareto, name=study.name, trials=trials)
    for name, picture in drawn.items():
        with charts.png(study.folder / f"{name}.png", width=9, height=5) as (axes,):
            picture(axes)
