"""The threads that carry out the plugins' periodic work while the server is open."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.plugins import Upkeep
    from jobdeck.core.postgres.database import Database

log = logging.getLogger(__name__)

REST: Final = 3.0
"""While requests wait for a thread, it rests for up to so many times what a batch took: a caller waits for them."""
STEP_SECONDS: Final = 0.02


class UpkeepThread:
    """Carries out one `Upkeep` until it is stopped; the next process does what is left then.

    `pressed` says whether requests wait for a thread.
    """

    def __init__(self, database: Database, upkeep: Upkeep, pressed: Callable[[], bool]) -> None:
        self._upkeep = upkeep
        self._pressed = pressed
        self._link = Link(database, upkeep.name)
        self._wake = threading.Event()
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._loop, name=f"door {upkeep.name}")

    def wake(self) -> None:
        """Says that there is something to do."""
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
        """Does what there is to do, and says how long to rest."""
        try:
            while not self._ending.is_set():
                self._wake.clear()
                began = time.monotonic()
                more = self._link.run(self._upkeep.run)
                took = time.monotonic() - began
                self._give_way(until=time.monotonic() + REST * took)
                if not more:
                    # What comes meanwhile is done together: a batch of few costs almost what one of many does.
                    self._ending.wait(took)
                    break
        except FAILURES:
            return self._link.pause()
        except Exception as error:  # noqa: BLE001 -- a plugin's mistake must not end its thread
            event(log, logging.ERROR, f"{self._upkeep.name} failed", error=safe_error(repr(error)))
        return self._upkeep.every_seconds

    def _give_way(self, *, until: float) -> None:
        while time.monotonic() < until and self._pressed() and not self._ending.wait(STEP_SECONDS):
            continue
