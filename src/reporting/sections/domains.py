"""Report section on institutions: how domains differ, runs by domain, few-shot curves, and what models see of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.core import charts, storage
from src.core.errors import UserError
from src.core.language import _
from src.core.targets import check_files
from src.evaluation import domain_summary
from src.reporting.html_page import Chart, Part, Section, Table, Text
from src.reporting.sections import Findings

DOT = 3.0
"""Size of a row in the map."""


def section(findings: Findings) -> Section:
    found = Section(_("Institutions"))
    found.gist = _("how domains differ, and scores in each of them")
    differences = _record(findings, "domains.json")
    if not differences or len(differences["domains"]) < 2:
        return found
    if differences["pairs"]:
        found.parts.append(Chart(_pairs(differences), _("0.5 where a classifier cannot tell two domains apart.")))
    found.parts += [Table(*_page(table)) for table in domain_summary.difference_tables(differences)]
    if judged := _record(findings, "judged.json"):
        found.parts.append(Text(domain_summary.how_judged(judged)))
        found.parts += [Table(*_page(table)) for table in domain_summary.judging_tables(judged)]
        found.parts += _reliability(judged)
    if adapted := _record(findings, "adapted.json"):
        caption = domain_summary.how_adapted(adapted, findings.workspace.task)
        found.parts.append(Chart(_curves(adapted), caption))
        found.parts += [Table(*_page(table)) for table in domain_summary.adaptation_tables(adapted)]
    if views := _record(findings, "views.json"):
        found.parts.append(_maps(views))
        found.parts += [Table(*_page(table)) for table in domain_summary.importance_tables(views)]
    return found


def _record(findings: Findings, name: str) -> dict[str, Any]:
    """Findings of ./run.sh domains in a file; empty where there is none, and where it is of other rows or of runs
    that were made anew since."""
    workspace = findings.workspace
    path, remedy = workspace.output.domains / name, workspace.command("domains")
    if not path.exists():
        return {}
    try:
        check_files(path, remedy)
        found = storage.read_json(path, remedy)
    except UserError as error:
        workspace.leave_out(f"domains {name}", error)
        return {}
    if "train" in found:
        return found if found["train"] == findings.dataset.manifest["train"] else {}
    now = {name: run.score["fingerprint"] for name, run in findings.runs.items()}
    made_of = found.get("made_of", {})
    return found if made_of and all(now.get(name) == stamp for name, stamp in made_of.items()) else {}


def _page(table: domain_summary.Titled) -> tuple[Sequence[str], Sequence[Sequence[str]], str]:
    """Columns, rows and caption of a table of the page."""
    return table.columns, table.rows, table.title


def _pairs(record: Mapping[str, Any]) -> str:
    names = [one["name"] for one in record["domains"]]
    names = [name for name in names if any(name in (one["first"], one["second"]) for one in record["pairs"])]
    values = np.full((len(names), len(names)), np.nan)
    for one in record["pairs"]:
        first, second = names.index(one["first"]), names.index(one["second"])
        values[first, second] = values[second, first] = one["auc"]
    return charts.heat(values, names, _("Adversarial AUC"), lambda value: f"{value:.2f}", _("domain"))


def _reliability(record: Mapping[str, Any]) -> list[Part]:
    """Calibration curves of the worst domain of the best run, and of the run that others are compared with."""
    shown = list(dict.fromkeys([next(iter(record["runs"])), record["against"]]))
    pictures = []
    for name in shown:
        if name not in record["reliability"]:
            continue
        found = record["reliability"][name]
        what = _("{run} in {domain}").format(run=name, domain=found["domain"])
        with charts.picture(what, 2.6, charts.PANEL) as chart:
            x = [one["predicted"] for one in found["curve"]]
            y = [one["observed"]["value"] for one in found["curve"]]
            spread = [1.96 * (one["observed"]["standard_error"] or 0.0) for one in found["curve"]]
            chart.axes.plot([0, 1], [0, 1], color=charts.FAINT, linewidth=0.8)
            chart.axes.errorbar(x, y, spread, fmt="o-", color=charts.COLOURS[0], markersize=3, linewidth=1.2)
            chart.axes.set(title=what, xlabel=_("prediction"), ylabel=_("observed rate"), xlim=(0, 1), ylim=(0, 1))
        pictures.append(chart.svg)
    caption = _("Reliability in the domain with the lowest score, with 95% intervals.")
    return [Chart(pictures, caption)] if pictures else []


def _curves(record: Mapping[str, Any]) -> list[str]:
    """Figure of each run against the number of labelled rows: mean over domains, and worst domain."""
    figure, places = record["figures"][0], np.arange(len(record["sizes"]))
    heading = record["score_name"] if figure == "score" else domain_summary.NAMES[figure]
    pictures = []
    for key, what in (("mean", _("{figure}, mean over domains")), ("worst", _("{figure}, worst domain"))):
        title = what.format(figure=heading)
        with charts.picture(title, 2.8, charts.PANEL) as chart:
            for i, (name, by_size) in enumerate(record["runs"].items()):
                values = [by_size[str(n)][figure][key]["value"] for n in record["sizes"]]
                chart.axes.plot(places, values, label=name, marker="o", markersize=3, **charts.look(i))
            chart.axes.set_xticks(places, [f"{n:,}" for n in record["sizes"]])
            chart.axes.set(title=title, xlabel=_("labelled rows"))
            chart.axes.legend()
        pictures.append(chart.svg)
    return pictures


def _maps(record: Mapping[str, Any]) -> Chart:
    """Pooled features of each run in two dimensions, coloured by domain and by the label."""
    domain, positive = np.array(record["domain"]), np.array(record["is_positive"])
    by_domain = {name: domain == i for i, name in enumerate(record["domains"])}
    by_label = {f"{record['label']} = 0": ~positive, f"{record['label']} = 1": positive}
    pictures = []
    for name, found in record["runs"].items():
        points = np.array(found["points"])
        for what, groups, first in ((_("domain"), by_domain, 0), (_("label"), by_label, 5)):
            title = _("{run}, by {what}").format(run=name, what=what)
            with charts.picture(title, 3.4, charts.PANEL) as chart:
                for i, (group, rows) in enumerate(groups.items()):
                    colour = charts.COLOURS[(first + 3 * i if first else i) % len(charts.COLOURS)]
                    shown = points[rows]
                    chart.axes.scatter(*shown.T, s=DOT, color=colour, label=group, linewidths=0, rasterized=True)
                chart.axes.set(title=title, xticks=[], yticks=[])
                chart.axes.legend(markerscale=2.5, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
            pictures.append(chart.svg)
    seen = _("that were trained on no row of {domain}") if record["how"] == "unseen" else _("out of fold for {domain}")
    caption = _(
        "Pooled features of up to 500 rows of each domain, their two principal components, as seen by models {which}."
    )
    return Chart(pictures, caption.format(which=seen.format(domain=record["worst"])))
