"""The thread that applies delivery events which have been kept, in the order in which they happened."""

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
"""How often it looks without having been told: for what another process kept and did not come to."""
REST: Final = 3.0
"""While requests wait to be taken in, it rests for up to so many times what a batch took: a provider waits for them."""
STEP_SECONDS: Final = 0.02


class Applier:
    """Applies until it is stopped; what is left then is applied by whoever comes next.

    `pressed` says whether requests wait to be taken in.
    """

    def __init__(self, database: Database, pressed: Callable[[], bool]) -> None:
        self._pressed = pressed
        self._link = Link(database, "applying delivery events")
        self._wake = threading.Event()
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._loop, name="door applier")

    def wake(self) -> None:
        """Says that there is something to apply."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread after the batch it is at."""
        self._ending.set()
        self._wake.set()

    def _loop(self) -> None:
        try:
            while not self._ending.is_set():
                self._wake.wait(self._round())
        finally:
            self._link.close()

    def _round(self) -> float:
        """Applies what there is, and says how long to rest."""
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
                    # What comes meanwhile is applied together: a batch of few costs almost what one of many does.
                    self._ending.wait(took)
                    break
        except FAILURES:
            return self._link.pause()
        return IDLE_SECONDS

    def _give_way(self, *, until: float) -> None:
        while time.monotonic() < until and self._pressed() and not self._ending.wait(STEP_SECONDS):
            continue
