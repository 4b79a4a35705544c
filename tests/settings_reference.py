"""Writes docs/settings.md, the reference of all settings, which is made of their classes in src/core.

python -m tests.settings_reference
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from src.core.settings_reference import Entry, entries

FILE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
HEAD = """# Settings

Every setting, as `key=value` on the command line or as a key of a preset. Made of their classes in `src/core`; the
same on the terminal: `./run.sh config --explain train.epochs`, `./run.sh config --explain train`,
`./run.sh config --explain`.

A key under `model`, `features`, `pretrain`, `denoise` or `train` reaches every run that has it;
`runs.lstm.train.epochs=6` reaches one run. The defaults are those of the classes; a preset and the model's own file
in `src/presets/models/` lay theirs over them, and `./run.sh config --preset NAME` prints what comes out. *Costs* is
what a larger value takes; nothing stands there where it takes no time, memory or disk to speak of. Which results a
change makes anew stands above each table; all others stay as they are.
"""


def text() -> str:
    """The page: its head, a table of contents, and a table for each section of settings."""
    sections = [(title, list(group)) for title, group in groupby(entries(), key=lambda entry: entry.key.split(".")[0])]
    parts = [HEAD, "\n".join(f"- [{title}](#{title})" for title, _ in sections) + "\n"]
    for title, found in sections:
        remade = "; ".join(dict.fromkeys(entry.remade for entry in found))
        table = ["| key | type | default | range | meaning | costs |", "|---|---|---|---|---|---|"]
        table += [f"| {' | '.join(_cells(entry))} |" for entry in found]
        parts.append("\n\n".join([f"## {title}", f"A change makes anew: {remade}.", "\n".join(table)]) + "\n")
    return "\n".join(parts)


def _cells(entry: Entry) -> list[str]:
    meaning = f"{entry.meaning}{f' Of {entry.of}.' if entry.of else ''}".strip()
    default = f"`{entry.default}`" if entry.default else ""
    cells = [f"`{entry.key}`", entry.kind, default, entry.limits, meaning, entry.cost]
    return [cell.replace("|", "\\|").replace("*", "\\*") if "`" not in cell else cell for cell in cells]


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
