"""Append-only log of submissions and their online scores, output/submissions.jsonl.

The file has a line of JSON for each event: a submission was made, its run was scored by the validations (`judged`), an
online score was entered. A line ends with a checksum of what stands before it; lines of older versions have none. Whole
lines are appended under a lock, so that several writers do not mix. A last line that was cut off (full disk, power cut)
never became an event: it is told, and removed with the next event. Any other line that is no event is an error, for
scores in this file are known nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
)

from src.core import locks, storage
from src.core.errors import Damaged, UserError, shortened
from src.core.language import _
from src.core.names import check_name
from src.core.terminal import warn_once
from src.evaluation.validation_sets import VALIDATIONS

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
    test_text: str | None = None
    """Fingerprint of the predicted rows; None for a file from elsewhere, and where an older version noted it."""
    remade: list[dict[str, Any]] = field(default_factory=list)
    """Further makers of the same bytes, as makers() returns them."""

    def makers(self) -> list[dict[str, Any]]:
        """Returns every maker of these bytes: `run`, `fingerprint`, `how` and `made_from`."""
        return [{key: getattr(self, key) for key in MAKER}, *self.remade]

    def is_made_of(self, fingerprint: str, how: dict[str, Any]) -> bool:
        """Returns True if a run of this fingerprint made these bytes in this way."""
        return any((maker["fingerprint"], maker["how"]) == (fingerprint, how) for maker in self.makers())

    @property
    def made_on(self) -> date:
        """Day on which it was made, in local time, as the days of entered_on()."""
        return self.at.astimezone().date()

    def score(self, board: str) -> float | None:
        """Returns the last score entered for a board, or None."""
        entered = [online.score for online in self.online if online.board == board]
        return entered[-1] if entered else None


class DamagedLog(Damaged):
    """A line of the log is no event."""

    def __init__(self, path: Path, line: int, why: str):
        """`line`: from 1."""
        self.what = f"{path}, line {line} is damaged: {why}"
        UserError.__init__(
            self,
            f"{self.what}. Each line is one event, as ./run.sh wrote it. Put the line back from a copy, or take it "
            "out; the scores in it are known nowhere else",
        )


class SubmissionLog:
    """Reader and writer of output/submissions.jsonl. All methods raise DamagedLog for a line that is no event."""

    def __init__(self, path: Path):
        self.path = path

    def submissions(self) -> list[Submission]:
        """Returns all submissions in the order of their making."""
        return list(self._read()[0].values())

    def submissions_for(self, tests: Mapping[str, str]) -> list[Submission]:
        """Returns the submissions without those for another test file of the same name, which are told. `tests`: the
        fingerprint of the rows of each test file that is there now."""
        found = self.submissions()
        others = [one for one in found if one.test_text and tests.get(one.test, one.test_text) != one.test_text]
        if others:
            ids, files = ", ".join(one.id for one in others), ", ".join(sorted({one.test for one in others}))
            warn_once(
                _(
                    "{path}: left out {ids}, made for {files} with another content than now. If the log "
                    "belongs to another output folder, put this one's back; if the test file was "
                    "replaced, there is nothing to do"
                ).format(path=self.path, ids=ids, files=files)
            )
        return [one for one in found if one not in others]

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
        """Logs an online score of a submission on a board, unless it is the last one that was entered there: a command
        that was killed may be repeated."""

        def event(submissions: dict[str, Submission]) -> dict[str, Any] | None:
            entered = [one for one in submissions[submission.id].online if one.board == board]
            if entered and (entered[-1].score, entered[-1].note) == (score, note):
                return None
            return {"event": "scored", "id": submission.id, "board": board, "score": score, "note": note}

        self._append(event)

    def find(self, name: str) -> Submission:
        """Returns the submission with the id `name`. Raises UserError for an unknown id."""
        by_id = {submission.id: submission for submission in self.submissions()}
        if name not in by_id:
            known = ", ".join(by_id) or "none"
            raise UserError(
                _("there is no submission {name} in {path}. Known: {known}").format(
                    name=shortened(name), path=self.path, known=known
                )
            )
        return by_id[name]

    def _append(self, event: Callable[[dict[str, Submission]], dict[str, Any] | None]) -> dict[str, Submission]:
        """Appends what `event` makes of the submissions, if anything, and returns the submissions after it."""
        with locks.lock(self.path.parent / "locks" / "submissions.lock"):
            submissions, whole = self._read()
            if new := event(submissions):
                line = _sealed({"at": datetime.now(UTC).isoformat(timespec="seconds"), **new})
                _apply(_EVENT.validate_json(line), submissions)
                with storage.writing(self.path), self.path.open("ab") as file:
                    file.truncate(whole)
                    if whole and not self._ends_with_line_break():
                        file.write(b"\n")
                    file.write(line + b"\n")
                    file.flush()
                    storage.flush(file.fileno())
        return submissions

    def _ends_with_line_break(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _read(self) -> tuple[dict[str, Submission], int]:
        """Returns the submissions by id, with all their events, and the bytes of the file without a cut-off line."""
        if not self.path.exists():
            return {}, 0
        if not self.path.is_file():
            raise UserError(_("{path} is no file. Move it away, and run the same command again").format(path=self.path))
        text = self.path.read_bytes()
        if not text:
            warn_once(
                _("{path} is empty: of submissions that were noted in it nothing is known").format(path=self.path)
            )
        submissions: dict[str, Submission] = {}
        for number, line in enumerate(text.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                _apply(_event(line), submissions)
            except ValueError as error:
                is_last = number == text.count(b"\n") + 1
                if is_last and _CUT_OFF.fullmatch(line) and not _SEALED.fullmatch(line):
                    warn_once(
                        _("{path}, line {number} was cut off while it was written; it counts for nothing").format(
                            path=self.path, number=number
                        )
                    )
                    return submissions, len(text) - len(line)
                raise DamagedLog(self.path, number, str(error)) from None
        return submissions, len(text)


_SEALED = re.compile(rb'(\{.*), "checksum": "([0-9a-f]{16})"\}')
"""A line that ends with a checksum."""
_CUT_OFF = re.compile(rb'\{"at": "[^\0-\x1f]*')
"""Beginning of a line."""
MOST_GAP = 1000
"""Submissions that may have gone from the log between two that follow each other; a larger number is a damaged one."""


def _sealed(event: dict[str, Any]) -> bytes:
    """Line of an event, with its checksum."""
    text = json.dumps(event, ensure_ascii=False, allow_nan=False).encode(errors="replace")  # a name may be no Unicode
    return text[:-1] + b', "checksum": "%b"}' % _checksum(text)


def _checksum(text: bytes) -> bytes:
    """16 hexadecimal digits."""
    return hashlib.sha256(text).hexdigest()[:16].encode()


def _of_our_time(at: datetime) -> datetime:
    """Raises ValueError for a time that no command of ours can have noted."""
    if not 2020 <= at.year < 2200:
        raise ValueError(f"the year {at.year} cannot be")
    return at


def _with_all(scores: dict[str, _Score]) -> dict[str, _Score]:
    """Raises ValueError where the score of a validation is missing."""
    if missing := set(VALIDATIONS) - scores.keys():
        raise ValueError(f"the score of {min(missing)} is missing")
    return scores


def _of_a_board(how: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Raises ValueError where what ./run.sh leaderboard ask varied is not noted in full."""
    if "made_of" in how:
        _ASKED.validate_python(how)
    return how


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Asked(_Model):
    made_of: dict[str, str]
    board: str
    settings: dict[str, float]


class _Score(_Model):
    model_config = ConfigDict(extra="allow")
    value: float | None


class _Event(_Model):
    at: Annotated[AwareDatetime, AfterValidator(_of_our_time)]
    id: Annotated[str, Field(pattern="^s[1-9][0-9]{0,8}$")]
    checksum: str | None = None


class _Maker(_Event):
    run: Annotated[str, AfterValidator(lambda name: check_name("run", name))] | None
    fingerprint: str | None
    how: Annotated[dict[str, JsonValue], AfterValidator(_of_a_board)]


class _Made(_Maker):
    event: Literal["made"]
    file: str
    sha256: str
    test: str | None
    made_from: str | None = None
    test_text: str | None = None


class _Remade(_Maker):
    event: Literal["remade"]
    made_from: str | None


class _Judged(_Event):
    event: Literal["judged"]
    validations: Annotated[dict[str, _Score], AfterValidator(_with_all)]
    expected: _Score


class _Scored(_Event):
    event: Literal["scored"]
    board: str
    score: float
    note: str


_ASKED = TypeAdapter(_Asked)
_EVENT = TypeAdapter(Annotated[_Made | _Remade | _Judged | _Scored, Field(discriminator="event")])


def entered_on(submissions: list[Submission], board: str, day: date) -> int:
    """Counts the submissions whose first score on a board was entered on `day`, in local time."""
    firsts = [min((o.at for o in each.online if o.board == board), default=None) for each in submissions]
    return sum(first is not None and first.astimezone().date() == day for first in firsts)


def _last(submissions: Iterable[str]) -> int:
    """Returns the number of the newest submission; a lost line leaves a gap."""
    return max((int(name[1:]) for name in submissions), default=0)


def _event(line: bytes) -> _Made | _Remade | _Judged | _Scored:
    """Returns the event of a line. Raises ValueError with what is wrong."""
    try:
        event = _EVENT.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"][1:]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    except UserError as error:
        raise ValueError(str(error)) from None
    if event.checksum is not None:
        sealed = _SEALED.fullmatch(line.strip())
        if sealed is None or _checksum(sealed[1] + b"}") != sealed[2]:
            raise ValueError("its content differs from its checksum")
    return event


def _apply(event: _Made | _Remade | _Judged | _Scored, submissions: dict[str, Submission]) -> None:
    """Adds an event to `submissions`. Raises ValueError for one that cannot follow those before it."""
    if isinstance(event, _Made):
        last = _last(submissions)
        if not last < int(event.id[1:]) <= last + MOST_GAP:
            raise ValueError(f"the submission {event.id} cannot follow s{last}")
        fields = event.model_dump(exclude={"event", "checksum"})
        submissions[event.id] = Submission(**fields)
        return
    if event.id not in submissions:
        raise ValueError(f"the line on which {event.id} was made is missing before it")
    one = submissions[event.id]
    if isinstance(event, _Remade):
        one.remade.append({key: getattr(event, key) for key in MAKER})
    elif isinstance(event, _Judged):
        one.judged = event.model_dump(include={"validations", "expected"})
    else:
        one.online.append(Online(event.score, event.board, event.note, event.at))
