"""Report section on blends: weights, contributions and diversity of members."""

from __future__ import annotations

import numpy as np

from src.core import charts
from src.core.language import _
from src.data.tasks import Task
from src.ensemble.blending import BlendWeights
from src.evaluation.stored_sentences import message_of
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import Findings

MANY = 12
"""Number of members above which the correlation table scrolls on a phone."""


def section(findings: Findings) -> Section:
    result = Section(_("Blend"))
    for name, run in findings.runs.items():
        if not run.is_blend:
            continue
        record, members = run.record, list(run.record["members"])
        weights = BlendWeights.from_json(record["weights"])
        averaged = members[: len(members) - weights.n_stacked]
        result.parts.append(Text(_("{name}: {how}.").format(name=name, how=message_of(run.score["how"]))))
        rows = [
            [_labels(run.task, one.start, one.stop), f"{one.temperature:.3f}", *(f"{w:.3f}" for w in one.weights)]
            for one in weights.unstacked().groups
        ]
        caption = _("{blend}: weights of the members").format(blend=name)
        result.parts.append(Table([_("weights of"), _("temperature"), *averaged], rows, caption))
        if weights.stack:
            rows = [
                [label, *(f"{slope:.3f}" for slope in one.slopes), f"{one.bias:+.3f}"]
                for label, one in zip(run.task.label_names, weights.stack, strict=True)
            ]
            caption = _(
                "{blend}: runs that are stacked on the mean of its members, by a logistic regression of each label: "
                "slopes of the log-odds, and bias"
            ).format(blend=name)
            columns = [_("label"), _("mean of the members"), *members[len(averaged) :], _("bias")]
            result.parts.append(Table(columns, rows, caption))
        members = [member for member in members if member not in record.get("unscored", ())]
        contributions = record.get("contributions")
        if contributions:
            rows = [
                [
                    member,
                    f"{contributions['members'][member]['score']['value']:.4f}",
                    _gain(contributions["members"][member]["lost_without"]),
                ]
                for member in members
            ]
            result.parts.append(
                Table(
                    [_("member"), _("score alone"), _("loss without the member")],
                    rows,
                    _("Contributions, cross-fitted on {validation}").format(validation=message_of(contributions["on"])),
                )
            )
            rows = [
                [
                    step["member"],
                    f"{step['score']['value']:.4f}",
                    _gain(step["gain"]),
                    _("{n} of {all}").format(n=step["agree"], all=step["folds"]),
                ]
                for step in contributions["greedy"]
            ]
            columns = [_("added"), _("score"), _("gain"), _("folds agree")]
            result.parts.append(Table(columns, rows, _("Greedy selection")))
        correlation = np.array(
            [[np.nan if value is None else value for value in line] for line in record["diversity"]["correlation"]]
        )
        result.parts += _correlations(name, members, correlation)
    result.gist = _("what each member weighs and adds")
    return result


def _correlations(name: str, members: list[str], correlation: np.ndarray) -> list[Text | Chart]:
    """Returns how far the errors of members (M,) correlate, (M, M): a sentence for two, a picture for more."""
    if len(members) < 2:
        return []
    if len(members) == 2:
        told = _(
            "{blend}: the errors of {one} and {other} correlate by {value:.2f}; the lower, the more a blend gains."
        )
        return [Text(told.format(blend=name, one=members[0], other=members[1], value=correlation[0, 1]))]
    np.fill_diagonal(correlation, np.nan)
    title = _("{blend}: correlation of the members' errors").format(blend=name)
    heat = charts.heat(correlation, members, title, "{:.2f}".format, _("member"))
    return [Chart(heat, _("The lower, the more a blend gains."), wide=len(members) > MANY)]


def _labels(task: Task, start: int, stop: int) -> str:
    if task.kind == "multilabel":
        return _("labels {first} to {last}").format(first=start, last=stop - 1)
    return task.label_names[start] if stop == start + 1 else _("all classes")


def _gain(estimate: dict | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    return f"{estimate['value']:+.4f} ± {estimate['standard_error'] or 0:.4f}"
