"""Counters of the HTTP server: requests by path and status, their duration, delivery events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, disable_created_metrics
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.registry import Collector

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds of the duration histogram, in seconds."""

# When a counter began is one more line for each of its lines, and nobody reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # without types in prometheus_client


class Counters:
    """The counters of one server, which any thread may add to. A `Collector` of prometheus_client."""

    def __init__(self) -> None:
        self._parts = CollectorRegistry()
        self._calls = Counter(
            "jobdeck_door_calls_total", "Answered requests by path and status.", ["path", "status"],
            registry=self._parts,
        )  # fmt: skip
        self._events = Counter(
            "jobdeck_door_events_total", "Delivery events by provider: new, duplicate, ignored.", ["provider", "fate"],
            registry=self._parts,
        )  # fmt: skip
        self._seconds = Histogram(
            "jobdeck_door_seconds", "Duration of requests.", ["path"], buckets=BUCKETS, registry=self._parts
        )

    @staticmethod
    def now() -> float:
        """The clock for durations, in seconds."""
        return time.monotonic()

    def answered(self, path: str, status: int, began: float) -> None:
        """Counts one answered request. `began` comes from `now`."""
        self._calls.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(self.now() - began)

    def received(self, provider: str, **counts: int) -> None:
        """Counts delivery events by outcome."""
        for what, count in counts.items():
            self._events.labels(provider, what).inc(count)

    def collect(self) -> Iterable[Metric]:
        """The metrics, as prometheus_client asks a collector for them."""
        return self._parts.collect()


def encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """What writes the format that the header Accept asks for, and its media type; Prometheus's text for any other."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # prometheus_client compares a version that is none
        return choose_encoder("")


def exposition(parts: Iterable[Collector], accept: str) -> tuple[str, str]:
    """The metrics of these collectors as text, and its media type."""
    registry = CollectorRegistry()
    for part in parts:
        registry.register(part)
    encode, media_type = encoder(accept)
    return encode(registry).decode(), media_type
