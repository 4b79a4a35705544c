"""Answers, alarms and dead letters of a stream in Redis, each written once whatever dies in between.

Keys, with NAME for stream.name:

    NAME                messages that are not answered yet (a Redis stream; on Kafka, a topic)
    NAME:result:ID      answer to the message ID, JSON, for stream.expiry hours
    NAME:results        stream of answers: id, answer
    NAME:watch:PATIENT  what the alarm rules remember of a patient
    NAME:alarm:ID       one alarm: alarm (JSON), ended, acknowledged (times)
    NAME:alarms         stream of what happens to alarms: kind (begins, ends, acknowledged), id
    NAME:dead           stream of messages that get no answer: reason, id, deliveries, place, message
    NAME:buried:PLACE   mark of a message that is a dead letter, for stream.expiry hours
    NAME:attempts:PLACE times that a message of Kafka was taken up, until it is answered or a dead letter

An answer, its alarms and the acknowledgement of its message are one script, which Redis runs, and writes to its
append-only file, as a whole. A message that is delivered again finds its answer and writes none. A delivered message
ends with an answer or as a dead letter, never as both: each script looks for what the other one writes. All keys are on
one server; a Redis Cluster is not supported.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from src.core.errors import UserError
from src.core.settings import Stream
from src.serving.alarm_rules import Alarm, Change, UnknownAlarm, utc

if TYPE_CHECKING:
    from redis.asyncio import Redis

LOCAL = "redis://127.0.0.1:6379/0"
TIMEOUT = 10.0
"""Seconds without an answer of Redis after which a connection counts as broken."""
SHOWN = 1 << 16
"""Bytes of a message that its dead letter holds."""
START = "redis-server --port 6379 --bind 127.0.0.1 --appendonly yes --appendfsync always"
"""Command of a Redis that loses nothing when it is killed."""

# KEYS: stream, result, results, watch, alarms, mark of a dead letter, attempts. ARGV: group, entry (empty: Kafka's),
# id, answer, milliseconds to keep it, what the patient's state is based on, new state, entries to keep, start of the
# keys of alarms, then of each change of an alarm its kind, id and JSON or time.
# 1: written. 0: the message was answered, or became a dead letter, before. -1: the patient's state has changed
# meanwhile, so nothing is written.
ANSWER = """
local written = 0
if redis.call('EXISTS', KEYS[2], KEYS[6]) == 0 then
  if (redis.call('GET', KEYS[4]) or '') ~= ARGV[6] then return -1 end
  redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'id', ARGV[3], 'answer', ARGV[4])
  if ARGV[7] ~= '' then
    redis.call('SET', KEYS[4], ARGV[7], 'PX', ARGV[5])
  elseif ARGV[6] ~= '' then
    redis.call('DEL', KEYS[4])
  end
  for i = 10, #ARGV, 3 do
    local key = ARGV[9] .. ARGV[i + 1]
    if ARGV[i] == 'begins' then
      redis.call('DEL', key)
      redis.call('HSET', key, 'alarm', ARGV[i + 2])
    elseif redis.call('EXISTS', key) == 1 then
      redis.call('HSETNX', key, 'ended', ARGV[i + 2])
    end
    redis.call('PEXPIRE', key, ARGV[5])
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[8], '*', 'kind', ARGV[i], 'id', ARGV[i + 1])
  end
  written = 1
end
if ARGV[2] ~= '' then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
  redis.call('XDEL', KEYS[1], ARGV[2])
end
redis.call('DEL', KEYS[7])
return written
"""
# KEYS: stream, dead, mark, result, attempts. ARGV: group, entry (empty: Kafka's), entries to keep, milliseconds to keep
# the mark, then fields and values. A message without an answer is buried by whoever acknowledges it, or sets its mark,
# first.
BURY = """
local held = true
if ARGV[2] ~= '' then
  held = redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 1
  redis.call('XDEL', KEYS[1], ARGV[2])
end
redis.call('DEL', KEYS[5])
if not held or redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
if not redis.call('SET', KEYS[3], '1', 'NX', 'PX', ARGV[4]) then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 5))
return 1
"""
# KEYS: alarm, alarms. ARGV: time, entries to keep, id.
ACKNOWLEDGE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('HSETNX', KEYS[1], 'acknowledged', ARGV[1]) == 1 then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'kind', 'acknowledged', 'id', ARGV[3])
end
return 1
"""

# KEYS: stream. ARGV: group, milliseconds. A consumer that holds messages stays: they would be lost with it.
FORGET = """
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  if consumer[4] == 0 and consumer[6] >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer[2])
  end
end
"""
FORGOTTEN = 3_600_000
"""Milliseconds after which the name of a worker that has ended, and left nothing, is removed from the group."""


class Place(NamedTuple):
    """Place that a message was delivered from."""

    entry: str
    """Id of the entry of a Redis stream, or TOPIC-PARTITION-OFFSET-MILLISECONDS of Kafka: a topic that is made anew has
    the same offsets, but not at the same times."""
    deliveries: int
    """Times it has been delivered, this one included."""
    is_kafka: bool = False


class Known(NamedTuple):
    """Facts about a message before it is predicted."""

    is_answered: bool
    is_buried: bool
    """It is a dead letter."""
    state: str
    """Memory of the alarm rules about its patient."""

    @property
    def is_done(self) -> bool:
        return self.is_answered or self.is_buried


class Answered(NamedTuple):
    """An answer to be written."""

    place: Place
    id: str
    patient: str
    answer: str
    """JSON"""
    known: str
    """State of the patient that `change` is based on."""
    change: Change
    time: str


def store_url(settings: Stream) -> str:
    """URL of the Redis of answers and alarms."""
    return settings.store or (LOCAL if settings.url.startswith("kafka:") else settings.url)


def shown_url(url: str) -> str:
    """`url` without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


async def connect(url: str) -> Redis:
    """Connects to Redis. Raises UserError if there is none."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        await client.aclose()
        raise UserError(
            f"no Redis at {shown_url(url)} ({error}). Start one with: {START}; or name another: "
            "--url redis://HOST:PORT/0 (with Kafka: stream.store=redis://HOST:PORT/0)"
        ) from None
    return client


class ResultStore:
    """Answers, alarms and dead letters of a stream, by the keys above."""

    def __init__(self, client: Redis, settings: Stream):
        self.client, self.settings, self._name = client, settings, settings.name
        self._expiry = int(settings.expiry * 3_600_000)
        self._answer, self._bury, self._acknowledge = map(client.register_script, (ANSWER, BURY, ACKNOWLEDGE))

    def key(self, *parts: str) -> str:
        return ":".join([self._name, *parts])

    async def create_group(self) -> None:
        """Creates the consumer group, which starts with the oldest message: those sent before the first worker came
        are answered too."""
        from redis.exceptions import ResponseError

        try:
            await self.client.xgroup_create(self._name, self.settings.group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        await self.forget(FORGOTTEN)

    async def forget(self, idle: int) -> None:
        """Removes workers from the group that have asked for nothing for `idle` milliseconds and hold no message."""
        await self.client.eval(FORGET, 1, self._name, self.settings.group, idle)

    async def has_group(self) -> bool:
        """Returns True if the stream has the consumer group."""
        if not await self.client.exists(self._name):
            return False
        groups = await self.client.xinfo_groups(self._name)
        return any(group["name"].decode() == self.settings.group for group in groups)

    async def known(self, rows: Sequence[tuple[Place, str, str]]) -> list[Known]:
        """Returns the facts about each (place and id of a message, patient)."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for place, key, patient in rows:
                pipeline.exists(self.key("result", key))
                pipeline.exists(self.key("buried", place.entry))
                pipeline.get(self.key("watch", patient))
            found = await pipeline.execute()
            return [
                Known(bool(result), bool(mark), (state or b"").decode())
                for result, mark, state in zip(found[::3], found[1::3], found[2::3], strict=True)
            ]

    async def write(self, answers: Sequence[Answered]) -> list[int]:
        """Writes answers with their alarms and acknowledges their messages. Returns for each 1: written, 0: it had an
        answer or was a dead letter, -1: nothing written, for another worker has changed the patient's state
        meanwhile."""
        # In one transaction, for which Redis flushes its append-only file once.
        async with self.client.pipeline() as pipeline:
            keys = [self.key(name) for name in ("results", "alarms")]
            for one in answers:
                changes = [
                    part
                    for kind, id_, text in [
                        *(("begins", alarm.id, json.dumps(alarm.to_json())) for alarm in one.change.begun),
                        *(("ends", id_, one.time) for id_ in one.change.ended),
                    ]
                    for part in (kind, id_, text)
                ]
                await self._answer(
                    [
                        self._name, self.key("result", one.id), keys[0], self.key("watch", one.patient), keys[1],
                        self.key("buried", one.place.entry), self.key("attempts", one.place.entry),
                    ],
                    [
                        self.settings.group, self._entry(one.place), one.id, one.answer, self._expiry, one.known,
                        one.change.state, self.settings.kept, self.key("alarm", ""), *changes,
                    ],
                    pipeline,
                )  # fmt: skip
            return await pipeline.execute()

    async def release(self, places: Sequence[Place]) -> None:
        """Acknowledges messages that have an answer, or are dead letters."""
        entries = [place.entry for place in places if not place.is_kafka]
        if counted := [self.key("attempts", place.entry) for place in places if place.is_kafka]:
            await self.client.delete(*counted)
        if entries:
            async with self.client.pipeline() as pipeline:
                pipeline.xack(self._name, self.settings.group, *entries)
                pipeline.xdel(self._name, *entries)
                await pipeline.execute()

    async def bury(self, place: Place, reason: str, id_: str, message: bytes) -> bool:
        """Makes a message a dead letter and acknowledges it; returns False if it was one, or was answered, before."""
        fields = {"reason": reason, "id": id_, "deliveries": place.deliveries, "place": place.entry}
        pairs = [part for pair in fields.items() for part in pair] + ["message", message[:SHOWN]]
        return bool(
            await self._bury(
                [
                    self._name,
                    self.key("dead"),
                    self.key("buried", place.entry),
                    self.key("result", id_),
                    self.key("attempts", place.entry),
                ],
                [self.settings.group, self._entry(place), self.settings.kept, self._expiry, *pairs],
            )
        )

    @staticmethod
    def _entry(place: Place) -> str:
        return "" if place.is_kafka else place.entry

    async def deliveries(self, entries: Sequence[str]) -> list[int]:
        """Times that entries of the Redis stream have been delivered."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for entry in entries:
                pipeline.xpending_range(self._name, self.settings.group, entry, entry, 1)
            return [found[0]["times_delivered"] if found else 1 for found in await pipeline.execute()]

    async def attempts(self, places: Sequence[str]) -> list[int]:
        """Times that messages of Kafka were taken up before, as counted by `attempt`."""
        return [int(found or 0) for found in await self.client.mget([self.key("attempts", place) for place in places])]

    async def attempt(self, places: Sequence[str]) -> None:
        """Counts that messages of Kafka are taken up: Kafka does not count deliveries."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for place in places:
                pipeline.incr(self.key("attempts", place))
                pipeline.pexpire(self.key("attempts", place), self._expiry)
            await pipeline.execute()

    async def answers(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Answers to messages, None where there is none yet."""
        found = await self.client.mget([self.key("result", id_) for id_ in ids]) if ids else []
        return [None if answer is None else json.loads(answer) for answer in found]

    async def recent(self, limit: int = 100) -> list[Alarm]:
        """The last alarms, newest first."""
        ids: dict[str, None] = {}
        before = "+"
        while len(ids) < limit:
            entries = await self.client.xrevrange(self.key("alarms"), max=before, count=4 * limit)
            ids |= {fields[b"id"].decode(): None for _, fields in entries if fields[b"kind"] == b"begins"}
            if not entries:
                break
            before = f"({entries[-1][0].decode()}"
        return await self._alarms(list(ids)[:limit])

    async def acknowledge(self, key: str, time: str) -> Alarm:
        """Notes that somebody has seen an alarm; the first time counts. Raises UnknownAlarm."""
        keys = [self.key("alarm", key), self.key("alarms")]
        if not await self._acknowledge(keys, [time, self.settings.kept, key]):
            raise UnknownAlarm(key)
        found = await self._alarms([key])
        if not found:
            raise UnknownAlarm(key)
        return found[0]

    async def follow(self) -> AsyncIterator[Alarm]:
        """Yields alarms as they begin, end and are acknowledged, from now on. Raises RedisError and OSError."""
        name = self.key("alarms")
        last = await self.client.xrevrange(name, count=1)
        after = last[0][0] if last else b"0-0"
        while True:
            for _, entries in await self.client.xread({name: after}, count=100, block=int(TIMEOUT * 500)) or ():
                after = entries[-1][0]
                for alarm in await self._alarms([fields[b"id"].decode() for _, fields in entries]):
                    yield alarm

    async def _alarms(self, ids: Sequence[str]) -> list[Alarm]:
        """The alarms of ids, without those that are forgotten."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for id_ in ids:
                pipeline.hgetall(self.key("alarm", id_))
            found = []
            for fields in await pipeline.execute():
                if b"alarm" in fields:
                    alarm = Alarm(**json.loads(fields.pop(b"alarm")))
                    found.append(replace(alarm, **{name.decode(): time.decode() for name, time in fields.items()}))
            return found

    async def counts(self) -> dict[str, int]:
        """Numbers of messages that wait, and of entries of the streams of answers, alarms and dead letters."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for name in (self._name, self.key("results"), self.key("alarms"), self.key("dead")):
                pipeline.xlen(name)
            return dict(zip(("waiting", "results", "alarms", "dead"), await pipeline.execute(), strict=True))


def now() -> str:
    """Time of now, as alarms have it."""
    return utc(time.time())
