"""Disturbed commands: killed, interrupted or short of disk and descriptors, and then run again undisturbed.

The same command must then end with the bytes of one that was never disturbed, with no process and no temporary file
left. Cases are texts such as `reports/train/event 17`, so that a failure can be tried again by its name.
"""

from __future__ import annotations

import json
import random
import signal
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.chaos import damage
from tests.chaos.campaign import Verdict
from tests.chaos.scenes import Scene, contents, is_temporary, outside
from tests.chaos.server import LONG, ForkServer, Outcome
from tests.chaos.verdicts import CACHES, faults

STEPS = {
    "reports": (
        "prepare", "folds", "shift", "baselines", "pretrain", "train", "blend", "submit", "score", "leaderboard",
        "explain", "report", "eda", "tune lstm --trials 2", "bundle lstm", "predict blend input/sample_testA.csv",
        "leaderboard tell s1 0.91",
    ),
    "short": ("prepare", "folds", "shift", "train", "submit lstm", "leaderboard", "bundle lstm"),
    "stays": ("prepare", "folds", "shift", "baselines", "train", "blend", "submit", "leaderboard", "alarms", "report"),
}  # fmt: skip
"""Commands of a kind of scene, each on what those before it made."""
SIGNALS = {"TERM": 143, "INT": 130}
"""Signals that a command answers, and its exit status."""
KILLS = ("event", "damage", "moment", "alone")
"""Ways to kill: at a write event, at one with a file damaged after it, at a moment, and only the first process."""
LIMITS = {"RLIMIT_FSIZE": (0, 100, 1000, 5000, 20_000, 60_000), "RLIMIT_NOFILE": (3, 8, 12, 16, 20, 24, 32)}
"""Limits of the size of a file, in bytes, as on a full disk, and of open descriptors."""


def _number(word: str) -> int:
    return getattr(signal, f"SIG{word}")


def _options(word: str, value: str) -> dict[str, Any]:
    """Fields of a Trial that disturb it."""
    if word in LIMITS:
        return {"limits": {word: int(value)}}
    if word in SIGNALS:
        return {"kill_after": float(value), "alone": True, "signal": _number(word)}
    if word in ("event", "damage"):
        return {"kill_at_event": int(value)}
    return {"kill_after": float(value), "alone": word == "alone"}


def _damage_new(scene: Scene, folder: Path, rng: random.Random) -> str:
    """Damages one of the files that a killed command has written; returns its name, empty where there is none."""
    old = set(scene.artefacts())
    new = [name for name in contents(folder) if name not in old and not is_temporary(name) and ".lock" not in name]
    if not new:
        return ""
    name, kind = rng.choice(new), rng.choice(list(damage.KINDS))
    damage.do(folder / "output" / name, kind, [], rng)
    return name


class Journey:
    """The folders before and after each step."""

    def __init__(self, folder: Path, kind: str, server: ForkServer, steps: tuple[str, ...] | None = None):
        self.kind, self.steps = kind, steps or STEPS[kind]
        self.scenes = [Scene(folder / f"{kind}_0", kind, server, builds=())]
        self.ends: list[Outcome] = []
        """Undisturbed end of each step."""
        for number, step in enumerate(self.steps, start=1):
            self.scenes.append(self._after(folder / f"{kind}_{number}", step))

    def _after(self, folder: Path, step: str) -> Scene:
        before, note = self.scenes[-1], folder / "complete"
        if not note.exists():
            end = before.run(step, before.copy(folder), limit=LONG)
            assert end.status == 0, f"{step}: {end.stderr}"
            note.write_text(json.dumps([end.events, end.seconds]))
        events, seconds = json.loads(note.read_text())
        self.ends.append(Outcome(0, "", "", seconds, events))
        return Scene(folder, self.kind, before.server)

    def cases(self, rng: random.Random) -> list[str]:
        """Every write event of every step, random moments, signals and limits: in random order, steps in turn."""
        found = []
        for step, end in zip(self.steps, self.ends, strict=True):
            hows = [f"event {number}" for number in range(end.events)]
            hows += [f"damage {number}" for number in range(end.events)]
            hows += [f"moment {rng.uniform(0, end.seconds):.3f}" for _ in range(10)]
            hows += [f"alone {rng.uniform(0, end.seconds):.3f}" for _ in range(10)]
            hows += [f"{name} {rng.uniform(0, end.seconds):.3f}" for name in SIGNALS for _ in range(5)]
            hows += [f"{name} {most}" for name, values in LIMITS.items() for most in values]
            rng.shuffle(hows)
            found.append([f"{self.kind}/{step}/{how}" for how in hows])
        return [case for turn in zip_longest(*found) for case in turn if case]

    def judge(self, case: str, scratch: Path) -> Verdict:
        """Disturbs a step, runs it again, and compares its result with the undisturbed one."""
        kind, _, rest = case.partition("/")
        step, _, how = rest.rpartition("/")
        word, _, value = how.partition(" ")
        number = self.steps.index(step)
        scene, undisturbed = self.scenes[number], self.scenes[number + 1]
        folder = scene.copy(scratch)
        before = outside(folder)
        disturbed = scene.run(step, folder, **_options(word, value))
        if found := self._fault(disturbed, word, folder, before):
            return found
        damaged = _damage_new(scene, folder, random.Random(case)) if word == "damage" else ""
        as_damaged = contents(folder).get(damaged)
        again = scene.run(step, folder)
        if found := faults(again, folder, before):
            return replace(found, told=f"second time, {damaged}: {found.told}")
        if again.status:
            is_named = damaged and Path(damaged).name in again.stderr
            return Verdict("refused" if is_named else "dead end", f"{damaged}\n{again.stderr[-2000:]}")
        found, expected = contents(folder), contents(undisturbed.folder)
        wrong = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
        wrong = [name for name in wrong if not CACHES.match(name)]
        if damaged in wrong and found.get(damaged) == as_damaged:  # nobody reads it
            wrong.remove(damaged)
        return Verdict("wrong in silence", f"{damaged} differ: {', '.join(wrong)}") if wrong else Verdict("fine")

    def _fault(self, disturbed: Outcome, word: str, folder: Path, before: set[str]) -> Verdict | None:
        """Returns the fault in how the disturbed command ended."""
        if disturbed.orphans:
            return Verdict("orphan", f"{disturbed.orphans} processes outlive the command")
        if others := outside(folder) ^ before:
            return Verdict("outside", " ".join(sorted(others)))
        if disturbed.status == -signal.SIGKILL and word in KILLS and not disturbed.hung:
            return None
        if word in SIGNALS:
            # Before main() begins, and after it, the system ends the process: for a shell that is the same status.
            if disturbed.status not in (0, SIGNALS[word], -_number(word)) or disturbed.hung:
                return Verdict("traceback", f"exit {disturbed.status}\n{disturbed.stderr[-2000:]}")
            return None
        return faults(disturbed, folder, before, may_leave=True)
