"""Time limits of commands, such as --time 30m. They count from the start of the command."""

from __future__ import annotations

import argparse
import math
import re

from src.core import terminal
from src.core.language import _

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
LEAST, MOST = 1.0, 1000 * 3600.0
"""Shortest and longest time limit in seconds."""


def seconds_of(text: str) -> float:
    """Reads 90s, 30m, 1.5h or 1h30m. Raises argparse.ArgumentTypeError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    units = [unit for _number, unit in parts]
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    is_whole = "".join(number + unit for number, unit in parts) == text and units == sorted(set(units), key="hms".find)
    if len(text) > 20 or not is_whole or not LEAST <= seconds <= MOST:
        told = _("want a time such as 90s, 30m or 1h30m, at most 1000h, not {text}")
        raise argparse.ArgumentTypeError(told.format(text=text))
    return seconds


def deadline_of(seconds: float | None) -> float:
    """Time, of time.monotonic(), at which a command with this time limit ends; infinite without one."""
    return math.inf if seconds is None else terminal.started() + seconds
