"""The thread that claims: as much as the slots will soon run, at once when told of work, else by polling."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.queue import leases
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.postgres.listener import Listener
    from jobdeck.core.queue.leases import Front, Lane
    from jobdeck.core.worker.state import Station


class Flood:
    """The fronts of the lanes that full claims came from.

    A claim that goes on from them does not see what has come to stand before them: a job of higher priority or with
    an earlier time, one that somebody else gave back. So one that looks everywhere is due as soon as a claim was not
    full, and after half a second at the latest; later only where looking everywhere itself takes long, of which it may
    take a twentieth of the time, and never later than five seconds.
    """

    SECONDS = 0.5
    MOST_SECONDS = 5.0
    SHARE = 0.05

    def __init__(self) -> None:
        self._fronts: dict[Lane, Front] = {}
        self._until = 0.0

    def fronts(self, now: float) -> Mapping[Lane, Front] | None:
        """From where to go on at this moment (monotonic); None where it is time to look everywhere."""
        return self._fronts if self._fronts and now < self._until else None

    def claimed(self, jobs: Sequence[ClaimedJob], *, full: bool, onwards: bool, began: float, ended: float) -> None:
        """Takes in a claim: what it brought, whether as much as was asked for, whether it went on from the fronts."""
        if not full:
            self._fronts = {}
            return
        if not onwards:
            self._fronts = {}
            self._until = ended + min(max(self.SECONDS, (ended - began) / self.SHARE), self.MOST_SECONDS)
        self._fronts.update({(job.task_type, job.priority): (job.due_at, job.id) for job in jobs})


log = logging.getLogger(__name__)

CANCEL = "cancel"
IDLE_SECONDS = 5.0
NEAR_SECONDS = 1.0
DEAF_SECONDS = 2.5
"""The poll where nothing is heard of new jobs: through a transaction-mode pooler, or while LISTEN is down."""
BATCH = 1000
MOST_HELD = 2500
BUSY_SECONDS = 0.5
"""A slot whose run takes longer than this is not counted on when claiming ahead."""


class Claimer:
    """Claims for one station until it is told to stop, or (`until_idle`) until nothing is left to claim."""

    def __init__(
        self,
        station: Station,
        *,
        on_cancel: Callable[[], None],
        on_listening: Callable[[], None],
        on_claimed: Callable[[], None],
        until_idle: bool = False,
    ) -> None:
        self._station = station
        self._on_cancel = on_cancel
        self._on_listening = on_listening
        self._on_claimed = on_claimed
        self._until_idle = until_idle
        self._link = Link(station.database, "claiming jobs")
        self._listener: Listener | None = None
        self._heard = False
        self._woken = threading.Event()
        self._again = threading.Event()
        self._next_poll = 0.0
        self._flood = Flood()
        self.thread = threading.Thread(target=self._loop, name=f"{station.worker_id} claimer")

    @property
    def connected(self) -> bool:
        """Whether the database answered the last time it was asked."""
        return self._link.working

    def wake(self) -> None:
        """Has the next claim made now: something finished, was taken back, or is to stop."""
        self._again.set()
        self.room()

    def room(self) -> None:
        """Says that a slot has become free."""
        self._woken.set()
        if self._listener is not None:
            self._listener.wake()

    def _loop(self) -> None:
        try:
            while not self._station.stopping.is_set():
                try:
                    self._step()
                except FAILURES:
                    self._wait(self._link.pause())
                except Exception as error:  # noqa: BLE001 -- the worker must outlive whatever goes wrong here
                    event(log, logging.ERROR, "claiming failed", error=safe_error(repr(error)))
                    self._wait(NEAR_SECONDS)
        finally:
            self._link.close()
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.close()

    def _step(self) -> None:
        if self._listener is None:
            self._link.connect()
            self._listener = self._station.database.listen(self._station.database.channel, at_once=True)
        now = time.monotonic()
        limit = self._limit(now)
        if limit < 1:
            self._wait(IDLE_SECONDS)
            return
        if now < self._next_poll and not self._again.is_set():
            self._wait(self._next_poll - now)
            return
        self._again.clear()
        alone = not self._station.held
        fronts = self._flood.fronts(now)
        jobs = self._claim(limit, fronts, now)
        if jobs:
            self._station.take(jobs, now)
            self._on_claimed()
        if len(jobs) == limit or fronts:
            self._hear(0)
        elif not jobs and alone and self._until_idle:
            self._station.stopping.set()
        else:
            self._next_poll = time.monotonic() + (NEAR_SECONDS if jobs else self._pause())

    def _claim(self, limit: int, fronts: Mapping[leases.Lane, leases.Front] | None, now: float) -> list[ClaimedJob]:
        station = self._station
        lease = station.settings.lease_seconds
        jobs = self._link.run(
            lambda conn: leases.claim(conn, station.worker_id, station.task_types, limit, lease, fronts)
        )
        full = len(jobs) == limit
        self._flood.claimed(jobs, full=full, onwards=fronts is not None, began=now, ended=time.monotonic())
        return jobs

    def _limit(self, now: float) -> int:
        """How many jobs to claim now; none while what was claimed ahead is not half used up, or by a good batch."""
        slots = self._station.slots
        busy = sum(1 for run in list(slots.running) if run.started is not None and now - run.started > BUSY_SECONDS)
        target = slots.size + self._station.pace.ahead(busy)
        outstanding = slots.waiting + len(slots.running)
        room = min(target - outstanding, MOST_HELD - len(self._station.held), BATCH)
        enough = min(target - target // 2, BATCH // 2)
        return room if outstanding < slots.size or room >= enough else 0

    def _pause(self) -> float:
        """How long nothing will be due, as far as the database knows; jittered, so that workers do not poll in step."""
        now, due = self._link.run(lambda conn: leases.next_due(conn, self._station.task_types))
        idle = IDLE_SECONDS if self._listener is not None and self._listener.connected else DEAF_SECONDS
        idle *= random.uniform(0.9, 1.0)  # noqa: S311 -- no secret depends on it
        if due is None:
            return idle
        gap = (due - now).total_seconds()
        return min(idle, max(gap, 0.01)) if gap > 0 else NEAR_SECONDS

    def _wait(self, seconds: float) -> None:
        """Waits for news, and no longer than `seconds`."""
        if self._listener is None:
            self._woken.wait(seconds)
        else:
            self._hear(seconds)
        self._woken.clear()

    def _hear(self, seconds: float) -> None:
        if self._listener is None:
            return
        told = self._listener.wait(seconds)
        if self._listener.connected and not self._heard:
            self._heard = True
            self._on_listening()
        if CANCEL in told:
            self._on_cancel()
        if any(payload != CANCEL for payload in told):
            self._again.set()
