"""Metrics of the service in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from src.serving.batching import BatchFigures

PREFIX = "serve_"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Figure = tuple[str, dict[str, str], float]
"""Name, labels and value of a gauge."""


class Metrics:
    """Registry of one service."""

    def __init__(self, bundle: Callable[[], dict[str, str]], waiting: Callable[[], int]):
        """`bundle` describes the bundle that answers, `waiting` counts the rows in the queue; both are asked at each
        scrape."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(PREFIX + name, text, labels, registry=self.registry)

        self.requests = counter("requests", "Answered requests.", ("route", "status"))
        self.rows = counter("rows", "Predicted rows.")
        self.reloads = counter("reloads", "Reloads of a bundle.", ("outcome",))
        self.seconds = Histogram(
            PREFIX + "request_seconds", "Time of a request.", ("route",), buckets=SECONDS, registry=self.registry
        )
        self._batch_rows = Histogram(PREFIX + "batch_rows", "Rows of a batch.", buckets=ROWS, registry=self.registry)
        self._batch_seconds = Histogram(
            PREFIX + "batch_seconds", "Time of the prediction of a batch.", buckets=SECONDS, registry=self.registry
        )
        self._waited = Histogram(
            PREFIX + "queue_seconds", "Wait of the oldest row of a batch.", buckets=SECONDS, registry=self.registry
        )
        Gauge(PREFIX + "queue_rows", "Rows that wait.", registry=self.registry).set_function(waiting)
        self.registry.register(_Bundle(bundle))

    def batch(self, figures: BatchFigures) -> None:
        """Counts a batch."""
        self.rows.inc(figures.rows)
        self._batch_rows.observe(figures.rows)
        self._batch_seconds.observe(figures.seconds)
        self._waited.observe(figures.waited)

    def add_part(self, gauges: Callable[[], Iterable[Figure]]) -> None:
        """Shows the figures of a part, which are asked at each scrape."""
        self.registry.register(_Figures(gauges))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Bundle(Collector):
    def __init__(self, describe: Callable[[], dict[str, str]]):
        self._describe = describe

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily(PREFIX + "bundle", "Bundle that answers.", value=self._describe())


class _Figures(Collector):
    def __init__(self, gauges: Callable[[], Iterable[Figure]]):
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        return ()  # names are known at a scrape; nothing is asked at the registration

    def collect(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, labels, value in self._gauges():
            family = families.setdefault(
                name, GaugeMetricFamily(PREFIX + name, name.replace("_", " "), labels=list(labels))
            )
            family.add_metric(list(labels.values()), value)
        yield from families.values()
