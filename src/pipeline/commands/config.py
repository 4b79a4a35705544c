"""./run.sh config: the settings as they would be used; with --explain, the reference of settings.

./run.sh config --explain train.epochs
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.core.language import _

if TYPE_CHECKING:
    from src.core.settings_reference import Entry
    from src.evaluation.workspace import Workspace

ALL = "all"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--explain",
        nargs="?",
        const=ALL,
        metavar="KEY",
        help=_(
            "what a setting means, its type, default, range and cost; of a section such as train, or of all settings"
        ),
    )


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    import yaml

    from src.core.terminal import add_json

    if parsed.explain is not None:
        _explain(parsed.explain)
        return
    settings = workspace.settings.model_dump(mode="json")
    add_json("settings", settings)
    print(yaml.safe_dump(settings, sort_keys=False), end="")


def _explain(key: str) -> None:
    """Prints the reference of a key, of all keys below it, or of all. Raises UserError for an unknown key."""
    from src.core import settings_reference as reference
    from src.core.errors import unknown
    from src.core.terminal import add_json, result, wrapped

    found = reference.entries() if key == ALL else reference.find(key)
    if not found:
        near = reference.suggested(key)
        if not near:
            sections = dict.fromkeys(entry.key.partition(".")[0] for entry in reference.entries())
            raise unknown("key", key, sections)
        found = [entry for one in near for entry in reference.find(one)]
    add_json("reference", [vars(entry) for entry in found])
    result("\n\n".join("\n".join(wrapped(line) for line in _lines(entry)) for entry in found))


def _lines(entry: Entry) -> list[str]:
    about = [entry.kind, entry.limits, f"default {entry.default}" if entry.default else ""]
    return [
        f"{entry.key}{f' (of {entry.of})' if entry.of else ''}: {'; '.join(filter(None, about))}",
        *([f"  {entry.meaning}"] if entry.meaning else []),
        *([f"  costs: {entry.cost}"] if entry.cost else []),
        f"  a change makes anew: {entry.remade}",
    ]
