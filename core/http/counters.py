"""Counters of the HTTP server: requests by path and status, their duration, delivery events."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Final, NamedTuple

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds of the duration histogram, in seconds."""


class Counts(NamedTuple):
    """Requests by path and status, seconds by path, requests by path and bucket, events by provider and outcome."""

    calls: dict[tuple[str, int], int]
    seconds: dict[str, float]
    buckets: dict[tuple[str, float], int]
    events: dict[tuple[str, str], int]


class Counters:
    """Thread-safe counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, float] = {}
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._events: Counter[tuple[str, str]] = Counter()

    @staticmethod
    def now() -> float:
        """The clock for durations, in seconds."""
        return time.monotonic()

    def answered(self, path: str, status: int, began: float) -> None:
        """Counts one answered request. `began` comes from `now`."""
        took = self.now() - began
        with self._lock:
            self._calls[path, status] += 1
            self._seconds[path] = self._seconds.get(path, 0.0) + took
            for bound in BUCKETS:
                self._buckets[path, bound] += took <= bound

    def received(self, provider: str, **counts: int) -> None:
        """Counts delivery events by outcome."""
        with self._lock:
            for what, count in counts.items():
                self._events[provider, what] += count

    def counts(self) -> Counts:
        with self._lock:
            return Counts(dict(self._calls), dict(self._seconds), dict(self._buckets), dict(self._events))
