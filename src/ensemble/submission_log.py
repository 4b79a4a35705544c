"""Every submission that was made and what it scored online, in one file that is only ever appended to.

output/submissions.jsonl has a line for each event, JSON that a person can read: a submission was made, its run was
judged by the validations, an online score was entered. Lines are written whole and under a lock, so that several
writers do not mix; a line that a full disk or a power cut left half is passed over, and the next begins on its own.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from src.core.errors import UserError


@dataclass(frozen=True)
class Online:
    """A score that the user entered."""

    score: float
    board: str
    note: str
    at: datetime


@dataclass
class Submission:
    id: str
    """Short, such as s3: the third."""
    file: str
    sha256: str
    test: str | None
    """The test file that it predicts; None for a file from elsewhere."""
    run: str | None
    fingerprint: str | None
    """Of the run's score.json when it was made."""
    at: datetime
    how: dict[str, Any]
    """What was done to the run's probabilities, and for ./run.sh leaderboard ask what the study drew."""
    judged: dict[str, Any] | None = None
    """Of the run: validations with standard errors, and the expected score."""
    online: list[Online] = field(default_factory=list)

    def score(self, board: str) -> float | None:
        """The last that was entered for a board."""
        entered = [one.score for one in self.online if one.board == board]
        return entered[-1] if entered else None


class SubmissionLog:
    def __init__(self, path: Path):
        self.path = path

    def submissions(self) -> list[Submission]:
        """In the order in which they were made."""
        return list(_replayed(self._events()[0]).values())

    @property
    def broken(self) -> int:
        """Lines that are no events."""
        return self._events()[1]

    def made(self, file: Path, sha256: str, **about: Any) -> Submission:
        """Notes a submission file; one of the same content, test file and making that is known already is not noted
        again."""

        def is_it(one: Submission) -> bool:
            return (one.sha256, one.test, one.how) == (sha256, about["test"], about["how"])

        def event(known: dict[str, Submission]) -> dict[str, Any] | None:
            if any(map(is_it, known.values())):
                return None
            return {"event": "made", "id": f"s{_last(known) + 1}", "file": file.name, "sha256": sha256, **about}

        return next(filter(is_it, self._append(event).values()))

    def judged(self, submission: Submission, found: dict[str, Any]) -> None:
        self._append(
            lambda known: None if known[submission.id].judged else {"event": "judged", "id": submission.id, **found}
        )

    def scored(self, submission: Submission, score: float, board: str, note: str = "") -> None:
        self._append(
            lambda known: {"event": "scored", "id": submission.id, "board": board, "score": score, "note": note}
        )

    def find(self, name: str) -> Submission:
        """By its id. Raises UserError for one that is not known."""
        known = {one.id: one for one in self.submissions()}
        if name not in known:
            raise UserError(f"there is no submission {name!r} in {self.path}. Known: {', '.join(known) or 'none'}")
        return known[name]

    def _append(self, event: Callable[[dict[str, Submission]], dict[str, Any] | None]) -> dict[str, Submission]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            events = self._events()[0]
            if made := event(_replayed(events)):
                made = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **made}
                text = json.dumps(made, ensure_ascii=False, allow_nan=False).encode() + b"\n"
                if file.tell() and not self._ends_whole():
                    text = b"\n" + text
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                events.append(made)
        return _replayed(events)

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _events(self) -> tuple[list[dict[str, Any]], int]:
        if not self.path.exists():
            return [], 0
        events, broken, known = [], 0, {}
        for line in self.path.read_bytes().splitlines():
            try:
                event = json.loads(line)
                _apply(event, known)
                events.append(event)
            except (ValueError, KeyError, TypeError, AttributeError):
                broken += bool(line.strip())
        return events, broken


def entered_on(submissions: list[Submission], board: str, day: date) -> int:
    """Submissions whose first score on a board was entered on a day, by this machine's clock."""
    firsts = [min((o.at for o in one.online if o.board == board), default=None) for one in submissions]
    return sum(first is not None and first.astimezone().date() == day for first in firsts)


def _last(known: dict[str, Submission]) -> int:
    """Number of the newest submission; a line that was lost leaves a gap."""
    return max((int(name[1:]) for name in known), default=0)


def _replayed(events: list[dict[str, Any]]) -> dict[str, Submission]:
    """Submissions by id, with all that was noted of them."""
    known: dict[str, Submission] = {}
    for event in events:
        _apply(event, known)
    return known


def _apply(event: dict[str, Any], known: dict[str, Submission]) -> None:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is no event."""
    at, kind, name = datetime.fromisoformat(event["at"]), event["event"], event["id"]
    if kind == "made":
        int(name.removeprefix("s"))
        fields = {key: event[key] for key in ("file", "sha256", "test", "run", "fingerprint", "how")}
        known[name] = Submission(id=name, at=at, **fields)
    elif kind == "judged":
        known[name].judged = {key: event[key] for key in ("validations", "expected")}
    elif kind == "scored":
        known[name].online.append(Online(float(event["score"]), event["board"], event["note"], at))
    else:
        raise ValueError(kind)
