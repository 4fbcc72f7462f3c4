"""What the door counts of itself: calls by path and status, how long they took, delivery events."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Final, NamedTuple

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Seconds."""


class Counts(NamedTuple):
    """Calls by path and status, their seconds by path, calls up to each bound by path, events by provider and fate."""

    calls: dict[tuple[str, int], int]
    seconds: dict[str, float]
    buckets: dict[tuple[str, float], int]
    events: dict[tuple[str, str], int]


class Counters:
    """Counts from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, float] = {}
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._events: Counter[tuple[str, str]] = Counter()

    @staticmethod
    def now() -> float:
        """The clock that durations are measured with."""
        return time.monotonic()

    def answered(self, path: str, status: int, began: float) -> None:
        """Counts one answered call."""
        took = self.now() - began
        with self._lock:
            self._calls[path, status] += 1
            self._seconds[path] = self._seconds.get(path, 0.0) + took
            for bound in BUCKETS:
                self._buckets[path, bound] += took <= bound

    def received(self, provider: str, **counts: int) -> None:
        """Counts delivery events by what became of them."""
        with self._lock:
            for what, count in counts.items():
                self._events[provider, what] += count

    def counts(self) -> Counts:
        """The counts as they stand."""
        with self._lock:
            return Counts(dict(self._calls), dict(self._seconds), dict(self._buckets), dict(self._events))
