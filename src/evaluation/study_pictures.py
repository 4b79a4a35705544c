"""Pictures of a hyperparameter study, for the page and for the PNG files beside the study.

Trials are rows of trials.csv: `trial`, `state`, `score`, `seconds`, and a column for each setting, all as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from src.core import charts
from src.core.language import _

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Trial = dict[str, str]


def settings_of(trials: Sequence[Trial]) -> list[str]:
    """Returns the names of the columns that hold settings."""
    return [key for key in trials[0] if "." in key]


def complete(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial["state"] == "complete"]


def is_in_use(trial: Trial) -> bool:
    """Returns True for the trial that has the settings in use."""
    return trial.get("in_use") == "true"


def short(key: str) -> str:
    """Returns a setting's name without its part: learning_rate of train.learning_rate."""
    return key.split(".", 1)[1]


def shown(value: str) -> str:
    """Returns a setting's value for people, numbers with four digits."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value.strip('"') or "–"


def history(axes: Axes, name: str, trials: Sequence[Trial]) -> None:
    """Draws the score of each complete trial, and the best so far."""
    finished = complete(trials)
    numbers, scores = [int(trial["trial"]) for trial in finished], [float(trial["score"]) for trial in finished]
    pruned = [int(trial["trial"]) for trial in trials if trial["state"] == "pruned"]
    floor = min(scores) - 0.1 * (max(scores) - min(scores)) - 1e-3
    if pruned:
        axes.plot(
            pruned, [floor] * len(pruned), "x", color=charts.COLOURS[5], markersize=4, label=_("pruned, no score")
        )
    axes.plot(numbers, scores, "o", color=charts.COLOURS[0], markersize=4, label=_("complete"))
    axes.step(numbers, np.maximum.accumulate(scores), where="post", color=charts.COLOURS[1], label=_("best so far"))
    for trial in filter(is_in_use, finished):
        axes.axhline(float(trial["score"]), color=charts.COLOURS[2], linewidth=1, linestyle="--", label=_("in use"))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title=_("{study}: search history").format(study=name), xlabel=_("trial"), ylabel=_("score"))
    axes.legend()


def importances(axes: Axes, name: str, shares: dict[str, float]) -> None:
    """Draws the share of each setting in the variance of the scores."""
    axes.barh(range(len(shares)), [100 * share for share in shares.values()], color=charts.COLOURS[0], height=0.65)
    charts.rows(axes, list(shares))
    title = _("{study}: importance of settings").format(study=name)
    axes.set(title=title, xlabel=_("% of the variance of scores"), ylabel=_("setting"))


def parallel(axes: Axes, name: str, trials: Sequence[Trial]) -> None:
    """Draws parallel coordinates: a line for each complete trial through its settings to its score."""
    finished, settings = complete(trials), settings_of(trials)
    columns = [numbers([trial[key] for trial in finished])[0] for key in settings]
    columns.append(np.array([float(trial["score"]) for trial in finished]))
    heights = []
    for values in columns:
        low, span = np.nanmin(values), np.nanmax(values) - np.nanmin(values)
        heights.append((values - low) / span if span else np.full(len(values), 0.5))
    ranks = np.argsort(np.argsort(columns[-1])) / max(len(finished) - 1, 1)
    for i, rank in enumerate(ranks):
        line = [height[i] for height in heights]
        axes.plot(line, color=charts.COLOURS[0], alpha=0.1 + 0.85 * rank**2, linewidth=0.6 + 1.4 * rank**3)
    axes.set_xticks(range(len(columns)), [*map(short, settings), _("score")], rotation=30, ha="right")
    axes.set_yticks([0, 1], [_("lowest"), _("highest")])
    axes.grid(visible=True, axis="x")
    title = _("{study}: complete trials, the best boldest").format(study=name)
    axes.set(title=title, xlabel=_("setting, and the score"), ylabel=_("value"))


def against(axes: Axes, key: str, trials: Sequence[Trial]) -> None:
    """Draws the score of complete trials against a setting."""
    finished = complete(trials)
    values, kinds = numbers([trial[key] for trial in finished])
    axes.plot(values, [float(trial["score"]) for trial in finished], "o", markersize=3, color=charts.COLOURS[0])
    if kinds:
        axes.set_xticks(range(len(kinds)), [shown(kind) for kind in kinds], rotation=30, ha="right")
        axes.set_xlim(-0.5, len(kinds) - 0.5)
    elif key.endswith("learning_rate"):
        charts.plain_log(axes.xaxis)
    else:
        axes.xaxis.get_major_locator().set_params(nbins=4)


def pareto(axes: Axes, name: str, trials: Sequence[Trial]) -> None:
    """Draws score against training time; trials that no other beats in both are marked."""
    finished = sorted(complete(trials), key=lambda trial: float(trial["seconds"]))
    seconds, scores = (np.array([float(trial[key]) for trial in finished]) for key in ("seconds", "score"))
    best = scores >= np.maximum.accumulate(scores)
    axes.plot(seconds[~best], scores[~best], "o", color=charts.COLOURS[5], markersize=4, label=_("beaten in both"))
    axes.plot(seconds[best], scores[best], "D-", color=charts.COLOURS[1], markersize=4, label=_("not beaten in both"))
    title = _("{study}: score against time").format(study=name)
    axes.set(title=title, xlabel=_("seconds of a trial"), ylabel=_("score"))
    axes.legend()


def numbers(given: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Returns values as numbers (NaN if missing), or as indices of the returned list of choices."""
    try:
        return np.array([float(value) if value else np.nan for value in given]), []
    except ValueError:
        kinds = sorted(set(given) - {""})
        return np.array([kinds.index(value) if value in kinds else np.nan for value in given]), kinds
