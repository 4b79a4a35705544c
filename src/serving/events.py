"""Server-sent events: what happens in the service, for the page and for whoever else listens.

Kinds: `prediction` (id, values and spread of a row, no text), `alarm`, `drift`, `reload`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet

HELD = 256
"""Events that are kept for a listener that reads slowly; older ones are dropped."""
BEAT = 15.0
"""Seconds of silence after which a comment is sent, so that neither side takes the connection for dead."""
MOST = 64
"""Number of listeners at a time."""
COMMENT = b": alive\n\n"


class TooManyListeners(Exception):
    """MOST listeners are there already."""


class Events:
    """Publisher of events; its methods are called in the event loop.

    From a thread: loop.call_soon_threadsafe(events.publish, kind, data).
    """

    def __init__(self) -> None:
        # A stream that is dropped before its first message was asked for takes its queue with it.
        self._listeners: WeakSet[asyncio.Queue[bytes | None]] = WeakSet()
        self._closed = False

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Sends an event to all listeners; never waits."""
        if not self._listeners:
            return
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        message = f"event: {kind}\ndata: {text}\n\n".encode()
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(message)

    def subscribe(self) -> AsyncIterator[bytes]:
        """Messages of text/event-stream from now on until close(). Raises TooManyListeners."""
        if len(self._listeners) >= MOST:
            raise TooManyListeners(f"{MOST} listeners are there already")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(HELD)
        self._listeners.add(queue)
        return self._messages(queue)

    async def _messages(self, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        try:
            yield COMMENT  # the headers reach the listener at once
            while not (self._closed and queue.empty()):
                try:
                    message = await asyncio.wait_for(queue.get(), BEAT)
                except TimeoutError:
                    message = COMMENT
                if message is None:
                    return
                yield message
        finally:
            self._listeners.discard(queue)

    def close(self) -> None:
        """Ends the streams of all listeners."""
        self._closed = True
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
