"""./run.sh: every stage in order, each of which makes only what is missing."""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.language import _
from src.pipeline.command import add_force
from src.pipeline.time_limit import seconds_of

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace

SHOWN = ("submit", "score", "leaderboard", "report")
"""Stages whose results the pipeline is asked for; the others are the way to them."""

ENOUGH = 0.5
"""Share of a stage that must have been made to tell how long the whole of it takes."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_force(parser)
    parser.add_argument(
        "--time",
        type=seconds_of,
        metavar="T",
        help=_(
            "choose preset, folds, epochs and seeds so that a submission is there after T, such as 5m or 2h, and make "
            "the blend better until then"
        ),
    )


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.core import storage
    from src.core.terminal import dependency, duration, info, result
    from src.pipeline import closing, forecast
    from src.pipeline.stage import STAGES, get_stage, make

    if parsed.time is not None:
        from src.pipeline.time_budget import TimeBudget

        if parsed.model:
            raise UserError(_("--time chooses the runs: leave --model out"))
        TimeBudget(workspace, parsed.time, is_free=parsed.preset is None).run()
        return
    settings, output = workspace.settings, workspace.output
    runs = ", ".join(settings.runs)
    info(
        _("preset {preset}: {runs}; input {input}, output {root}").format(
            preset=settings.preset, runs=runs, input=settings.paths.input, root=output.root
        )
    )
    left = forecast.shares_left(workspace)
    forecast.show(workspace, left)
    started = time.perf_counter()
    made = {"command": f"./run.sh {workspace.command('pipeline')}", "seconds": {}}
    whole, measured = {}, {}
    for name in STAGES:
        if get_stage(name).is_optional:
            continue
        if name == "report":  # the page tells of the command and its stages
            storage.write_json(output.seconds, {**made, "made": forecast.noted(workspace, whole, measured)})
        stage_started = time.perf_counter()
        with contextlib.nullcontext() if name in SHOWN else dependency():
            is_made = make(workspace, get_stage(name))
        workspace.made.add(name)
        seconds = made["seconds"][name] = round(time.perf_counter() - stage_started, 3)
        if is_made:
            measured[name] = seconds
            if left.get(name, 0.0) > ENOUGH:
                whole[name] = round(seconds / left[name], 3)
    storage.write_json(output.seconds, {**made, "made": forecast.noted(workspace, whole, measured)})
    closing.show(workspace)
    result(_("pipeline: done in {time}").format(time=duration(time.perf_counter() - started)))
