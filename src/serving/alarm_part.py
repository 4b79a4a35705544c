"""Alarms in the HTTP service: /alarms, their acknowledgement, and the event `alarm` for the page.

serve.alarms=own: alarms of what this service predicts, in its memory. serve.alarms=stream: those of the workers of
./run.sh stream, read live from their Redis.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from fastapi import APIRouter, Query

from src.core.settings import Alarms, Stream
from src.serving.alarm_rules import Alarm, AlarmRules, MemoryAlarms, Reading, UnknownAlarm, utc
from src.serving.errors import Refused
from src.serving.json_logs import log
from src.serving.messages import last_hour
from src.serving.parts import Part
from src.serving.request_models import Failure

if TYPE_CHECKING:
    from src.serving.events import Events
    from src.serving.predictor import Prediction, Predictor, Rows

MOST = 1000
"""Alarms that the service remembers, and most that it lists at a time."""
AGAIN = 2.0
"""Seconds between two tries to reach Redis."""


class AlarmBody(pydantic.BaseModel):
    """An alarm: a risk that reached the threshold. Times are ISO 8601, UTC."""

    id: str
    time: str
    message: str = pydantic.Field(description="id of the report or stay whose prediction began it")
    patient: str
    label: str
    value: float
    threshold: float
    ended: str | None
    acknowledged: str | None


class AlarmList(pydantic.BaseModel):
    """Alarms, newest first."""

    alarms: list[AlarmBody]


class AlarmPart(Part):
    """Base of both: the routes."""

    name = "alarms"

    async def recent(self, limit: int) -> list[Alarm]:
        """The last alarms, newest first. Raises Refused while they cannot be read."""
        raise NotImplementedError

    async def acknowledge(self, key: str) -> Alarm:
        """Notes that somebody has seen an alarm. Raises UnknownAlarm, and Refused while that cannot be noted."""
        raise NotImplementedError

    def routes(self) -> APIRouter:
        router = APIRouter()
        refusals: dict[int | str, dict[str, Any]] = {status: {"model": Failure} for status in (401, 422, 503)}

        @router.get("/alarms", summary="The last alarms", response_model=AlarmList, responses=refusals)
        async def alarms(limit: Annotated[int, Query(ge=1, le=MOST)] = 100) -> dict[str, Any]:
            return {"alarms": [alarm.to_json() for alarm in await self.recent(limit)]}

        @router.post(
            "/alarms/{id}/acknowledge",
            summary="Note that an alarm was seen; the first time counts",
            response_model=AlarmBody,
            responses={404: {"model": Failure}, 415: {"model": Failure}, **refusals},
        )
        async def acknowledge(id: str) -> dict[str, Any]:
            try:
                return (await self.acknowledge(id)).to_json()
            except UnknownAlarm:
                raise Refused(404, "there is no alarm of this id") from None

        return router


class OwnAlarms(AlarmPart):
    """Alarms of what this service predicts."""

    def __init__(self, settings: Alarms):
        self._settings, self._numbers = settings, itertools.count()

    def started(self, predictor: Predictor, events: Events) -> None:
        self._events = events
        self._is_stays = predictor.task.input_kind == "stays"
        self._alarms = MemoryAlarms(AlarmRules(predictor.task, predictor.labels, self._settings), MOST)

    def seen(
        self,
        reports: Sequence[Sequence[int]] | Sequence[str],
        rows: Rows,
        prediction: Prediction,
        ids: Sequence[str | None],
    ) -> None:
        now = time.time()
        for place, (name, content, values) in enumerate(zip(ids, reports, prediction.values, strict=True), 1):
            # A row without an id is nobody's next reading: no id has a blank.
            patient = f"{place} {next(self._numbers)}" if name is None else name
            hour = last_hour(content) if self._is_stays else None
            reading = Reading(name or str(place), patient, values, now / 3600 if hour is None else hour, utc(now))
            for alarm in self._alarms.observe(reading):
                self._events.publish("alarm", alarm.to_json())

    async def recent(self, limit: int) -> list[Alarm]:
        return await self._alarms.recent(limit)

    async def acknowledge(self, key: str) -> Alarm:
        alarm = await self._alarms.acknowledge(key, utc(time.time()))
        self._events.publish("alarm", alarm.to_json())
        return alarm

    def figures(self) -> dict[str, Any]:
        return {"of": "own", "late": self._alarms.late}

    def gauges(self) -> Iterable[tuple[str, dict[str, str], float]]:
        yield "alarms_late", {}, self._alarms.late


class StreamAlarms(AlarmPart):
    """Alarms of the workers of ./run.sh stream."""

    def __init__(self, settings: Stream):
        from redis.asyncio import Redis

        from src.serving.result_store import TIMEOUT, ResultStore, store_url

        client = Redis.from_url(store_url(settings), socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
        self._store = ResultStore(client, settings)
        self._following: asyncio.Task[None] | None = None

    def started(self, predictor: Predictor, events: Events) -> None:
        self._following = asyncio.create_task(self._follow(events))

    async def _follow(self, events: Events) -> None:
        from redis.exceptions import RedisError

        while True:
            try:
                async for alarm in self._store.follow():
                    events.publish("alarm", alarm.to_json())
            except (RedisError, OSError) as error:
                log("alarms cannot be read", error=type(error).__name__)
                await asyncio.sleep(AGAIN)

    async def recent(self, limit: int) -> list[Alarm]:
        return await self._asked(self._store.recent(limit))

    async def acknowledge(self, key: str) -> Alarm:
        return await self._asked(self._store.acknowledge(key, utc(time.time())))

    async def _asked(self, answer: Any) -> Any:
        from redis.exceptions import RedisError

        try:
            return await answer
        except (RedisError, OSError):
            raise Refused(503, "the alarms' Redis does not answer", {"Retry-After": "5"}) from None

    def figures(self) -> dict[str, Any]:
        return {"of": "stream"}

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        await self._store.client.aclose()
