"""The thread that watches the queue while the door is open, and keeps the record of refused calls up to date."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from jobdeck.core.alerts.alarms import LOOK_SECONDS, Outage, Sentinel
from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobdeck.core.alerts.sentry import Alerts
    from jobdeck.core.http.refusals import Refusals
    from jobdeck.core.postgres.database import Database

log = logging.getLogger(__name__)

STEP_SECONDS: Final = 2.0


class Watcher:
    """Looks every half minute, until it is stopped."""

    def __init__(
        self, database: Database, alerts: Alerts, refusals: Refusals, name: str, timeouts: Mapping[str, float]
    ) -> None:
        self._link = Link(database, "watching the queue")
        self._refusals = refusals
        self._sentinel = Sentinel(alerts, name, timeouts=timeouts)
        self._outage = Outage(alerts, name, database.label)
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._loop, name="door watcher")

    def stop(self) -> None:
        """Ends the thread."""
        self._ending.set()

    def look(self) -> None:
        """One look at the queue."""
        try:
            self._link.run(self._sentinel.look)
        except FAILURES as error:
            self._outage.note(error)
        else:
            self._outage.over()

    def _loop(self) -> None:
        next_look = 0.0
        try:
            while not self._ending.wait(STEP_SECONDS):
                try:
                    self._refusals.write(self._link)
                    if time.monotonic() >= next_look:
                        next_look = time.monotonic() + LOOK_SECONDS
                        self.look()
                except Exception as error:  # noqa: BLE001 -- it must go on watching whatever went wrong with one look
                    event(log, logging.ERROR, "watching failed", error=safe_error(repr(error)))
            self._refusals.write(self._link)
        finally:
            self._link.close()
