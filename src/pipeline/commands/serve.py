"""./run.sh serve [--bundle FILE] [--port N]: predictions of a bundle over HTTP, see docs/serving.md.

    ./run.sh serve
    curl -H 'Content-Type: application/json' -d '{"tokens": "12 345 6"}' http://127.0.0.1:8000/predict

Without --bundle it serves the pipeline's blend. serve.shadow=FILE compares a second bundle with it.
SIGHUP reads the bundle's file again, SIGTERM ends in order.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.language import _

if TYPE_CHECKING:
    from src.core.settings import Config
    from src.evaluation.workspace import Workspace
    from src.serving.alarm_part import AlarmPart
    from src.serving.parts import Part

PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "prometheus_client")
RUN = "blend"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, metavar="FILE", help=_("default: a new bundle of the pipeline's blend"))
    parser.add_argument("--port", dest="serve.port", metavar="N", help=_("default 8000; 0: any free port"))


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.serving.packages import require_packages

    require_packages("./run.sh serve", *PACKAGES)
    from src.serving.app import Service
    from src.serving.predictor import Predictor
    from src.serving.server import serve
    from src.serving.watching import DriftPart, ShadowPart

    file = parsed.bundle or blend_bundle(workspace)
    settings = workspace.settings.serve
    parts: list[Part] = [_alarms(workspace.settings), DriftPart()]
    if settings.shadow is not None:
        parts.append(ShadowPart(Predictor.load(settings.shadow, settings.engine, settings.threads)))
    serve(Service.load(file, settings, parts))


def _alarms(settings: Config) -> AlarmPart:
    from src.serving.alarm_part import OwnAlarms, StreamAlarms
    from src.serving.packages import require_packages

    if settings.serve.alarms == "own":
        return OwnAlarms(settings.alarms)
    require_packages("serve.alarms=stream", "redis")
    return StreamAlarms(settings.stream)


def blend_bundle(workspace: Workspace) -> Path:
    """A new bundle of the pipeline's blend. Raises UserError, with the command, where there is none."""
    from src.pipeline.stage import reading, run_lock
    from src.serving.bundle import write_bundle

    if not (workspace.output.run(RUN) / "score.json").exists():
        raise UserError(
            _(
                "there is no blend in {runs}: make it with ./run.sh {command}, or name a bundle: "
                "./run.sh serve --bundle FILE"
            ).format(runs=workspace.output.runs, command=workspace.command("pipeline"))
        )
    with reading(workspace, "serve", [run_lock(RUN)]):
        return write_bundle(workspace, workspace.run(RUN), workspace.output.bundle(RUN))
