"""Hostile settings, names and logs: whatever a user, an editor or a script may write into them.

A command may answer or refuse with a sentence; it may not end in a traceback, hang, write outside the output folder,
lose a line of the log or send control characters to the terminal.
"""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

from src.__main__ import main
from src.core.executors import LocalProcesses
from tests.chaos.campaign import Verdict
from tests.chaos.hostile_settings import Case, draw_case
from tests.chaos.scenes import PLACES, Scene, outside
from tests.chaos.server import Outcome, Trial
from tests.chaos.verdicts import faults

KINDS = ("settings", "name", "log")
"""Kinds of hostile texts."""
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
"""Characters that would steer a terminal."""
NAMES = (
    "../../../evil", "..", ".", "", "a/b", "/tmp/evil", "blend", "lstm\n", "a\0b", "x" * 300, "数据", "\x1b[31mred",
    "-x", "lstm ", "CON", "con.txt", "*", "~", "$(id)", "a|,|b", "%2e%2e%2f", "LSTM", "runs/lstm", "\udce9", "nul",
    "lstm.", ".hidden", "None",
)  # fmt: skip
NAMING = (
    "submit {}", "blend {} transformer", "blend lstm transformer --name {}", "bundle {}", "explain {}",
    "explain blend --id {}", "explain blend --id 3 --file {}", "predict {} input/sample_testA.csv", "predict lstm {}",
    "predict --bundle {} input/sample_testA.csv", "tune {} --trials 1", "tune lstm --trials 2 --name {}",
    "tune lstm --trials 2 --space {}", "leaderboard {}", "leaderboard tell {} 0.9", "leaderboard tell s1 {}",
    "leaderboard add {} 0.9", "leaderboard tell s1 0.9 --board {}", "leaderboard tell s1 0.9 --note {}", "score {}",
    "score --labels {} output/submission_sample_testA.csv", "score --labels input/answers_A.csv {}",
    "config --preset {}", "config --model {}", "config --task {}", "status --task {}", "clean {}",
    "explain blend --id 3 --label {}", "report {}", "{}",
)  # fmt: skip
"""Commands that take a name, a number or a file."""
LOG_VERBS = ("leaderboard", "leaderboard ask", "leaderboard tell s1 0.91", "status", "submit", "score", "report")
WRONG = (
    None, True, 17, -1, 1e308, "", "s", "s-1", "s999999999999999999999999", "s1", "x", [], {}, [[]], "\x1b[31m",
    "../..", "NaN",
)  # fmt: skip
"""Values of the keys of a log's event."""
LINES = (
    b"", b"null", b"17", b"[]", b"{}", b"\xff\xfe", b"{", b"[" * 100_000, b'{"a":' * 100_000, b'"s1"', b"\0" * 100,
    b"9" * 10_000, b"NaN", b"\xef\xbb\xbf{}", b"<<<<<<< HEAD", b" ", b"\x1a",
)  # fmt: skip
"""Lines of a log that are no events."""


def main_without_jobs(arguments: list[str]) -> int:
    """main() that ends where jobs would start: settings that were accepted may make them take hours."""

    class Reached(BaseException):
        pass

    def reached(*_: Any) -> None:
        raise Reached

    LocalProcesses.run_as_they_come = reached  # this process serves one trial
    try:
        return main(arguments)
    except Reached:
        return 0


def event_line(events: list[bytes], rng: random.Random) -> bytes:
    """A line of a log with one wrong value or key, or none at all."""
    if rng.random() < 0.4:
        return rng.choice(LINES)
    event = json.loads(rng.choice(events))
    key = rng.choice(list(event))
    event[key] = rng.choice(WRONG)
    if rng.random() < 0.2:
        del event[key]
    return json.dumps(event).encode()


def judge(scene: Scene, case: str, scratch: Path) -> Verdict:
    """Tries a hostile text of one of KINDS on a copy of a scene: `settings 17`, `name 5`, `log 8`."""
    kind, rng, folder = case.partition(" ")[0], random.Random(case), scene.copy(scratch)
    log, before_log = folder / "output" / "submissions.jsonl", b""
    if kind == "settings":
        return judge_settings(scene, draw_case(rng), folder)
    if kind == "name":
        command = rng.choice(NAMING).format(shlex.quote(rng.choice(NAMES)))
    else:
        events = log.read_bytes().splitlines()
        for _ in range(rng.choice((1, 1, 3))):
            events.insert(rng.randrange(len(events) + 1), event_line(log.read_bytes().splitlines(), rng))
        before_log = b"\n".join(events) + rng.choice((b"\n", b""))
        log.write_bytes(before_log)
        command = rng.choice(LOG_VERBS)
    before = outside(folder)
    outcome = scene.run(command, folder)
    whole, _, _ = before_log.rpartition(b"\n")  # a line that was cut off may go
    if not log.read_bytes().startswith(whole):
        return Verdict("wrong in silence", f"{command}: lines of submissions.jsonl are gone")
    return verdict(outcome, folder, before, f"{command[:500]}\n{before_log[:500]!r}")


def judge_settings(scene: Scene, case: Case, folder: Path) -> Verdict:
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a hard link to the scene's file
        path.write_bytes(content)
    verb, *words = case.arguments
    preset = [] if "--preset" in words else ["--preset", "reports.yaml"]
    before = outside(folder)
    outcome = scene.server.run(
        Trial([verb, *preset, *words, *PLACES], str(folder), function=f"{__name__}:{main_without_jobs.__name__}")
    )
    return verdict(outcome, folder, before, " ".join(word[:200] for word in case.arguments))


def verdict(outcome: Outcome, folder: Path, before: set[str], tried: str) -> Verdict:
    if found := faults(outcome, folder, before):
        return Verdict(found.kind, f"{tried}\n{found.told}")
    shown = outcome.stdout + outcome.stderr
    if RAW.search(shown) or (outcome.status and "error: " not in shown):
        return Verdict("no sentence", f"{tried}\n{shown[-3000:]!r}")
    return Verdict("refused" if outcome.status else "fine")
