"""Drift and the shadow bundle in the service: figures in /info, gauges on /metrics, an event when drift begins."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from src.core.settings import Serve
from src.data.report_reader import read_reports
from src.serving.packages import INSTALL
from tests.conftest import error_of
from tests.waiting import PATIENCE

httpx = pytest.importorskip("httpx", reason=INSTALL)
pytest.importorskip("fastapi", reason=INSTALL)

from src.serving.app import Service, create_app  # noqa: E402
from src.serving.drift import MIN_ROWS  # noqa: E402
from src.serving.parts import Part  # noqa: E402
from src.serving.predictor import Predictor  # noqa: E402
from src.serving.watching import DriftPart, ShadowPart  # noqa: E402

SETTINGS = Serve(watch=0, delay=0)


def talk(service: Service, session):
    """Result of `session(http)`, with a client of the service in this process."""

    async def run():
        app = create_app(service)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http,
        ):
            return await asyncio.wait_for(session(http), PATIENCE)

    return asyncio.run(run())


async def ask(http, reports: list[list[int]]) -> np.ndarray:
    """Values (B, L) of reports, in requests of 50."""
    values = []
    for start in range(0, len(reports), 50):
        body = {"reports": [{"tokens": report} for report in reports[start : start + 50]]}
        answer = await http.post("/predict", json=body)
        assert answer.status_code == 200, answer.text
        values += [list(one["values"].values()) for one in answer.json()["predictions"]]
    return np.array(values)


@pytest.fixture(scope="module")
def train(tiny_input) -> list[list[int]]:
    (file,) = tiny_input.glob("*train*.csv")
    reports = read_reports(file)
    return [reports[i].tolist() for i in range(len(reports))]


def gauges(text: str, start: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith(start)]
    return {name: float(value) for name, _, value in lines}


def test_drift_begins_with_an_event_and_is_the_same_in_info_and_metrics(bundled, train):
    service = Service.load(bundled / "blend.bundle", SETTINGS, [DriftPart()])
    published: list[tuple[str, dict]] = []
    publish = service.events.publish
    service.events.publish = lambda kind, data: (published.append((kind, data)), publish(kind, data))

    async def session(http):
        await ask(http, train[:2])
        few = (await http.get("/info")).json()["drift"]
        await ask(http, [report[:3] for report in train[:MIN_ROWS]])
        found = (await http.get("/info")).json()["drift"]
        text = (await http.get("/metrics")).text
        (part,) = service.parts
        part._looked = -1e9  # ten seconds later
        await ask(http, [train[0][:3]])
        await part._look
        return few, found, text

    few, found, text = talk(service, session)
    assert few["rows"] == 2 and not any(figure["drifted"] for figure in few["figures"])
    assert found["rows"] == MIN_ROWS + 2
    length = next(figure for figure in found["figures"] if figure["name"] == "length")
    mean = (len(train[0]) + len(train[1]) + 3 * MIN_ROWS) / (MIN_ROWS + 2)
    assert length["drifted"] and length["value"] == pytest.approx(mean) and length["z"] < -10
    shown = gauges(text, "serve_drift_")
    assert shown["serve_drift_window_rows"] == MIN_ROWS + 2
    assert shown['serve_drift_value{group="text",name="length"}'] == pytest.approx(length["value"])
    assert shown['serve_drift_z{group="text",name="length"}'] == pytest.approx(length["z"])
    events = [data for kind, data in published if kind == "drift"]
    assert len(events) == 1 and {"group": "text", "name": "length"} in events[0]["drifted"]
    assert json.dumps(train[0][:3]) not in json.dumps(found)


def test_a_new_bundle_starts_a_new_window_and_one_without_reference_has_no_drift(bundled, train, tmp_path):
    part = DriftPart()
    service = Service.load(bundled / "blend.bundle", SETTINGS, [part])

    async def session(http):
        await ask(http, train[:5])
        before = (await http.get("/info")).json()["drift"]["rows"]
        await service.reload()
        after = (await http.get("/info")).json()["drift"]["rows"]
        part.replaced(type("Bare", (), {"reference": None}))
        await ask(http, train[:1])
        bare = (await http.get("/info")).json()["drift"], gauges((await http.get("/metrics")).text, "serve_drift_")
        return before, after, bare

    assert talk(service, session) == (5, 0, (None, {}))


def test_a_shadow_bundle_is_compared_with_what_was_answered(bundled, train):
    second = Predictor.load(bundled / "lstm.bundle", "torch")
    expected = Predictor.load(bundled / "lstm.bundle", "torch")
    service = Service.load(bundled / "blend.bundle", SETTINGS, [ShadowPart(second)])

    async def session(http):
        values = await ask(http, train[:70])
        while (found := (await http.get("/info")).json()["shadow"])["rows"] < 70:
            await asyncio.sleep(0.01)
        return values, found, (await http.get("/metrics")).text

    values, found, text = talk(service, session)
    differences = np.abs(values - expected.predict(expected.encode(train[:70])).values)
    assert differences.max() > 0
    assert found["bundle"] == {"name": "lstm", "version": second.bundle.version}
    assert (found["rows"], found["dropped"], found["failed"]) == (70, 0, 0)
    assert found["mean_difference"] == pytest.approx(differences.mean(), rel=1e-3)
    assert found["largest"] == pytest.approx(differences.max(), rel=1e-3)
    shown = gauges(text, "serve_shadow_")
    assert shown["serve_shadow_rows"] == 70
    assert shown['serve_shadow_label_largest{label="region_3"}'] == pytest.approx(found["labels"][3]["largest"])


def test_late_answers_of_a_replaced_bundle_are_in_no_figures_of_the_new_one(bundled, train):
    class All(Part):
        rows = 0

        def seen(self, reports, rows, prediction, ids):
            self.rows += len(reports)

    drift, shadow, every = DriftPart(), ShadowPart(Predictor.load(bundled / "lstm.bundle", "torch")), All()
    service = Service.load(bundled / "blend.bundle", SETTINGS, [drift, shadow, every])

    async def session(http):
        before, has_changed = service.batcher, asyncio.Event()
        submit = before.submit

        async def late(rows):
            await has_changed.wait()
            return await submit(rows)

        before.submit = late
        asked = asyncio.create_task(ask(http, train[:5]))
        while not service._now.requests:
            await asyncio.sleep(0.01)
        reloaded = asyncio.create_task(service.reload())
        while service.batcher is before:
            await asyncio.sleep(0.01)
        has_changed.set()
        assert len(await asked) == 5
        await reloaded
        figures = drift.figures()["rows"], shadow.figures()["rows"] + len(shadow._shadow._waiting), every.rows
        await ask(http, train[:3])
        return figures, drift.figures()["rows"], every.rows

    assert talk(service, session) == ((0, 0, 5), 3, 8)


def test_a_shadow_bundle_of_another_task_stops_the_start(bundled):
    second = Predictor.load(bundled / "lstm.bundle", "torch")
    second.labels = second.labels[:3]
    told = error_of(Service.load, bundled / "blend.bundle", SETTINGS, [ShadowPart(second)])
    assert told.startswith("the shadow bundle lstm is of task round1 (3 labels), the served one of round1 (17 labels).")
