"""Orderly ends: Ctrl-C, SIGTERM and SIGHUP end a command like an error, and a job in a worker at a point it chooses."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """End of a command by a signal of SIGNALS, as Ctrl-C ends it by KeyboardInterrupt."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Stopped(BaseException):
    """Stop of a job in a worker; not an Exception, so that `except Exception` in a job does not catch it."""

    def __init__(self, by_signal: bool):
        super().__init__()
        self.by_signal = by_signal


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raises Terminated, within the context, where a signal arrives; not for signals that were ignored before, as under
    nohup, and not off the main thread, which gets no signals."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_waits = _is_asked = False


def stop_on_signal() -> None:
    """Makes SIGTERM raise Stopped in this worker, at once or at the end of waiting().

    Ctrl-C and the loss of a terminal reach all processes of a command: workers leave them to the command.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        global _is_asked
        if not _waits:
            raise Stopped(by_signal=True)
        _is_asked = True

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Lets a stop wait for the end of the context. A long one asks is_asked() and ends earlier."""
    global _waits, _is_asked
    _waits = True
    try:
        yield
    finally:
        _waits = False
        if _is_asked:
            _is_asked = False
            raise Stopped(by_signal=True)


def is_asked() -> bool:
    """Returns True once this worker was told to stop and waits with it."""
    return _is_asked
