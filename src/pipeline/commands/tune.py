"""./run.sh tune RUN: search for better settings of a run. See pipeline/stages/tune.py."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.language import _
from src.core.settings_loader import with_words
from src.pipeline.time_limit import deadline_of, seconds_of

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.core.terminal import dependency
    from src.pipeline.stage import get_stage, make, reading, run_lock
    from src.pipeline.stages import tune

    settings = workspace.settings
    options = tune.Options(
        trials=parsed.trials,
        deadline=deadline_of(parsed.time),
        jobs=parsed.jobs,
        spaces=parsed.space,
        storage=parsed.storage,
        name=parsed.name,
    )
    if parsed.run == "blend":
        if parsed.jobs:
            raise UserError(
                _("--jobs is for trials that train; those of blend take a second each, one after the other")
            )
        with reading(workspace, "tune", map(run_lock, settings.runs)):
            tune.run_blend(workspace, options)
        return
    if parsed.model:
        raise UserError(_("./run.sh tune takes one RUN: leave --model {model} out").format(model=parsed.model[0]))
    config = with_words(settings, models=[parsed.run])
    if (by := config.runs[parsed.run].pretrain.by) is not None:
        told = _("{run} learns nothing itself, its encoder is of {by} (pretrain.by). Tune that: ./run.sh tune {by}")
        raise UserError(told.format(run=parsed.run, by=by))
    workspace = workspace.variant(config)
    with dependency():
        make(workspace, get_stage("shift"))
        if config.denoisers:
            make(workspace.variant(config.model_copy(update={"runs": {}})), get_stage("pretrain"))
        if teachers := config.runs[parsed.run].train.teachers:
            teaching = config.model_copy(update={"runs": {name: config.runs[name] for name in teachers}})
            make(workspace.variant(teaching), get_stage("train"))
    with reading(workspace, "tune"):
        tune.run(workspace, parsed.run, options)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=_("a run of the preset, a model, or blend"))
    parser.add_argument(
        "--trials", type=_count, default=30, metavar="N", help=_("trials of the study in all (default: 30)")
    )
    parser.add_argument(
        "--time",
        type=seconds_of,
        metavar="T",
        help=_("time of the command in all, such as 30m or 2h; the same command goes on with the trials that ran"),
    )
    parser.add_argument("--jobs", type=_count, metavar="J", help=_("trials side by side (default: executor.workers)"))
    parser.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="NAME",
        help=_("a search space of src/presets/spaces, or a YAML file; may be given again (default: the model's)"),
    )
    parser.add_argument("--storage", metavar="URL", help=_("postgresql://…, to share the study between machines"))
    parser.add_argument("--name", metavar="NAME", help=_("name of the study (default: the run's)"))


MOST = 100_000
"""Largest number of trials, and of trials side by side."""


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > len(str(MOST)) or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"want a whole number from 1 to {MOST}, not {text}")
    return int(text)
