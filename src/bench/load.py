"""Load generator: many clients of an HTTP service, in a process of its own.

    python -m src.bench.load < job.json

A job has `host`, `port`, `path`, `bodies` (file with one JSON body a line), `seconds`, `warm_up` (seconds that are not
counted) and one of

clients   closed loop: so many clients, each with one connection and one request at a time, without a pause between
rate      open loop: so many requests a second, at random times (a Poisson process). A request's time begins when it is
          due, also if all `clients` connections are busy then: so a service that falls behind cannot hide it.

Prints one JSON object: requests and errors by status, answers a second, and percentiles of milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np

PERCENTS = (50, 95, 99, 100)
FAILED = "failed"
"""Status of a request whose connection broke, and of one without an answer after PATIENCE."""
PATIENCE = 30.0


class Connection(asyncio.Protocol):
    """Keep-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self._data = b""
        self._answer: asyncio.Future[int] | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.is_open = True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the service closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        head, separator, rest = self._data.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0])
        if len(rest) >= length:
            self._data = b""
            if b"\r\nconnection: close" in lower:
                self.is_open = False
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(int(head[9:12]))

    async def ask(self, request: bytes) -> int:
        """Sends a request; returns the status of its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(PATIENCE):
            return await self._answer

    def close(self) -> None:
        self._transport.close()


class Load:
    """Requests under way and what became of them."""

    def __init__(self, job: dict[str, Any]):
        self._job = job
        bodies = Path(job["bodies"]).read_bytes().splitlines()
        head = f"POST {job['path']} HTTP/1.1\r\nHost: {job['host']}\r\nContent-Type: application/json\r\n"
        self._requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._next = 0
        self._statuses: Counter[str] = Counter()
        self._seconds: dict[str, list[float]] = {}
        self._begin = self._end = 0.0

    async def run(self) -> dict[str, Any]:
        job = self._job
        self._begin = time.perf_counter() + job["warm_up"]
        self._end = self._begin + job["seconds"]
        await (self._open_loop() if "rate" in job else self._closed_loop())
        answered = self._seconds.get("200", [])
        return {
            "statuses": dict(sorted(self._statuses.items())),
            "per_second": len(answered) / job["seconds"],
            "milliseconds": _percentiles(answered),
            "milliseconds_429": _percentiles(self._seconds.get("429", [])),
        }

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._job["host"], self._job["port"])
        return connection

    async def _closed_loop(self) -> None:
        async def client() -> None:
            connection = None
            while (started := time.perf_counter()) < self._end:
                connection = await self._asked(connection, started)
            if connection is not None:
                connection.close()

        await asyncio.gather(*[client() for _ in range(self._job["clients"])])

    async def _open_loop(self) -> None:
        due: deque[float] = deque()
        some = asyncio.Semaphore(0)
        ended = False

        async def client() -> None:
            connection = None
            while True:
                await some.acquire()
                if not due:
                    break
                connection = await self._asked(connection, due.popleft())
            if connection is not None:
                connection.close()

        clients = [asyncio.create_task(client()) for _ in range(self._job["clients"])]
        rng, at = np.random.default_rng(0), time.perf_counter()
        while not ended:
            at += rng.exponential(1 / self._job["rate"])
            ended = at >= self._end
            if not ended:
                if (left := at - time.perf_counter()) > 0:
                    await asyncio.sleep(left)
                due.append(at)
                some.release()
        for _ in clients:
            some.release()  # behind what is due: who finds nothing ends
        await asyncio.gather(*clients)

    async def _asked(self, connection: Connection | None, started: float) -> Connection | None:
        """Sends the next request, on a new connection if need be, and notes what became of it."""
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        try:
            if connection is None or not connection.is_open:
                connection = await self._connect()
            status = str(await connection.ask(request))
        except (OSError, TimeoutError):
            status, connection = FAILED, None
        now = time.perf_counter()
        if self._begin <= now < self._end or (status == FAILED and started < self._end):
            self._statuses[status] += 1
            self._seconds.setdefault(status, []).append(now - started)
        return connection


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    found = np.percentile(np.array(seconds) * 1000, PERCENTS)
    return {f"p{percent}": round(float(value), 2) for percent, value in zip(PERCENTS, found, strict=True)}


def main() -> None:
    job = json.loads(sys.stdin.read())
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    print(json.dumps(run(Load(job).run())))


if __name__ == "__main__":
    main()
