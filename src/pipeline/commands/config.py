"""./run.sh config: the settings as they would be used."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    import yaml

    from src.core.terminal import add_json

    settings = workspace.settings.model_dump(mode="json")
    add_json("settings", settings)
    print(yaml.safe_dump(settings, sort_keys=False), end="")
