"""./run.sh status: what of the present settings is done, running, interrupted, out of date or missing.

Every stage is asked for its targets, as before it runs; nothing is computed and nothing is written. What runs is known
by locks, which the kernel releases when their holder dies: see core/locks.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from src.core.errors import Damaged, OutOfDate, UserError
from src.core.language import _, joined
from src.core.locks import is_held
from src.core.targets import Target, json_fingerprint
from src.core.terminal import add_json, duration, result, show_table
from src.evaluation.workspace import Workspace
from src.pipeline import closing
from src.pipeline.stage import STAGES, Progress, Stage, all_needs, get_stage, is_running
from src.serving.bundle import Bundle

GOES_ON = _("goes on with the same command")
WORDS = {
    "done": _("done"),
    "running": _("running"),
    "interrupted": _("interrupted"),
    "damaged": _("damaged"),
    "stale": _("stale"),
    "missing": _("missing"),
    "unsure": _("unsure"),
}
"""Words for the states of targets.STATES."""
LEAST_DONE = ("running", "interrupted", "damaged", "missing", "stale", "unsure")


@dataclass(frozen=True)
class Status:
    stage: str
    """The verb that makes it."""
    name: str
    """Name of the run, encoder or study; empty where the stage makes one thing."""
    state: str
    """One of targets.STATES."""
    note: str = ""
    done: int | None = None
    """Folds, baselines, runs, epochs or trials that are done, of so many:"""
    of: int | None = None
    command: str = ""
    """Words behind ./run.sh that make it. Empty for a study: the command that began it goes on with it."""


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline import forecast  # which looks at the stages by this module

    workspace = Workspace(workspace.settings, read_only=True)
    chosen = [word for model in parsed.model for word in ("--model", model)]
    found = look(workspace, chosen)
    add_json("stages", [asdict(one) for one in found])
    rows = [[f"{one.stage} {one.name}".strip(), WORDS[one.state], one.note] for one in found]
    title = _("{folder} by preset {preset}").format(folder=workspace.output.root, preset=workspace.settings.preset)
    show_table(title, [_("stage"), _("state"), _("what")], rows, words=["state", "what"])
    others = sorted(
        {*workspace.output.run_names(), *workspace.output.unscored_names()} - {*workspace.settings.runs, "blend"}
    )
    if others:
        result(
            _("\nruns beside those of the preset: {others}; ./run.sh runs tells how they differ").format(
                others=", ".join(others)
            )
        )
    if bundles := {
        path.name: _bundle_state(workspace, path) for path in sorted(workspace.output.root.glob("*.bundle"))
    }:
        add_json("bundles", bundles)
        result(_("\nbundles: ") + joined("; ", [joined(" ", one) for one in bundles.items()]))
    optional = {name for name in STAGES if get_stage(name).is_optional}
    to_make = ("interrupted", "damaged", "stale", "missing")
    left = [one for one in found if one.state in to_make and one.stage not in optional]
    closing.show(workspace, is_complete=not left)
    if any(one.stage in {*all_needs("submit"), "submit"} for one in left):
        seconds = forecast.forecast(workspace, forecast.shares_of(found)).seconds
        about = _(" (about {time})").format(time=duration(seconds)) if seconds is not None else ""
        result(
            _("\nall that a submission needs{about}: ./run.sh {command}").format(
                about=about, command=workspace.command("pipeline", *chosen)
            )
        )
    for one in left:
        if one.command:
            result(f"{one.stage} {one.name}".strip() + _(": ./run.sh {command}").format(command=one.command))


def _bundle_state(workspace: Workspace, path: Path) -> str:
    """Says which run a bundle is of, and whether that run was made anew since."""
    try:
        made_from = Bundle.open(path).record["made_from"]
        score = workspace.output.run(made_from["run"]) / "score.json"
        is_current = json_fingerprint(score) == made_from["fingerprint"] if score.exists() else False
    except UserError as error:
        what = error.what if isinstance(error, Damaged) else _("cannot be read")
        return joined("", ["(", what, ")"])
    told = _("(of {run} as it is)") if is_current else _("(of {run} as it was before)")
    return told.format(run=made_from["run"])


def look(workspace: Workspace, chosen: Sequence[str] = ()) -> list[Status]:
    """Status of every target of every stage, in the order of the stages, and of every study.

    `chosen`: the --model words of the command.
    """
    found: list[Status] = []
    lacking: set[str] = set()
    told: set[str] = set()
    for name in STAGES:
        stage = get_stage(name)
        for one in _stage_status(workspace, stage, chosen, told):
            if one.state == "done" and lacking & set(all_needs(name)):
                one = replace(one, state="unsure")
            if one.state != "done":
                lacking.add(name)
            found.append(one)
    return [*found, *_studies(workspace)]


def _stage_status(workspace: Workspace, stage: Stage, chosen: Sequence[str], told: set[str]) -> list[Status]:
    """Status of the targets of a stage. `told`: damages that stages before it have told; this one adds its own."""
    reason, state_of_none, is_damaged = "", "done", False
    try:
        targets = stage.targets(workspace)
    except UserError as error:
        reason = str(error) if stage.name in ("prepare", "folds") else ""  # first told by these
        if isinstance(error, Damaged):
            is_damaged = error.what not in told
            reason = error.what if is_damaged else ""
        # "" is the fingerprint of nothing: what rests on an out-of-date result is out of date itself.
        fingerprint = "" if isinstance(error, OutOfDate) else None
        state_of_none = "missing"
        # Not current, whatever is noted in the result, which need not be JSON.
        targets = [
            Target(name, stage.result(workspace, name), fingerprint, noted=lambda path: None)
            for name in stage.names(workspace)
        ]
    found = [_target_status(workspace, stage, target, reason, chosen) for target in targets]
    if is_damaged:
        found = [replace(one, state="damaged") for one in found] or [Status(stage.name, "", "damaged", reason)]
    told |= {one.note for one in found if one.state == "damaged"}
    if not stage.counted:
        return found
    n = sum(one.state == "done" for one in found)
    note = _("{n} of {all} {things}").format(n=n, all=len(found), things=stage.counted)
    note = joined("; ", [note, *(one.note for one in found if one.state == "damaged")][:2])
    states = [one.state for one in found] or [state_of_none]
    state = next((state for state in LEAST_DONE if state in states), "done")
    command = workspace.command(stage.name, *chosen)
    return [Status(stage.name, "", state, note, states.count("done") if found else 0, len(found), command)]


def _target_status(workspace: Workspace, stage: Stage, target: Target, reason: str, chosen: Sequence[str]) -> Status:
    try:
        progress = Progress(reason) if not target.fingerprint else stage.progress(workspace, target)
    except Damaged as error:
        progress = Progress(error.what)
    is_locked = not target.is_current() and is_running(workspace, stage, target.name)
    state = target.state(is_locked or progress.is_running, progress.is_begun)
    notes = [(target.damage() or "") if state == "damaged" else progress.note]
    if state == "running" and not progress.is_running and progress.done is not None:
        notes.append(_("waits for its turn") if progress.done < progress.total else _("predicts"))
    if state == "interrupted":
        notes.append(GOES_ON)
    command = workspace.command(stage.name, *(stage.command_words(target.name) or chosen))
    note = joined("; ", filter(None, notes))
    return Status(stage.name, stage.label(target.name), state, note, progress.done, progress.total, command)


def _studies(workspace: Workspace) -> list[Status]:
    """Status of each study of ./run.sh tune."""
    folders = sorted(path.parent for path in workspace.output.tune.glob("*/study.db"))
    if not folders:
        return []
    from src.tuning import study

    found = []
    for folder in folders:
        is_working = is_held(folder / "study.lock")
        try:
            counts, left = study.counted(folder)
        except Damaged as error:
            found.append(Status("tune", folder.name, "damaged", error.what))
            continue
        finished = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        note = _("trials: {counts}").format(counts=finished or _("none finished"))
        if is_working or left:
            note = note + _("; {left} under way").format(left=left)
        state = "running" if is_working else "interrupted" if left else "done"
        if state == "interrupted":
            note = joined("; ", [note, GOES_ON])
        found.append(Status("tune", folder.name, state, note, sum(counts.values())))
    return found
