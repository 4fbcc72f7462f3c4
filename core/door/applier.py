"""The thread that applies delivery events which have been kept, in the order in which they happened."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from core import outbox
from core.link import FAILURES, Link
from core.logs import event

if TYPE_CHECKING:
    from core.database import Database

log = logging.getLogger(__name__)

BATCH: Final = 1000
IDLE_SECONDS: Final = 60.0
"""How often it looks without having been told: for what another process kept and did not come to."""
REST: Final = 3.0
"""While more comes in, it rests for so many times what a batch took: taking in goes first, a provider waits for it."""


class Applier:
    """Applies until it is stopped; what is left then is applied by whoever comes next."""

    def __init__(self, database: Database) -> None:
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
                if counts["failed"]:
                    event(log, logging.ERROR, "delivery events could not be applied", events=counts["failed"])
                if counts["seen"] < BATCH or not counts["seen"] - counts["failed"]:
                    break
                if self._wake.is_set():
                    self._ending.wait(REST * (time.monotonic() - began))
        except FAILURES:
            return self._link.pause()
        return IDLE_SECONDS
