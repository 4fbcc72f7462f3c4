"""The thread for a worker's maintenance: the reaper, the worker's row, the records of its work, the alarms."""

from __future__ import annotations

import logging
import math
import os
import random
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg

from jobdeck.core.alerts.alarms import LOOK_SECONDS, Outage, Sentinel, timeouts_of
from jobdeck.core.errors import Refused
from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Rounds
from jobdeck.core.queue import bulk, leases, presence
from jobdeck.core.queue.operators import bulk_edit
from jobdeck.core.queue.producers import series
from jobdeck.core.redact import safe_error
from jobdeck.core.schema.components import program_version, release_name
from jobdeck.core.worker.stats import Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from uuid import UUID

    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.queue.leases import Reaped
    from jobdeck.core.worker.state import WorkerState

log = logging.getLogger(__name__)

WINDOW_SECONDS = 300.0
REPORT_SECONDS = 20.0
EARLY_SHARE = 0.25
REAP_SECONDS = (1.0, 5.0)
BEGIN_SECONDS = 0.5
"""Maintenance starts this much later, so that it does not delay the first claims."""
LONGEST_PAUSE = 2.0
DUE_SHARE = 0.75
"""The part of the interval after which upkeep is due: a worker finds what it did one interval ago, with its spread."""
RESUME_SECONDS = 30.0
"""The interval at which a worker looks for stalled bulk actions while others do the upkeep."""
CROWD = 10
CROWD_PATIENCE = 4
"""With more than `CROWD` workers, the pause between two looks for alarms grows with their number, up to this factor."""
STEP_SECONDS = 1.0
"""A database clock that gains more than this on the monotonic one between two passes was set."""


def report(conn: Connection, state: WorkerState, mode: str) -> None:
    """Writes the worker's row in `job_workers`, with the types that are in its queues now."""
    choose_types(conn, state)
    state.workers = presence.report_worker(
        conn,
        worker_id=state.worker_id,
        host=socket.gethostname(),
        pid=os.getpid(),
        mode=mode,
        version=program_version(),
        concurrency=state.capacity,
        task_types=state.task_types,
        running=len(state.running()),
        slots=state.slots_by_kind(),
    )


def sign_on(conn: Connection, state: WorkerState, mode: str) -> None:
    """Writes the worker's row for the first time, and the rules and values of its task types."""
    report(conn, state, mode)
    presence.declare_types(conn, state.executor.registry)
    declare_values(conn, state)


def declare_values(conn: Connection, state: WorkerState) -> None:
    """Writes the values of task types in the code; if the database refuses, logs that and leaves those that hold."""
    try:
        presence.declare_values(
            conn, state.executor.registry, release=release_name(state.settings), worker_id=state.worker_id
        )
    except (Refused, psycopg.errors.LockNotAvailable) as error:
        event(log, logging.ERROR, "the limits of task types in the code were not written", error=safe_error(str(error)))


def choose_types(conn: Connection, state: WorkerState) -> None:
    """Looks up which task types are in the queues of this worker, if it has any; logs queues of which it has none."""
    if state.queues is None:
        return
    found = leases.types_of_queues(conn, state.handled, state.queues)
    state.choose(found)
    empty = frozenset(state.queues) - set(found.values())
    if empty - state.empty_queues:
        names = ", ".join(sorted(empty))
        event(log, logging.WARNING, "no task type of this worker is in these queues", queues=safe_error(names))
    state.empty_queues = empty


def install_schedules(conn: Connection, state: WorkerState) -> list[str]:
    """Makes the series that handlers declare those of the queue.

    Returns the names of series that are left for later, as `series.install`; all, if the database refuses one.
    """
    try:
        return series.install(conn, state.executor.registry, actor=state.worker_id)
    except Refused as error:
        event(log, logging.ERROR, "declared series could not be installed", error=safe_error(str(error)))
        return [one.name for one in series.declarations(state.executor.registry)]


def write_slots(conn: Connection, *, everything: bool = False) -> bool:
    """Writes slots of cron series that have few, or of all; logs what cannot be read. Returns whether any got some."""
    done = series.refill(conn, everything=everything)
    for trouble in done.troubles:
        event(log, logging.ERROR, "a cron series has no slots", error=safe_error(trouble))
    return done.series > 0


def reap(
    conn: Connection, state: WorkerState, *, take_back: bool = True, parts: Collection[str] = leases.UPKEEP
) -> Reaped:
    """Runs these parts of upkeep once; logs and alerts about runs recorded as lost, and logs the parts that failed."""
    reaped = leases.reap(
        conn,
        retry_base=state.settings.retry_base_seconds,
        retry_cap=state.settings.retry_cap_seconds,
        take_back=take_back,
        parts=parts,
    )
    for part in reaped.troubles.keys() - state.troubled:
        event(log, logging.ERROR, "a part of upkeep fails", part=part, error=safe_error(reaped.troubles[part]))
    state.troubled = reaped.troubles.keys()
    if reaped.lost:
        event(log, logging.WARNING, "runs with an expired lease were taken back", runs=reaped.lost)
        state.alerts.lost(conn, reaped.lost_jobs)
        state.hooks.lost(conn, reaped.lost_jobs)
    return reaped


def resume_bulk(conn: Connection, state: WorkerState) -> bool:
    """Carries out one batch of a stalled bulk action, and of a stalled bulk edit of types that this worker handles.

    Returns whether more work may be waiting.
    """
    more = bulk.resume_stalled(conn, state.worker_id)
    edited = bulk_edit.resume_stalled(
        conn, state.executor.registry, state.task_types, state.worker_id, settings=state.settings
    )
    return more or edited


class ClockWatch:
    """Notices that the clock of the database was set forward, which makes all leases look expired.

    Live workers renew their leases within a heartbeat, so the reaper leaves expired runs alone for one lease after such
    a step, measured by the monotonic clock.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._offset: float | None = None
        self._until = -math.inf

    def read(self, database_time: float, now: float) -> None:
        """Takes a reading of the database's clock (seconds since the epoch) at the monotonic time `now`."""
        offset = database_time - now
        if self._offset is not None and offset - self._offset > STEP_SECONDS:
            self._until = now + self._lease_seconds
            event(log, logging.WARNING, "the clock of the database was set forward", seconds=offset - self._offset)
        self._offset = offset

    def trusted(self, now: float) -> bool:
        """Whether leases that look expired at the monotonic time `now` are."""
        return now >= self._until


class Maintenance(Rounds):
    """Reaps every 1 to 5 s (a quarter of the lease), reports every 20 s, writes a record per 5 minutes of work.

    What other workers have done in the meantime is left out, so that a hundred idle ones ask little more than one.
    """

    def __init__(self, state: WorkerState, *, mode: str, source: str, on_work: Callable[[], None]) -> None:
        """`on_work` is called when the reaper has made jobs due."""
        self._interval = min(max(state.settings.lease_seconds / 4, REAP_SECONDS[0]), REAP_SECONDS[1])
        super().__init__(state.database, "maintenance", self._interval, f"{state.worker_id} maintenance")
        self._state = state
        self._mode = mode
        self._source = source
        self._on_work = on_work
        self._begin = threading.Event()
        self._failures = 0
        self._next_report = 0.0
        self._window: UUID | None = None
        self._window_end = 0.0
        self._counted = self._noted = Totals()
        self._sentinel = Sentinel(state.alerts, state.worker_id, timeouts=timeouts_of(state.executor.registry))
        self._outage = Outage(state.alerts, state.worker_id, state.database.label)
        self._next_reap = self._next_look = self._next_resume = 0.0
        self._looked = False
        self._undeclared: list[str] | None = None
        self._clock = ClockWatch(state.settings.lease_seconds)

    def stop(self) -> None:
        super().stop()
        self._begin.set()

    def begin(self) -> None:
        """Begins at once rather than half a second after the start: limits are shared by the slots of known workers."""
        self._begin.set()

    def note_work(self) -> None:
        """Requests a record for the work that starts now, unless one is open."""
        if self._window is None:
            self._wake.set()

    def _loop(self) -> None:
        self._begin.wait(BEGIN_SECONDS)
        super()._loop()

    def _step(self) -> float:
        """Does what is due over a connection of the pool, since there is seldom much to do."""
        try:
            with self._state.database.connection() as conn:
                self._work(conn)
        except Exception as error:  # noqa: BLE001 -- the reaper must run again after any error
            pause = min(LONGEST_PAUSE, self._interval * 2.0 ** min(self._failures, 8)) * random.uniform(0.5, 1)  # noqa: S311
            self._failures += 1
            self._outage.note(error)
            if self._failures == 1:
                event(log, logging.WARNING, "maintenance failed; trying again", error=safe_error(str(error)))
            return pause
        self._failures = 0
        self._outage.over()
        return max(self._next_reap - time.monotonic(), 0.0)

    def _work(self, conn: Connection) -> None:
        now = time.monotonic()
        reporting = now >= self._next_report
        if reporting:
            # The first report comes sooner again, since workers that start together do not know of each other.
            early = 1.0 if self._next_report else EARLY_SHARE
            (report if self._next_report else sign_on)(conn, self._state, self._mode)
            self._state.tally.wrote_row()
            self._install_schedules(conn)
            self._next_report = now + early * min(REPORT_SECONDS, self._state.settings.heartbeat_seconds * 4)
        upkeep = False
        if now >= self._next_reap:
            upkeep = self._reap(conn)
            spread = random.uniform(0.8, 1.2)  # noqa: S311 -- spreads the reapers of many workers
            self._next_reap = now + self._interval * spread
        self._keep_window(conn, now, note=reporting)
        if upkeep or now >= self._next_resume:
            more = resume_bulk(conn, self._state)
            self._next_resume = now if more else now + RESUME_SECONDS
            if more:
                self._wake.set()
        self._state.alerts.send_check_ins(conn)
        if now >= self._next_look:
            self._sentinel.look(conn)
            self._next_look = now + LOOK_SECONDS * min(max(self._state.workers / CROWD, 1.0), CROWD_PATIENCE)

    def _install_schedules(self, conn: Connection) -> None:
        """Installs the declared series once, and again while some are left."""
        if self._undeclared == []:
            return
        left = install_schedules(conn, self._state)
        if self._undeclared is None:
            write_slots(conn, everything=True)
        if left and left != self._undeclared:
            event(log, logging.WARNING, "declared series are changed later: busy or held", series=", ".join(left))
        self._undeclared = left
        self._on_work()

    def _reap(self, conn: Connection) -> bool:
        """Does the parts of upkeep that are due. Returns whether the frequent ones were, which others may have done."""
        began = time.monotonic()
        database_time, due = leases.upkeep_due(conn, self._interval * DUE_SHARE)
        # A worker that starts does everything: it may know what the others do not, such as the slots of a series.
        parts = due if self._looked else leases.UPKEEP
        self._looked = True
        # A slow answer would look like a step back, and the next one like a step forward.
        if time.monotonic() - began < STEP_SECONDS / 2:
            self._clock.read(database_time, began)
        self._state.tally.did_upkeep()
        if not parts:
            self._state.troubled = frozenset()
            return False
        reaped = reap(conn, self._state, take_back=self._clock.trusted(began), parts=parts)
        if ("lost" in parts and write_slots(conn)) or reaped.lost or reaped.resumed:
            self._on_work()
        return "lost" in parts

    def _keep_window(self, conn: Connection, now: float, *, note: bool = False) -> None:
        """Closes a window that is over and opens the next; with `note`, and in a new window, writes its counts."""
        if self._window is not None and now >= self._window_end:
            self._close_window(conn)
        if self._window is None and self._state.tally.totals() != self._noted:
            self._window = presence.open_worker_run(conn, source=self._source, worker_id=self._state.worker_id)
            self._window_end = now + WINDOW_SECONDS
            note = True
        if self._window is not None and note:
            self._note_window(conn, self._window)

    def _note_window(self, conn: Connection, window: UUID) -> None:
        totals = self._state.tally.totals()
        if totals != self._noted:
            done = totals.since(self._counted)
            presence.note_worker_run(
                conn,
                window,
                claimed=done.claimed,
                succeeded=done.succeeded,
                failed=done.failed,
                released=done.released,
            )
            self._noted = totals

    def _close_window(self, conn: Connection) -> None:
        if self._window is None:
            return
        totals = self._state.tally.totals()
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
            results=list(self._state.tally.failures),
        )
        # A job that the worker still holds counts as claimed in the next window, where its run ends.
        self._window, self._counted = None, replace(totals, claimed=totals.claimed - totals.held)
        self._noted = totals
        self._state.tally.failures.clear()

    def sign_off(self) -> None:
        """Closes the record of the last window and removes the worker's row; the last call of a stopping worker."""
        try:
            with self._state.database.connection() as conn:
                self._keep_window(conn, time.monotonic())
                self._close_window(conn)
                presence.remove_worker(conn, self._state.worker_id)
        except FAILURES as error:
            event(log, logging.WARNING, "the worker could not sign off", error=safe_error(str(error)))
