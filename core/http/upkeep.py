"""The threads of the HTTP server that run the periodic work of plugins."""

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
    from jobdeck.core.settings import Settings

log = logging.getLogger(__name__)

REST: Final = 3.0
"""While requests wait for a thread, the work pauses for up to this multiple of a batch's duration."""
STEP_SECONDS: Final = 0.02


class UpkeepThread:
    """Runs one `Upkeep` until it is stopped. `pressed` returns whether requests wait for a thread."""

    def __init__(self, database: Database, upkeep: Upkeep, settings: Settings, pressed: Callable[[], bool]) -> None:
        self._upkeep = upkeep
        self._settings = settings
        self._pressed = pressed
        self._link = Link(database, upkeep.name)
        self._wake = threading.Event()
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._loop, name=f"door {upkeep.name}")

    def wake(self) -> None:
        """Starts the next round now."""
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
        """Does all the work there is and returns the seconds until the next round."""
        try:
            while not self._ending.is_set():
                self._wake.clear()
                began = time.monotonic()
                more = self._link.run(lambda conn: self._upkeep.run(conn, self._settings))
                took = time.monotonic() - began
                self._give_way(until=time.monotonic() + REST * took)
                if not more:
                    # Collect more work first, since a small batch costs almost as much as a large one.
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
