"""Words and tables of what ./run.sh domains found, for the terminal and the report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from src.core.language import _, word
from src.data.tasks import Task
from src.evaluation.domain_figures import NAMES, interval_text
from src.evaluation.figures import number_text

MOST_FEATURES = 10
"""Features of each domain whose contributions count as large."""
MOST_LABELS = 8
"""Labels of the table of label rates: those whose rates differ most between domains."""


class Titled(NamedTuple):
    title: str
    columns: list[str]
    rows: list[list[str]]


def one_domain(task: Task) -> str:
    """Message where all train rows are of one domain."""
    told = _("All train {noun} are of one domain, so there is nothing to compare.")
    more = {
        "reports": _(
            "Domains are train files (put several into the input folder), or clusters of similar reports: "
            "domains.by=clusters"
        ),
        "stays": _("Another property may tell domains apart: domains.by=ICUType or domains.by=Gender"),
    }.get(task.input_kind, _("Domains are train files: put several into the input folder"))
    return " ".join([told.format(noun=word(task.noun)), str(more)])


def difference_tables(record: Mapping[str, Any]) -> list[Titled]:
    """Tables of domains.json: each domain, its label rates, and pairs of domains."""
    domains = record["domains"]
    columns, cells = [_("domain"), _("rows")], [[one["name"], f"{one['rows']:,}"] for one in domains]
    if "tokens" in domains[0]:
        columns += [_("tokens a report"), _("replaced tokens")]
        for row, one in zip(cells, domains, strict=True):
            row += [f"{one['tokens']:.1f}", _noise(one["noise"])]
        title = _("Domains: size, length, and noise with its 95% interval")
    else:
        kinds = list(domains[0]["observed"])
        columns += [_("{kind} observed").format(kind=word(kind)) for kind in kinds]
        for row, one in zip(cells, domains, strict=True):
            row += [f"{one['observed'][kind]:.1%}" for kind in kinds]
        title = _("Domains: size, and share of time steps with a value by kind of parameter")
    return [Titled(title, columns, cells), rates_table(record), *pair_tables(record)]


def rates_table(record: Mapping[str, Any]) -> Titled:
    """Label rates by domain, of the labels whose rates differ most."""
    domains = record["domains"]
    shown = _most_different(domains)
    rows = [[label, *(_rate(one["labels"][label]) for one in domains)] for label in shown]
    more = len(domains[0]["labels"]) - len(shown)
    title = _("Mean of each label ± one standard error")
    if more:
        title = _("Mean of each label ± one standard error, of the {n} labels that differ most").format(n=len(shown))
    return Titled(title, [_("label"), *(one["name"] for one in domains)], rows)


def pair_tables(record: Mapping[str, Any]) -> list[Titled]:
    """AUC of a classifier that tells two domains apart, and what tells them; none where there is no pair."""
    if not record["pairs"]:
        return []
    rows = [
        [
            f"{one['first']} – {one['second']}",
            f"{one['auc']:.3f} ± {one['standard_error']:.3f}",
            "; ".join(f"{found['what']} ({found['first']:.2f}, {found['second']:.2f})" for found in one["telling"][:2]),
        ]
        for one in sorted(record["pairs"], key=lambda one: -one["auc"])
    ]
    title = _("Adversarial AUC of pairs of domains: 0.5 where a classifier cannot tell them apart")
    return [Titled(title, [_("pair"), "AUC", _("most different (value in the first, in the second)")], rows)]


def judging_tables(record: Mapping[str, Any]) -> list[Titled]:
    """Tables of judged.json: figures of each run, paired differences from one run, and the spread over seeds."""
    found = [
        Titled(_("Runs by domain: value (95% interval)"), _columns(record, _("run")), _run_rows(record)),
        *_gain_table(record),
        *_seed_table(record),
    ]
    worst = [[name, *_by_domain(record, one)] for name, one in record["runs"].items()]
    first = next(iter(record["figures"]))
    title = _("{figure} of each domain").format(figure=_heading(record, first))
    found.append(Titled(title, [_("run"), *record["domains"], _("worst")], worst))
    return found


def adaptation_tables(record: Mapping[str, Any]) -> list[Titled]:
    """Tables of adapted.json: each figure after each number of labelled rows, and what the first gains over none."""
    sizes, parts = [f"{n:,}" for n in record["sizes"]], {"mean": _("mean"), "worst": _("worst")}

    def table(title: str, figure: str, runs: Mapping[str, Any], columns: list[str], sign: str) -> Titled:
        rows = [
            [f"{name} {part}", *(interval_text(one[figure][key], sign) for one in by_size.values())]
            for name, by_size in runs.items()
            for key, part in parts.items()
        ]
        return Titled(title.format(figure=_heading(record, figure)), [_("run"), *columns], rows)

    title = _("{figure} after so many labelled rows of a new domain: mean over domains and worst (95% interval)")
    found = [table(title, figure, record["runs"], sizes, "") for figure in record["figures"]]
    if sizes[1:]:
        title = _("Gain of {figure} over no labelled row: mean over domains and worst (95% interval)")
        found.append(table(title, record["figures"][0], record["gains"], sizes[1:], "+"))
    return found


def how_adapted(record: Mapping[str, Any], task: Task) -> str:
    """Says what was judged, and which domains have fewer rows than were asked for."""
    told = _(
        "Judged on half of each domain, the same for all numbers of rows; the labelled {noun} are drawn from the other "
        "half, {draws} times. Models are trained further for {epochs} epochs at {rate:g} of their learning rate, fixed "
        "beforehand."
    ).format(noun=word(task.noun), draws=record["draws"], epochs=record["epochs"], rate=record["rate"])
    most = record["sizes"][-1]
    few = [f"{name} ({n:,})" for name, n in zip(record["domains"], record["drawn_from"], strict=True) if n < most]
    if not few:
        return told
    fewer = _("Domains whose other half has fewer than {most:,} rows learn from all of it: {names}.")
    return f"{told} {fewer.format(most=most, names=', '.join(few))}"


def how_judged(record: Mapping[str, Any]) -> str:
    """Says whether the models that predict a domain have seen other rows of it."""
    told = {
        "unseen": _(
            "Leave-one-domain-out: each domain is predicted by models that were trained on no row of it. These are "
            "scores at a new institution."
        ),
        "seen": _(
            "Out of fold, but not by domain: the models were trained on other rows of each domain. For scores at a new "
            "institution: folds.scheme=domains"
        ),
    }[record["how"]]
    note = _(
        "Intervals are by a bootstrap over the rows of each domain. Each domain counts the same in the mean. The worst "
        "one is the lowest of several noisy figures, and so rather too low than too high."
    )
    return f"{told} {note}"


def importance_tables(record: Mapping[str, Any]) -> list[Titled]:
    """Tables of views.json, of the first run: the features that carry predictions in every domain and those of one
    domain alone, and how alike the domains are in all of them."""
    run, domains = next(iter(record["runs"])), record["domains"]
    sizes = np.array(record["runs"][run]["importance"])
    shares = sizes / np.maximum(sizes.sum(axis=1, keepdims=True), 1e-12)
    top = [set(np.argsort(-one, kind="stable")[:MOST_FEATURES].tolist()) for one in shares]
    shown = sorted(set.union(*top), key=lambda i: (-sum(i in one for one in top), -shares[:, i].mean()))
    common = [i for i in shown if all(i in one for one in top)]
    alone = [i for i in shown if sum(i in one for one in top) == 1]
    rows = []
    for i in [*common, *alone]:
        owner = _("all") if i in common else domains[next(j for j, one in enumerate(top) if i in one)]
        rows.append([record["names"][i], str(owner), *(f"{share:.1%}" for share in shares[:, i])])
    title = _("{run}: share of the contributions to its predictions; among the {n} largest of all domains, or of one")
    columns = [_("feature"), _("largest in"), *domains]
    found = [Titled(title.format(run=run, n=MOST_FEATURES), columns, rows)]
    used = sizes.max(axis=0) > 0
    ranks = np.array([np.argsort(np.argsort(one[used])) for one in sizes])
    alike = np.atleast_2d(np.corrcoef(ranks))
    rows = [[name, *(f"{value:.2f}" for value in line)] for name, line in zip(domains, alike, strict=True)]
    title = _("{run}: rank correlation of the contributions of all features between domains")
    return [*found, Titled(title.format(run=run), [_("domain"), *domains], rows)]


def _columns(record: Mapping[str, Any], first: str) -> list[str]:
    parts = {"mean": _("mean"), "worst": _("worst")}
    return [first, *(f"{_heading(record, name)} {part}" for name in record["figures"] for part in parts.values())]


def _heading(record: Mapping[str, Any], figure: str) -> str:
    return record["score_name"] if figure == "score" else NAMES[figure]


def _run_rows(record: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, *(interval_text(one[figure][key]) for figure in record["figures"] for key in ("mean", "worst"))]
        for name, one in record["runs"].items()
    ]


def _by_domain(record: Mapping[str, Any], one: Mapping[str, Any]) -> list[str]:
    figure = one[next(iter(record["figures"]))]
    values = [number_text(figure["domains"][domain]["value"], ".3f") for domain in record["domains"]]
    return [*values, figure["worst"]["domain"] or "–"]


def _gain_table(record: Mapping[str, Any]) -> list[Titled]:
    if not record["gains"]:
        return []
    rows = [
        [name, *(interval_text(one[figure][key], "+") for figure in record["figures"] for key in ("mean", "worst"))]
        for name, one in record["gains"].items()
    ]
    title = _("Difference from {run}, paired (95% interval)").format(run=record["against"])
    return [Titled(title, _columns(record, _("run")), rows)]


def _seed_table(record: Mapping[str, Any]) -> list[Titled]:
    if not record["seeds"]:
        return []
    rows = [
        [
            name,
            ", ".join(map(str, one["seeds"])),
            *(
                f"{part['value']:.3f} ± {part['deviation']:.3f}"
                for figure in record["figures"]
                for part in (one["spread"][figure][key] for key in ("mean", "worst"))
            ),
        ]
        for name, one in record["seeds"].items()
    ]
    first, *others = _columns(record, _("run"))
    title = _("Models of one seed alone: mean ± standard deviation over seeds")
    return [Titled(title, [first, _("seeds"), *others], rows)]


def _noise(noise: Mapping[str, Any] | None) -> str:
    if noise is None:
        return "–"
    low, high = noise["intervals"]["replacement"]
    return f"{noise['rates']['replacement']:.1%} ({low:.1%}, {high:.1%})"


def _rate(rate: Mapping[str, float | None]) -> str:
    return f"{number_text(rate['value'], '.3f')} ± {number_text(rate['standard_error'], '.3f')}"


def _most_different(domains: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels whose rates have the largest range over domains, in the order of the labels."""

    def span(label: str) -> float:
        values = [one["labels"][label]["value"] for one in domains]
        known = [value for value in values if value is not None]
        return max(known, default=0.0) - min(known, default=0.0)

    labels = list(domains[0]["labels"])
    kept = set(sorted(labels, key=span, reverse=True)[:MOST_LABELS])
    return [label for label in labels if label in kept]
