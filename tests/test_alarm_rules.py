from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from src.core.settings import Alarms
from src.data.tasks import TASKS
from src.evaluation.early_warning import Rule, raise_alarms
from src.serving.alarm_rules import AlarmRules, MemoryAlarms, Reading, UnknownAlarm, utc

ICU = TASKS["icu"]


def rules(on: float = 0.5, off: float = 0.8, duration: float = 0.0, refractory: float = 0.0) -> AlarmRules:
    return AlarmRules(ICU, ICU.label_names, Alarms(on=on, off=off, duration=duration, refractory=refractory))


def reading(hour: float, risk: float, patient: str = "132539", message: str | None = None) -> Reading:
    return Reading(message or f"{patient}@{hour}", patient, np.array([risk], dtype=np.float32), hour, utc(3600 * hour))


def periods(of: AlarmRules, hours: np.ndarray, risks: np.ndarray) -> list[list[float | None]]:
    """Begin and end of alarms whose rules see one reading after the other."""
    state, found = "", []
    for hour, risk in zip(hours, risks, strict=True):
        change = of.read(state, reading(float(hour), float(risk)))
        state = change.state
        for _ in change.ended:
            found[-1][1] = float(hour)
        found += [[float(hour), None] for _ in change.begun]
    return found


@pytest.mark.parametrize("rule", [Rule(1.0, 0, 0), Rule(0.7, 4, 6), Rule(0.5, 0, 12), Rule(0.9, 8, 0)])
def test_alarms_of_readings_one_by_one_are_those_of_all_readings_together(rule):
    rng = np.random.default_rng(0)
    hours = np.arange(1.0, 49.0)
    for _ in range(20):
        risks = rng.random(48).astype(np.float32)
        whole = raise_alarms(risks[None].astype(np.float64), 0.6, rule, hours, end=999.0).periods(0)
        told = periods(rules(0.6, rule.off, rule.duration, rule.refractory), hours, risks)
        assert [(begin, 999.0 if end is None else end) for begin, end in told] == whole
        assert whole


def test_nothing_is_remembered_of_a_patient_without_risk():
    found = rules()
    assert found.read("", reading(1, 0.49)).state == ""
    begun = found.read("", reading(1, 0.5))
    assert [(a.value, a.threshold, a.label, a.patient) for a in begun.begun] == [
        (0.5, 0.5, ICU.label_names[0], "132539")
    ]
    ended = found.read(begun.state, reading(2, 0.1))
    assert ended.state == "" and ended.ended == (begun.begun[0].id,)


def test_a_type_without_an_abnormal_region_is_no_alarm():
    """Predictions of types may be those in reports that have one."""
    task = TASKS["round2"]
    found = AlarmRules(task, task.label_names, Alarms(on=0.5))
    values = np.zeros(29)
    values[20] = 0.9
    assert not found.read("", Reading("1", "p", values, 1.0, utc(0))).begun
    values[3] = 0.7
    begun = found.read("", Reading("1", "p", values, 1.0, utc(0))).begun
    assert [(alarm.label, alarm.value) for alarm in begun] == [("region_3", 0.7), ("type_3", 0.7)]


def test_the_minimum_interval_is_remembered_until_it_is_over():
    found = rules(refractory=6)
    state = found.read(found.read("", reading(1, 0.9)).state, reading(2, 0.1)).state
    assert json.loads(state)["ended"] == {ICU.label_names[0]: 2}
    assert not found.read(state, reading(7.9, 0.9)).begun
    assert found.read(state, reading(8, 0.9)).begun


def test_late_readings_change_nothing():
    found = rules()
    state = found.read("", reading(5, 0.9)).state
    late = found.read(state, reading(4, 0.0))
    assert (late.state, late.begun, late.ended, late.is_late) == (state, (), (), True)
    alarms = MemoryAlarms(found)
    for hour in (5, 4, 5, 3):
        alarms.observe(reading(hour, 0.9))
    assert alarms.late == 2


def test_the_same_message_raises_the_alarm_of_the_same_id():
    found = rules()
    one, same = (found.read("", reading(5, 0.9)).begun[0] for _ in range(2))
    other = found.read("", reading(5, 0.9, message="another")).begun[0]
    assert one == same
    assert other.id != one.id
    assert one.id.isalnum()


def test_labels_have_alarms_of_their_own():
    task = TASKS["round1"]
    found = AlarmRules(task, task.label_names, Alarms(refractory=0, duration=0))
    values = np.zeros(task.n_labels)
    values[[2, 5]] = 0.7
    first = found.read("", Reading("a", "p", values, 1, utc(0)))
    assert [alarm.label for alarm in first.begun] == [task.label_names[2], task.label_names[5]]
    values = np.zeros(task.n_labels)
    values[[5, 6]] = 0.7
    second = found.read(first.state, Reading("b", "p", values, 2, utc(0)))
    assert [alarm.label for alarm in second.begun] == [task.label_names[6]]
    assert second.ended == (first.begun[0].id,)


def test_days_raise_no_alarm():
    task = TASKS["los"]
    found = AlarmRules(task, task.label_names, Alarms(on=0.5))
    assert found.read("", reading(1, 30.0)).begun == ()


def test_alarms_in_memory_are_acknowledged_once_and_bounded():
    alarms = MemoryAlarms(rules(), kept=3)

    async def scenario() -> None:
        (begun,) = alarms.observe(reading(1, 0.9))
        assert alarms.observe(reading(2, 0.9)) == []
        assert await alarms.recent() == [begun]
        seen = await alarms.acknowledge(begun.id, "2026-01-01T00:00:00.000Z")
        assert seen.acknowledged == "2026-01-01T00:00:00.000Z"
        assert await alarms.acknowledge(begun.id, "2027-01-01T00:00:00.000Z") == seen
        (ended,) = alarms.observe(reading(3, 0.1))
        assert (ended.id, ended.ended, ended.acknowledged) == (begun.id, utc(3 * 3600), seen.acknowledged)
        for patient in "abcd":
            alarms.observe(reading(1, 0.9, patient))
        assert [alarm.patient for alarm in await alarms.recent()] == ["d", "c", "b"]
        assert [alarm.patient for alarm in await alarms.recent(1)] == ["d"]
        with pytest.raises(UnknownAlarm):
            await alarms.acknowledge(begun.id, "2027-01-01T00:00:00.000Z")

    asyncio.run(scenario())


def test_times_are_utc():
    assert utc(0) == "1970-01-01T00:00:00.000Z"
    assert utc(1.5) == "1970-01-01T00:00:01.500Z"
