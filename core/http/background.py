"""The threads of the HTTP server beside its requests.

One checks the queue for alarms and records refused requests: one row in the history with counts per five minutes,
however many there were. The others run the periodic work of plugins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, TypedDict

from jobdeck.core.alerts.alarms import LOOK_SECONDS, Outage, Sentinel
from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Link, Rounds
from jobdeck.core.queue import presence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    import psycopg

    from jobdeck.core.alerts.sentry import Alerts
    from jobdeck.core.plugins import Upkeep
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.settings import Settings

log = logging.getLogger(__name__)

SOURCE: Final = "door"
STEP_SECONDS: Final = 2.0
WINDOW_SECONDS: Final = 300.0
REST: Final = 3.0
"""While requests wait for a thread, the work of plugins pauses for up to this multiple of a batch's duration."""
PRESSED_SECONDS: Final = 0.02
LISTED: Final = 6
ELSEWHERE: Final = "elsewhere"


class _Told(TypedDict):
    status: str
    message: str
    http_status: int


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

    def write(self, link: Link, *, last: bool = False) -> None:
        """Writes the counts, if they changed since the last call. Closes the row after five minutes, or with `last`."""
        with self._lock:
            counts = dict(self._counts)
        total = sum(counts.values())
        try:
            if total > self._written:
                link.run(lambda conn: self._note(conn, counts))
                self._written = total
            over = last or time.monotonic() - self._began >= WINDOW_SECONDS
            if over and self._row is not None:
                link.run(lambda conn: self._close(conn, counts))
                with self._lock:
                    self._counts.subtract(counts)
                    self._counts = +self._counts
                self._row, self._written = None, 0
        except FAILURES:
            return

    def _note(self, conn: psycopg.Connection[object], counts: dict[tuple[int, str], int]) -> None:
        if self._row is None:
            self._row = presence.open_worker_run(conn, source=SOURCE, worker_id=self._name)
            self._began = time.monotonic()
            event(log, logging.WARNING, "requests refused", counts=sentence(counts))
        presence.note_worker_run(conn, self._row, **_told(counts))

    def _close(self, conn: psycopg.Connection[object], counts: dict[tuple[int, str], int]) -> None:
        if self._row is not None:
            presence.close_worker_run(conn, self._row, **_told(counts))


def _told(counts: dict[tuple[int, str], int]) -> _Told:
    most = max(counts, key=lambda one: counts[one])
    return {"status": "refused", "message": sentence(counts), "http_status": most[0]}


def sentence(counts: dict[tuple[int, str], int]) -> str:
    """The counts as a sentence, largest first."""
    largest = sorted(counts.items(), key=lambda item: -item[1])
    parts = [f"{count} with {status} at {path}" for (status, path), count in largest[:LISTED]]
    rest = sum(count for _, count in largest[LISTED:])
    if rest:
        parts.append(f"{rest} more")
    return f"requests refused: {', '.join(parts)}"


class Watcher(Rounds):
    """Checks the queue every half minute until it is stopped, and writes the counts of refused requests."""

    def __init__(
        self, database: Database, alerts: Alerts, refusals: Refusals, name: str, timeouts: Mapping[str, float]
    ) -> None:
        super().__init__(database, "watching the queue", STEP_SECONDS, "door watcher")
        self._refusals = refusals
        self._sentinel = Sentinel(alerts, name, timeouts=timeouts)
        self._outage = Outage(alerts, name, database.label)
        self._next_look = time.monotonic() + STEP_SECONDS

    def _round(self) -> None:
        self._refusals.write(self._link)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._look()

    def _last(self) -> None:
        self._refusals.write(self._link, last=True)

    def _look(self) -> None:
        """Checks the queue once."""
        try:
            self._link.run(self._sentinel.look)
        except FAILURES as error:
            self._outage.note(error)
        else:
            self._outage.over()


class UpkeepThread(Rounds):
    """Runs one `Upkeep` of a plugin until it is stopped. `pressed` returns whether requests wait for a thread."""

    def __init__(self, database: Database, upkeep: Upkeep, settings: Settings, pressed: Callable[[], bool]) -> None:
        super().__init__(database, upkeep.name, upkeep.every_seconds, f"door {upkeep.name}")
        self._upkeep = upkeep
        self._settings = settings
        self._pressed = pressed

    def _round(self) -> None:
        """Does all the work there is."""
        more = True
        while more and not self._ending.is_set():
            self._wake.clear()
            began = time.monotonic()
            more = self._link.run(lambda conn: self._upkeep.run(conn, self._settings))
            took = time.monotonic() - began
            self._give_way(until=time.monotonic() + REST * took)
            if not more:
                # Collect more work first, since a small batch costs almost as much as a large one.
                self._ending.wait(took)

    def _give_way(self, *, until: float) -> None:
        while time.monotonic() < until and self._pressed() and not self._ending.wait(PRESSED_SECONDS):
            continue
