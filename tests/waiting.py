"""Waiting for events: a test never depends on how fast the machine is, or how busy."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

PATIENCE = 1800
"""Seconds after which a test that waits fails. However busy the machine is, only a hang takes so long."""


def wait_until(happened: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Returns when `happened` returns true. Fails if `process`, which is to bring it about, ends before."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        ended = process is not None and process.poll() is not None
        assert not ended or happened(), f"the process ended with {process.returncode} before it happened"
        assert time.monotonic() < deadline, f"not in {PATIENCE} seconds"
        time.sleep(0.05)
