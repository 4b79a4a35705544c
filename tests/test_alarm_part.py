"""Alarms of the HTTP service: its own, and those of a stream's workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src.core.settings import Alarms, Serve, Stream
from src.serving.packages import INSTALL
from tests.streams import FakePredictor, free_port, redis_server
from tests.waiting import PATIENCE

httpx = pytest.importorskip("httpx", reason=INSTALL)
for package in ("fastapi", "redis", "faststream"):
    pytest.importorskip(package, reason=INSTALL)

from src.serving import stream  # noqa: E402
from src.serving.alarm_part import AlarmPart, OwnAlarms, StreamAlarms  # noqa: E402
from src.serving.app import Service, create_app  # noqa: E402
from src.serving.result_store import Place, ResultStore  # noqa: E402

LOW = Alarms(on=1e-6)
"""Settings under which any prediction raises alarms of all labels."""


def talk(file: Path, part: AlarmPart, session: Callable) -> None:
    """Runs `session(http, service, seen)`; `seen` grows by the events of the kind alarm."""

    async def run() -> None:
        service = Service.load(file, Serve(engine="torch", watch=0, delay=1), [part])
        app = create_app(service)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        seen: list[dict] = []

        async def listen() -> None:
            async for message in service.events.subscribe():
                if message.startswith(b"event: alarm"):
                    seen.append(json.loads(message.partition(b"data: ")[2]))

        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        ):
            listener = asyncio.create_task(listen())
            while not service.events.listeners:
                await asyncio.sleep(0.01)
            await session(http, service, seen)
            listener.cancel()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


async def listed(http: httpx.AsyncClient, limit: int = 1000) -> list[dict]:
    answer = await http.get("/alarms", params={"limit": limit})
    assert answer.status_code == 200
    return answer.json()["alarms"]


def test_the_service_lists_its_alarms_and_takes_their_acknowledgement(bundled):
    async def session(http: httpx.AsyncClient, service: Service, seen: list[dict]) -> None:
        labels = service.predictor.labels
        assert (await http.get("/info")).json()["alarms"] == {"of": "own", "late": 0}
        assert "serve_alarms_late 0.0" in (await http.get("/metrics")).text
        assert await listed(http) == []
        answer = await http.post("/predict", json={"id": "r1", "tokens": [1, 2]})
        found = await listed(http)
        assert {alarm["label"] for alarm in found} == set(labels)
        values = answer.json()["predictions"][0]["values"]
        assert all(alarm["value"] == pytest.approx(values[alarm["label"]], abs=1e-6) for alarm in found)
        assert {(alarm["message"], alarm["threshold"], alarm["acknowledged"]) for alarm in found} == {
            ("r1", 1e-6, None)
        }
        await http.post("/predict", json={"id": "r1", "tokens": [1, 2]})  # the same patient: the alarms go on
        assert len(await listed(http)) == len(labels)
        await http.post("/predict", json={"tokens": [1, 2]})  # nobody in particular, twice
        await http.post("/predict", json={"tokens": [1, 2]})
        assert len(await listed(http)) == 3 * len(labels)
        assert len(await listed(http, 2)) == 2
        for _ in range(2):  # a patient whose name is the number of the row
            await http.post("/predict", json={"id": "1", "tokens": [1, 2]})
        assert len(await listed(http)) == 4 * len(labels)
        answer = await http.post(f"/alarms/{found[0]['id']}/acknowledge", json={})
        assert answer.status_code == 200 and answer.json()["acknowledged"]
        again = await http.post(f"/alarms/{found[0]['id']}/acknowledge", json={})
        assert again.json() == answer.json()
        assert answer.json() in await listed(http)
        while len(seen) < 4 * len(labels) + 2:
            await asyncio.sleep(0.01)
        assert [event["acknowledged"] is None for event in seen] == [True] * 4 * len(labels) + [False] * 2

    talk(bundled / "lstm.bundle", OwnAlarms(LOW), session)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/alarms/nobody/acknowledge", 404),
        ("POST", "/alarms/%00/acknowledge", 404),
        ("GET", "/alarms?limit=0", 422),
        ("GET", "/alarms?limit=x", 422),
    ],
)
def test_wrong_requests_are_answered_with_a_sentence(bundled, method, path, status):
    async def session(http: httpx.AsyncClient, service: Service, seen: list[dict]) -> None:
        answer = await http.request(method, path, json={} if method == "POST" else None)
        assert answer.status_code == status
        assert answer.json()["error"]

    talk(bundled / "lstm.bundle", OwnAlarms(LOW), session)


def test_alarms_of_the_streams_workers_are_listed_live_and_acknowledged(bundled, tmp_path):
    with redis_server(tmp_path) as server:
        settings = Stream(url=server.url)

        async def work(store: ResultStore, key: str) -> None:
            worker = stream.Worker(FakePredictor(), store, Alarms())
            message = json.dumps({"id": key, "tokens": [60]}).encode()
            await worker.process([stream.Delivery(Place(key, 1, is_kafka=True), message, 0.0)])

        async def session(http: httpx.AsyncClient, service: Service, seen: list[dict]) -> None:
            assert (await http.get("/info")).json()["alarms"] == {"of": "stream"}
            keys: list[str] = []
            while not seen:  # until the service follows the stream
                keys.append(f"m{len(keys)}")
                await work(part._store, keys[-1])
                await asyncio.sleep(0.05)
            alarm, *others = await listed(http)
            assert [one["message"] for one in (alarm, *others)] == keys[::-1]
            assert (alarm["label"], alarm["value"]) == (FakePredictor().labels[0], pytest.approx(0.6))
            answer = await http.post(f"/alarms/{alarm['id']}/acknowledge", json={})
            assert answer.json() == {**alarm, "acknowledged": answer.json()["acknowledged"]}
            assert (await http.post("/alarms/nobody/acknowledge", json={})).status_code == 404
            await http.post("/predict", json={"tokens": [1, 2]})
            # The service's own predictions raise none here.
            assert await listed(http) == [answer.json(), *others]
            while seen[-1] != answer.json():
                await asyncio.sleep(0.01)

        part = StreamAlarms(settings)
        talk(bundled / "lstm.bundle", part, session)


def test_the_connection_to_redis_is_closed_when_the_service_has_stopped(bundled, monkeypatch):
    part, ended = StreamAlarms(Stream(url=f"redis://127.0.0.1:{free_port()}/0")), []

    async def aclose() -> None:
        await asyncio.sleep(0)  # as a connection that says goodbye
        ended.append("closed")

    async def run() -> None:
        service = Service.load(bundled / "lstm.bundle", Serve(engine="torch", watch=0, delay=1), [part])
        monkeypatch.setattr(part._store.client, "aclose", aclose)
        await service.start()
        await service.stop()
        assert ended == ["closed"] and asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_without_its_redis_the_service_answers_and_says_that_alarms_do_not(bundled):
    async def session(http: httpx.AsyncClient, service: Service, seen: list[dict]) -> None:
        for answer in (await http.get("/alarms"), await http.post("/alarms/a/acknowledge", json={})):
            assert answer.status_code == 503 and answer.json() == {"error": "the alarms' Redis does not answer"}
            assert answer.headers["retry-after"]
        assert (await http.post("/predict", json={"tokens": [1, 2]})).status_code == 200

    talk(bundled / "lstm.bundle", StreamAlarms(Stream(url=f"redis://127.0.0.1:{free_port()}/0")), session)
