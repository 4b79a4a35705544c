"""./run.sh train [--model RUN …]: the runs of the preset, or with --name another run of one of them.

./run.sh train --model lstm train.epochs=6
./run.sh train --model lstm --name wide model.hidden_size=192
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.language import _

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", metavar="NAME", help=_("another run of the one --model, beside it, with the settings of this command")
    )


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.core.settings_loader import with_name
    from src.pipeline.stage import get_stage, make

    if parsed.name is not None:
        workspace = workspace.variant(with_name(workspace.settings, parsed.name))
        _check_free(workspace, parsed.name)
    make(workspace, get_stage("train"))


def _check_free(workspace: Workspace, name: str) -> None:
    """Raises UserError where the name is that of a run that was not trained."""
    from src.core.targets import made_by

    maker = made_by(workspace.output.run(name) / "score.json")
    if maker and maker[0] != "train":
        raise UserError(
            _("{name} is the name of a run that is there and was not trained. Take another --name").format(
                name=repr(name)
            )
        )
