"""./run.sh bundle RUN: one file with everything that predictions of a run need.

    ./run.sh bundle blend --to blend.bundle
    ./run.sh predict --bundle blend.bundle new_reports.csv

The file holds weights, settings, vocabulary, checksums, scores and a model card; no code, and no row of the data.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from src.core.errors import UserError
from src.core.language import _
from src.core.terminal import add_json, result
from src.evaluation.workspace import Workspace
from src.pipeline.command import add_force
from src.pipeline.stage import reading, run_lock
from src.serving.bundle import Bundle, write_bundle


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=_("a trained run or a blend, such as lstm or blend"))
    parser.add_argument("--to", type=Path, metavar="FILE", help=_("default: output/RUN.bundle"))
    add_force(parser)


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    to = parsed.to or workspace.output.bundle(parsed.run)
    if to.is_dir():
        raise UserError(_("--to {to} is a folder; name a file").format(to=to))
    with reading(workspace, "bundle", [run_lock(parsed.run)]):
        source = workspace.run(parsed.run)
        workspace.check_unbroken([source])
        bundle = Bundle.open(write_bundle(workspace, source, to))
    models = sum(bundle.record["models"].values())
    add_json("bundle", {"name": bundle.name, "version": bundle.version, "models": models})
    result(
        _(
            "bundle: {to} ({size:,.1f} MB, {models} trained folds, version {version}). "
            "Predict with: ./run.sh predict --bundle {typed} FILE"
        ).format(
            to=to, typed=shlex.quote(str(to)), size=to.stat().st_size / 1000000.0, models=models, version=bundle.version
        )
    )
