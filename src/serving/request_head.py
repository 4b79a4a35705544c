"""Limits of a request's head, which is read before the application is asked: its size, and the time that it takes.

Without them a client could fill the memory with a head that never ends, and take all sockets by sending nothing.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_BYTES = 1 << 16
"""Size of a head that comes in pieces; browsers and proxies send some 2 KB. One piece has at most 256 KB."""


def limited(seconds: float) -> type[HttpToolsProtocol]:
    """Makes the protocol of a server whose clients must have sent a request's head within `seconds`."""
    return type("LimitedHead", (LimitedHead,), {"seconds": seconds})


class LimitedHead(HttpToolsProtocol):
    """Connection that is closed with 431 for a head that is too large, and with 408 for one that takes too long."""

    seconds: float

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._in_head, self._size = True, 0
        self._clock: asyncio.TimerHandle | None = None
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        super().data_received(data)
        if was_in_head and self._in_head:
            self._size += len(data)
            if self._size > MOST_BYTES:
                told = f"the head of the request has more than {MOST_BYTES:,} bytes"
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, told)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._size = True, 0
        self._start()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop()
        super().on_headers_complete()

    def _start(self) -> None:
        if self._clock is None:
            told = f"the head of the request did not come within {self.seconds:g} s"
            self._clock = self.loop.call_later(self.seconds, self._refuse, HTTPStatus.REQUEST_TIMEOUT, told)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _refuse(self, status: HTTPStatus, told: str) -> None:
        self._stop()
        if not self.transport.is_closing():
            body = json.dumps({"error": told}).encode()
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()
