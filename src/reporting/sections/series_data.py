"""Report section on the data of a series task: cohort, target, parameters and missing values of stays; classes and
examples of images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from src.core import charts
from src.core.language import _, joined, word
from src.data.dataset import Dataset
from src.data.plausible import SERIES
from src.data.series_reader import LAST_MINUTE
from src.data.tasks import Task
from src.evaluation import missingness
from src.evaluation.missingness import Sample
from src.evaluation.stored_sentences import message_of
from src.reporting.html_page import Chart, Part, Section, Table, Text

HOURS = LAST_MINUTE / 60
ROW = 0.17
"""Inches of a row of a chart with a row for each parameter."""
BINS = 30
TAIL = 0.5
"""Percent of the values at either end that a histogram leaves out."""
CLASSES_SHOWN = 12
"""Most classes of images with an example."""
ROLES = {"train": _("train"), "test": _("test"), "extra": _("extra")}
"""Words for what a file is for."""
MAX_HISTOGRAM = 400_000
"""Values of a parameter that its histogram counts."""


def section(dataset: Dataset) -> Section:
    result = Section(_("Data"))
    summary = dataset.manifest["summary"]
    is_images = dataset.task.input_kind == "images"
    result.gist = _("files, classes and examples") if is_images else _("files, cohort, parameters and missing values")
    result.parts += [Text(_("{summary}.").format(summary=message_of(summary))), _files(dataset)]
    sample = missingness.draw_sample(dataset.train)
    if is_images:
        result.parts += [_target(dataset.task, sample), *_images(dataset, sample)]
        result.parts += [Text(told) for told in missingness.sentences(missingness.of_dataset(dataset), dataset.task)]
        return result
    facts = missingness.of_dataset(dataset)
    result.parts += _cohort(dataset)
    result.parts.append(_target(dataset.task, sample))
    result.parts += _statics(dataset, sample)
    result.parts += _parameters(dataset, sample)
    result.parts += [Text(told) for told in missingness.sentences(facts, dataset.task)]
    if "parameters" in facts:
        result.parts += [*_missing_charts(facts, dataset.task), missing_table(facts, dataset.task)]
    return result


def missing_table(facts: dict[str, Any], task: Task, most: int | None = None) -> Table:
    """Returns the table of all parameters, or of the `most` most informative ones and the `most` most seldom observed
    ones."""
    informative = missingness.most_informative(facts)
    others = [one for one in facts["parameters"] if one not in informative]
    seldom = sorted(others if most is None else facts["parameters"], key=lambda one: one["stays"])
    chosen = [*informative, *seldom]
    if most is not None:
        chosen = [*informative[:most], *(one for one in seldom[:most] if one not in informative[:most])]
    measure = facts["parameters"][0]["frequency"]["measure"]
    rate = _("mean") if task.kind == "regression" else _("rate")
    columns = [
        _("parameter"),
        _("kind"),
        _("% of {noun}").format(noun=word(task.noun)),
        _("% of steps"),
        _("{rate} with").format(rate=rate),
        _("{rate} without").format(rate=rate),
        word(measure),
    ]
    rows = [
        [
            one["name"],
            one["kind"],
            f"{100 * one['stays']:.1f}",
            f"{100 * one['hours']:.1f}",
            _outcome(one["outcome"]["observed"], task),
            _outcome(one["outcome"]["unobserved"], task),
            _number(one["frequency"]["value"]) + _stars(one["frequency"]["p_holm"]),
        ]
        for one in chosen
    ]
    dropped = {_("kind")} if most is not None else set()
    if task.kind == "multiclass":  # several classes have no one rate
        dropped |= {_("{rate} with").format(rate=rate), _("{rate} without").format(rate=rate)}
    kept = [i for i, column in enumerate(columns) if column not in dropped]
    columns, rows = [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]
    label = (
        ""
        if task.kind == "multiclass"
        else _(" of {label}{unit}").format(
            label=task.label_names[0], unit=joined("", [" (", word(task.unit), ")"]) if task.unit else ""
        )
    )
    caption = _(
        "Parameters: observed in % of {noun} and of time steps; {rate}{label} with and "
        "without an observation; {measure} of the number of observations with the outcome (* "
        "p < 0.05, ** p < 0.001, Holm)"
    ).format(noun=word(task.noun), rate=rate, label=label, measure=measure)
    return Table(columns, rows, caption, open=most is not None)


def _outcome(value: float | None, task: Task) -> str:
    return "–" if value is None else f"{value:.1f}" if task.kind == "regression" else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _stars(p: float | None) -> str:
    return "" if p is None or p >= missingness.SIGNIFICANT else " *" if p >= 0.001 else " **"


def _files(dataset: Dataset) -> Table:
    return Table(
        [_("set"), _("role"), word(dataset.task.noun), "sha256"],
        [
            [file["name"], ROLES.get(file["role"], file["role"]), f"{file['rows']:,}", f"{file['sha256'][:12]}…"]
            for file in dataset.manifest["files"]
        ],
        _("Files"),
    )


COUNTS = {
    "stays": _("stays read"),
    "lines": _("rows (time, parameter, value)"),
    "without_series": _("stays without any series"),
    "blank": _("rows with a blank parameter, dropped"),
    "unknown": _("values unknown (-1), made missing"),
    "implausible": _("values outside the plausible range, made missing"),
    "repaired": _("values without their decimal point, repaired"),
}
"""Counts of a set in the manifest, in words."""


def _cohort(dataset: Dataset) -> list[Table]:
    """Returns the counts that the reader noted in the manifest, and the implausible values of each parameter."""
    files = [file for file in dataset.manifest["files"] if "stays" in file]
    if not files:
        return []
    labels = np.asarray(dataset.train.labels)
    rows = []
    for key, words in COUNTS.items():
        counts = [file[key] for file in files]
        totals = [sum(count.values()) if isinstance(count, dict) else count for count in counts]
        rows.append([words, *(f"{total:,}" for total in totals)])
    by_source = np.bincount(dataset.train.sources, minlength=len(files))
    trained = [f"{by_source[i]:,}" if file["role"] == "train" else "–" for i, file in enumerate(files)]
    rows.append([_("stays with a known target"), *trained])
    if dataset.task.kind == "binary":
        deaths = np.bincount(dataset.train.sources, labels[:, 0], minlength=len(files))
        told = [f"{deaths[i]:,.0f}" if file["role"] == "train" else "–" for i, file in enumerate(files)]
        rows.append([dataset.task.label_names[0], *told])
    rows.append([_("parameters on the grid"), *([f"{len(dataset.shape.parameters)}"] * len(files))])
    names = [file["name"] for file in files]
    implausible = sorted({name for file in files for name in file["implausible"]})
    ranges = {
        one.name: _("{low:g} to {high:g} {unit}").format(low=one.low, high=one.high, unit=one.unit) for one in SERIES
    }
    return [
        Table([_("count"), *names], rows, _("Cohort")),
        Table(
            [_("parameter"), _("plausible"), *names],
            [
                [name, ranges.get(name, "–"), *(f"{file['implausible'].get(name, 0):,}" for file in files)]
                for name in implausible
            ],
            _("Values outside the plausible range"),
            open=False,
        ),
    ]


def _target(task: Task, sample: Sample) -> Chart:
    name = task.label_names[0]
    if task.kind == "regression":
        values = sample.labels[:, 0]
        with charts.picture(_("Distribution of {name}").format(name=name)) as chart:
            highest = np.percentile(values, 99)
            charts.steps(
                chart.axes, np.linspace(0, highest, BINS + 1), {"": np.histogram(values, BINS, (0, highest))[0]}
            )
            chart.axes.set(title=name, xlabel=task.unit, ylabel=_("number of {noun}").format(noun=word(task.noun)))
        quartiles = joined(
            "; ", [joined(" ", [part, f"{np.percentile(values, 100 * at):.1f}"]) for part, at in PARTS.items()]
        )
        return Chart(
            chart.svg,
            _("{name} in {unit}: mean {mean:.1f}, {quartiles}. The highest 1% is not drawn.").format(
                name=name, unit=word(task.unit), mean=values.mean(), quartiles=quartiles
            ),
        )
    counts = sample.labels.sum(axis=0, dtype=np.int64)
    names = task.label_names
    if task.kind == "binary":
        counts, names = np.array([len(sample) - counts[0], counts[0]]), [_("no {name}").format(name=name), name]
    with charts.picture(_("Number of each class")) as chart:
        charts.bars(chart.axes, [one.removeprefix("class_") for one in names], counts)
        title = _("Number of {noun} of each class").format(noun=word(task.noun))
        chart.axes.set(title=title, xlabel=_("class"), ylabel=_("number of {noun}").format(noun=word(task.noun)))
    if task.kind == "binary":
        return Chart(
            chart.svg,
            _("{name}: {n:,} of {all:,} {noun} ({share:.2%}).").format(
                name=name, n=counts[1], all=len(sample), noun=word(task.noun), share=counts[1] / len(sample)
            ),
        )
    return Chart(
        chart.svg,
        _("{n:,} {noun}; {fewest:,} to {most:,} a class.").format(
            n=len(sample), noun=word(task.noun), fewest=counts.min(), most=counts.max()
        ),
    )


PARTS = {_("first quartile"): 0.25, _("median"): 0.5, _("third quartile"): 0.75}


def _statics(dataset: Dataset, sample: Sample) -> list[Part]:
    """Returns a table of the statics and a histogram of each that has more than two values."""
    task, rows, pictures = dataset.task, [], []
    for name, values in zip(dataset.shape.statics, sample.statics.T, strict=True):
        known = ~np.isnan(values)
        if not known.any():
            rows.append([name, "0.0%", "–", "–", "–"])
            continue
        there = values[known]
        is_flag = np.isin(there, (0, 1)).all()
        low, middle, high = np.percentile(there, [25, 50, 75])
        with_it = sample.labels[known][there == 1] if is_flag else np.zeros((0, 1))
        shown = task.kind != "multiclass" and len(with_it) > 0
        rows.append(
            [
                name,
                f"{known.mean():.1%}",
                _("{share:.1%} are 1").format(share=there.mean()) if is_flag else f"{middle:.4g}",
                "–" if is_flag else _("{low:.4g} to {high:.4g}").format(low=low, high=high),
                _outcome(float(with_it[:, 0].mean()), task) if shown else "–",
            ]
        )
        if not is_flag:
            pictures.append(_histogram(name, "", there, sample.labels[known], task))
    if not rows:
        return []
    rate = (
        _("mean {unit} if 1").format(unit=task.unit)
        if task.kind == "regression"
        else _("{label} if 1").format(label=task.label_names[0])
    )
    table = Table(
        [_("static"), _("known"), _("median or share"), _("quartiles"), rate], rows, _("Statics, known at admission")
    )
    caption, legend = _lines(task)
    return [table, Chart(pictures, caption, legend=legend)] if pictures else [table]


def _lines(task: Task) -> tuple[str, list[tuple[str, str]]]:
    """Returns caption and legend of the lines of a histogram."""
    if task.kind != "binary":
        return "", []
    label = task.label_names[0]
    legend = [(charts.COLOURS[0], _("no {label}").format(label=label)), (charts.COLOURS[1], label)]
    return _("Each line adds up to 100%."), legend


def _parameters(dataset: Dataset, sample: Sample) -> list[Part]:
    """Returns a histogram of each parameter and a table of its quantiles and its plausible range."""
    known = {one.name: one for one in SERIES}
    generator, rows, pictures = np.random.default_rng(0), [], []
    for j, name in enumerate(dataset.shape.parameters):
        stay, step = np.nonzero(~np.isnan(sample.values[:, :, j]))
        if len(stay) > MAX_HISTOGRAM:
            chosen = generator.choice(len(stay), MAX_HISTOGRAM, replace=False)
            stay, step = stay[chosen], step[chosen]
        values, about = sample.values[stay, step, j].astype(np.float64), known.get(name)
        unit = about.unit if about else ""
        plausible = _("{low:g} to {high:g}").format(low=about.low, high=about.high) if about else "–"
        if not len(values):
            rows.append([name, unit, plausible, "–", "–", "–"])
            continue
        rows.append([name, unit, plausible, *(f"{x:.4g}" for x in np.percentile(values, [1, 50, 99]))])
        title = f"{name} ({unit})" if unit and len(unit) < 9 else name
        pictures.append(_histogram(title, plausible, values, sample.labels[stay], dataset.task))
    caption = _("Values observed, without the {tail}% at either end; below each, its plausible range.")
    lines, legend = _lines(dataset.task)
    caption = joined(" ", filter(None, [caption.format(tail=TAIL), lines]))
    return [
        Chart(pictures, caption, legend=legend),
        Table(
            [_("parameter"), _("unit"), _("plausible"), "1%", _("median"), "99%"],
            rows,
            _(
                "Quantiles of each parameter, a value a time step; what lies outside the plausible "
                "range was made missing"
            ),
            open=False,
        ),
    ]


def _histogram(title: str, plausible: str, values: np.ndarray, labels: np.ndarray, task: Task) -> str:
    """Draws the values (n,) of one variable, for a binary task by the labels (n, 1), and returns the SVG."""
    low, high = np.percentile(values, [TAIL, 100 - TAIL])
    edges = np.linspace(low, high, BINS + 1)
    if (values == np.round(values)).all():  # bins of as many whole numbers each, or they would show steps that are none
        width = max(1, math.ceil((high - low) / BINS))
        edges = np.arange(math.floor(low), math.ceil(high) + width + 1, width) - 0.5
    elif high == low:
        edges = np.array([low - 0.5, low + 0.5])
    groups = {"": values}
    if task.kind == "binary":
        groups = {"no": values[labels[:, 0] == 0], "yes": values[labels[:, 0] == 1]}
    with charts.picture(_("Distribution of {title}").format(title=title), 1.3, charts.SMALL) as chart:
        for i, group in enumerate(groups.values()):
            counts = 100 * np.histogram(group, edges)[0] / max(len(group), 1)
            chart.axes.stairs(counts, edges, color=charts.COLOURS[i], linewidth=1.2)
        chart.axes.set_title(title)
        chart.axes.set_xlabel(plausible or _("value"), fontsize=8)
        chart.axes.set_ylabel(_("share"), fontsize=8)
        chart.axes.tick_params(labelsize=7.5)
        chart.axes.locator_params(nbins=4)
        chart.axes.set_yticks([])
    return chart.svg


def _missing_charts(facts: dict[str, Any], task: Task) -> list[Chart]:
    parameters = facts["parameters"]
    by_rate = sorted(range(len(parameters)), key=lambda j: -parameters[j]["stays"])
    names, height = [parameters[j]["name"] for j in by_rate], 0.9 + ROW * len(parameters)
    places = np.arange(len(names))
    with charts.picture(_("Share of stays and of time steps in which each parameter is observed"), height) as bars:
        for i, (key, words) in enumerate(
            {"stays": _("% of {noun}").format(noun=word(task.noun)), "hours": _("% of time steps")}.items()
        ):
            widths = [100 * parameters[j][key] for j in by_rate]
            bars.axes.barh(places + 0.4 * i - 0.2, widths, 0.4, color=charts.COLOURS[i], label=words)
        charts.rows(bars.axes, names)
        bars.axes.set(title=_("How often each parameter is observed"), xlabel="%", ylabel=_("parameter"), xlim=(0, 100))
        bars.axes.legend(loc="lower right")
    with charts.picture(_("Share of stays in which each parameter is observed, over time"), height) as over_time:
        shares = 100 * np.array([facts["over_time"][j] for j in by_rate])
        charts.shades(over_time.axes, shares, names, 100, _("% of {noun}").format(noun=word(task.noun)), (0, HOURS))
        over_time.axes.set(title=_("Observed over time"), xlabel=_("hours since admission"), ylabel=_("parameter"))
    return [
        Chart(
            bars.svg,
            _("A parameter is observed in one of the {noun} if it has a value in at least one time step.").format(
                noun=word(task.noun)
            ),
        ),
        Chart(
            over_time.svg,
            _("Share of the {noun} with a value of the parameter, at each time.").format(noun=word(task.noun)),
        ),
        _together(facts, task),
        *_outcome_chart(facts, task),
    ]


def _together(facts: dict[str, Any], task: Task) -> Chart:
    varying = [j for j in facts["order"] if facts["together"][j][j] is not None]
    phi = np.array([[facts["together"][i][j] for j in varying] for i in varying], dtype=np.float64)
    names = [facts["parameters"][j]["name"] for j in varying]
    np.fill_diagonal(phi, np.nan)
    size = 1.3 + ROW * len(names)
    with charts.picture(_("Correlation of being observed between parameters"), size, size + 0.7) as chart:
        charts.shades(chart.axes, phi, names, 1, "phi")
        chart.axes.set_xticks(range(len(names)), names, rotation=90)
        chart.axes.set(title=_("Observed together"), xlabel=_("parameter"), ylabel=_("parameter"))
    caption = _(
        "Phi coefficient of being observed at all in one of the {noun}, blue: together, "
        "orange: one instead of the other. Similar parameters are neighbours (average "
        "linkage)."
    ).format(noun=word(task.noun))
    constant = [one["name"] for j, one in enumerate(facts["parameters"]) if j not in varying]
    if constant:
        caption = caption + _(" Always or never observed: {constant}.").format(constant=", ".join(constant))
    return Chart(chart.svg, caption, wide=True)


def _outcome_chart(facts: dict[str, Any], task: Task) -> list[Chart]:
    drawn = [one for one in facts["parameters"] if one["outcome"]["low"] is not None]
    drawn.sort(key=lambda one: -one["outcome"]["effect"])
    if not drawn:
        return []
    scale, unit = (1, task.unit) if task.kind == "regression" else (100, _("percentage points"))
    effect, low, high = (scale * np.array([one["outcome"][key] for one in drawn]) for key in ("effect", "low", "high"))
    names = [f"{one['name']}{' *' if missingness.is_significant(one['outcome']) else ''}" for one in drawn]
    with charts.picture(_("Difference of the outcome by being observed"), 0.9 + ROW * len(drawn)) as chart:
        charts.forest(chart.axes, names, effect, low, high)
        title = _("{label}, observed minus not observed").format(label=task.label_names[0])
        chart.axes.set(title=title, xlabel=unit, ylabel=_("parameter (* significant)"))
    what = _("means") if task.kind == "regression" else _("rates")
    test = _("Mann-Whitney's test") if task.kind == "regression" else _("chi-square or Fisher's exact test")
    caption = _(
        "Difference of the {what} of {label} between {noun} in which the parameter is "
        "observed and the others, with 95% intervals. * p < 0.05, {test}, Holm's correction. "
        "Parameters with fewer than {n} {noun} on one side are left out."
    ).format(what=what, label=task.label_names[0], noun=word(task.noun), test=test, n=missingness.MIN_GROUP)
    return [Chart(chart.svg, caption)]


def _images(dataset: Dataset, sample: Sample) -> list[Chart]:
    """Draws the first image of each class, and the mean of all."""
    classes = sample.labels.argmax(axis=1)
    found = [np.flatnonzero(classes == k) for k in range(sample.labels.shape[1])]
    firsts = {_("class {k}").format(k=k): sample.values[rows[0]] for k, rows in enumerate(found) if len(rows)}
    shown = dict(list(firsts.items())[:CLASSES_SHOWN]) | {_("mean"): sample.values.mean(axis=0)}
    top = max(float(np.max(image)) for image in shown.values())
    is_coloured = dataset.shape.parameters[0].endswith("_red")
    pictures = []
    for title, image in shown.items():
        with charts.picture(_("Image: {title}").format(title=title), charts.SMALL * 0.7, charts.SMALL * 0.6) as chart:
            pixels = image.reshape(len(image), -1, 3) / max(top, 1e-12) if is_coloured else image
            chart.axes.imshow(pixels, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
            chart.axes.set_axis_off()
            chart.axes.set_title(title)
        pictures.append(chart.svg)
    rows = _("{rows} rows of {columns} columns").format(rows=sample.values.shape[1], columns=sample.values.shape[2])
    return [
        Chart(
            pictures,
            _("The first train image of each class and the mean image; an image is read as {rows}.").format(rows=rows),
        )
    ]
