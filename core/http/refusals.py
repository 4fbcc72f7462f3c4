"""Refused requests in the history: one row with counts per five minutes, however many there were."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES
from jobdeck.core.queue import presence

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    from jobdeck.core.postgres.reconnecting import Link

log = logging.getLogger(__name__)

SOURCE: Final = "door"
WINDOW_SECONDS: Final = 300.0
LISTED: Final = 6
ELSEWHERE: Final = "elsewhere"


class Refusals:
    """Counts refused requests in any thread; one thread writes the counts to the database."""

    def __init__(self, paths: frozenset[str], *, name: str) -> None:
        self._paths = paths
        self._name = name
        self._lock = threading.Lock()
        self._counts: Counter[tuple[int, str]] = Counter()
        self._written = 0
        self._row: UUID | None = None
        self._began = 0.0

    def note(self, status: int, path: str) -> None:
        """Counts one refused request. All unknown paths are counted as one."""
        with self._lock:
            self._counts[status, path if path in self._paths else ELSEWHERE] += 1

    def write(self, link: Link) -> None:
        """Writes the counts, if they changed since the last call."""
        with self._lock:
            counts = dict(self._counts)
        total = sum(counts.values())
        if total > self._written:
            try:
                link.run(lambda conn: self._keep(conn, counts))
            except FAILURES:
                return
            self._written = total
        if self._row is not None and time.monotonic() - self._began >= WINDOW_SECONDS:
            with self._lock:
                self._counts.subtract(counts)
                self._counts = +self._counts
            self._row, self._written = None, 0

    def _keep(self, conn: psycopg.Connection[object], counts: dict[tuple[int, str], int]) -> None:
        words = sentence(counts)
        if self._row is None:
            self._row = presence.open_worker_run(conn, source=SOURCE, worker_id=self._name)
            self._began = time.monotonic()
            event(log, logging.WARNING, "requests refused", counts=words)
        presence.close_worker_run(
            conn,
            self._row,
            status="refused",
            claimed=0,
            succeeded=0,
            failed=0,
            released=0,
            message=words,
            http_status=max(counts, key=lambda one: counts[one])[0],
        )


def sentence(counts: dict[tuple[int, str], int]) -> str:
    """The counts as a sentence, largest first."""
    largest = sorted(counts.items(), key=lambda item: -item[1])
    parts = [f"{count} with {status} at {path}" for (status, path), count in largest[:LISTED]]
    rest = sum(count for _, count in largest[LISTED:])
    if rest:
        parts.append(f"{rest} more")
    return f"requests refused: {', '.join(parts)}"
