"""Campaigns: many trials of one promise within a time budget, noted so that they can go on later.

The environment sets the long version, `./run.sh test -m chaos`: CHAOS_SEED (default 1) draws the trials, CHAOS_SECONDS
(default 2000) is the time of all campaigns together on two processors, CHAOS_FOLDER keeps what was tried: the same
command goes on there, with what failed first. Without it nothing is kept.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SEED = int(os.environ.get("CHAOS_SEED", "1"))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "2000"))

BAD = ("wrong in silence", "traceback", "hang", "orphan", "outside", "dead end", "no sentence")
"""Verdicts that are failures. outside: a file outside paths.output, or a temporary one that stayed; dead end: the
commands that errors name do not bring the undamaged bytes back; no sentence: an error without its reason, or with
control characters."""


@dataclass(frozen=True)
class Verdict:
    kind: str
    """One of BAD, or another word for what is right: fine, healed, refused."""
    told: str = ""
    """Finding in words."""

    @property
    def is_bad(self) -> bool:
        return self.kind in BAD


@dataclass(frozen=True)
class Tried:
    """Line of a campaign's file."""

    case: str
    verdict: str
    told: str
    seconds: float


def campaign(file: Path, cases: Sequence[str], judge: Callable[[str], Verdict], seconds: float) -> list[Tried]:
    """Judges the cases in order until the time is over, and returns all that failed, now or before.

    `file` notes each case that was tried; a case that did not fail is not tried again.
    """
    before = {one.case: one for one in read(file)}
    failed = [case for case in cases if case in before and before[case].verdict in BAD]
    order = failed + [case for case in cases if case not in before]
    end = time.monotonic() + seconds
    with file.open("a") as notes:
        for case in order:
            started = time.monotonic()
            if started > end:
                break
            verdict = judge(case)
            before[case] = Tried(case, verdict.kind, verdict.told[-4000:], round(time.monotonic() - started, 2))
            notes.write(json.dumps(asdict(before[case])) + "\n")
            notes.flush()
    return [one for one in before.values() if one.verdict in BAD]


def read(file: Path) -> list[Tried]:
    """Returns the last verdict of each case that a campaign tried."""
    lines = file.read_text().splitlines() if file.exists() else []
    return list({one.case: one for one in (Tried(**json.loads(line)) for line in lines)}.values())


def shown(failed: Sequence[Tried], most: int = 20) -> str:
    """The failures of a campaign, for the message of a test."""
    return f"{len(failed)} failed\n" + "\n".join(f"{one.verdict}: {one.case}\n{one.told}" for one in failed[:most])
