"""./run.sh runs: every run with its scores, date, minutes and settings; runs show A B: two of them compared.

./run.sh runs
./run.sh runs show lstm wide
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from src.core.errors import UserError
from src.core.language import _

if TYPE_CHECKING:
    from src.evaluation.runs import RunFolder
    from src.evaluation.workspace import Workspace

MOST_DIFFERENCES = 4
"""Settings of a line in which a run differs from its neighbour."""
FILES = {"train": "train rows", "folds": "folds", "tests": "test files", "shift": "validation sets"}
"""Entries of run.json, by what they are the fingerprint of."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="show A B", help=_("compare the runs A and B: settings and scores"))


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    workspace.check_input()
    action, *names = parsed.words or [""]
    if not action:
        _list(workspace)
        return
    if action != "show" or len(names) != 2 or names[0] == names[1]:
        raise UserError(_("./run.sh runs lists all runs; two of them are compared by ./run.sh runs show A B"))
    _compare(workspace, *(workspace.run(name) for name in names))


def _list(workspace: Workspace) -> None:
    from src.core.terminal import duration, result, show_table
    from src.evaluation.figures import short_text
    from src.evaluation.run_comparison import earlier, neighbours, settings_of, training_seconds
    from src.evaluation.validation_sets import VALIDATIONS
    from src.pipeline.replaced import date_text, made_at

    fitting, others = workspace.fitting_runs()
    found = {run.name: run for run in fitting}
    found |= _readable(workspace, "run {}", workspace.run, {name: name for name in others})
    names = {name: name for name in workspace.output.unscored_names()}
    unscored = _readable(workspace, "run {}", lambda name: workspace.run(name, scored=False), names)
    scores = _readable(workspace, "run {}", lambda run: _scores(workspace, run, run.name in others), found)
    settings = _readable(workspace, "run {}", settings_of, found)
    found = {name: run for name, run in found.items() if name in scores and name in settings}
    seconds = _readable(workspace, "the training time of {}", training_seconds, found)
    models = {name: run for name, run in found.items() if run.is_model}
    kept = _readable(workspace, "what is kept of earlier folds of {}", earlier, models)
    if not (found or unscored):
        raise UserError(
            _("{runs} holds no run. Make one with: ./run.sh {command}").format(
                runs=workspace.output.runs, command=workspace.command("train")
            )
        )
    select_on = workspace.settings.select_on

    def height(name: str) -> tuple[bool, bool, float]:
        score = scores[name].get(select_on, scores[name]["clean"])["value"]
        fits = name not in others
        return fits and not found[name].fault, fits, -math.inf if score is None else score

    order = sorted(found, key=height, reverse=True)
    best = 0 if order and height(order[0])[0] and math.isfinite(height(order[0])[2]) else None
    rows = []
    for name in order:
        cells = [short_text(scores[name][key], found[name].task.has_classes) if key in scores[name] else "–"
                 for key in VALIDATIONS]  # fmt: skip
        rows.append([name + (" !" if found[name].fault else "") + (" °" if name in others else ""), *cells])
    test = workspace.target.name if fitting and workspace.target else _("no test file")
    show_table(
        _("Runs, the best by {select_on} first; target {test}").format(select_on=select_on, test=test),
        [_("run"), *VALIDATIONS],
        rows,
        best=best,
    )
    result(_("±: standard error; clean is the plain out-of-fold score"))
    if others:
        result(
            _(
                "° of other files, folds or shift than are there now: its own out-of-fold score, "
                "which compares with none"
            )
        )
    for name in order:
        if found[name].fault:
            result(f"! {name} {found[name].fault}")
    for name in unscored:
        result(
            _("{name}: imported without out-of-fold predictions, so nothing is known of its score").format(name=name)
        )
    nearest = neighbours(found, settings)
    rows = []
    for name in order:
        taken, differences = seconds.get(name), _differences(name, nearest.get(name), settings)
        rows.append([name, date_text(made_at(found[name])), duration(taken) if taken else "–", differences])
    rows += [[name, date_text(made_at(run)), "–", ""] for name, run in unscored.items()]
    columns = [_("run"), _("made"), _("training"), _("settings, and the run that is most alike")]
    show_table(_("How they were made"), columns, rows, words=["made", "training", columns[-1]])
    rows = [
        [name, _("{n} folds").format(n=count), ", ".join(f"{key}={value}" for key, value in changed.items())]
        for name, of_run in kept.items()
        for changed, count in of_run
    ]
    if rows:
        columns = ["run", "kept", "settings that it had, where they are others"]
        show_table(_("Earlier folds: train with these settings brings them back"), columns, rows, words=columns[1:])


def _readable(workspace: Workspace, what: str, read: Callable[[Any], Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Result of `read` for each value, by its name; what is damaged is left out, with a warning. `what`: words for it,
    with {} in the place of the name."""
    found = {}
    for name, value in given.items():
        try:
            found[name] = read(value)
        except UserError as error:
            workspace.leave_out(what.format(name), error)
    return found


def _scores(workspace: Workspace, run: RunFolder, is_other: bool) -> dict[str, Any]:
    """Score and standard error of each validation that the run can be judged by; of a run that does not fit, its own
    out-of-fold score as `clean`."""
    from src.evaluation import runs
    from src.evaluation.run_comparison import validation_scores

    if is_other or workspace.target is None:
        return {"clean": runs.figure_of(run.score, workspace.settings.metric)}
    return validation_scores(workspace, workspace.target, run)


def _differences(name: str, other: str | None, settings: Mapping[str, Mapping[str, str]]) -> str:
    """The settings of a run that its neighbour `other` has not, as key=value words."""
    from src.evaluation.run_comparison import differing

    if other is None:
        return ""
    keys = differing(settings[name], settings[other])
    if not keys:
        return _("as {run}").format(run=other)
    told = [f"{key}={settings[name].get(key, '–')}" for key in keys[:MOST_DIFFERENCES]]
    more = _(" and {n} more").format(n=len(keys) - len(told)) if len(keys) > len(told) else ""
    return _("{settings}{more} ({run})").format(settings=", ".join(told), more=more, run=other)


def _described(run: RunFolder) -> str:
    told = {
        "blend": _("{run} is a blend of {members}"),
        "model": _("{run} is a trained model"),
        "imported": _("{run} is imported"),
    }[run.record["kind"]]
    return told.format(run=run.name, members=", ".join(run.record.get("members", ())))


def _compare(workspace: Workspace, one: RunFolder, other: RunFolder) -> None:
    from src.core.terminal import result, show_table
    from src.evaluation import metrics
    from src.evaluation.figures import short_text
    from src.evaluation.run_comparison import differing, gain, settings_of

    first, second = settings_of(one), settings_of(other)
    is_alike = one.record["kind"] == other.record["kind"]
    if not is_alike:
        result(
            _("{one}, {other}: they have no settings in common").format(one=_described(one), other=_described(other))
        )
        first = second = {}
    rows = [[key, first.get(key, "–"), second.get(key, "–")] for key in differing(first, second)]
    if rows:
        show_table(_("Settings that differ"), [_("setting"), one.name, other.name], rows, words=[one.name, other.name])
    elif is_alike:
        result(_("{name} and {other} have the same settings").format(name=one.name, other=other.name))
    unlike = [what for key, what in FILES.items() if one.record.get(key) != other.record.get(key)]
    if unlike:
        result(_("made on other {unlike}").format(unlike=", ".join(unlike)))
    fitting = {run.name for run in workspace.fitting_runs()[0]}
    is_other = not {one.name, other.name} <= fitting or workspace.target is None
    scores = [_scores(workspace, run, is_other) for run in (one, other)]
    columns = [_("validation"), one.name, other.name]
    rows = [[name, *(short_text(score[name], one.task.has_classes) for score in scores)] for name in scores[0]]
    if is_other:
        show_table(_("Out-of-fold scores"), columns, rows)
        result(_("a paired difference needs two runs of the files, folds and shift that are there now"))
        return
    task, target = workspace.task, workspace.target
    columns.append(f"{other.name} - {one.name}")
    for row in rows:
        row.append(metrics.gain_text(task, gain(workspace, target, other, one, row[0])))
    show_table(_("Scores, target {name}").format(name=target.name), columns, rows)
    result(_("±: standard error; that of the difference is paired, of the same rows"))
    optimistic = [run.name for run in (one, other) if run.score["optimistic"]]
    if optimistic:
        result(
            _("optimistic, as epochs were chosen on the rows that are scored: {optimistic}").format(
                optimistic=", ".join(optimistic)
            )
        )
