"""Messages of a stream: reports, or stays as they are so far, each with an id of its own.

On Kafka, and from publishers of FastStream, a message is a JSON object; on Redis it may also be plain fields:

    {"id": "17", "tokens": "12 345 6"}
    {"id": "m-4711", "patient": "132539", "hour": 6, "series": "Time,Parameter,Value\\n00:00,Age,54\\n…"}
    redis-cli XADD reports '*' id 17 tokens '12 345 6'
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

from src.data.stay_files import LARGEST_FILE
from src.serving.errors import Refused
from src.serving.request_models import Id, Report, Stay, check

LAST_TIME = re.compile(r"^(\d{1,4}):(\d\d),", re.MULTILINE)
"""Time of a line of a stay."""
LAST_HOUR = 1_000_000
"""Largest hour of a reading: 114 years, so hours since a birth or since 1970 fit. After a larger one by mistake, every
true hour would be an earlier one and raise no alarm."""


class Message(NamedTuple):
    """One report or stay to predict."""

    id: str
    patient: str
    """Whose alarms the prediction belongs to; the message's id where the sender named nobody."""
    hour: float | None
    """Hour of the reading on the patient's clock; None: the hour of the message's arrival."""
    content: list[int] | str
    """Token ids of a report, or the text of a stay."""


def _hour(value: Any) -> float | None:
    if value is None:
        return None
    try:
        hour = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        hour = math.nan
    if not math.isfinite(hour):
        raise ValueError("expected a number of hours")
    if hour > LAST_HOUR:
        raise ValueError(f"expected {LAST_HOUR:,} hours at most")
    return hour


Hour = Annotated[float | None, BeforeValidator(_hour)]


class ReportMessage(Report):
    """A report in a stream."""

    id: Id
    patient: Id | None = None
    hour: Hour = None


class StayMessage(Stay):
    """A stay in a stream, with its measurements so far."""

    id: Id
    patient: Id | None = None
    hour: Hour = None


MODELS = {"reports": ReportMessage, "stays": StayMessage}
"""Models of messages by the task's input_kind."""


def parse_message(raw: bytes | Mapping[bytes, bytes], kind: str) -> Message:
    """Reads a message: JSON, or the fields of an entry of a Redis stream. `kind` is the task's input_kind.

    Raises ValueError with a sentence for anything that is no such message.
    """
    size = len(raw) if isinstance(raw, bytes) else sum(map(len, raw.values()))
    if size > LARGEST_FILE:
        raise ValueError(f"{size:,} bytes, more than {LARGEST_FILE:,}")
    try:
        if isinstance(raw, bytes):
            fields = json.loads(raw)
        else:
            fields = {key.decode(): value.decode() for key, value in raw.items()}
    except UnicodeDecodeError:
        raise ValueError("not in UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("no valid JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("no JSON object")
    try:
        found = check(MODELS[kind], fields)
    except Refused as error:
        raise ValueError(error.sentence) from None
    hour = found.hour
    if hour is None and isinstance(found.content, str):
        hour = last_hour(found.content)
    return Message(found.id, found.patient or found.id, hour, found.content)


def last_hour(series: str) -> float | None:
    """Hours of a stay's data: the largest time of its lines."""
    times = [int(hours) + int(minutes) / 60 for hours, minutes in LAST_TIME.findall(series)]
    return max(times, default=None)
