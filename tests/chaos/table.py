"""Table of docs/reliability.md: what the long version of the trials tried, and what failed.

python -m tests.chaos.table FOLDER        FOLDER: CHAOS_FOLDER of `./run.sh test -m chaos`
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from tests.chaos.campaign import BAD, SEED, Tried, read
from tests.chaos.kills import LIMITS, SIGNALS
from tests.chaos.test_long import PACK

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- made by tests/chaos/table.py -->", "<!-- end of what it made -->"


@dataclass(frozen=True)
class Promise:
    """A row of the table."""

    text: str
    files: str
    """Glob of the campaigns' files."""
    chosen: Callable[[Tried], bool] = lambda one: one.verdict != "no damage"
    weight: int = 1
    """Trials of a case."""


def way(one: Tried) -> str:
    """Kind of disturbance: the word behind the last slash of its case."""
    return one.case.rpartition("/")[2].split()[0]


PROMISES = (
    Promise(
        "killed (SIGKILL) at a write event or at any moment: the same command ends with the same bytes",
        "kills_*.jsonl",
        lambda one: way(one) in ("event", "moment", "alone"),
    ),
    Promise(
        "killed, and what it had written damaged: the same bytes, or a refusal that names the file",
        "kills_*.jsonl",
        lambda one: way(one) == "damage",
    ),
    Promise(
        "Ctrl-C or SIGTERM: exit 130 or 143, and the same command ends with the same bytes",
        "kills_*.jsonl",
        lambda one: way(one) in SIGNALS,
    ),
    Promise(
        "full disk or too few descriptors: a sentence, and the same command goes on",
        "kills_*.jsonl",
        lambda one: way(one) in LIMITS,
    ),
    Promise(
        "a damaged artefact of reports × a verb: the undamaged answer, or a refusal whose remedy heals",
        "damage_reports_*.jsonl",
    ),
    Promise("a damaged artefact of stays × a verb: the same", "damage_stays_*.jsonl"),
    Promise(
        "a mutated report file: read as a plain reading does, or refused with file and line",
        "mutated.jsonl",
        weight=PACK,
    ),
    Promise(
        "hostile settings, presets and names: an answer or a sentence",
        "hostile.jsonl",
        lambda one: not one.case.startswith("log"),
    ),
    Promise(
        "a hostile log: an answer or a sentence, and no line lost",
        "hostile.jsonl",
        lambda one: one.case.startswith("log"),
    ),
)


def table(folder: Path) -> str:
    """The table in Markdown, and a sentence with the kinds of failures."""
    rows = ["| promise | tried | failed | seconds |", "|---|---:|---:|---:|"]
    failures: Counter[str] = Counter()
    for promise in PROMISES:
        tried = [one for file in sorted(folder.glob(promise.files)) for one in read(file) if promise.chosen(one)]
        failed = [one for one in tried if one.verdict in BAD]
        failures.update(one.verdict for one in failed)
        seconds = sum(one.seconds for one in tried)
        rows.append(f"| {promise.text} | {len(tried) * promise.weight:,} | {len(failed)} | {seconds:,.0f} |")
    kinds = ", ".join(f"{failures[kind]} × {kind}" for kind in BAD)
    return "\n".join([*rows, "", *wrap(f"Kinds of failures: {kinds}. Seed {SEED}.", 120)])


def main(folder: Path) -> None:
    """Writes the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert rest, f"{PAGE} has no line {BEGIN}"
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(folder)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
