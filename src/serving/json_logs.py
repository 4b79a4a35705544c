"""Logs as one JSON object a line, on standard error.

Nothing that a client sent is logged: no text of a report, no id, no path that is not a path of the service, and of a
fault its class and the places in the code, for a message may quote data. Of a library's record the text is left out for
the same reason, but for uvicorn's own, whose words are fixed where nothing is put into them.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
import traceback
from typing import Any

_LOGGER = logging.getLogger("src.serving")


class Formatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower()}
        if record.name == _LOGGER.name:
            line |= {"event": record.getMessage(), **record.fields}
        else:
            line |= {"event": "library", "logger": record.name}
            if record.name.partition(".")[0] == "uvicorn":
                line["text"] = str(record.msg).strip().partition("\n")[0]
            if record.exc_info and record.exc_info[1] is not None:
                line |= fault_fields(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def start_logs() -> None:
    """Sends all logs of the process to standard error, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _LOGGER.setLevel(logging.INFO)
    # What no line shows is not looked up for each.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = logging.logAsyncioTasks = False


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Logs an event with its fields."""
    _LOGGER.log(level, event, extra={"fields": fields})


def fault_fields(fault: BaseException) -> dict[str, Any]:
    """Class of an exception and where it was raised, without its message."""
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(fault.__traceback__)]
    return {"fault": type(fault).__name__, "where": places[-8:]}
