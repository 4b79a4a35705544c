"""Parts of the service that watch its input and its answers: drift, and a shadow bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from src.serving.drift import DriftMonitor, figure_gauges
from src.serving.parts import Part
from src.serving.shadow import Shadow, check_same

if TYPE_CHECKING:
    from src.serving.events import Events
    from src.serving.predictor import Prediction, Predictor, Rows

CHECK = 10.0
"""Seconds between two looks at the drift of what was asked meanwhile; each look takes about 0.1 s of another thread."""


class DriftPart(Part):
    """Drift of what is asked. Publishes the event `drift` with the figures that differ from training when these change;
    a new bundle starts a new window. A bundle without a reference has no drift."""

    name = "drift"
    is_of_bundle = True

    def __init__(self) -> None:
        self._monitor: DriftMonitor | None = None
        self._look: asyncio.Task[None] | None = None
        self._looked = -CHECK

    def started(self, predictor: Predictor, events: Events) -> None:
        self._events, self._loop = events, asyncio.get_running_loop()
        self.replaced(predictor)

    def replaced(self, predictor: Predictor) -> None:
        reference = predictor.reference
        self._monitor, self._published = None if reference is None else DriftMonitor(reference), []

    def seen(
        self,
        reports: Sequence[Sequence[int]] | Sequence[str],
        rows: Rows,
        prediction: Prediction,
        ids: Sequence[str | None],
    ) -> None:
        if self._monitor is None:
            return
        self._monitor.add(rows, prediction.values)
        now = self._loop.time()
        if now - self._looked >= CHECK and (self._look is None or self._look.done()):
            self._looked = now
            self._look = asyncio.create_task(self._publish_changes(self._monitor))

    async def _publish_changes(self, monitor: DriftMonitor) -> None:
        found = await asyncio.to_thread(monitor.figures)
        names = ("group", "name")
        drifted = [{key: figure[key] for key in names} for figure in found["figures"] if figure["drifted"]]
        if monitor is self._monitor and drifted != self._published:
            self._published = drifted
            self._events.publish("drift", {"drifted": drifted})

    def figures(self) -> dict[str, Any] | None:
        return None if self._monitor is None else self._monitor.figures()

    def gauges(self) -> Iterable[tuple[str, dict[str, str], float]]:
        return () if self._monitor is None else figure_gauges(self._monitor.figures())


class ShadowPart(Part):
    """A second bundle, of the same task, that predicts the same rows."""

    name = "shadow"
    is_of_bundle = True

    def __init__(self, second: Predictor):
        self._second = second
        self._shadow: Shadow | None = None

    def check(self, predictor: Predictor) -> None:
        check_same(self._second, predictor.task, predictor.labels)

    def started(self, predictor: Predictor, events: Events) -> None:
        self._shadow = Shadow(self._second, predictor.task, predictor.labels)

    def replaced(self, predictor: Predictor) -> None:
        self._shadow.reset(predictor)

    def seen(
        self,
        reports: Sequence[Sequence[int]] | Sequence[str],
        rows: Rows,
        prediction: Prediction,
        ids: Sequence[str | None],
    ) -> None:
        self._shadow.offer(reports, prediction.values)

    def figures(self) -> dict[str, Any] | None:
        return None if self._shadow is None else self._shadow.figures()

    def gauges(self) -> Iterable[tuple[str, dict[str, str], float]]:
        return () if self._shadow is None else self._shadow.gauges()

    async def close(self) -> None:
        if self._shadow is not None:
            await asyncio.to_thread(self._shadow.close)
