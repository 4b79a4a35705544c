"""Sender of a stream: the reports or stays of a file as messages, and how long their answers take.

Each message is sent until the server has confirmed it, so one may be sent twice; it is answered once. Where
stream.backlog messages wait on Redis, the sender waits too. It is how a stream is tried and measured, and an example of
a sender.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from src.core.errors import UserError
from src.core.settings import Config, Stream
from src.core.terminal import add_json, result, show_table
from src.data.report_reader import read_reports
from src.data.stay_files import FileErrors, stay_files
from src.serving.messages import LAST_TIME
from src.serving.result_store import ResultStore, connect, shown_url, store_url
from src.serving.stream import check_kafka, kafka_servers

CHUNK = 256
"""Messages sent at a time, without a rate."""
TICK = 0.02
"""Seconds between the chunks of a rate."""
GIVE_UP = 60.0
"""Seconds after which a sender that gets no confirmation, and a waiter that gets no answer, ends."""
PERCENTILES = (50, 95, 99)

T = TypeVar("T")
Fields = Mapping[str, str]
Send = Callable[[Sequence[Fields]], Awaitable[None]]


def report_messages(path: Path) -> Iterator[Fields]:
    """Yields the reports of a file; labels are left out."""
    reports = read_reports(path)
    for row, id_ in enumerate(reports.ids):
        yield {"id": id_.decode(), "tokens": " ".join(map(str, reports[row].tolist()))}


def stay_messages(path: Path, hours: Sequence[int] = ()) -> Iterator[Fields]:
    """Yields the stays of a set; with `hours`, each as it was at each of these hours, one patient after the other."""
    errors = FileErrors(path)
    for stay in stay_files(path, errors):
        record, text = str(stay.record), stay.text.decode("utf-8", "replace")
        for hour in hours:
            so_far = "\n".join(line for line in text.splitlines() if _is_before(line, hour)) + "\n"
            yield {"id": f"{record}@{hour}", "patient": record, "hour": str(hour), "series": so_far}
        if not hours:
            yield {"id": record, "patient": record, "series": text}
    errors.throw()


def _is_before(line: str, hour: int) -> bool:
    """Returns True for the header and for lines up to an hour."""
    found = LAST_TIME.match(line)
    return found is None or int(found[1]) * 60 + int(found[2]) <= hour * 60


def file_messages(path: Path, settings: Config, growing: bool) -> Iterator[Fields]:
    """Yields the messages of a file of the task that settings name."""
    if settings.task == "frames":
        raise UserError("stream --send is for reports and stays; images come as files: ./run.sh predict")
    if settings.is_clinical:
        return stay_messages(path, settings.alarms.hours if growing else ())
    if growing:
        raise UserError("--growing sends stays hour by hour; reports have no hours")
    return report_messages(path)


class _Answers:
    """Answers to messages that were sent."""

    def __init__(self, store: ResultStore):
        self._store = store
        self.waiting: dict[str, float] = {}
        """Time of sending of each message without an answer, by its id."""
        self.times: list[float] = []
        """Seconds from sending to the answer."""
        self.known = self.dead = 0
        """Messages that had an answer before, and messages that became dead letters."""
        self.progress = time.perf_counter()

    async def start(self) -> Callable[[], Awaitable[None]]:
        """Returns what receives answers, from now on, until it is cancelled."""
        after: dict[str, bytes] = {}
        for name in map(self._store.key, ("results", "dead")):
            last = await self._store.client.xrevrange(name, count=1)
            after[name] = last[0][0] if last else b"0-0"
        return lambda: self._receive(after)

    async def sending(self, ids: Sequence[str]) -> None:
        """Notes that messages are about to be sent."""
        moment = time.perf_counter()
        for id_, answer in zip(ids, await _kept(lambda: self._store.answers(ids)), strict=True):
            if answer is None:
                self.waiting[id_] = moment
            else:
                self.known += 1

    async def _receive(self, after: dict[str, bytes]) -> None:
        while True:
            found = await _kept(lambda: self._store.client.xread(after, count=1000, block=1000))
            moment = time.perf_counter()
            for name, entries in found or ():
                after[name.decode()] = entries[-1][0]
                for _, fields in entries:
                    began = self.waiting.pop(fields[b"id"].decode(), None)
                    if began is None:
                        continue
                    self.progress = moment
                    if name.endswith(b":dead"):
                        self.dead += 1
                    else:
                        self.times.append(moment - began)


async def send(settings: Stream, messages: Iterable[Fields], rate: float | None, wait: bool) -> dict[str, Any]:
    """Sends messages, `rate` a second or as fast as they are taken; with `wait`, until all are answered.

    Returns numbers and rates, and with `wait` the quantiles of the time from sending to the answer, in milliseconds.
    Raises UserError if there is no server, or for GIVE_UP seconds no confirmation, no answer, or, where stream.backlog
    messages wait, no worker that answers some.
    """
    client = await connect(store_url(settings))
    receiver = None
    try:
        store = ResultStore(client, settings)
        answers = _Answers(store)
        push = await _kafka_sender(settings) if settings.url.startswith("kafka:") else _redis_sender(store)
        if wait:
            receiver = asyncio.create_task((await answers.start())())
        count, start = 0, time.perf_counter()
        async for chunk in _paced(messages, rate):
            if wait:
                await answers.sending([fields["id"] for fields in chunk])
            await push(chunk)
            count += len(chunk)
        found: dict[str, Any] = {"sent": count, "sent_per_second": count / (time.perf_counter() - start)}
        answers.progress = time.perf_counter()
        while wait and answers.waiting:
            if receiver is not None and receiver.done():
                receiver.result()
            if time.perf_counter() - answers.progress > GIVE_UP:
                raise UserError(
                    f"{len(answers.waiting):,} of {count:,} messages have no answer after {GIVE_UP:.0f} seconds. Is a "
                    "worker up? ./run.sh stream --bundle FILE"
                )
            await asyncio.sleep(0.01)
        if wait:
            found |= {"answered": len(answers.times), "known": answers.known, "dead": answers.dead}
            found["answered_per_second"] = len(answers.times) / (time.perf_counter() - start)
        if answers.times:
            quantiles = np.percentile(answers.times, PERCENTILES) * 1000
            found["latency_ms"] = {f"p{p}": float(value) for p, value in zip(PERCENTILES, quantiles, strict=True)}
        return found
    finally:
        if receiver is not None:
            receiver.cancel()
        await client.aclose()


async def _paced(messages: Iterable[Fields], rate: float | None) -> AsyncIterator[list[Fields]]:
    """Yields chunks of messages, with `rate` those of each TICK when they are due."""
    messages, start, count = iter(messages), time.perf_counter(), 0
    while True:
        size = CHUNK if rate is None else int((time.perf_counter() - start) * rate) + 1 - count
        if size <= 0:
            await asyncio.sleep(TICK)
            continue
        chunk = list(islice(messages, size))
        if not chunk:
            return
        yield chunk
        count += len(chunk)


async def _kept(action: Callable[[], Awaitable[T]]) -> T:
    """Repeats what failed because Redis was away or loading. Raises UserError after GIVE_UP seconds."""
    from redis.exceptions import ConnectionError, TimeoutError

    start = time.perf_counter()
    while True:
        try:
            return await action()
        except (ConnectionError, TimeoutError, OSError) as error:
            if time.perf_counter() - start > GIVE_UP:
                raise UserError(f"Redis has not answered for {GIVE_UP:.0f} seconds: {error}") from None
            await asyncio.sleep(0.1)


def _redis_sender(store: ResultStore) -> Send:
    name, backlog = store.settings.name, store.settings.backlog

    async def push(chunk: Sequence[Fields]) -> None:
        start, before = time.perf_counter(), math.inf
        while (waiting := await _kept(lambda: store.client.xlen(name))) >= backlog:
            if waiting < before:  # a worker has answered some
                start = time.perf_counter()
            elif time.perf_counter() - start > GIVE_UP:
                raise UserError(
                    f"{waiting:,} messages wait in {name} (stream.backlog={backlog:,}), and none was answered in "
                    f"{GIVE_UP:.0f} seconds. Is a worker up? ./run.sh stream --bundle FILE"
                )
            before = waiting
            await asyncio.sleep(0.05)
        await _kept(lambda: _add(chunk))

    async def _add(chunk: Sequence[Fields]) -> None:
        async with store.client.pipeline() as pipeline:
            for fields in chunk:
                pipeline.xadd(name, dict(fields))
            await pipeline.execute()

    return push


async def _kafka_sender(settings: Stream) -> Send:
    from confluent_kafka import Producer

    await asyncio.to_thread(check_kafka, settings.url)
    producer = Producer(
        {
            "bootstrap.servers": kafka_servers(settings.url), "acks": "all", "linger.ms": 5,
            "delivery.timeout.ms": int(GIVE_UP * 1000),
        },
        logger=logging.Logger("kafka", logging.CRITICAL),
    )  # fmt: skip
    errors: list[str] = []

    def confirmed(error: Any, _: Any) -> None:
        if error is not None:
            errors.append(error.str())

    async def push(chunk: Sequence[Fields]) -> None:
        for fields in chunk:
            # The patient's messages stay in one partition, and so in order.
            key = fields.get("patient", fields["id"])
            producer.produce(settings.name, json.dumps(fields).encode(), key.encode(), on_delivery=confirmed)
        await asyncio.to_thread(producer.flush)
        if errors:
            raise UserError(f"Kafka at {shown_url(settings.url)} did not take {len(errors):,} messages: {errors[0]}")

    return push


def show(found: dict[str, Any], name: str) -> None:
    """Prints what `send` returns."""
    add_json("stream", found)
    result(f"stream: {found['sent']:,} messages sent to {name} ({found['sent_per_second']:,.0f} a second)")
    if "answered" in found:
        known = f", {found['known']:,} had an answer" if found["known"] else ""
        dead = f", {found['dead']:,} dead letters" if found["dead"] else ""
        result(f"stream: {found['answered']:,} answered ({found['answered_per_second']:,.0f} a second){known}{dead}")
    if "latency_ms" in found:
        names, values = zip(*found["latency_ms"].items(), strict=True)
        show_table("Milliseconds from sending to the answer", ["", *names], [["ms", *(f"{v:.1f}" for v in values)]])
