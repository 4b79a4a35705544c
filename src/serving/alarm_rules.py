"""Alarms of predictions that come one by one: threshold with hysteresis, minimum interval, acknowledgement.

The hysteresis is that of evaluation/early_warning.py, with the settings `alarms.*`. Each patient and label has one
alarm at a time. What the rules remember of a patient is a short text, kept by whoever asks them: in a dictionary here,
in Redis in result_store.py. So any worker can go on with any patient.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from src.core.settings import Alarms
from src.data.tasks import Task
from src.evaluation.early_warning import Rule, Watch

ON = 0.5
"""Risk at which an alarm begins where alarms.on is null."""


@dataclass(frozen=True)
class Alarm:
    """One alarm of a patient for a label. Times are ISO 8601, UTC."""

    id: str
    time: str
    """Begin."""
    message: str
    """Id of the message, or request, whose prediction began the alarm."""
    patient: str
    label: str
    value: float
    """Risk that began the alarm."""
    threshold: float
    ended: str | None = None
    acknowledged: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Reading(NamedTuple):
    """Predicted risks of a patient at an hour of the patient's clock."""

    message: str
    patient: str
    values: np.ndarray
    """(L,) probabilities"""
    hour: float
    time: str
    """ISO 8601, UTC, as `utc` writes it."""


class Change(NamedTuple):
    """Alarms that a reading begins and ends, and what is to be remembered of the patient."""

    state: str
    """Empty: nothing."""
    begun: tuple[Alarm, ...] = ()
    ended: tuple[str, ...] = ()
    """Ids."""
    is_late: bool = False
    """The reading is of an earlier hour than the last one, and changes nothing."""


class UnknownAlarm(KeyError):
    """There is no alarm of this id, or it was so long ago that it is forgotten."""


def utc(seconds: float) -> str:
    """Time in ISO 8601, to the millisecond, of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AlarmRules:
    """Rules of the alarms of a task's labels. A task without probabilities has no alarms. A label that counts where
    another one is positive, such as a type, is no likelier than the likeliest of these."""

    def __init__(self, task: Task, labels: Sequence[str], settings: Alarms):
        self._task = task
        self.labels = tuple(labels) if task.has_classes else ()
        self.on = ON if settings.on is None else settings.on
        self.rule = Rule(settings.off, settings.duration, settings.refractory)

    def read(self, state: str, reading: Reading) -> Change:
        """Returns what a reading changes of a patient of whom `state` is remembered (empty: nothing).

        A reading of an earlier hour than the last one changes nothing: messages may come late or twice. Of a patient
        without an alarm, now or shortly before, no hour is remembered: a high risk that comes late begins one.
        """
        reading = reading._replace(values=self._task.bounded(reading.values))
        if not self.labels or (not state and not (reading.values >= self.on).any()):
            return Change(state)
        known = json.loads(state) if state else {"hour": reading.hour, "alarms": {}, "ended": {}}
        if reading.hour < known["hour"]:
            return Change(state, is_late=True)
        watch, alarms = self._watch(known), known["alarms"]
        starts, stops = watch.read(reading.values.astype(np.float64), self.on, reading.hour)
        ended = tuple(alarms.pop(self.labels[i])[0] for i in np.flatnonzero(stops))
        begun = tuple(self._alarm(reading, self.labels[i], float(reading.values[i])) for i in np.flatnonzero(starts))
        alarms.update({alarm.label: [alarm.id, reading.hour] for alarm in begun})
        # What ended so long ago that a new alarm may begin need not be remembered.
        recent = {
            label: float(hour)
            for label, hour in zip(self.labels, watch.ended, strict=True)
            if reading.hour - hour < self.rule.refractory
        }
        remembered = {"hour": reading.hour, "alarms": alarms, "ended": recent}
        return Change(json.dumps(remembered, separators=(",", ":")) if alarms or recent else "", begun, ended)

    def _watch(self, known: dict[str, Any]) -> Watch:
        watch = Watch.fresh(len(self.labels), self.rule)
        for i, label in enumerate(self.labels):
            if label in known["alarms"]:
                watch.is_on[i], watch.since[i] = True, known["alarms"][label][1]
            watch.ended[i] = known["ended"].get(label, -np.inf)
        return watch

    def _alarm(self, reading: Reading, label: str, risk: float) -> Alarm:
        # The same message gives the same id, so a message that is read twice cannot raise two alarms.
        parts = (reading.message, reading.patient, reading.time, label)
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        return Alarm(key, reading.time, reading.message, reading.patient, label, round(risk, 6), self.on)


class MemoryAlarms:
    """Alarms of one process, for a service without Redis: the last `kept` alarms and patients."""

    def __init__(self, rules: AlarmRules, kept: int = 1000):
        self._rules, self._kept = rules, kept
        self._states: OrderedDict[str, str] = OrderedDict()
        self._alarms: OrderedDict[str, Alarm] = OrderedDict()
        self.late = 0
        """Readings of an earlier hour than the last one of their patient."""

    def observe(self, reading: Reading) -> list[Alarm]:
        """Returns the alarms that a reading begins or ends."""
        change = self._rules.read(self._states.pop(reading.patient, ""), reading)
        self.late += change.is_late
        if change.state:
            self._states[reading.patient] = change.state
        for alarm in change.begun:
            self._alarms[alarm.id] = alarm
        ended = [key for key in change.ended if key in self._alarms]
        for key in ended:
            self._alarms[key] = replace(self._alarms[key], ended=reading.time)
        while len(self._states) > self._kept:
            self._states.popitem(last=False)
        while len(self._alarms) > self._kept:
            self._alarms.popitem(last=False)
        return [*change.begun, *(self._alarms[key] for key in ended if key in self._alarms)]

    async def recent(self, limit: int = 100) -> list[Alarm]:
        """The last alarms, newest first."""
        return list(self._alarms.values())[::-1][:limit]

    async def acknowledge(self, key: str, time: str) -> Alarm:
        """Notes that somebody has seen an alarm; the first time counts. Raises UnknownAlarm."""
        if key not in self._alarms:
            raise UnknownAlarm(key)
        if self._alarms[key].acknowledged is None:
            self._alarms[key] = replace(self._alarms[key], acknowledged=time)
        return self._alarms[key]
