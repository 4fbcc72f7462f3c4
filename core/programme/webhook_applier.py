"""The thread that applies stored delivery events, in the order in which they happened."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.programme.messaging import outbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.postgres.database import Database

log = logging.getLogger(__name__)

BATCH: Final = 5000
IDLE_SECONDS: Final = 60.0
"""Interval of checks without a wake-up, for events that another process stored but did not apply."""
REST: Final = 3.0
"""While requests wait, the thread rests up to this many times the duration of a batch, since a provider is waiting."""
STEP_SECONDS: Final = 0.02


class Applier:
    """Applies events until it is stopped; the next applier continues with the rest.

    `pressed` returns whether requests are waiting to be handled.
    """

    def __init__(self, database: Database, pressed: Callable[[], bool]) -> None:
        self._pressed = pressed
        self._link = Link(database, "applying delivery events")
        self._wake = threading.Event()
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._loop, name="door applier")

    def wake(self) -> None:
        """Signals that there are events to apply."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread after the current batch."""
        self._ending.set()
        self._wake.set()

    def _loop(self) -> None:
        try:
            while not self._ending.is_set():
                self._wake.wait(self._round())
        finally:
            self._link.close()

    def _round(self) -> float:
        """Applies the waiting events; returns the seconds to rest."""
        try:
            while not self._ending.is_set():
                self._wake.clear()
                began = time.monotonic()
                counts = self._link.run(lambda conn: outbox.apply_events(conn, limit=BATCH))
                took = time.monotonic() - began
                if counts["failed"]:
                    event(log, logging.ERROR, "delivery events could not be applied", events=counts["failed"])
                self._give_way(until=time.monotonic() + REST * took)
                if counts["seen"] < BATCH or not counts["seen"] - counts["failed"]:
                    # Let events collect: a small batch costs almost as much as a large one.
                    self._ending.wait(took)
                    break
        except FAILURES:
            return self._link.pause()
        return IDLE_SECONDS

    def _give_way(self, *, until: float) -> None:
        while time.monotonic() < until and self._pressed() and not self._ending.wait(STEP_SECONDS):
            continue
