"""The HTTP service: answers, limits, errors, faults, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.bench import service as bench
from src.core import storage
from src.core.errors import UserError
from src.core.settings import ROOT, Serve
from src.core.settings_loader import load_config
from src.data.synthetic_stays import make_sample as make_stays
from src.evaluation.workspace import Workspace
from src.pipeline.commands import serve
from src.serving.packages import INSTALL, require_packages
from tests.conftest import error_of, run_command
from tests.waiting import PATIENCE, wait_until

httpx = pytest.importorskip("httpx", reason=INSTALL)
pytest.importorskip("fastapi", reason=INSTALL)

from src.serving import app, batching, json_logs, request_models  # noqa: E402
from src.serving.app import Service, create_app  # noqa: E402
from src.serving.errors import Refused  # noqa: E402
from src.serving.events import HELD, MOST, Events, TooManyListeners  # noqa: E402
from src.serving.parts import Part  # noqa: E402
from src.serving.predictor import Prediction, Predictor, Rows  # noqa: E402


def refusal(content, kind: str = "reports") -> str:
    with pytest.raises(Refused) as caught:
        request_models.read_rows(content, kind)
    assert caught.value.status == 422
    return caught.value.sentence


def test_tokens_are_a_text_or_a_list_and_ids_are_kept():
    one = request_models.read_rows({"tokens": " 0 12  65535 "}, "reports")
    assert [(row.id, row.tokens) for row in one] == [("", [0, 12, 65535])]
    many = request_models.read_rows({"reports": [{"id": "007", "tokens": [3.0]}, {"id": 7, "tokens": "3"}]}, "reports")
    assert [(row.id, row.tokens) for row in many] == [("007", [3]), ("7", [3])]
    (stay,) = request_models.read_rows({"series": "Time,Parameter,Value\n"}, "stays")
    assert stay.content == "Time,Parameter,Value\n"


@pytest.mark.parametrize(
    "content, sentence",
    [
        ([1, 2], "the body is a list, expected an object with id, tokens, or reports"),
        (None, "the body is null, expected an object with id, tokens, or reports"),
        ({}, "tokens is missing"),
        ({"tokens": ""}, "tokens: an empty description, expected at least one token"),
        ({"tokens": []}, "tokens: an empty description, expected at least one token"),
        ({"tokens": "1 x7"}, "tokens: token 'x7', expected an integer from 0 to 65535"),
        ({"tokens": "1\t2"}, r"tokens: token '1\t2', expected an integer from 0 to 65535"),
        ({"tokens": "٣"}, r"tokens: token '\\u0663', expected an integer from 0 to 65535"),
        ({"tokens": "65536"}, "tokens: token 1 is out of range, expected an integer from 0 to 65535"),
        ({"tokens": [1, -1]}, "tokens: token 2 is out of range, expected an integer from 0 to 65535"),
        ({"tokens": [1, 2.5]}, "tokens: token 2 is a number, expected an integer from 0 to 65535"),
        ({"tokens": [True]}, "tokens: token 1 is true or false, expected an integer from 0 to 65535"),
        ({"tokens": 5}, "tokens: a number, expected integers: a text with blanks between them, or a list"),
        ({"tokens": "1", "id": ""}, "id: an empty id"),
        ({"tokens": "1", "id": "a b"}, "id: whitespace in the id 'a b'"),
        ({"tokens": "1", "id": "a\n"}, "id: expected printable ASCII"),
        ({"tokens": "1", "id": 1.5}, "id: a number, expected a text or a whole number"),
        ({"tokens": "1", "text": 1}, "the key 'text' is unknown, expected id, tokens, or reports"),
        ({"reports": []}, "reports: none, expected at least one"),
        (
            {"reports": [{"tokens": "1"}, {"tokens": "x"}, {"id": 3}]},
            "report 2, tokens: token 'x', expected an integer from 0 to 65535; report 3: tokens is missing",
        ),
        ({"reports": [{"tokens": "1", "a": 1}]}, "report 1: the key 'a' is unknown, expected id, tokens"),
        ({"stays": []}, "tokens is missing; the key 'stays' is unknown, expected id, tokens, or reports"),
    ],
)
def test_an_error_of_a_body_says_where_and_what_is_expected(content, sentence):
    assert refusal(content) == sentence


def test_a_body_with_many_errors_lists_the_first_ones():
    told = refusal({"reports": [{"tokens": ""}] * 9})
    assert told.startswith("report 1, tokens: an empty") and told.endswith("; and 4 further errors")


def test_a_listener_gets_events_from_then_on_and_a_slow_one_the_newest():
    async def listen() -> list[bytes]:
        events = Events()
        events.publish("prediction", {"id": "nobody listens"})
        messages = events.subscribe()
        assert (await anext(messages)).startswith(b":") and events.listeners == 1
        for place in range(HELD + 10):
            events.publish("alarm", {"id": place, "label": "région"})
        events.close()
        found = [message async for message in messages]
        assert events.listeners == 0
        return found

    found = asyncio.run(listen())
    assert found[-1] == f'event: alarm\ndata: {{"id":{HELD + 9},"label":"région"}}\n\n'.encode()


def test_listeners_are_counted_from_their_subscription():
    async def listen() -> None:
        events = Events()
        messages = [events.subscribe() for _ in range(MOST)]
        with pytest.raises(TooManyListeners):
            events.subscribe()
        messages.pop()
        assert events.listeners == MOST - 1

    asyncio.run(listen())


def test_of_a_library_s_record_no_text_is_logged():
    record = logging.LogRecord("asyncio", logging.ERROR, "", 1, "exception=ValueError('token 31337')", (), None)
    assert "31337" not in json_logs.Formatter().format(record)
    record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 1, "Invalid HTTP request received.", (), None)
    assert json.loads(json_logs.Formatter().format(record))["text"] == "Invalid HTTP request received."


def test_missing_packages_are_one_error_with_the_command():
    told = error_of(require_packages, "./run.sh serve", "json", "no_such_module")
    assert told == (
        "./run.sh serve needs docs/requirements-serve.txt (no_such_module is not installed): "
        ".venv/bin/pip install -r docs/requirements-serve.txt"
    )


REPORTS = [[12, 345, 6], [7], list(range(40)), [0, 0, 65535], list(range(100, 104)), [1] * 90] * 4
"""Reports of different lengths."""
SETTINGS = Serve(engine="torch", watch=0, delay=1)


@pytest.fixture(scope="module")
def blend(bundled) -> Path:
    """Bundle of the blend of a finished tiny pipeline."""
    return bundled / "blend.bundle"


@pytest.fixture(scope="module")
def lstm(bundled) -> Path:
    """Bundle of one of its members: other values for the same task."""
    return bundled / "lstm.bundle"


@pytest.fixture(scope="module")
def predictor(blend) -> Predictor:
    return Predictor.load(blend, "torch")


def talk(file: Path, session, settings: Serve = SETTINGS, parts=(), change=lambda service: None):
    """Returns what `session(http, service)` returns, with a client and the service of a bundle in this process."""

    async def run():
        service = Service.load(file, settings, parts)
        change(service)
        app = create_app(service)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        ):
            async with asyncio.timeout(PATIENCE):
                return await session(http, service)

    return asyncio.run(run())


def values_of(answer: httpx.Response) -> np.ndarray:
    """Values (B, L) of an answer."""
    assert answer.status_code == 200, answer.text
    return np.array([list(one["values"].values()) for one in answer.json()["predictions"]])


class Slow:
    """A predictor whose predictions wait until they are let go."""

    def __init__(self, service: Service):
        self.go, self.batches = threading.Event(), []
        whole = service.predictor.predict

        def predict(rows: Rows) -> Prediction:
            assert self.go.wait(PATIENCE)
            self.batches.append(rows.lengths.tolist())
            return whole(rows)

        service.predictor.predict = predict


def test_one_and_many_reports_get_what_the_predictor_says(blend, predictor):
    async def session(http, service):
        texts = [{"id": f"r{i}", "tokens": " ".join(map(str, report))} for i, report in enumerate(REPORTS)]
        many = await http.post("/predict", json={"reports": texts})
        one = await http.post("/predict", json={"tokens": REPORTS[2]})
        return many, one

    many, one = talk(blend, session)
    expected = predictor.predict(predictor.encode(REPORTS))
    np.testing.assert_allclose(values_of(many), expected.values, atol=1e-6)
    np.testing.assert_allclose(values_of(one), expected.values[2:3], atol=1e-6)
    found = many.json()
    assert [row["id"] for row in found["predictions"]] == [f"r{i}" for i in range(len(REPORTS))]
    assert one.json()["predictions"][0]["id"] == "1"
    assert found["bundle"] == {"name": "blend", "version": predictor.bundle.version}
    assert list(found["predictions"][0]["values"]) == list(predictor.labels)
    spread = [list(row["spread"].values()) for row in found["predictions"]]
    np.testing.assert_allclose(spread, expected.spread, atol=1e-6)


def test_requests_that_wait_share_batches_of_similar_length(blend, predictor):
    """A prediction does not depend on the batch, batches hold the oldest row, and all rows are predicted once."""
    settings = Serve(engine="torch", watch=0, batch=6, queue=256)
    slow = []

    async def session(http, service):
        asked = [asyncio.create_task(http.post("/predict", json={"tokens": report})) for report in REPORTS]
        while service.batcher.waiting + service.batcher.running < len(REPORTS):
            await asyncio.sleep(0.001)
        slow[0].go.set()
        return [values_of(await one)[0] for one in asked]

    found = talk(blend, session, settings, change=lambda service: slow.append(Slow(service)))
    np.testing.assert_allclose(found, predictor.predict(predictor.encode(REPORTS)).values, atol=1e-6)
    batches = slow[0].batches
    lengths = predictor.encode(REPORTS).lengths
    assert sorted(length for batch in batches for length in batch) == sorted(lengths.tolist())
    assert max(map(len, batches)) == 6 and len(batches) <= len(REPORTS) // 6 + 2
    spans = [max(batch) - min(batch) for batch in batches[1:-1]]
    assert np.mean(spans) < 20, batches  # in the order of arrival each batch would span 89


def test_a_full_queue_is_answered_at_once_and_what_was_accepted_is_answered(blend):
    settings, slow = Serve(engine="torch", watch=0, batch=4, queue=8, max_rows=8), []

    async def session(http, service):
        row = {"tokens": "1 2 3"}
        first = asyncio.create_task(http.post("/predict", json=row))
        while not service.batcher.running:
            await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(http.post("/predict", json={"reports": [row] * 4})) for _ in range(2)]
        while service.batcher.waiting < 8:
            await asyncio.sleep(0.001)
        refused = await http.post("/predict", json=row)
        metrics = (await http.get("/metrics")).text
        slow[0].go.set()
        return refused, metrics, [await first, *[await one for one in waiting]]

    refused, metrics, answers = talk(blend, session, settings, change=lambda service: slow.append(Slow(service)))
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert refused.json() == {"error": "the queue is full: try again in 1 s"}
    assert "serve_queue_rows 8.0" in metrics
    assert 'serve_requests_total{route="/predict",status="429"} 1.0' in metrics
    assert [len(values_of(one)) for one in answers] == [1, 4, 4]


def test_rows_whose_request_gave_up_leave_the_queue(blend):
    settings, slow = Serve(engine="torch", watch=0, timeout=0.2), []

    async def session(http, service):
        first = asyncio.create_task(http.post("/predict", json={"tokens": "1"}))
        while not service.batcher.running:
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(http.post("/predict", json={"reports": [{"tokens": "1 2"}] * 20}))
        while service.batcher.waiting < 20:
            await asyncio.sleep(0.001)
        assert {(await first).status_code, (await waiting).status_code} == {503}
        left = service.batcher.waiting
        slow[0].go.set()
        await service.batcher.close()
        with pytest.raises(Refused, match="the service is shutting down") as caught:
            await service.batcher.submit(service.predictor.encode([[1]]))
        return left, caught.value.status

    assert talk(blend, session, settings, change=lambda service: slow.append(Slow(service))) == (0, 503)
    assert slow[0].batches == [[1]]


def test_a_fault_before_a_prediction_is_answered_and_the_next_one_is_predicted(blend, monkeypatch):
    joined, settings, slow = batching._joined, Serve(engine="torch", watch=0, delay=1), []

    async def ask(http, service):
        first = asyncio.create_task(http.post("/predict", json={"tokens": "1"}))
        while not service.batcher.running:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(http.post("/predict", json={"tokens": "1 2"})) for _ in range(2)]
        while service.batcher.waiting < 2:
            await asyncio.sleep(0.001)
        slow[0].go.set()
        found = [(await one).status_code for one in (first, *others)]
        slow[0].go.clear()
        return found

    async def session(http, service):
        monkeypatch.setattr(batching, "_joined", lambda several: 1 / 0)
        broken = await ask(http, service)
        monkeypatch.setattr(batching, "_joined", joined)
        return broken, await ask(http, service)

    found = talk(blend, session, settings, change=lambda service: slow.append(Slow(service)))
    assert found == ([200, 500, 500], [200, 200, 200])


def test_an_explanation_that_takes_too_long_is_given_up(blend):
    go = threading.Event()

    def change(service):
        service.predictor.explain = lambda rows, column: go.wait(PATIENCE)

    async def session(http, service):
        answer = await http.post("/explain", json={"tokens": "1", "label": "region_3"})
        go.set()
        return answer

    answer = talk(blend, session, Serve(engine="torch", watch=0, timeout=0.3), change=change)
    assert answer.status_code == 503 and answer.json() == {"error": "no answer within 0.3 s"}


def test_a_prediction_that_is_no_number_is_a_sentence(blend):
    def change(service):
        whole = service.predictor.predict

        def predict(rows):
            found = whole(rows)
            found.values[rows.lengths == 2] = np.nan
            return found

        service.predictor.predict = predict

    async def session(http, service):
        many = await http.post("/predict", json={"reports": [{"tokens": "1"}, {"tokens": "1 2"}]})
        return many, await http.post("/explain", json={"tokens": "1 2", "label": "region_3"})

    many, explained = talk(blend, session, change=change)
    assert many.status_code == 422 and many.json() == {"error": "report 2: the models give no number for it"}
    assert explained.status_code == 422 and explained.json() == {"error": "report 1: the models give no number for it"}


def test_a_bundle_that_changes_while_it_is_read_is_read_again_whatever_happens(blend, lstm, tmp_path, monkeypatch):
    file = Path(shutil.copy(blend, tmp_path / "served.bundle"))
    ready, loads = app._ready_predictor, []

    def load(*arguments):
        loads.append(len(loads))
        if loads[-1] == 1:
            os.utime(file, ns=(1, 1))
            raise OSError(28, "No space left on device")
        found = ready(*arguments)
        if not loads[-1]:
            storage.write_atomic(file, lambda target: target.write(lstm.read_bytes()))
        return found

    monkeypatch.setattr(app, "_ready_predictor", load)

    async def session(http, service):
        async with asyncio.timeout(PATIENCE):
            while service.described()["name"] != "lstm":
                await asyncio.sleep(0.01)
        return (await http.post("/predict", json={"tokens": "1"})).json()["bundle"]["name"]

    assert talk(file, session, Serve(engine="torch", watch=0.02)) == "lstm"
    assert loads == [0, 1, 2]


def test_an_answer_that_takes_too_long_is_given_up(blend):
    settings, slow = Serve(engine="torch", watch=0, timeout=0.05), []

    async def session(http, service):
        answer = await http.post("/predict", json={"tokens": "1"})
        slow[0].go.set()
        return answer, await http.post("/predict", json={"tokens": "1"})

    given_up, next_one = talk(blend, session, settings, change=lambda service: slow.append(Slow(service)))
    assert given_up.status_code == 503 and given_up.json() == {"error": "no answer within 0.05 s"}
    assert next_one.status_code in (200, 503)


def test_a_fault_gets_an_answer_without_details_and_no_text_of_a_report_is_logged(blend, caplog, monkeypatch):
    # import-linter, in another test of this process, disables all loggers that are there.
    monkeypatch.setattr(logging.getLogger("src.serving"), "disabled", False)

    def break_it(service):
        def predict(rows):
            raise ValueError("token 31337 is too much")

        service.predictor.predict = predict

    async def session(http, service):
        report = {"id": "secret-id", "tokens": [31337] * 3}
        return (
            await http.post("/predict?q=31337", json=report),
            await http.get("/31337"),
            await http.post("/predict", json={"tokens": "31337x"}),
        )

    with caplog.at_level(logging.DEBUG):
        fault, unknown, wrong = talk(blend, session, change=break_it)
    assert fault.status_code == 500 and "31337" not in fault.text
    assert fault.json()["error"].startswith("a fault of the service; its log has it under ")
    assert (unknown.status_code, wrong.status_code) == (404, 422)
    records = [record for record in caplog.records if record.name == "src.serving"]
    lines = [json_logs.Formatter().format(record) for record in records]
    assert not [line for line in lines if "31337" in line or "secret" in line]
    logged = [json.loads(line) for line in lines if '"request"' in line]
    assert [(one["route"], one["status"]) for one in logged] == [("/predict", 500), ("other", 404), ("/predict", 422)]
    assert logged[0]["fault"] == "ValueError" and logged[0]["level"] == "error"
    assert logged[0]["request"] == fault.headers["x-request-id"]


def test_limits_of_rows_length_and_bytes(blend):
    settings = Serve(engine="torch", watch=0, max_rows=2, max_tokens=5, max_bytes=1024)

    async def session(http, service):
        body = {"reports": [{"tokens": "1"}, {"tokens": "1 2 3 4 5 6"}]}
        chunks = (b" " * 200 for _ in range(10))
        headers = {"content-type": "application/json"}

        async def stream():
            for chunk in chunks:
                yield chunk

        return [
            await http.post("/predict", json=body),
            await http.post("/predict", json={"tokens": [1] * 6}),
            await http.post("/predict", json={"reports": [{"tokens": "1"}] * 3}),
            await http.post("/predict", json={"tokens": "1" * 2000}),
            await http.post("/predict", content=stream(), headers=headers),
            await http.post("/explain", json={"tokens": [1] * 6, "label": "region_1"}),
        ]

    assert [(answer.status_code, answer.json()["error"]) for answer in talk(blend, session, settings)] == [
        (422, "report 2: 6 tokens, expected at most 5"),
        (422, "6 tokens, expected at most 5"),
        (413, "a request of 3 reports, expected at most 2"),
        (413, "the body is larger than 1,024 bytes"),
        (413, "the body is larger than 1,024 bytes"),
        (422, "6 tokens, expected at most 5"),
    ]


def test_the_documentation_is_a_page_without_scripts_and_foreign_files(blend):
    async def session(http, service):
        return await http.get("/docs"), (await http.get("/openapi.json")).json()

    page, document = talk(blend, session)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.findall(r"<script|https?://", page.text.replace("https://json-schema.org", ""))
    for path in document["paths"]:
        assert path in page.text
    links = re.findall(r'href="#(\w+)"', page.text)
    assert {"Report", "Reports", "Answer", "Failure"} <= set(links) <= set(document["components"]["schemas"])


def test_what_is_no_json_is_refused(blend):
    async def session(http, service):
        json_type = {"content-type": "application/json"}
        bodies = [b"", b"{", b'{"tokens": NaN}', b'{"tokens": "\xff"}', b'{"tokens": "\\ud800"}', b"[" * 10_000]
        broken = [await http.post("/predict", content=body, headers=json_type) for body in bodies]
        other = await http.post("/predict", content=b"{}", headers={"content-type": "text/plain"})
        return broken, other, await http.post("/reload", json={})

    broken, other, reload = talk(blend, session)
    assert [answer.status_code for answer in broken] == [400] * 6
    assert all(answer.json()["error"].startswith("the body is no valid JSON: ") for answer in broken)
    assert other.status_code == 415 and reload.status_code == 403


def test_with_a_key_only_its_holder_is_answered(blend, tmp_path):
    file = tmp_path / "key"
    file.write_text("0123456789abcdef\n")
    settings = Serve(engine="torch", watch=0, key_file=file)

    async def session(http, service):
        paths = ["/health", "/ready", "/openapi.json", "/info", "/metrics", "/nothing"]
        without = [(await http.get(path)).status_code for path in paths]
        wrong = await http.post("/predict", json={"tokens": "1"}, headers={"authorization": "Bearer 0123456789abcdeF"})
        http.headers["authorization"] = "Bearer 0123456789abcdef"
        posts = [("/predict", {"tokens": "1"}), ("/reload", {})]
        return without, wrong, [(await http.post(path, json=body)).status_code for path, body in posts]

    without, wrong, right = talk(blend, session, settings)
    assert without == [200, 200, 200, 401, 401, 401] and right == [200, 200]
    assert wrong.status_code == 401 and wrong.headers["www-authenticate"] == "Bearer"
    file.write_text("short\n")
    assert "the first line of" in error_of(Service.load, blend, settings)
    file.unlink()
    assert "cannot be read" in error_of(Service.load, blend, settings)


@pytest.mark.parametrize("origin", ["*", "https://ward.example/", "https://Ward.example", "ward.example", "null", ""])
def test_origins_that_no_browser_sends_are_refused(origin):
    with pytest.raises(ValueError, match="want origins as browsers send them"):
        Serve(origins=[origin])
    assert Serve(origins=["https://ward.example", "http://10.0.0.7:8080", "http://[::1]:3000"])


def test_other_origins_are_closed_unless_named(blend):
    async def session(http, service):
        asked = {"origin": "https://ward.example", "access-control-request-method": "POST"}
        preflight = await http.options("/predict", headers=asked)
        answer = await http.post("/predict", json={"tokens": "1"}, headers={"origin": "https://ward.example"})
        own = await http.post("/predict", json={"tokens": "1"}, headers={"origin": "http://localhost"})
        assert own.status_code == 200
        assert (await http.post("/reload", headers={"origin": "null"})).json()["error"].startswith("pages of another")
        return preflight, answer

    closed = talk(blend, session)
    assert [answer.status_code for answer in closed] == [405, 403]
    assert not [name for answer in closed for name in answer.headers if name.startswith("access-control")]
    opened = talk(blend, session, Serve(engine="torch", watch=0, origins=["https://ward.example"]))
    assert [answer.status_code for answer in opened] == [200, 200]
    assert [answer.headers["access-control-allow-origin"] for answer in opened] == ["https://ward.example"] * 2


@pytest.mark.parametrize(
    ("settings", "name", "status"),
    [
        ({}, "evil.example", 403),
        ({}, "evil.example:8000", 403),
        ({}, "localhost.evil.example", 403),
        ({}, "localhost:x", 403),
        ({}, "[::1", 403),
        ({}, "LocalHost:8000", 200),
        ({}, "127.0.0.1:8000", 200),
        ({}, "[::1]:8000", 200),
        ({"hosts": ["ward.example"]}, "ward.example", 200),
        ({"host": "0.0.0.0"}, "evil.example", 200),
        ({"host": "0.0.0.0", "hosts": ["ward.example"]}, "evil.example", 403),
    ],
)
def test_a_page_cannot_give_its_own_name_to_this_machine(predictor, settings, name, status):
    """All paths and methods: the name is looked at before anything else."""

    async def session():
        service = Service(Path("none"), predictor, Serve(watch=0, **settings), None, [])
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"host": name}) as http:
            return [(await http.get(path)).status_code for path in ("/health", "/info", "/page/page.js")]

    assert asyncio.run(session()) == [status] * 3


def test_an_origin_that_is_none_is_refused(blend):
    async def session(http, service):
        return await http.post("/predict", json={"tokens": "1"}, headers={"origin": "http://["})

    assert talk(blend, session).status_code == 403


def test_too_many_connections_are_told_when_to_come_again(blend):
    async def session(http, service):
        service.connections = lambda: service.settings.max_connections + 1
        return await http.get("/info")

    answer = talk(blend, session)
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert answer.json() == {"error": "too many connections: try again in 1 s"}


def test_an_explanation_is_the_predictor_s(blend, predictor):
    report = [12, 345, 6, 12]

    async def session(http, service):
        good = await http.post("/explain", json={"tokens": report, "label": "region_3"})
        return good, await http.post("/explain", json={"tokens": report, "label": "region_33"})

    good, wrong = talk(blend, session)
    rows = predictor.encode([report])
    found = good.json()
    np.testing.assert_allclose(found["weights"], predictor.explain(rows, 3), atol=1e-6)
    assert found["tokens"] == ["12", "345", "6", "12"] and found["label"] == "region_3"
    np.testing.assert_allclose(found["value"], predictor.predict(rows).values[0, 3], atol=1e-6)
    assert wrong.status_code == 422 and "unknown label 'region_33'. Did you mean 'region_3'?" in wrong.json()["error"]


def test_info_and_metrics_say_what_is_served(blend, predictor):
    class Watched(Part):
        name = "drift"
        seen_rows: list = []

        def seen(self, reports, rows, prediction, ids):
            self.seen_rows += zip(ids, reports, prediction.values.shape[1] * [1], strict=False)

        def figures(self):
            return {"rows": len(self.seen_rows)}

        def gauges(self):
            return [("drift", {"group": "text", "name": "noise"}, 0.25)]

    async def session(http, service):
        await http.post("/predict", json={"reports": [{"tokens": "1"}, {"id": "b", "tokens": "2 3"}]})
        return (await http.get("/info")).json(), (await http.get("/metrics")).text

    info, metrics = talk(blend, session, parts=[Watched()])
    assert info["bundle"] == {"name": "blend", "version": predictor.bundle.version} and info["engine"] == "torch"
    assert info["labels"] == list(predictor.labels) and info["task"]["input_kind"] == "reports" and info["explains"]
    assert info["limits"] == {"reports": 256, "length": 4096, "bytes": 1 << 20}
    assert info["drift"] == {"rows": 2} and info["shadow"] is None
    assert [(name, report) for name, report, _ in Watched.seen_rows] == [(None, [1]), ("b", [2, 3])]
    for line in (
        "serve_rows_total 2.0",
        'serve_requests_total{route="/predict",status="200"} 1.0',
        'serve_drift{group="text",name="noise"} 0.25',
        f'serve_bundle_info{{engine="torch",name="blend",version="{predictor.bundle.version}"}} 1.0',
        "serve_queue_rows 0.0",
    ):
        assert line in metrics.splitlines(), line


def test_a_bundle_replaces_another_one_and_no_request_is_lost(blend, lstm, tmp_path):
    file = Path(shutil.copy(blend, tmp_path / "served.bundle"))
    one, other = Predictor.load(blend, "torch"), Predictor.load(lstm, "torch")
    expected = {
        predictor.bundle.version: predictor.predict(predictor.encode([[12, 345, 6]])).values
        for predictor in (one, other)
    }

    async def session(http, service):
        ended = asyncio.Event()

        async def ask() -> list[httpx.Response]:
            found = []
            while not ended.is_set() or not found:
                found.append(await http.post("/predict", json={"tokens": "12 345 6"}))
            return found

        asking = [asyncio.create_task(ask()) for _ in range(8)]
        for source in (lstm, blend, lstm):
            storage.write_atomic(file, lambda target, source=source: target.write(source.read_bytes()))
            await service.reload()
        file.write_bytes(b"no bundle")
        with pytest.raises(UserError, match="no bundle that can be read"):
            await service.reload()
        ended.set()
        return [answer for found in asking for answer in await found], (await http.get("/metrics")).text

    answers, metrics = talk(file, session)
    for answer in answers:
        np.testing.assert_allclose(values_of(answer), expected[answer.json()["bundle"]["version"]], atol=1e-6)
    assert {answer.json()["bundle"]["name"] for answer in answers} == {"blend", "lstm"}
    assert 'serve_reloads_total{outcome="done"} 3.0' in metrics
    assert 'serve_reloads_total{outcome="failed"} 1.0' in metrics


def test_serve_without_a_blend_names_the_command(tmp_path):
    settings = load_config("sample", [f"paths.output={tmp_path}"])
    told = error_of(serve.blend_bundle, Workspace(settings))
    made_with = f"./run.sh pipeline --preset sample paths.output={tmp_path}"
    assert told.startswith(f"there is no blend in {tmp_path}/runs: make it with {made_with}, or name a bundle: ")


def test_more_rows_a_request_than_the_queue_holds_is_refused_at_birth():
    with pytest.raises(ValueError, match="max_rows 300 is more than queue 256"):
        Serve(max_rows=300)


class Process:
    """./run.sh serve in a process of its own, on a free port."""

    def __init__(self, bundle: Path, folder: Path, *words: str):
        self.log = folder / "log"
        port = [] if "--port" in words else ["--port", "0"]
        arguments = ["serve", "--bundle", str(bundle), *port, "serve.engine=torch", *words]
        self.file = self.log.open("wb")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "src", *arguments, f"paths.output={folder}"],
            stdout=self.file,
            stderr=self.file,
            env=environment,
        )
        wait_until(lambda: self.lines("ready"), self.process)
        self.port = self.lines("ready")[0]["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        assert f" on {self.url}/ (Ctrl-C ends)" in self.log.read_text()

    def lines(self, event: str) -> list[dict]:
        """Lines of the log about an event."""
        whole = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found = [json.loads(line) for line in whole if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        self.file.close()


@pytest.fixture
def process(blend, tmp_path):
    with Process(Path(shutil.copy(blend, tmp_path / "served.bundle")), tmp_path, "serve.watch=0.05") as made:
        yield made


@pytest.fixture(scope="module")
def shared(blend, tmp_path_factory):
    """A process that tests leave as they find it."""
    with Process(blend, tmp_path_factory.mktemp("shared"), "serve.watch=0") as made:
        yield made


def test_a_process_reloads_by_signal_and_by_file_without_a_lost_request_and_ends_in_order(
    process, blend, lstm, tmp_path
):
    """Clients on kept connections ask all the time; every request that reached the service is answered."""
    answers: list[tuple[int, str]] = []
    ended, lost = threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=process.url, timeout=PATIENCE) as http:
            while not ended.is_set():
                try:
                    answer = http.post("/predict", json={"tokens": "12 345 6"})
                    answers.append((answer.status_code, answer.json()["bundle"]["name"]))
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                    lost.append(error)
                    return

    def listen() -> None:
        with httpx.stream("GET", process.url + "/events", timeout=PATIENCE) as stream:
            events.extend(line for line in stream.iter_lines() if line)

    events: list[str] = []
    threads = [threading.Thread(target=ask) for _ in range(4)] + [threading.Thread(target=listen)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answers) > 20 and len(events) > 2, process.process)
    process.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(process.lines("reload")) == 1, process.process)
    served = tmp_path / "served.bundle"
    storage.write_atomic(served, lambda target: target.write(lstm.read_bytes()))
    wait_until(lambda: len(process.lines("reload")) == 2, process.process)
    wait_until(lambda: answers[-1] == (200, "lstm"), process.process)
    served.write_bytes(b"no bundle")
    wait_until(lambda: process.lines("reload failed"), process.process)
    assert not lost
    # A client can lose a request to a connection that closes, but not one that the service took on.
    process.process.terminate()
    assert process.process.wait(PATIENCE) == 0
    ended.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200} and {name for _, name in answers} == {"blend", "lstm"}
    taken = [line for line in process.lines("request") if line["route"] == "/predict"]
    assert len(taken) == len(answers) and {line["status"] for line in taken} == {200}
    assert [line["name"] for line in process.lines("reload")] == ["blend", "lstm"] and process.lines("end")
    kinds = [line.removeprefix("event: ") for line in events if line.startswith("event: ")]
    assert kinds.count("prediction") > 10 and "reload" in kinds
    shown = [json.loads(line.removeprefix("data: ")) for line in events if line.startswith("data: ")]
    assert all(set(one) == {"id", "values", "spread", "time"} for one in shown if "id" in one)


def test_a_head_without_end_and_a_silent_client_are_not_waited_for(blend, tmp_path):
    """Neither takes memory nor a socket for good."""
    with Process(blend, tmp_path, "serve.watch=0", "serve.timeout=1") as process:
        address = ("127.0.0.1", process.port)
        with socket.create_connection(address) as endless:
            endless.settimeout(PATIENCE)
            endless.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
            with contextlib.suppress(ConnectionError):  # closed while more is sent
                for i in range(100_000):
                    endless.sendall(b"x-%d: " % i + b"a" * 1000 + b"\r\n")
                raise AssertionError("a hundred megabytes were taken")
        for begun in (b"", b"GET /health HTTP/1.1\r\n"):
            with socket.create_connection(address) as silent:
                silent.settimeout(PATIENCE)
                silent.sendall(begun)
                assert (told := silent.recv(1000)).startswith(b"HTTP/1.1 408 ") and not silent.recv(1)
                assert json.loads(told.partition(b"\r\n\r\n")[2])["error"].endswith("did not come within 1 s")
        with httpx.Client(base_url=process.url) as http:
            assert http.get("/health", headers={"x-much": "a" * 60_000}).status_code == 200
            assert http.get("/health", headers={"x-much": "a" * 900_000}).status_code == 431
            assert http.get("/health").status_code == 200, "a kept connection that was idle"


def test_a_shutdown_answers_what_is_in_the_queue(blend, tmp_path):
    """SIGTERM arrives while rows wait for the deadline of their batch."""
    found: list[int] = []
    with Process(blend, tmp_path, "serve.delay=1500", "serve.watch=0") as made:

        def ask() -> None:
            found.append(httpx.post(made.url + "/predict", json={"tokens": "1 2"}, timeout=PATIENCE).status_code)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()

        def is_accepted() -> bool:
            shown = httpx.get(made.url + "/metrics").text
            return "serve_queue_rows 8.0" in shown or len(found) == 8  # a busy machine may be late for the deadline

        wait_until(is_accepted, made.process)
        made.process.terminate()
        assert made.process.wait(PATIENCE) == 0
        for thread in threads:
            thread.join()
        assert found == [200] * 8 and made.lines("shutdown")


def test_a_port_that_is_taken_is_an_error_with_a_remedy(blend, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["serve", "--bundle", str(blend), "--port", str(port), "serve.engine=torch"]
        assert main(words) == 2
    shown = capsys.readouterr()
    told = shown.err
    assert "Ctrl-C" not in shown.out + told
    assert f"cannot listen on 127.0.0.1 port {port}" in told and "./run.sh serve --port N" in told


def test_the_load_generator_counts_what_a_service_answers(shared, tmp_path):
    bodies = tmp_path / "bodies"
    bench.write_bodies(bodies)
    closed = bench.result_of(bench.start_load(shared.port, bodies, 0.5, clients=8, warm_up=0.1))
    opened = bench.result_of(bench.start_load(shared.port, bodies, 0.5, clients=8, rate=40, warm_up=0.1))
    for figures in (closed, opened):
        times = figures["milliseconds"]
        assert set(figures["statuses"]) == {"200"}
        assert 0 < times["p50"] <= times["p95"] <= times["p99"] <= times["p100"]
        assert figures["per_second"] == figures["statuses"]["200"] / 0.5
    assert opened["statuses"]["200"] <= 40
    gone = bench.result_of(bench.start_load(bench.free_port(), bodies, 0.1, clients=1, warm_up=0))
    assert set(gone["statuses"]) == {"failed"} and gone["milliseconds"] == {}


def hostile_bodies(count: int, seed: int = 0) -> Iterator[bytes]:
    """Bodies that no client should send: cut, swapped and doubled bytes of a good one, wrong values, wrong JSON."""
    rng = np.random.default_rng(seed)
    good = json.dumps({"reports": [{"id": "7", "tokens": "12 345 6"}, {"tokens": [1, 2]}]}).encode()
    values = [
        "null", "true", "[]", "{}", "-1", "65536", "1e400", "1e-400", "9" * 5000, '""', '"x"', '"1 2 x"', "[[1]]", "[0",
        '"\\u0000"', '"\\ud800"', '"' + "1 " * 4000 + 'x"', '[1, "2"]', '{"a": 1}', '"\u0663"', "[1.5]", "[true]",
    ]  # fmt: skip
    bodies = ["%s", '{"tokens": %s}', '{"reports": %s}', '{"reports": [%s]}', '{"reports": [{"tokens": %s}]}']
    bodies += ['{"id": %s, "tokens": ""}', '{"stays": %s}', '{"tokens": "1", "%s": 1}', '{"tokens": [%s, 1]', "[%s"]
    for number in range(count):
        if number % 3 == 0:
            text = bodies[rng.integers(len(bodies))] % values[rng.integers(len(values))]
            yield text.encode("utf-8", "surrogatepass")
        elif number % 3 == 1:
            spoilt = bytearray(good)
            for at in rng.integers(0, len(good), 3):
                spoilt[at] = rng.integers(0, 256)
            yield bytes(spoilt[: rng.integers(1, len(good))])
        else:
            depth = int(rng.integers(1, 3000))
            yield [b"[" * depth, b'{"tokens":' * depth, rng.bytes(200), b'"' + b"\\" * depth, b" " * depth][number % 5]


def send_hostile(process: Process, count: int, seed: int = 0) -> Counter[int]:
    """Statuses of the answers to hostile bodies, at all paths that take a body, on one kept connection."""
    statuses: Counter[int] = Counter()
    headers = {"content-type": "application/json"}
    with httpx.Client(base_url=process.url, timeout=PATIENCE, headers=headers) as http:
        for number, body in enumerate(hostile_bodies(count, seed)):
            statuses[http.post(("/predict", "/explain")[number % 2], content=body).status_code] += 1
        assert http.post("/predict", json={"tokens": "1 2"}).status_code == 200
    return statuses


def test_hostile_bodies_are_refused(shared):
    statuses = send_hostile(shared, 300)
    assert set(statuses) <= {400, 413, 422} and statuses[400] > 50 and statuses[422] > 20


@pytest.mark.slow
def test_memory_stays_flat_under_ten_thousand_hostile_bodies(shared):
    send_hostile(shared, 2000, seed=1)
    before = bench.memory(shared.process.pid)
    statuses = send_hostile(shared, 10_000, seed=2)
    assert set(statuses) <= {400, 413, 422}
    assert bench.memory(shared.process.pid) < before + 10


def check_by_schema(url: str, examples: int) -> Counter[str]:
    """Sends what the OpenAPI document allows and what it forbids, and checks each answer against it: no 5xx, only
    documented statuses and contents, good bodies accepted and bad ones refused. Returns the number of cases by path."""
    schemathesis = pytest.importorskip("schemathesis", reason=INSTALL)
    from hypothesis import HealthCheck, given, settings

    sent: Counter[str] = Counter()

    def check(case):
        answer = case.call()
        sent[case.operation.label] += 1
        assert answer.status_code < 500
        case.validate_response(answer)

    chosen = settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").exclude(path="/events")  # which never ends
    for operation in [found.ok() for found in schema.get_all_operations()]:
        modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
        for mode in modes if operation.body else modes[:1]:
            chosen(given(case=operation.as_strategy(generation_mode=mode))(check))()
    return sent


def test_answers_keep_to_the_openapi_document(shared):
    sent = check_by_schema(shared.url, examples=12)
    assert set(sent) >= {"POST /predict", "POST /explain", "POST /reload", "GET /info", "GET /metrics"}
    assert sent["POST /predict"] >= 24


@pytest.mark.slow
def test_answers_keep_to_the_openapi_document_in_many_cases(shared):
    assert check_by_schema(shared.url, examples=1000)["POST /predict"] >= 2000


STAY = "Time,Parameter,Value\n00:00,RecordID,{id}\n00:00,Age,{age}\n00:07,HR,{rate}\n03:10,HR,{rate}\n"


@pytest.fixture(scope="module")
def stays(made_once) -> Path:
    """Bundle of a logistic regression on stays."""

    def make(folder: Path) -> None:
        make_stays(folder / "input", rows=60, test_rows=5, seed=1)
        words = ["--task", "icu", "--preset", "sample", "--model", "linear", "folds.k=2", "executor.threads=1"]
        words += [f"paths.input={folder / 'input'}", f"paths.output={folder / 'output'}"]
        run_command(["train", *words])
        run_command(["bundle", "linear", "--to", str(folder / "icu.bundle"), *words])

    return made_once("served_stays", make) / "icu.bundle"


def test_stays_are_answered_explained_and_refused_in_the_words_of_their_reader(stays):
    texts = [STAY.format(id=i, age=40 + 20 * i, rate=70 + 30 * i) for i in (1, 2)]
    predictor = Predictor.load(stays, "torch")

    async def session(http, service):
        many = await http.post("/predict", json={"stays": [{"id": i, "series": text} for i, text in enumerate(texts)]})
        one = await http.post("/predict", json={"series": texts[1]})
        wrong = await http.post("/predict", json={"series": texts[0] + "04:00,HR,fast\n"})
        explained = await http.post("/explain", json={"series": texts[1], "label": predictor.labels[0]})
        return many, one, wrong, explained, (await http.get("/openapi.json")).json()

    many, one, wrong, explained, document = talk(stays, session)
    expected = predictor.predict(predictor.encode_stay(texts)).values
    np.testing.assert_allclose(values_of(many), expected, atol=1e-6)
    np.testing.assert_allclose(values_of(one), expected[1:], atol=1e-6)
    assert wrong.status_code == 422 and "line 6" in wrong.json()["error"] and "'fast'" in wrong.json()["error"]
    found = explained.json()
    assert found["tokens"] == list(predictor.parameters) and len(found["weights"]) == len(found["tokens"])
    assert {"Stay", "Stays", "ExplainStay"} <= set(document["components"]["schemas"])


@pytest.mark.slow
def test_clients_that_ask_again_get_every_answer_over_twenty_kills(blend, predictor, tmp_path):
    """kill -9 under load, and a start on the same port, as systemd does it: prediction has no state to lose."""
    port, kills, ended = str(bench.free_port()), 20, threading.Event()
    expected = predictor.predict(predictor.encode(REPORTS)).values
    counts: Counter[str] = Counter()

    def ask(first: int) -> None:
        row = first
        while not ended.is_set():
            try:
                answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={"tokens": REPORTS[row]}, timeout=PATIENCE)
            except httpx.TransportError:
                counts["asked again"] += 1
                ended.wait(0.01)
                continue
            np.testing.assert_allclose(values_of(answer)[0], expected[row], atol=1e-6)
            counts["answered"] += 1
            row = (row + 1) % len(REPORTS)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, first) for first in range(4)]
        try:
            for kill in range(kills):
                folder = tmp_path / str(kill)
                folder.mkdir()
                before = counts["answered"]
                with Process(blend, folder, "serve.watch=0", "--port", port) as made:
                    wait_until(lambda before=before: counts["answered"] > before + 20, made.process)
        finally:
            ended.set()
        for one in asking:
            one.result()
    assert counts["answered"] > 20 * kills and counts["asked again"] >= kills
