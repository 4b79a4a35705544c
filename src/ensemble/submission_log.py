"""Append-only log of submissions and their online scores, output/submissions.jsonl.

The file has a line of JSON for each event: a submission was made, its run was scored by the validations (`judged`), an
online score was entered. Whole lines are appended under a lock, so that several writers do not mix. An incomplete line
(full disk, power cut) is ignored, and the next event starts on a new line.
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

MAKER = ("run", "fingerprint", "how", "made_from")
"""Entries of an event that say what made a submission."""


@dataclass(frozen=True)
class Online:
    """Online score entered by the user."""

    score: float
    board: str
    note: str
    at: datetime


@dataclass
class Submission:
    """Submission file with its origin and scores."""

    id: str
    """Short name, such as s3 for the third submission."""
    file: str
    sha256: str
    test: str | None
    """Name of the predicted test file; None for a file from elsewhere."""
    run: str | None
    fingerprint: str | None
    """Fingerprint of the run's score.json when the submission was made."""
    at: datetime
    how: dict[str, Any]
    """Changes to the run's probabilities, such as the settings proposed by ./run.sh leaderboard ask."""
    judged: dict[str, Any] | None = None
    """Validation scores of the run with standard errors, and the expected score."""
    online: list[Online] = field(default_factory=list)
    made_from: str | None = None
    """Fingerprint of everything that the file was made from; None for a file from elsewhere."""
    remade: list[dict[str, Any]] = field(default_factory=list)
    """Further makers of the same bytes, as makers() returns them."""

    def makers(self) -> list[dict[str, Any]]:
        """Returns every maker of these bytes: `run`, `fingerprint`, `how` and `made_from`."""
        return [{key: getattr(self, key) for key in MAKER}, *self.remade]

    def is_made_of(self, fingerprint: str, how: dict[str, Any]) -> bool:
        """Returns True if a run of this fingerprint made these bytes in this way."""
        return any((maker["fingerprint"], maker["how"]) == (fingerprint, how) for maker in self.makers())

    def score(self, board: str) -> float | None:
        """Returns the last score entered for a board, or None."""
        entered = [online.score for online in self.online if online.board == board]
        return entered[-1] if entered else None


class SubmissionLog:
    """Reader and writer of output/submissions.jsonl."""

    def __init__(self, path: Path):
        self.path = path

    def submissions(self) -> list[Submission]:
        """Returns all submissions in the order of their making."""
        return list(_replayed(self._events()[0]).values())

    @property
    def broken(self) -> int:
        """Number of lines that are no events."""
        return self._events()[1]

    def made(self, file: Path, sha256: str, **about: Any) -> Submission:
        """Logs a submission file and returns its entry. Known bytes keep their id; a further run that made them, or
        another way of making them, is logged with that id."""

        def is_same(submission: Submission) -> bool:
            board = submission.how.get("board")
            return (submission.sha256, submission.test, board) == (sha256, about["test"], about["how"].get("board"))

        def event(submissions: dict[str, Submission]) -> dict[str, Any] | None:
            same = next(filter(is_same, submissions.values()), None)
            if same is None:
                return {
                    "event": "made",
                    "id": f"s{_last(submissions) + 1}",
                    "file": file.name,
                    "sha256": sha256,
                    **about,
                }
            maker = {key: about.get(key) for key in MAKER}
            return None if maker in same.makers() else {"event": "remade", "id": same.id, **maker}

        return next(filter(is_same, self._append(event).values()))

    def judged(self, submission: Submission, scores: dict[str, Any]) -> None:
        """Logs the validation scores of a submission, unless the log has some."""
        self._append(
            lambda submissions: (
                None if submissions[submission.id].judged else {"event": "judged", "id": submission.id, **scores}
            )
        )

    def scored(self, submission: Submission, score: float, board: str, note: str = "") -> None:
        """Logs an online score of a submission on a board."""
        self._append(
            lambda submissions: {"event": "scored", "id": submission.id, "board": board, "score": score, "note": note}
        )

    def find(self, name: str) -> Submission:
        """Returns the submission with the id `name`. Raises UserError for an unknown id."""
        by_id = {submission.id: submission for submission in self.submissions()}
        if name not in by_id:
            raise UserError(f"there is no submission {name!r} in {self.path}. Known: {', '.join(by_id) or 'none'}")
        return by_id[name]

    def _append(self, event: Callable[[dict[str, Submission]], dict[str, Any] | None]) -> dict[str, Submission]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            events = self._events()[0]
            if new := event(_replayed(events)):
                new = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **new}
                text = json.dumps(new, ensure_ascii=False, allow_nan=False).encode() + b"\n"
                if file.tell() and not self._ends_whole():
                    text = b"\n" + text
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                events.append(new)
        return _replayed(events)

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _events(self) -> tuple[list[dict[str, Any]], int]:
        if not self.path.exists():
            return [], 0
        events, broken, submissions = [], 0, {}
        for line in self.path.read_bytes().splitlines():
            try:
                event = json.loads(line)
                _apply(event, submissions)
                events.append(event)
            except (ValueError, KeyError, TypeError, AttributeError):
                broken += bool(line.strip())
        return events, broken


def entered_on(submissions: list[Submission], board: str, day: date) -> int:
    """Counts the submissions whose first score on a board was entered on `day`, in local time."""
    firsts = [min((o.at for o in each.online if o.board == board), default=None) for each in submissions]
    return sum(first is not None and first.astimezone().date() == day for first in firsts)


def _last(submissions: dict[str, Submission]) -> int:
    """Returns the number of the newest submission; a lost line leaves a gap."""
    return max((int(name[1:]) for name in submissions), default=0)


def _replayed(events: list[dict[str, Any]]) -> dict[str, Submission]:
    """Returns the submissions by id, with all their events."""
    submissions: dict[str, Submission] = {}
    for event in events:
        _apply(event, submissions)
    return submissions


def _apply(event: dict[str, Any], submissions: dict[str, Submission]) -> None:
    """Adds an event to `submissions`. Raises KeyError, TypeError, ValueError or AttributeError if malformed."""
    at, kind, name = datetime.fromisoformat(event["at"]), event["event"], event["id"]
    if kind == "made":
        int(name.removeprefix("s"))
        fields = {key: event[key] for key in ("file", "sha256", "test", "run", "fingerprint", "how")}
        submissions[name] = Submission(id=name, at=at, **fields, made_from=event.get("made_from"))
    elif kind == "remade":
        submissions[name].remade.append({key: event[key] for key in MAKER})
    elif kind == "judged":
        submissions[name].judged = {key: event[key] for key in ("validations", "expected")}
    elif kind == "scored":
        submissions[name].online.append(Online(float(event["score"]), event["board"], event["note"], at))
    else:
        raise ValueError(kind)
