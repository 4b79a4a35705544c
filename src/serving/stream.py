"""Workers that answer the messages of a stream: Redis Streams, or Kafka by its URL.

    bundle -> Predictor                     Redis: result, alarms, dead letters (result_store.py)
                  |                            ^
    stream -> FastStream -> Worker.process ----'   at most stream.batch messages at a time

Delivery is at least once, and answers are written once: the answer, its alarms and the acknowledgement are one step in
Redis. A worker reads no further batch before it has written the last one, so a slow worker leaves messages in the
stream and needs no more memory. Two subscribers of Redis, because Redis before 8.4 does not claim while it reads: one
for new messages, one (XAUTOCLAIM, message by message) for those that a dead worker left behind. A message that kills
its worker is therefore alone when it does so again, and becomes a dead letter after stream.deliveries.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from src.core.errors import UserError
from src.core.settings import Alarms, Stream
from src.core.terminal import info, result, warn
from src.serving.alarm_rules import AlarmRules, Reading, utc
from src.serving.messages import MODELS, Message, parse_message
from src.serving.result_store import Answered, Known, Place, ResultStore, connect, shown_url, store_url

if TYPE_CHECKING:
    from confluent_kafka import TopicPartition
    from faststream import FastStream
    from faststream.confluent import KafkaBroker
    from faststream.redis import RedisBroker

    from src.serving.predictor import Prediction, Predictor

NEWS = 10.0
"""Seconds between lines on what a worker has done."""
KAFKA_WAIT = 0.02
"""Seconds that Kafka's client waits for a batch to become full."""
KAFKA_SESSION = 6000
"""Milliseconds without a heartbeat after which Kafka gives a worker's partitions to others; brokers take no less."""
KAFKA_FETCH = 50
"""Milliseconds that a broker holds back an empty answer."""
CLAIM_PAUSE = 0.5
"""Largest number of seconds between two looks at what dead workers left."""
KAFKA_TIMEOUT = 10.0
"""Seconds that a command waits for Kafka's first answer."""


class Delivery(NamedTuple):
    """A message as it was delivered."""

    place: Place
    raw: bytes | dict[bytes, bytes]
    """JSON, or fields of an entry of a Redis stream."""
    arrived: float
    """Seconds since 1970 at which the stream took it in: the same however often it is delivered."""

    @property
    def shown(self) -> bytes:
        """The message as a dead letter shows it."""
        if isinstance(self.raw, bytes):
            return self.raw
        return json.dumps({k.decode("latin-1"): v.decode("utf-8", "replace") for k, v in self.raw.items()}).encode()


class Read(NamedTuple):
    """A delivery that could be read."""

    delivery: Delivery
    message: Message


class Worker:
    """Predicts messages and writes the answers."""

    def __init__(self, predictor: Predictor, store: ResultStore, alarms: Alarms):
        self.predictor, self.store = predictor, store
        self.rules = AlarmRules(predictor.task, predictor.labels, alarms)
        self.counts = dict.fromkeys(("answered", "known", "alarms", "late", "dead", "failed"), 0)
        self._one = asyncio.Lock()  # the predictor is for one thread at a time
        self._bundle = {"name": predictor.bundle.name, "version": predictor.bundle.version}

    async def process(self, deliveries: Sequence[Delivery]) -> bool:
        """Answers or buries deliveries. Returns False if one of them failed and is to be delivered again.

        Raises RedisError and OSError where the store cannot be reached: then nothing is acknowledged.
        """
        read: list[Read] = []
        for delivery in deliveries:
            try:
                read.append(Read(delivery, parse_message(delivery.raw, self.predictor.task.input_kind)))
            except ValueError as error:
                await self._bury(delivery, str(error))
        known = await self._known(read)
        await self.store.release([one.delivery.place for one, found in zip(read, known, strict=True) if found.is_done])
        self.counts["known"] += sum(found.is_answered for found in known)
        fresh = [one for one, found in zip(read, known, strict=True) if not found.is_done]
        states = {one.message.patient: found.state for one, found in zip(read, known, strict=True) if not found.is_done}
        return not fresh or await self._answer(fresh, states)

    async def _known(self, read: Sequence[Read]) -> list[Known]:
        return await self.store.known([(one.delivery.place, one.message.id, one.message.patient) for one in read])

    async def _answer(self, read: Sequence[Read], states: dict[str, str]) -> bool:
        try:
            predicted = await self._predict([one.message.content for one in read])
        except Exception as error:  # whatever a message makes the models do must not end the worker
            if len(read) > 1:  # which of them is it?
                return all([await self._answer([one], states) for one in read])
            return await self._failed(read[0].delivery, error)
        await self._write(read, predicted, states)
        return True

    async def _predict(self, contents: Sequence[Any]) -> Prediction:
        def predict() -> Prediction:
            reports = self.predictor.task.input_kind == "reports"
            rows = self.predictor.encode(contents) if reports else self.predictor.encode_stay(contents)
            predicted = self.predictor.predict(rows)
            if not np.isfinite(predicted.values).all():
                raise ValueError("the prediction is no number")
            return predicted

        async with self._one:
            return await asyncio.to_thread(predict)

    async def _write(self, read: Sequence[Read], predicted: Prediction, states: dict[str, str]) -> None:
        rows = [self._row(values, spread) for values, spread in zip(predicted.values, predicted.spread, strict=True)]
        left = list(range(len(read)))
        while left:
            answers = []
            for i in left:
                one = self._answered(read[i], rows[i], predicted.values[i], states)
                states[one.patient] = one.change.state
                answers.append(one)
            written = await self.store.write(answers)
            self.counts["answered"] += written.count(1)
            self.counts["known"] += written.count(0)
            changes = [one.change for one, how in zip(answers, written, strict=True) if how == 1]
            self.counts["alarms"] += sum(len(change.begun) for change in changes)
            self.counts["late"] += sum(change.is_late for change in changes)
            left = [i for i, how in zip(left, written, strict=True) if how < 0]
            if left:  # another worker has read the same patients: again from what it left
                rest = [read[i] for i in left]
                known = await self._known(rest)
                states.update({one.message.patient: found.state for one, found in zip(rest, known, strict=True)})

    def _row(self, values: np.ndarray, spread: np.ndarray) -> dict[str, Any]:
        labels = self.predictor.labels
        return {
            "values": {label: float(value) for label, value in zip(labels, values, strict=True)},
            "spread": {label: float(value) for label, value in zip(labels, spread, strict=True)},
            "bundle": self._bundle,
        }

    def _answered(self, read: Read, row: dict[str, Any], values: np.ndarray, states: dict[str, str]) -> Answered:
        delivery, message = read
        state, moment = states[message.patient], utc(delivery.arrived)
        hour = delivery.arrived / 3600 if message.hour is None else message.hour
        change = self.rules.read(state, Reading(message.id, message.patient, values, hour, moment))
        answer = json.dumps({"id": message.id, **row}, separators=(",", ":"))
        return Answered(delivery.place, message.id, message.patient, answer, state, change, moment)

    async def _failed(self, delivery: Delivery, error: Exception) -> bool:
        """Buries a message that cannot be predicted: at once if it says why, else after its last delivery."""
        self.counts["failed"] += 1
        if isinstance(error, UserError) or delivery.place.deliveries >= self.store.settings.deliveries:
            await self._bury(delivery, " ".join(_named(error).split()))
            return True
        warn(f"stream: {delivery.place.entry} failed at delivery {delivery.place.deliveries}: {type(error).__name__}")
        return False

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        try:
            id_ = parse_message(delivery.raw, self.predictor.task.input_kind).id
        except ValueError:
            id_ = ""
        if await self.store.bury(delivery.place, reason, id_, delivery.shown):
            self.counts["dead"] += 1

    async def bury_worn(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Buries what no worker has survived or answered in stream.deliveries; returns the others."""
        most, left = self.store.settings.deliveries, []
        for delivery in deliveries:
            if delivery.place.deliveries > most:
                await self._bury(delivery, f"delivered {most} times without an answer: its workers died or hung")
            else:
                left.append(delivery)
        return left


def _named(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


async def work(predictor: Predictor, settings: Stream, alarms: Alarms) -> None:
    """Runs a worker until SIGINT or SIGTERM; the batch at hand is finished. Raises UserError if a server is missing, or
    the stream's consumer group is deleted."""
    if predictor.task.input_kind not in MODELS:
        raise UserError(f"{predictor.bundle.name} predicts {predictor.task.input_kind}; a stream has reports or stays")
    client = await connect(store_url(settings))
    try:
        store = ResultStore(client, settings)
        worker = Worker(predictor, store, alarms)
        is_kafka = settings.url.startswith("kafka:")
        app = await (_kafka_app if is_kafka else _redis_app)(worker, settings)
        app.after_startup(lambda: info(_ready(predictor, settings)))
        news = asyncio.create_task(_tell(worker))
        try:
            await app.run(log_level=logging.WARNING)
        finally:
            news.cancel()
        result(f"stream: {_counted(worker.counts)}")
        if not is_kafka and not await store.has_group():
            raise UserError(
                f"the consumer group {settings.group} of {settings.name} on {shown_url(settings.url)} is gone: it was "
                "deleted, or the server was emptied. Start the worker again, and it makes a new one"
            )
    finally:
        await client.aclose()


def _ready(predictor: Predictor, settings: Stream) -> str:
    return (
        f"stream: {predictor.bundle.name} ({predictor.bundle.version}, {predictor.engine}) answers {settings.name} on "
        f"{shown_url(settings.url)}; Ctrl-C ends it"
    )


async def _tell(worker: Worker) -> None:
    told = dict(worker.counts)
    while True:
        await asyncio.sleep(NEWS)
        if worker.counts != told:
            rate = (worker.counts["answered"] - told["answered"]) / NEWS
            told = dict(worker.counts)
            info(f"stream: {_counted(told)} ({rate:,.0f} a second)")


def _counted(counts: dict[str, int]) -> str:
    text = f"{counts['answered']:,} answered"
    words = {
        "known": "had an answer", "alarms": "alarms", "late": "of an hour before the patient's last",
        "dead": "dead letters", "failed": "failures",
    }  # fmt: skip
    return text + "".join(f", {counts[name]:,} {word}" for name, word in words.items() if counts[name])


class _Warnings(logging.Handler):
    """Shows what FastStream logs as warnings of one line: nothing of a message is in them."""

    def emit(self, record: logging.LogRecord) -> None:
        text, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
        line = text.partition("\n")[0]
        if error is None:
            warn(f"stream: {line}")
        elif str(error) in text:  # the line is the error itself
            warn(f"stream: {_told(error)}")
        else:
            warn(f"stream: {line} ({_told(error)})")


def _told(error: BaseException) -> str:
    """Returns the words that a log may have of an error: those of a server; of all others the class and the place in
    the code, since their words may be those of a message."""
    from confluent_kafka import KafkaException
    from redis.exceptions import RedisError

    name = type(error).__name__
    if isinstance(error, RedisError | KafkaException | OSError):
        # redis-py puts the command, with its keys, before what the server said.
        return f"{name}: {str(error).rpartition('caused error: ')[2]}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{name} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else name


def _logger() -> logging.Logger:
    logger = logging.Logger("stream", logging.WARNING)
    logger.addHandler(_Warnings())
    return logger


def consumer_name() -> str:
    """Name of this worker in its consumer group."""
    return f"{socket.gethostname()}-{os.getpid()}-{time.time_ns():x}"


async def _redis_app(worker: Worker, settings: Stream) -> FastStream:
    from faststream import AckPolicy, FastStream
    from faststream.redis import RedisBroker, RedisMessage, StreamSub

    await worker.store.create_group()
    broker: RedisBroker = RedisBroker(
        settings.url, logger=_logger(), apply_types=False, graceful_timeout=60.0,
        socket_timeout=30.0, socket_connect_timeout=10.0,
    )  # fmt: skip
    name, pause = consumer_name(), min(CLAIM_PAUSE, settings.claim_after / 2)
    common = {"group": settings.group, "consumer": name, "batch": True}
    new = StreamSub(settings.name, max_records=settings.batch, polling_interval=1000, **common)
    left = StreamSub(
        settings.name, min_idle_time=int(settings.claim_after * 1000), polling_interval=int(pause * 1000), **common
    )
    # The worker acknowledges in the step that writes the answer.
    options = {"ack_policy": AckPolicy.MANUAL, "parser": _parse_redis, "decoder": _decode_redis}

    @broker.subscriber(stream=new, **options)
    async def answer_new(message: RedisMessage) -> None:
        await worker.process(_redis_deliveries(message.raw_message, None))

    @broker.subscriber(stream=left, **options)
    async def answer_left(message: RedisMessage) -> None:
        ids = [entry.decode() for entry in message.raw_message["message_ids"]]
        counts = await worker.store.deliveries(ids)
        if deliveries := await worker.bury_worn(_redis_deliveries(message.raw_message, counts)):
            await worker.process(deliveries)

    return FastStream(broker, logger=None)


async def _parse_redis(message: Any, original: Any) -> Any:
    """Parses a batch without reading its messages: FastStream's own parser fails for the whole batch where one is no
    UTF-8."""
    parsed = await original({**message, "data": []})
    parsed.raw_message = message
    return parsed


async def _decode_redis(message: Any) -> Any:
    return message


def _redis_deliveries(raw: dict[str, Any], counts: Sequence[int] | None) -> list[Delivery]:
    found = []
    for i, (entry, fields) in enumerate(zip(raw["message_ids"], raw["data"], strict=True)):
        place = Place(entry.decode(), 1 if counts is None else counts[i])
        found.append(Delivery(place, _content(fields or {}), int(entry.partition(b"-")[0]) / 1000))
    return found


def _content(fields: dict[bytes, bytes]) -> bytes | dict[bytes, bytes]:
    """Plain fields, or the JSON in the envelope of a publisher of FastStream."""
    from faststream.redis.message import bDATA_KEY
    from faststream.redis.parser import BinaryMessageFormatV1

    return BinaryMessageFormatV1.parse(fields[bDATA_KEY])[0] if set(fields) == {bDATA_KEY} else fields


def kafka_servers(url: str) -> str:
    """HOST:PORT,… of kafka://HOST:PORT,…"""
    return url.removeprefix("kafka://").rstrip("/")


def check_kafka(url: str) -> None:
    """Raises UserError if no Kafka answers at `url`."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    quiet = logging.Logger("kafka", logging.CRITICAL)
    try:
        AdminClient({"bootstrap.servers": kafka_servers(url)}, logger=quiet).list_topics(timeout=KAFKA_TIMEOUT)
    except KafkaException as error:
        raise UserError(
            f"no Kafka at {shown_url(url)} ({error.args[0].str()}). Name a broker that is up: --url kafka://HOST:PORT"
        ) from None


async def _kafka_app(worker: Worker, settings: Stream) -> FastStream:
    from faststream import AckPolicy, FastStream
    from faststream.confluent import KafkaBroker, KafkaMessage

    await asyncio.to_thread(check_kafka, settings.url)
    broker: KafkaBroker = KafkaBroker(
        kafka_servers(settings.url), logger=_logger(), apply_types=False, graceful_timeout=60.0
    )

    @broker.subscriber(
        settings.name, group_id=settings.group, batch=True, max_records=settings.batch, polling_interval=KAFKA_WAIT,
        auto_offset_reset="earliest", session_timeout_ms=KAFKA_SESSION, heartbeat_interval_ms=KAFKA_SESSION // 3,
        fetch_max_wait_ms=KAFKA_FETCH, ack_policy=AckPolicy.MANUAL, decoder=_decode_redis,
    )  # fmt: skip
    async def answer(message: KafkaMessage) -> None:
        try:
            is_done = await process_kafka(worker, message.raw_message)
        except Exception:
            await message.nack()
            raise
        if is_done:
            # Not message.ack(): that commits whatever has been read by the time when librdkafka sends it, which may be
            # the next batch already. A worker that is killed then would have lost that batch.
            offsets = read_up_to(message.raw_message)
            await asyncio.to_thread(message.consumer.consumer.commit, offsets=offsets, asynchronous=False)
        else:
            # nack() seeks back to the first record of the batch in each of its partitions, as FastStream does in the
            # version that docs/requirements-serve.txt pins; one that rewinds one partition alone would lose the rest.
            await message.nack()

    return FastStream(broker, logger=None)


def read_up_to(records: Sequence[Any]) -> list[TopicPartition]:
    """Returns the offset after the last of these records of Kafka, for each partition."""
    from confluent_kafka import TopicPartition

    after: dict[tuple[str, int], int] = {}
    for record in records:
        place = record.topic(), record.partition()
        after[place] = max(after.get(place, 0), record.offset() + 1)
    return [TopicPartition(*place, offset) for place, offset in after.items()]


async def process_kafka(worker: Worker, records: Sequence[Any]) -> bool:
    """Answers records of Kafka; returns False if some are to be delivered again.

    Kafka counts no deliveries, so the store does. Records that were delivered before are taken up one by one: the one
    that kills its worker is then the only one that is counted again.
    """
    places = [f"{one.topic()}-{one.partition()}-{one.offset()}-{one.timestamp()[1]}" for one in records]
    before = await worker.store.attempts(places)
    deliveries = [
        Delivery(Place(place, tries + 1, is_kafka=True), record.value() or b"", record.timestamp()[1] / 1000)
        for record, place, tries in zip(records, places, before, strict=True)
    ]
    is_done = True
    for delivery in await worker.bury_worn([one for one in deliveries if one.place.deliveries > 1]):
        await worker.store.attempt([delivery.place.entry])
        is_done = await worker.process([delivery]) and is_done
    fresh = [delivery for delivery in deliveries if delivery.place.deliveries == 1]
    if fresh:
        await worker.store.attempt([delivery.place.entry for delivery in fresh])
        is_done = await worker.process(fresh) and is_done
    return is_done
