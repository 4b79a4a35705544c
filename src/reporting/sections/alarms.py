"""Report section on early warning: score against hours of data, alarms, and two stays as they were watched."""

from __future__ import annotations

from typing import Any

import numpy as np

from src.core import charts
from src.core.language import _, joined, word
from src.evaluation.stored_sentences import message_of
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

SCORES = {
    "roc_auc": "AUROC",
    "pr_auc": "AUPRC",
    "log_loss": _("log loss"),
    "log_loss_levelled": _("log loss, levelled"),
    "mae": "MAE",
}
"""Figures at an hour of data."""
WORTH = {
    "sensitivity": (_("deaths with an alarm"), "{:.1%}"),
    "lead_time": (_("lead time before death, median, h"), "{:.0f}"),
    "lead_time_lower": (_("lower quartile, h"), "{:.0f}"),
    "lead_time_upper": (_("upper quartile, h"), "{:.0f}"),
    "survivors_alarmed": (_("survivors with an alarm"), "{:.1%}"),
    "false_alarms_per_day": (_("false alarms a patient-day, survivors"), "{:.3f}"),
    "alarms_per_day": (_("alarms a patient-day"), "{:.3f}"),
    "precision": (_("alarms in stays that end in death"), "{:.1%}"),
    "precision_of_stays": (_("alarmed stays that end in death"), "{:.1%}"),
    "time_in_alarm_deaths": (_("time in alarm, deaths"), "{:.1%}"),
    "time_in_alarm_survivors": (_("time in alarm, survivors"), "{:.1%}"),
    "hours_of_an_alarm": (_("mean length of an alarm, h"), "{:.1f}"),
}
"""Figures of alarms: name and format."""
WAYS = {"hysteresis": _("with hysteresis"), "bare": _("bare threshold")}
DIGITS = "{:.3f}"
INTERVAL = 1.96
"""Standard errors on each side of a 95% interval."""


def section(findings: Findings) -> Section:
    found = Section(_("Early warning"))
    found.gist = _("scores hour by hour, and alarms")
    best = findings.best
    record = findings.workspace.findings(best, "alarms.json", "alarms") if best is not None else {}
    if not record:
        return found
    found.parts.append(
        Text(joined(" ", [joined("", [best.name, ", ", message_of(record["how"]), "."]), _lost(record)]))
    )
    found.parts.append(Chart(_against_hours(record), _("Score against hours of data, with 95% intervals.")))
    if "alarms" in record:
        found.parts.append(Text(_rule(record)))
        caption = _(
            "Every threshold, with 95% intervals of the sensitivity. Dots: thresholds chosen on the other folds, for "
            "{chosen}."
        )
        found.parts.append(Chart(_curves(record), caption.format(chosen=record["chosen"])))
        highest = 1.25 * max((max(*one["risk"], one["on"]) for one in record["examples"]), default=1.0)
        examples = {one["died"]: _example(one, highest) for one in record["examples"]}
        told = {
            True: _("a death with its first alarm at the median hour"),
            False: _("a survivor with a median time in alarm"),
        }
        if examples:
            shown = joined(_(" and "), [told[died] for died in examples])
            caption = _("Risk over time; alarms are shaded, and the dashed line is the threshold: {stays}.")
            found.parts.append(Chart(list(examples.values()), caption.format(stays=shown)))
    for title, columns, rows in tables(record):
        found.parts.append(Table(columns, rows, title))
    return found


def tables(record: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of the tables of an alarms.json, for the terminal and the page."""
    names = [name for name in record["scores"][0] if name != "hour"]
    rows = [[f"{one['hour']:g}", *(_with_error(one[name], DIGITS) for name in names)] for one in record["scores"]]
    found = [(_("Score against hours of data"), [_("hours"), *(SCORES[name] for name in names)], rows)]
    rows = [
        [f"{one['hour']:g}", SCORES[name], *(_with_error(one[name][key], DIGITS) for key in ("whole", "early", "gain"))]
        for one in record["reference"]
        for name in one
        if name != "hour"
    ]
    columns = [_("hours"), _("figure"), _("learned from whole stays"), _("from these hours"), _("difference")]
    found.append((_("Boosted trees that learned from whole stays or from the first hours alone"), columns, rows))
    if "alarms" in record:
        rows = [
            [name, *(_with_error(record["alarms"][way][key], form) for way in WAYS)]
            for key, (name, form) in WORTH.items()
        ]
        found.append(
            (_("Alarms for {chosen}, ± one standard error").format(chosen=record["chosen"]), ["", *WAYS.values()], rows)
        )
    return found


def _with_error(cell: dict[str, float | None], form: str) -> str:
    if cell["value"] is None:
        return "–"
    error = cell["standard_error"]
    return form.format(cell["value"]) + ("" if error is None else f" ± {form.format(error)}")


def _lost(record: dict[str, Any]) -> str:
    """Words the cost of early reading for models that learned from whole stays."""
    name, unit = ("roc_auc", "AUROC") if "roc_auc" in record["reference"][0] else ("mae", word(record["unit"]))
    gains = [
        _("{gain} at {hour:g} h").format(gain=_with_error(one[name]["gain"], "{:+.3f}"), hour=one["hour"])
        for one in record["reference"]
    ]
    return _(
        "Models that learn from the first hours alone know early stays better: boosted trees of both kinds differ by "
        "{gains} ({unit})."
    ).format(gains=joined(", ", gains), unit=unit)


def _rule(record: dict[str, Any]) -> str:
    """Rule of the alarms, what was chosen on what, and what is known of the hour of death, in words."""
    rule, thresholds = record["rule"], list(record["thresholds"].values())
    parts = [
        _("An alarm begins where the risk reaches a threshold ({low:.3f} to {high:.3f}).").format(
            low=min(thresholds), high=max(thresholds)
        ),
        _(
            "It lasts at least {least:g} h and ends where the risk is below {off:.0%} of the threshold; for {pause:g} "
            "h after an alarm there is no other."
        ).format(least=rule["duration"], off=rule["off"], pause=rule["refractory"]),
        _("The risk is the run's probability, levelled hour by hour."),
        _("Levels and threshold ({chosen}) are fitted on the other folds.").format(chosen=record["chosen"]),
        _(
            "Of the hour of death only the day is known: a lead time is the day of death times 24 h, minus the hour of "
            "the first alarm, and is right to a day."
        ),
    ]
    if record["early_deaths"]:
        parts.append(
            _(
                "{n} deaths are noted on a day that is over before the watch ends, though every stay is watched to its "
                "end: they count as deaths at that hour."
            ).format(n=record["early_deaths"])
        )
    return joined(" ", parts)


def _against_hours(record: dict[str, Any]) -> list[str]:
    scores, found = record["scores"], []
    hours = [one["hour"] for one in scores]
    panels = (["roc_auc", "pr_auc"], ["log_loss", "log_loss_levelled"], ["mae"])
    for panel in panels:
        names = [name for name in panel if name in scores[0]]
        if not names:
            continue
        title = joined(_(" and "), [SCORES[name] for name in names])
        if record["unit"]:
            title = _("{figures} ({unit})").format(figures=title, unit=word(record["unit"]))
        with charts.picture(_("{title} against hours of data").format(title=title), 2.6, charts.PANEL) as chart:
            for i, name in enumerate(names):
                _band(chart.axes, hours, [one[name] for one in scores], SCORES[name], i)
                reference = [one for one in record["reference"] if name in one]
                if reference:
                    places = [one["hour"] for one in reference], [one[name]["early"]["value"] for one in reference]
                    label = _("trees that learned from these hours") if i == 0 else None
                    chart.axes.plot(*places, "x", color=charts.COLOURS[i], label=label)
            chart.axes.set_title(title)
            chart.axes.set_xlabel(_("hours of data"))
            chart.axes.set_ylabel({"roc_auc": _("area, 0 to 1"), "mae": record["unit"]}.get(names[0], _("loss")))
            chart.axes.figure.legend(loc="outside lower left")
        found.append(chart.svg)
    return found


def _band(axes: Any, x: list[float], cells: list[dict[str, Any]], name: str, colour: int) -> None:
    values = np.array([np.nan if one["value"] is None else one["value"] for one in cells])
    spread = INTERVAL * np.array([one["standard_error"] or 0.0 for one in cells])
    axes.plot(x, values, label=name, **charts.look(colour))
    axes.fill_between(x, values - spread, values + spread, color=charts.COLOURS[colour], alpha=0.2, linewidth=0)


def _curves(record: dict[str, Any]) -> str:
    with charts.picture(_("Sensitivity against false alarms a patient-day"), 2.8) as chart:
        for i, (way, name) in enumerate(WAYS.items()):
            points = record["curves"][way]
            # Below some threshold alarms grow into each other, so that there are fewer again.
            most = int(np.argmax([one["false_alarms_per_day"]["value"] or 0 for one in points]))
            points = points[: most + 1]
            x = [one["false_alarms_per_day"]["value"] for one in points]
            _band(chart.axes, x, [one["sensitivity"] for one in points], name, i)
            chosen = record["alarms"][way]
            place = chosen["false_alarms_per_day"]["value"], chosen["sensitivity"]["value"]
            chart.axes.plot(*place, "o", color=charts.COLOURS[i], markersize=5)
        chart.axes.set_title(_("Deaths with an alarm against false alarms"))
        chart.axes.set_xlabel(_("false alarms a patient-day of survivors"))
        chart.axes.set_ylabel(_("share of deaths with an alarm"))
        chart.axes.set_ylim(0, 1.02)
        chart.axes.legend(loc="lower right")
    return chart.svg


def _example(one: dict[str, Any], highest: float) -> str:
    """Draws risk and alarms of a stay, up to the risk `highest`."""
    fate = _("died in hospital") if one["died"] else _("survived")
    if one["death_hour"] is not None:
        fate = _("died on day {day:.0f}").format(day=one["death_hour"] / 24)
    title = _("Stay {id}: {fate}").format(id=one["stay"], fate=fate)
    with charts.picture(
        _("Risk and alarms of stay {id}, which {fate}").format(id=one["stay"], fate=fate), 2.4, charts.PANEL
    ) as chart:
        risk = [*one["risk"], one["risk"][-1]]
        chart.axes.step(
            [*one["hours"], one["end"]], risk, where="post", color=charts.COLOURS[0], linewidth=1.4, label=_("risk")
        )
        for i, (begin, end) in enumerate(one["alarms"]):
            about = {"alpha": 0.2, "linewidth": 0, "label": None if i else _("alarm")}
            chart.axes.axvspan(begin, max(end, begin + 0.3), color=charts.COLOURS[3], **about)
        chart.axes.axhline(one["on"], color=charts.INK, linewidth=0.8, linestyle="--", label=_("threshold"))
        chart.axes.set_xlim(0, one["end"])
        chart.axes.set_ylim(0, highest)
        chart.axes.set_title(title)
        chart.axes.set_xlabel(_("hours since admission"))
        chart.axes.set_ylabel(_("risk of death in hospital"))
        chart.axes.legend()
    return chart.svg
