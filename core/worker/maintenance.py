"""The thread that does a standing worker's bookkeeping: the reaper, its own row, the record of what it did."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from importlib import metadata
from typing import TYPE_CHECKING

from jobdeck.core.alerts.alarms import LOOK_SECONDS, Outage, Sentinel, timeouts_of
from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES
from jobdeck.core.queue import bulk, leases, presence
from jobdeck.core.redact import safe_error
from jobdeck.core.worker.stats import Totals

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.queue.leases import Reaped
    from jobdeck.core.worker.state import Station

log = logging.getLogger(__name__)

WINDOW_SECONDS = 300.0
REPORT_SECONDS = 20.0
REAP_SECONDS = (1.0, 5.0)
BEGIN_SECONDS = 0.5
"""Upkeep waits at the start, so as not to stand in the way of the first claims."""
LONGEST_PAUSE = 30.0


def report(conn: Connection, station: Station, mode: str) -> None:
    """Writes the worker's own row."""
    presence.report_worker(
        conn,
        worker_id=station.worker_id,
        host=socket.gethostname(),
        pid=os.getpid(),
        mode=mode,
        version=_version(),
        concurrency=station.slots.size,
        task_types=station.task_types,
        running=len(station.slots.running),
    )


def _version() -> str:
    try:
        return metadata.version("jobdeck")
    except metadata.PackageNotFoundError:
        return "unknown"


def reap(conn: Connection, station: Station) -> Reaped:
    """One pass of the reaper; says aloud which runs it gave up."""
    reaped = leases.reap(
        conn,
        station.worker_id,
        retry_base=station.settings.retry_base_seconds,
        retry_cap=station.settings.retry_cap_seconds,
    )
    if reaped.lost:
        event(log, logging.WARNING, "runs with an expired lease were taken back", runs=reaped.lost)
        station.alerts.lost(conn, reaped.lost_jobs)
    return reaped


class Upkeep:
    """Reaps every 1 to 5 s (a quarter of the lease), reports every 20 s, keeps a record per 5 minutes of work."""

    def __init__(self, station: Station, *, mode: str, source: str, on_work: Callable[[], None]) -> None:
        """`on_work` is called when jobs have become due that were not."""
        self._station = station
        self._mode = mode
        self._source = source
        self._on_work = on_work
        self._ending = threading.Event()
        self._wake = threading.Event()
        self._failures = 0
        self._next_report = 0.0
        self._window: UUID | None = None
        self._window_end = 0.0
        self._counted = self._told = Totals()
        self._sentinel = Sentinel(station.alerts, station.worker_id, timeouts=timeouts_of(station.runner.registry))
        self._outage = Outage(station.alerts, station.worker_id, station.database.label)
        self._next_reap = self._next_look = 0.0
        self._interval = min(max(station.settings.lease_seconds / 4, REAP_SECONDS[0]), REAP_SECONDS[1])
        self.thread = threading.Thread(target=self._loop, name=f"{station.worker_id} upkeep")

    def stop(self) -> None:
        """Ends the thread."""
        self._ending.set()
        self._wake.set()

    def note_work(self) -> None:
        """Has a record opened for what begins now, unless one is open."""
        if self._window is None:
            self._wake.set()

    def _loop(self) -> None:
        self._ending.wait(BEGIN_SECONDS)
        pause = 0.0
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._ending.is_set():
                return
            try:
                with self._station.database.connection() as conn:
                    self._step(conn)
                pause = max(self._next_reap - time.monotonic(), 0.0)
                self._failures = 0
                self._outage.over()
            except Exception as error:  # noqa: BLE001 -- the reaper must go on whatever went wrong with one pass
                pause = min(LONGEST_PAUSE, self._interval * 2.0 ** min(self._failures, 8)) * random.uniform(0.5, 1)  # noqa: S311
                self._failures += 1
                self._outage.note(error)
                if self._failures == 1:
                    event(log, logging.WARNING, "upkeep failed; trying again", error=safe_error(str(error)))

    def _step(self, conn: Connection) -> None:
        now = time.monotonic()
        reporting = now >= self._next_report
        if reporting:
            report(conn, self._station, self._mode)
            self._next_report = now + min(REPORT_SECONDS, self._station.settings.heartbeat_seconds * 4)
        if now >= self._next_reap:
            self._reap(conn)
            spread = random.uniform(0.8, 1.2)  # noqa: S311 -- spreads the reapers of many workers
            self._next_reap = now + self._interval * spread
        self._keep_window(conn, now, telling=reporting)
        if bulk.resume_stalled(conn, self._station.worker_id):
            self._wake.set()
        self._station.alerts.send_check_ins(conn)
        if now >= self._next_look:
            self._sentinel.look(conn)
            self._next_look = now + LOOK_SECONDS

    def _reap(self, conn: Connection) -> None:
        reaped = reap(conn, self._station)
        if reaped.lost or reaped.resumed:
            self._on_work()

    def _keep_window(self, conn: Connection, now: float, *, telling: bool = False) -> None:
        """Closes a window that is over and opens the next; has the figures of an open one told with its first jobs."""
        if self._window is not None and now >= self._window_end:
            self._close_window(conn)
        if self._window is None and self._station.tally.totals() != self._counted:
            self._window = presence.open_worker_run(conn, source=self._source, worker_id=self._station.worker_id)
            self._window_end = now + WINDOW_SECONDS
            telling = True
        if self._window is not None and telling:
            self._tell_window(conn, self._window)

    def _tell_window(self, conn: Connection, window: UUID) -> None:
        totals = self._station.tally.totals()
        if totals != self._told:
            done = totals.since(self._counted)
            presence.note_worker_run(
                conn,
                window,
                claimed=done.claimed,
                succeeded=done.succeeded,
                failed=done.failed,
                released=done.released,
            )
            self._told = totals

    def _close_window(self, conn: Connection) -> None:
        if self._window is None:
            return
        totals = self._station.tally.totals()
        done = totals.since(self._counted)
        presence.close_worker_run(
            conn,
            self._window,
            status="ok",
            claimed=done.claimed,
            succeeded=done.succeeded,
            failed=done.failed,
            released=done.released,
            message=f"{done.other} cancelled or abandoned" if done.other else None,
            results=list(self._station.tally.failures),
        )
        self._window, self._counted = None, totals
        self._station.tally.failures.clear()

    def sign_off(self) -> None:
        """Closes the record of the last window and takes the worker off the list; called after everything else."""
        try:
            with self._station.database.connection() as conn:
                self._keep_window(conn, time.monotonic())
                self._close_window(conn)
                presence.remove_worker(conn, self._station.worker_id)
        except FAILURES as error:
            event(log, logging.WARNING, "the worker could not sign off", error=safe_error(str(error)))
