"""Spans and metrics of a test, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from jobdeck.core.telemetry import switch
from jobdeck.core.telemetry.recorder import Recorder


class Recorded:
    """What was recorded since the test began. `tracer` is the application's own."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self.provider.get_tracer("application")

    def spans(self, name: str) -> list[ReadableSpan]:
        """The ended spans of a name, in the order of their start."""
        return sorted((one for one in self.all() if one.name == name), key=lambda one: one.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        (found,) = self.spans(name)
        return found

    def all(self) -> tuple[ReadableSpan, ...]:
        return self._kept.get_finished_spans()

    def points(self, name: str) -> dict[tuple[str, ...], Any]:
        """The points of a metric, by the values of type and outcome that they have."""
        data = self._reader.get_metrics_data()
        return {
            tuple(
                str(point.attributes[key])
                for key in ("messaging.destination.name", "jobdeck.outcome")
                if point.attributes and key in point.attributes
            ): point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }

    def text(self) -> str:
        """Everything that an exporter would get, as JSON."""
        data = self._reader.get_metrics_data()
        return "".join(one.to_json() for one in self.all()) + (data.to_json() if data is not None else "")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """Records what producers of this process do, and workers with the setting `otel`."""
    made = Recorded()
    recorder = Recorder(made.provider, made.meters)
    monkeypatch.setattr(switch, "recorder", lambda: recorder)
    monkeypatch.setattr(switch, "_asked", lambda: True)
    yield made
    made.provider.shutdown()
    made.meters.shutdown()
