"""Orderly ends: Ctrl-C, SIGTERM and SIGHUP end a command like an error, and a job in a worker at a point it chooses."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SOON, AGAIN, LATE = 0.1, 3.0, 1.0
"""Seconds until an end that would be lost is tried again, and one by a signal, or by a limit, that nobody received."""


class Terminated(KeyboardInterrupt):
    """End of a command by a signal of SIGNALS."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Stopped(BaseException):
    """Stop of a job in a worker; not an Exception, so that `except Exception` in a job does not catch it."""

    def __init__(self, by_signal: bool):
        super().__init__()
        self.by_signal = by_signal


_ending: int = 0
"""Number of the signal that ends this command."""


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raises Terminated, within the context, where a signal arrives; not for signals that were ignored before, as under
    nohup, and not off the main thread, which gets no signals.

    Terminated is raised again until somebody calls received(): a library may have caught it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        global _ending
        _ending = number
        if _would_be_lost(frame):
            signal.setitimer(signal.ITIMER_REAL, SOON)
        else:
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    for number in SIGNALS:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, end)
    signal.signal(signal.SIGALRM, lambda _, frame: end(_ending, frame))
    try:
        yield
    finally:
        received()
        for number, handler in before.items():
            signal.signal(number, handler)


class TimedOut(KeyboardInterrupt):
    """The time of limited() is over."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TimedOut within the context, `seconds` after its start; where it would be lost, as soon as that has ended,
    and again until somebody calls received(). Within raised(), on the main thread; elsewhere there is no limit."""

    def end(number: int, frame: FrameType | None) -> None:
        if _ending:
            raise Terminated(_ending)
        if _would_be_lost(frame):
            signal.setitimer(signal.ITIMER_REAL, SOON)
        else:
            signal.setitimer(signal.ITIMER_REAL, LATE)
            raise TimedOut

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, SOON))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def received() -> None:
    """Ends the repetition of Terminated and TimedOut. Whoever catches it to clean up calls this first."""
    global _ending
    _ending = 0
    signal.setitimer(signal.ITIMER_REAL, 0)


def _would_be_lost(frame: FrameType | None) -> bool:
    """Returns True amid an import, where libraries take an exception for a missing module, or abort, and in what the
    garbage collector calls, where Python drops it."""
    called = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or code.co_name == "__del__" or code in called:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Keeps signals from processes that are started within the context, and from this one until it ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


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
