"""Pictures of the differences between train and test files, for the page and for shift.png."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core import array_files, charts
from src.core.language import _, word
from src.core.storage import Output
from src.evaluation.series_shift_summary import LISTED, most_different
from src.evaluation.shift_words import short_names
from src.evaluation.text_shift_summary import RATE_NAMES, RATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOKEN_RATES = RATES[:3]
"""Rates that are shares of tokens."""
BINS = np.linspace(0, 1, 41)

Drawing = Callable[["Axes"], None]


def drawings(output: Output, facts: dict[str, Any], remedy: str = "shift") -> dict[str, Drawing]:
    """Returns what draws each picture, by its title. Raises Damaged, with the command `remedy`, for damaged arrays."""
    return (_of_reports if "noun" not in facts else _of_series)(output, facts, remedy)


def draw_all(path: Any, output: Output, facts: dict[str, Any]) -> None:
    """Draws all pictures side by side into a PNG file."""
    found = drawings(output, facts)
    with charts.png(path, max(len(found), 1)) as panels:
        for axes, draw in zip(panels, found.values(), strict=False):
            draw(axes)


def _of_reports(output: Output, facts: dict[str, Any], remedy: str) -> dict[str, Drawing]:
    short = short_names(facts["tests"])
    noise = {
        _("train"): facts["train"]["noise"],
        **{short[name]: test["noise"] for name, test in facts["tests"].items()},
    }
    known = {name: estimate for name, estimate in noise.items() if estimate is not None}
    found: dict[str, Drawing] = {}
    if known:
        found[_("Noise, with 95% intervals")] = partial(_draw_noise, known)
    if short:
        first = next(iter(short))
        similarity = {_("train, to other folds"): _array(output, first, "similarity", remedy)[0]}
        similarity |= {shown: _array(output, name, "test_similarity", remedy) for name, shown in short.items()}
        title = _("Similarity to the nearest train report")
        found[title] = partial(_draw_similarity, similarity, title, _("TF-IDF cosine, 0 to 1"), "reports")
    return found


def _of_series(output: Output, facts: dict[str, Any], remedy: str) -> dict[str, Drawing]:
    short, found = short_names(facts["tests"]), {}
    if parameters := most_different(list(facts["tests"].values()))[:LISTED]:
        missing = {
            short[name]: {one["parameter"]: one["steps"] for one in test["missingness"]}
            for name, test in facts["tests"].items()
        }
        found[_("Time steps with a value")] = partial(_draw_missingness, parameters, missing)
    for name, shown in short.items():
        similarity = {
            _("train"): _array(output, name, "similarity", remedy)[0],
            shown: _array(output, name, "test_similarity", remedy),
        }
        title = _("Similarity to train, against {file}").format(file=shown)
        measure = _("probability of being a train row, out of fold")
        found[title] = partial(_draw_similarity, similarity, title, measure, facts["noun"])
    return found


def _array(output: Output, test: str, name: str, remedy: str) -> np.ndarray:
    return array_files.read_npy(output.shift_of(test) / f"{name}.npy", remedy)


def _draw_noise(known: dict[str, dict[str, Any]], axes: Axes) -> None:
    values = {name: [100 * one["rates"][rate] for rate in TOKEN_RATES] for name, one in known.items()}
    ends = {name: 100 * np.array([one["intervals"][rate] for rate in TOKEN_RATES]).T for name, one in known.items()}
    spans = {name: np.maximum([values[name] - ends[name][0], ends[name][1] - values[name]], 0) for name in known}
    charts.grouped(axes, [RATE_NAMES[rate] for rate in TOKEN_RATES], values, spans)
    axes.set(title=_("Noise, with 95% intervals"), xlabel=_("kind of noise"), ylabel=_("% of tokens"))


def _draw_missingness(parameters: list[str], tests: dict[str, dict[str, dict[str, Any]]], axes: Axes) -> None:
    """Draws differences of observed time steps by test file and parameter."""
    values, spans = (
        {name: [100 * found[one][key] for one in parameters] for name, found in tests.items()}
        for key in ("difference", "standard_error")
    )
    charts.grouped(axes, parameters, values, spans, horizontal=True, first=1)  # the first colour is that of train
    axes.set(
        title=_("Time steps with a value"),
        xlabel=_("difference from train, % of time steps"),
        ylabel=_("parameter"),
    )


def _draw_similarity(distributions: dict[str, np.ndarray], title: str, measure: str, noun: str, axes: Axes) -> None:
    shares = {name: 100 * np.histogram(values, BINS)[0] / max(len(values), 1) for name, values in distributions.items()}
    charts.steps(axes, BINS, shares)
    axes.set(title=title, xlabel=measure, ylabel=_("% of {noun}").format(noun=word(noun)))
