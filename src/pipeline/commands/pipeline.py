"""./run.sh: every stage in order, each of which makes only what is missing."""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import TYPE_CHECKING

from src.pipeline.command import add_force

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace

SHOWN = ("submit", "score", "leaderboard", "report")
"""Stages whose results the pipeline is asked for; the others are the way to them."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_force(parser)


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.core import storage
    from src.core.terminal import dependency, duration, info, result
    from src.pipeline import closing, forecast
    from src.pipeline.stage import STAGES, get_stage, make

    settings, output = workspace.settings, workspace.output
    runs = ", ".join(settings.runs)
    info(f"preset {settings.preset}: {runs}; input {settings.paths.input}, output {output.root}")
    left = forecast.shares_left(workspace)
    forecast.show(workspace, left)
    started = time.perf_counter()
    made = {"command": f"./run.sh {workspace.command('pipeline')}", "seconds": {}}
    whole = {}
    for name in STAGES:
        if get_stage(name).is_optional:
            continue
        if name == "report":  # the page tells of the command and its stages
            storage.write_json(output.seconds, {**made, "made": forecast.noted(workspace, whole)})
        stage_started = time.perf_counter()
        with contextlib.nullcontext() if name in SHOWN else dependency():
            is_made = make(workspace, get_stage(name))
        workspace.made.add(name)
        seconds = made["seconds"][name] = round(time.perf_counter() - stage_started, 3)
        if is_made and left.get(name):
            whole[name] = round(seconds / left[name], 3)
    storage.write_json(output.seconds, {**made, "made": forecast.noted(workspace, whole)})
    closing.show(workspace)
    result(f"pipeline: done in {duration(time.perf_counter() - started)}")
