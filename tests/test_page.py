"""The page of the service in headless Chromium: real clicks, keys and files, against the real service."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.core.settings import Alarms as AlarmSettings
from src.core.settings import Serve
from src.data.tasks import ICU, LOS, ROUND1, Task
from src.serving.packages import INSTALL
from tests.browser import CHROMIUM, Browser
from tests.waiting import PATIENCE, wait_until

pytest.importorskip("fastapi", reason=INSTALL)
uvicorn = pytest.importorskip("uvicorn", reason=INSTALL)
if CHROMIUM is None:
    pytest.skip(
        "Chromium is not installed (Debian: apt install chromium): the page is not used", allow_module_level=True
    )

import fastapi  # noqa: E402

from src.serving.alarm_part import OwnAlarms  # noqa: E402
from src.serving.app import Service, create_app  # noqa: E402
from src.serving.parts import Part  # noqa: E402
from src.serving.predictor import Prediction, Rows  # noqa: E402

PROBE = Path(__file__).with_name("probe.js").read_text()
MARKUP = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
STAY = "Time,Parameter,Value\n00:00,RecordID,1\n00:00,Age,61\n00:07,HR,88\n"


class Predictor:
    """Label i of a report has the value of its first token / 1000 + i / 100; a stay has as many days as lines."""

    def __init__(self, task: Task = ROUND1, name: str = "blend"):
        self.task, self.labels = task, tuple(task.label_names)
        self.bundle = SimpleNamespace(name=name, version="0123456789ab", record={"data": {"keep": "head"}})
        self.engine, self.explains, self.parameters = "torch", True, ("Age", "HR")

    def encode(self, reports):
        lengths = np.array([len(report) for report in reports], dtype=np.int32)
        tokens = np.zeros((len(reports), lengths.max()), dtype=np.uint16)
        for row, report in zip(tokens, reports, strict=True):
            row[: len(report)] = report
        return Rows({"tokens": tokens}, lengths)

    def encode_stay(self, texts):
        lines = np.array([[[text.count("\n")]] for text in texts], dtype=np.float32)
        return Rows({"values": lines}, np.ones(len(texts), dtype=np.int32))

    def predict(self, rows):
        first = rows.inputs["tokens"][:, 0] / 1000 if "tokens" in rows.inputs else rows.inputs["values"][:, 0, 0]
        first = first if self.task.kind != "binary" else first / 10
        values = first[:, None] + np.arange(len(self.labels)) / 100
        return Prediction(values.astype(float), np.full(values.shape, 0.05))

    def explain(self, rows, label):
        if self.task.input_kind == "stays":
            return np.array([-0.25, 0.5])
        return (rows.inputs["tokens"][0, : rows.lengths[0]].astype(float) - 500) / 1000


class Alarms(Part):
    name = "alarms"

    def __init__(self):
        self.alarms: list[dict] = []

    def started(self, predictor, events):
        self.events, self.loop = events, asyncio.get_running_loop()

    def raise_alarm(self, key: str, label: str = "region_3", value: float = 0.83, message: str = "17") -> None:
        alarm = {
            **{
                "id": key,
                "time": f"2026-01-02T03:04:{len(self.alarms):02d}.000Z",
                "message": message,
                "patient": message,
            },
            **{"label": label, "value": value, "threshold": 0.5, "ended": None, "acknowledged": None},
        }
        self.alarms.insert(0, alarm)
        self.loop.call_soon_threadsafe(self.events.publish, "alarm", alarm)

    def routes(self):
        router = fastapi.APIRouter()

        @router.get("/alarms")
        async def listed():
            return {"alarms": self.alarms}

        @router.post("/alarms/{key}/acknowledge")
        async def acknowledge(key: str):
            alarm = next(one for one in self.alarms if one["id"] == key)
            alarm["acknowledged"] = "2026-01-02T04:00:00.000Z"
            return alarm

        return router


class Shown(Part):
    """Figures that the page shows."""

    def __init__(self, name: str, found: dict):
        self.name, self.found = name, found

    def figures(self):
        return self.found


DRIFT = {
    "rows": 1000,
    "window": 1000,
    "figures": [
        {"group": "text", "name": "noise", "value": 0.31, "reference": 0.2, "z": 7.5, "drifted": True},
        {"group": "text", "name": "length", "value": 40.25, "reference": 41.0, "z": -0.5, "drifted": False},
        {"group": "labels", "name": "region_0", "value": 0.5, "reference": 0.125, "z": 9.0, "drifted": True},
        {"group": "labels", "name": "region_1", "value": None, "reference": 0.125, "z": None, "drifted": False},
    ],
}
SHADOW = {
    "bundle": {"name": "student", "version": "ba9876543210"},
    **{"rows": 1234, "dropped": 5, "failed": 0, "disagree": 0.0625, "mean_difference": 0.015, "largest": 0.375},
    "labels": [
        {"name": "region_0", "disagree": 0.5, "mean_difference": 0.1, "largest": 0.375},
        {"name": "region_1", "disagree": 0.0, "mean_difference": 0.01, "largest": 0.02},
    ],
}


class Running:
    """Service in a thread of this process, on any free port."""

    def __init__(
        self, predictor: Predictor, parts=(), settings: Serve | None = None, key: str | None = None, port: int = 0
    ):
        self.service = Service(Path("none"), predictor, settings or Serve(watch=0), key, parts)
        config = uvicorn.Config(create_app(self.service), port=port, log_config=None, timeout_graceful_shutdown=5)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        wait_until(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        self.service.events.close()
        self.server.should_exit = True
        self.thread.join(PATIENCE)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture
def serve(browser):
    """Function that starts a service and opens its page, in English on a desktop."""
    running: list[Running] = []

    def start(
        predictor: Predictor | None = None, parts=(), language: str = "en-GB", width: int = 1280, **more
    ) -> Running:
        running.append(Running(predictor or Predictor(), parts, **more))
        show(browser, running[-1].url, language, width)
        return running[-1]

    yield start
    browser.open("about:blank", 1280)
    for one in running:
        one.stop()


def show(browser: Browser, url: str, language: str = "en-GB", width: int = 1280, dark: bool = False) -> None:
    browser.set_language(language)
    browser.open(url, width, dark)
    browser.wait_for(
        "document.querySelector('#live').className === 'live' || !document.querySelector('#key-form').hidden"
    )


def text(browser: Browser, selector: str) -> str:
    return browser.evaluate(f"document.querySelector({selector!r}).innerText.trim()")


def texts(browser: Browser, selector: str) -> list[str]:
    return browser.evaluate(f"[...document.querySelectorAll({selector!r})].map(one => one.innerText.trim())")


def cells(browser: Browser, selector: str) -> list[str]:
    """Texts of the cells of each row, with tabs between them."""
    rows = f"[...document.querySelectorAll({selector!r})]"
    return browser.evaluate(f"{rows}.map(row => [...row.cells].map(cell => cell.textContent).join('\\t'))")


def ask(browser: Browser, question: str) -> None:
    """Types a question, clicks on Predict, and waits for what comes of it."""
    browser.click("#clear")
    browser.type(question)
    browser.click("#predict")
    answered(browser)


def answered(browser: Browser) -> None:
    browser.wait_for(
        "document.querySelector('#error').innerText || / s$|秒$/.test(document.querySelector('#status').innerText)"
    )


def unsound(browser: Browser, url: str) -> list[str]:
    """Lines on the console, and requests to other places."""
    return [line for line in browser.complaints if not line.startswith(f"asked for {url}")]


def test_a_pasted_report_is_predicted_and_its_bars_are_the_values(browser, serve):
    running = serve()
    assert text(browser, "#title") == browser.evaluate("document.title") == "Abnormal regions of a report"
    assert text(browser, "#served") == "Bundle blend, version 0123456789ab, torch"
    ask(browser, "400 12 345 6")
    assert text(browser, "#row-title") == "Report 1"
    assert texts(browser, "#bars th") == [f"Region {i}" for i in range(17)]
    assert texts(browser, "#bars td.figure")[::8] == ["40.0% ± 5.0%", "48.0% ± 5.0%", "56.0% ± 5.0%"]
    widths = browser.evaluate(
        "[...document.querySelectorAll('.fill')].map(one => one.offsetWidth / one.parentElement.offsetWidth)"
    )
    assert widths == pytest.approx([0.4 + i / 100 for i in range(17)], abs=0.005)
    line = browser.evaluate("(({left, width}) => [left, width])(document.querySelector('.spread').style)")
    assert [float(part.rstrip("%")) for part in line] == pytest.approx([35, 10])
    assert browser.evaluate("document.querySelectorAll('.high').length") == 7  # 50% and more
    assert text(browser, "#status").startswith("1 answered in 0.")
    assert unsound(browser, running.url) == []
    browser.wait_for("document.querySelector('#heard').innerText === '1 answered'")  # by the events of the service


def test_a_label_is_explained_by_a_click_and_by_the_keyboard(browser, serve):
    serve()
    ask(browser, "400 0 500 999")
    browser.click("#bars tr:nth-child(4) button")
    browser.wait_for("document.querySelector('.heat')")
    assert text(browser, "#explanation h3") == "What carries Region 3, 43.0%"
    assert texts(browser, ".heat span") == ["400", "0", "500", "999"]
    colours = browser.evaluate("[...document.querySelectorAll('.heat span')].map(one => one.style.background)")
    assert colours == [
        "rgba(224, 138, 44, 0.12)",
        "rgba(224, 138, 44, 0.6)",
        "rgba(224, 138, 44, 0)",
        "rgba(61, 126, 219, 0.6)",
    ]
    assert cells(browser, "#explanation tbody tr")[:2] == ["2\t0\t-0.50", "4\t999\t+0.50"]
    assert text(browser, "#explained") == "What carries Region 3, 43.0%: 0 -0.50, 999 +0.50, 400 -0.10"
    pressed = "[...document.querySelectorAll('#bars [aria-pressed=true]')].map(one => one.innerText).join()"
    assert browser.evaluate(pressed) == "Region 3"
    browser.evaluate("document.querySelector('#bars tr:nth-child(4) button').focus()")
    browser.press("Tab")
    browser.press("Enter")
    browser.wait_for(
        f"{pressed} === 'Region 4' && document.querySelector('#explanation h3')?.innerText.includes('Region 4')"
    )


def test_everything_is_reached_by_the_tab_key_and_has_a_name(browser, serve):
    alarms = Alarms()
    serve(parts=[alarms, Shown("drift", DRIFT), Shown("shadow", SHADOW)])
    alarms.raise_alarm("a1")
    browser.wait_for("document.querySelectorAll('#alarm-list li').length === 1")
    browser.evaluate("document.querySelector('#text').focus()")
    browser.type("1 2 3")
    browser.press("Enter", control=True)
    answered(browser)
    wanted = browser.evaluate(
        "[...document.querySelectorAll('a, button, input, textarea, summary')].filter(one => one.checkVisibility())"
        ".filter(one => !one.disabled).map(one => one.id || one.innerText)"
    )
    browser.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached, focused = [], "(one => [one.id || one.innerText, one.tagName])(document.activeElement)"
    for _ in range(len(wanted) + 2):
        browser.press("Tab")
        reached.append(browser.evaluate(focused)[0])
    assert set(wanted) <= set(reached), set(wanted) - set(reached)
    tree = browser.ask("Accessibility.getFullAXTree")["nodes"]
    kinds = {"button", "textbox", "link", "table", "list", "DisclosureTriangle"}
    nameless = [
        node["role"]["value"]
        for node in tree
        if node["role"]["value"] in kinds and not node["ignored"] and not node.get("name", {}).get("value")
    ]
    assert nameless == []


def test_a_dropped_file_of_the_competition_is_predicted_row_by_row(browser, serve, tmp_path):
    serve()
    file = tmp_path / "reports.csv"
    file.write_bytes(b"".join(b"%d|,|%d 2 3 |,|3 4\r\n" % (100 + i, 30 * i) for i in range(23)))
    browser.drop_files("#text", file)
    answered(browser)
    assert text(browser, "#status").startswith("23 answered")
    assert cells(browser, ".reports tbody tr")[:2] == ["100\tRegion 16\t16.0%", "101\tRegion 16\t19.0%"]
    assert len(cells(browser, ".reports tbody tr")) == 10
    browser.click("#next")
    browser.click("#next")
    assert texts(browser, ".reports tbody th") == ["120", "121", "122"]
    assert browser.evaluate("document.querySelector('#next').disabled")
    browser.click(".reports tbody tr:nth-child(2) button")
    assert text(browser, "#row-title") == "Report 121"
    assert texts(browser, "#bars td.figure")[0] == "63.0% ± 5.0%"


def test_files_are_opened_by_the_button_and_what_is_no_text_is_refused(browser, serve, tmp_path):
    serve()
    file = tmp_path / "one.csv"
    file.write_text("7|,|250 1")
    browser.choose_files("#file", file)
    answered(browser)
    assert text(browser, "#row-title") == "Report 7"
    assert texts(browser, "#bars td.figure")[0] == "25.0% ± 5.0%"
    file.write_bytes(bytes(range(256)))
    browser.choose_files("#file", file)
    browser.wait_for("document.querySelector('#error').innerText")
    assert text(browser, "#error") == "one.csv is no text file."


def test_pasted_rows_without_an_id_are_nobodys_next_reading(browser, serve):
    """Two reports of two patients, pasted one after the other: each has its own alarms."""
    serve(parts=[OwnAlarms(AlarmSettings())])
    for i in (1, 2):
        ask(browser, "350 1")
        browser.wait_for(f"document.querySelectorAll('#alarm-list li').length === {2 * i}")
        assert text(browser, "#row-title") == "Report 1"


def test_many_rows_go_in_several_requests_and_an_error_says_where_it_begins(browser, serve):
    running = serve()
    lines = [f"{i % 500} 1" for i in range(150)]
    ask(browser, "\n".join(lines))
    assert text(browser, "#status").startswith("150 answered")
    posted = [event for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert [event["params"]["request"]["url"] for event in posted].count(f"{running.url}predict") == 3
    lines[70] = "1 x 2"
    ask(browser, "\n".join(lines))
    assert text(browser, "#error") == (
        "From row 65 of 150 on, rows counted from there: "
        "report 7, tokens: token 'x', expected an integer from 0 to 65535"
    )
    ask(browser, " ")
    assert text(browser, "#error") == "There is nothing to predict: paste text or open a file."


def test_markup_from_anywhere_is_shown_as_text(browser, serve):
    alarms = Alarms()
    drift = {**DRIFT, "figures": [{**DRIFT["figures"][0], "group": "observed", "name": MARKUP}]}
    shadow = {**SHADOW, "bundle": {"name": MARKUP, "version": MARKUP}}
    predictor = Predictor(name=MARKUP)
    predictor.labels = (MARKUP, *predictor.labels[1:])
    serve(predictor, parts=[alarms, Shown("drift", drift), Shown("shadow", shadow)])
    alarms.raise_alarm("<a>&'\"", label=MARKUP, message=MARKUP)
    ask(browser, "1 2 3")
    browser.click("#bars tr:nth-child(1) button")
    browser.wait_for("document.querySelector('.heat')")
    for place in ("#served", "#bars", "#explanation", "#alarm-list", "#drift", "#shadow"):
        assert MARKUP in text(browser, place), place
    browser.click("#alarm-list button")
    browser.wait_for("!document.querySelector('#alarm-list button')")
    assert alarms.alarms[0]["acknowledged"]
    ask(browser, MARKUP)
    assert "<img" in text(browser, "#error")
    assert browser.evaluate("window.hacked === undefined && !document.querySelector('img, main script')")


def test_an_alarm_appears_at_once_and_is_acknowledged_by_a_click(browser, serve):
    alarms = Alarms()
    running = serve(parts=[alarms])
    assert text(browser, "#alarms") == "Alarms\n\nNo alarm so far."
    alarms.raise_alarm("a1")
    alarms.raise_alarm("a2", "region_16", 0.5)
    browser.wait_for("document.querySelectorAll('#alarm-list li').length === 2")
    assert text(browser, "#alarms-title") == "Alarms (2 not acknowledged)"
    assert texts(browser, "#alarm-list strong") == ["Region 16 50.0%", "Region 3 83.0%"]
    assert text(browser, "#alarm-news") == "New alarm: Region 16 50.0%, Report 17"
    browser.click("#alarm-list li:nth-child(1) button")
    browser.wait_for("document.querySelectorAll('#alarm-list button').length === 1")
    assert [bool(alarm["acknowledged"]) for alarm in alarms.alarms] == [True, False]
    assert text(browser, "#alarms-title") == "Alarms (1 not acknowledged)"
    assert "acknowledged" in text(browser, "#alarm-list li:nth-child(1)")
    assert browser.evaluate("document.activeElement.dataset.alarm") == "a1"  # the focus is on the next one
    browser.press("Enter")
    browser.wait_for("document.activeElement.id === 'alarms-title'")
    assert alarms.alarms[1]["acknowledged"]
    show(browser, running.url)  # the history is that of the service
    assert texts(browser, "#alarm-list strong") == ["Region 16 50.0%", "Region 3 83.0%"]
    assert unsound(browser, running.url) == []


def test_alarms_of_what_is_predicted_here_are_shown(browser, serve):
    alarms = OwnAlarms(AlarmSettings())
    serve(parts=[alarms])
    ask(browser, "9|,|350 1\n10|,|100 1")
    browser.wait_for("document.querySelectorAll('#alarm-list li').length === 2")
    assert sorted(texts(browser, "#alarm-list strong")) == ["Region 15 50.0%", "Region 16 51.0%"]
    assert all("Report 9" in about for about in texts(browser, "#alarm-list .about"))
    browser.click("#alarm-list li:nth-child(2) button")
    browser.wait_for("document.querySelectorAll('#alarm-list button').length === 1")
    found = asyncio.run(alarms.recent(10))
    assert [alarm.acknowledged is None for alarm in found] == [True, False]


def test_drift_and_the_shadow_bundle_are_shown_and_fetched_again_when_they_change(browser, serve):
    drift = Shown("drift", DRIFT)
    running = serve(parts=[drift, Shown("shadow", SHADOW)])
    assert text(browser, "#drift > p") == (
        "The last 1,000 rows (at most 1,000) compared with training. 2 figures differ from training."
    )
    assert cells(browser, "#drift > table tbody tr") == [
        "Tokens with noise (differs)\t31.0%\t20.0%\t+7.50",
        "Tokens of a report\t40.3\t41\t-0.50",
        "Region 0: mean prediction (differs)\t50.0%\t12.5%\t+9.00",
    ]
    browser.click("#drift summary")
    assert cells(browser, "#drift details tbody tr")[-1] == "Region 1: mean prediction\t–\t12.5%\t–"
    assert text(browser, "#shadow > p") == "student, version ba9876543210, predicted the same 1,234 rows."
    assert cells(browser, "#shadow > table tbody tr") == [
        *("Labels on the other side of 50%\t6.3%", "Mean absolute difference\t1.5%", "Largest difference\t37.5%"),
        *("Rows it had no time for\t5", "Rows it failed on\t0"),
    ]
    drift.found = {**DRIFT, "rows": 7, "figures": DRIFT["figures"][1:2]}
    loop = running.server.servers[0].get_loop()
    loop.call_soon_threadsafe(running.service.events.publish, "drift", {"drifted": []})
    browser.wait_for("document.querySelector('#drift > p').innerText.includes('The last 7 rows')")
    assert text(browser, "#drift > p").endswith("Differences are judged from 100 rows on.")
    assert browser.evaluate("document.querySelector('#drift details').open")  # what was unfolded stays so


def test_chinese_by_the_browser_and_by_a_click(browser, serve):
    running = serve(language="zh-CN")
    assert text(browser, "#title") == "报告中的异常区域"
    assert browser.evaluate("document.documentElement.lang") == "zh"
    ask(browser, "400 12")
    assert texts(browser, "#bars th")[3] == "区域 3"
    browser.click("#language")
    assert text(browser, "#title") == "Abnormal regions of a report"
    assert texts(browser, "#bars th")[3] == "Region 3"  # what is there already changes its language too
    show(browser, running.url, "zh-CN")
    assert text(browser, "#predict") == "Predict"  # the choice is kept
    browser.click("#language")
    assert text(browser, "#predict") == "预测"
    browser.evaluate("localStorage.clear()")
    keys = "Object.values(TEXTS).map(one => Object.keys(one))"
    browser.evaluate(f"import('/page/texts.js').then(({{TEXTS}}) => {{ window.keysOfTexts = {keys} }}), 0")
    browser.wait_for("window.keysOfTexts")
    english, chinese = browser.evaluate("window.keysOfTexts")
    assert english == chinese


def test_a_key_is_asked_for_and_kept_in_memory_only(browser, serve):
    running = serve(parts=[Alarms()], key="0123456789abcdef")
    assert text(browser, "#notice") == "The service wants another API key."
    browser.click("#key")
    browser.type("wrong")
    browser.click("#key-form button")
    browser.wait_for("!document.querySelector('#key-form').hidden")
    browser.click("#key")
    browser.type("0123456789abcdef")
    browser.press("Enter")
    browser.wait_for("document.querySelector('#live').className === 'live'")
    assert browser.evaluate("document.querySelector('#key-form').hidden && document.querySelector('#notice').hidden")
    ask(browser, "1 2")
    assert text(browser, "#row-title") == "Report 1"
    assert "0123456789abcdef" not in browser.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
    assert running.url == browser.evaluate("location.href")


def test_a_full_queue_is_waited_for(browser, serve):
    running = serve(settings=Serve(watch=0, queue=1, max_rows=1, batch=1))
    begun, go, predictor = threading.Event(), threading.Event(), running.service.predictor
    whole = predictor.predict

    def predict(rows):
        begun.set()
        return go.wait(PATIENCE) and whole(rows)

    predictor.predict = predict
    fetch = (
        "fetch('/predict', {method: 'POST', headers: {'Content-Type': 'application/json'}, "
        "body: JSON.stringify({tokens: '1'})}), 0"
    )
    browser.evaluate(fetch)
    assert begun.wait(PATIENCE)  # the row has left the queue: the next one is not refused
    browser.evaluate(fetch)
    wait_until(lambda: "serve_queue_rows 1.0" in running.service.metrics.text().decode())
    browser.click("#text")
    browser.type("300 1")
    browser.click("#predict")
    wait_until(
        lambda: (
            browser.evaluate("1")
            and any(
                event["method"] == "Network.responseReceived" and event["params"]["response"]["status"] == 429
                for event in browser.events
            )
        )
    )
    go.set()
    answered(browser)
    assert texts(browser, "#bars td.figure")[0] == "30.0% ± 5.0%"
    assert not text(browser, "#error")


def test_a_lost_service_is_found_again(browser, serve):
    first = serve(Predictor(name="first"))
    first.stop()
    browser.wait_for("document.querySelector('#live').className === 'lost'")
    ask(browser, "1")
    assert text(browser, "#error") == "The service does not answer. Is it running?"
    serve_again = Running(Predictor(name="second"), port=first.port)
    try:
        browser.wait_for("document.querySelector('#live').className === 'live'")
        browser.wait_for("document.querySelector('#served').innerText.includes('second')")
    finally:
        browser.open("about:blank", 1280)
        serve_again.stop()


@pytest.mark.parametrize(
    ("task", "values"),
    [(ICU, ["40.0% ± 5.0%"]), (LOS, ["4 ± 0.05 days"])],
)
def test_a_stay_is_pasted_or_dropped(browser, serve, tmp_path, task, values):
    serve(Predictor(task))
    ask(browser, STAY)
    assert texts(browser, "#bars td.figure") == values
    assert text(browser, "#row-title") == "Stay 1"
    browser.click("#bars button")
    browser.wait_for("document.querySelector('.heat')")
    assert cells(browser, "#explanation tbody tr") == ["HR\t+0.50", "Age\t-0.25"]
    for i in (1, 2):
        (tmp_path / f"13254{i}.txt").write_text(STAY + "00:37,HR,90\n" * i)
    browser.drop_files("#text", tmp_path / "132541.txt", tmp_path / "132542.txt")
    browser.wait_for("document.querySelectorAll('.reports tbody tr').length === 2")
    assert texts(browser, ".reports tbody th") == ["132541", "132542"]
    assert texts(browser, ".reports td.figure") == (["50.0%", "60.0%"] if task is ICU else ["5 days", "6 days"])


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
def test_the_page_is_readable_on_phones_and_desktops_in_light_and_dark(browser, serve, tmp_path, language):
    alarms = Alarms()
    running = serve(parts=[alarms, Shown("drift", DRIFT), Shown("shadow", SHADOW)])
    for i in range(4):
        alarms.raise_alarm(f"a{i}", f"region_{i}", message="x" * 60)
    for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
        show(browser, running.url, language, width, dark)
        ask(browser, "\n".join(f"{i}{'y' * 50}|,|{400 + i} " + "12345 " * 60 for i in range(12)))
        browser.click("#bars tr:nth-child(4) button")
        browser.wait_for("document.querySelector('.heat')")
        picture = browser.picture(tmp_path / "page.png")
        hidden = "document.querySelectorAll('[hidden], .hidden, p:empty').forEach(one => one.remove())"
        browser.evaluate(hidden)
        assert browser.evaluate(PROBE) == [], picture
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)")
        assert unsound(browser, running.url) == []
