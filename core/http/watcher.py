"""The thread of the HTTP server that checks the queue for alarms and records refused requests."""

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
    """Checks the queue every half minute until it is stopped."""

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
        self._ending.set()

    def look(self) -> None:
        """Checks the queue once."""
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
                except Exception as error:  # noqa: BLE001 -- a failed check must not end the thread
                    event(log, logging.ERROR, "watching failed", error=safe_error(repr(error)))
            self._refusals.write(self._link, last=True)
        finally:
            self._link.close()
