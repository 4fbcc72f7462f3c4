"""The thread that claims jobs: as many as the slots will run soon, at once on NOTIFY, otherwise by polling."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from typing import TYPE_CHECKING

from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.queue import leases
from jobdeck.core.redact import safe_error
from jobdeck.core.worker.maintenance import choose_types, declare_values
from jobdeck.core.worker.runs.tracing import origins
from jobdeck.core.worker.slots.pace import Crowd, LaneFronts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.postgres.listener import Listener
    from jobdeck.core.worker.heartbeat import Heartbeat
    from jobdeck.core.worker.maintenance import Maintenance
    from jobdeck.core.worker.slots.lane import Lane
    from jobdeck.core.worker.state import WorkerState


log = logging.getLogger(__name__)

CANCEL = "cancel"
CANARY = "canary"
MORE = "more"
IDLE_SECONDS = 5.0
NEAR_SECONDS = 1.0
AGAIN_SECONDS = 0.05
"""The shortest wait for a limit of a type, which may have let a job start since the claim."""
DEAF_SECONDS = 2.5
"""The poll interval without notifications: through a transaction-mode pooler, or while LISTEN is down."""
ANNOUNCE_SECONDS = 1.0
"""The shortest time between two notifications of a worker that claimed all that it could have."""
SHARED_SECONDS = 0.25
"""The longest time after a run of another lane until its key is looked at: that lane may end thousands a second."""
BATCH = 1000
MOST_HELD = 2500
LIMITS_SECONDS = 5.0
"""For how long the worker remembers which types have limits."""
GIVE_WAY_SECONDS = 5e-5
"""How long the fetcher leaves the interpreter to slots that start jobs: they need it when they wake, a moment later."""


class Fetcher:
    """Claims jobs for one lane until the worker stops or, with `until_idle`, until no lane has a job left to claim."""

    def __init__(
        self,
        state: WorkerState,
        lane: Lane,
        heartbeat: Heartbeat,
        maintenance: Maintenance,
        *,
        until_idle: bool = False,
    ) -> None:
        self.lane = lane
        self._state = state
        # Jobs of other lanes are held too, and must not keep this one from claiming.
        self._others = state.capacity - state.slots.size
        self._heartbeat = heartbeat
        self._maintenance = maintenance
        self._until_idle = until_idle
        self._link = Link(state.database, "claiming jobs")
        self._listener: Listener | None = None
        self._heard = False
        self._woken = threading.Event()
        self._again = threading.Event()
        self._ending = threading.Event()
        self.claimed_last = threading.Event()
        """Set when the worker is stopping, and this fetcher will claim no more jobs."""
        self._next_poll = 0.0
        self._shared_poll = math.inf
        self._crowd = Crowd()
        # Whether an announced job is to be claimed now; when, if this worker lets others go first.
        self._called = False
        self._called_poll = math.inf
        self._more_poll = math.inf
        self._next_call = 0.0
        self._canary_asked = threading.Event()
        self._next_canary = 0.0
        self._lane_fronts = LaneFronts()
        self._limited: frozenset[str] = frozenset()
        self._limited_until = 0.0
        self.thread = threading.Thread(target=self._loop, name=f"{state.worker_id} fetcher of {lane.name}")

    @property
    def connected(self) -> bool:
        """Whether the database answered the last statement."""
        return self._link.working

    def wake(self) -> None:
        """Makes the fetcher claim at once."""
        self._again.set()
        self.room()

    def wake_soon(self) -> None:
        """Makes the fetcher claim shortly, because a run of another lane may have freed a key."""
        if self._shared_poll == math.inf:
            self._shared_poll = time.monotonic() + SHARED_SECONDS
            self.room()

    def room(self) -> None:
        """Ends the current wait, because a slot has become free or the worker is stopping."""
        self._woken.set()
        if self._listener is not None:
            self._listener.wake()

    def stop(self) -> None:
        """Ends the thread, once the worker is stopping."""
        self._ending.set()
        self.room()

    def _loop(self) -> None:
        try:
            while not self._state.stopping.is_set():
                try:
                    self._step()
                except FAILURES:
                    self._state.line.lost()
                    self._wait(self._link.pause())
                except Exception as error:  # noqa: BLE001 -- the worker must survive any error here
                    event(log, logging.ERROR, "claiming failed", error=safe_error(repr(error)))
                    self._wait(NEAR_SECONDS)
            self._link.close()
            self.claimed_last.set()
            # A cancellation reaches the jobs that still run.
            while not self._ending.is_set():
                self._wait(IDLE_SECONDS)
        finally:
            self._link.close()
            self.claimed_last.set()
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.close()

    def _step(self) -> None:
        if self._listener is None:
            self._link.connect()
            # Limits in the code hold from the first claim.
            self._link.run(lambda conn: declare_values(conn, self._state))
            self._link.run(lambda conn: choose_types(conn, self._state))
            self._listener = self._state.database.listen(self._state.database.channel, at_once=True)
        now = time.monotonic()
        # In this order: what another lane claims in between makes the number an old one.
        claimed, alone = self._state.tally.claimed, not self._state.held
        limit = self._limit(now)
        if limit < 1:
            if self._until_idle and alone:
                # A handler that was given up has the places for ever, such as one that blocks the event loop.
                self._state.note_idle(self.lane, claimed)
            self._wait_for_room(now)
            return
        if self._waited_for_poll(now):
            return
        called = self._answer_call(now)
        self._again.clear()
        self._shared_poll = math.inf
        self._canary_asked.clear()
        fronts = self._lane_fronts.fronts(now)
        free = self.lane.slots.free
        jobs = self._claim(limit, fronts, free)
        ended = time.monotonic()
        kept = self._take(jobs, now, free)
        self._state.line.took(min(ended - now, self._listener.round_trip))
        self._crowd.claimed(ended - now, found=bool(jobs), at_once=called)
        if jobs and jobs[0].is_canary:
            self._again.set()
            return
        # The jobs are taken first: this may ask the database, which may fail.
        limited = len(jobs) < limit and self._is_limited(jobs, now)
        self._lane_fronts.claimed(
            kept, full=len(jobs) == limit, limited=limited, onwards=fronts is not None, began=now, ended=ended
        )
        if self._has_more(jobs, limit, limited=limited, onwards=fronts is not None):
            if limited:
                self._next_poll = 0.0
            if len(jobs) == limit and alone:
                self._call_others(now)
            self._hear(0)
        elif not jobs and alone and self._until_idle:
            self._next_poll = time.monotonic() + self._idle(claimed)
        else:
            self._next_poll = time.monotonic() + (NEAR_SECONDS if jobs else self._pause())

    def _idle(self, claimed: int) -> float:
        """Notes that there is no job, unless due ones wait for a limit of their type; returns the seconds to wait."""
        now, opens = self._link.run(lambda conn: leases.held_back_until(conn, self.lane.task_types))
        if opens is None:
            self._state.note_idle(self.lane, claimed)
            return NEAR_SECONDS
        return min(max((opens - now).total_seconds(), AGAIN_SECONDS), IDLE_SECONDS)

    def _wait_for_room(self, now: float) -> None:
        if not self._claim_canary(now):
            self._wait(IDLE_SECONDS)

    def _waited_for_poll(self, now: float) -> bool:
        """Waits until the next claim is due; returns False if it is due now."""
        next_poll = min(self._next_poll, self._shared_poll, self._called_poll, self._more_poll)
        if now >= next_poll or self._called or self._again.is_set():
            return False
        self._wait(next_poll - now)
        return True

    def _answer_call(self, now: float) -> bool | None:
        """Whether the claim at `now` answers a notification at once (True), after a while (False) or none (None)."""
        called, late = self._called, now >= self._called_poll
        self._called, self._called_poll, self._more_poll = False, math.inf, math.inf
        if called:
            return True
        return False if late else None

    def _call_others(self, now: float) -> None:
        """Calls all workers, where there may be more jobs than this one could claim.

        Of many workers few come at the notification of a job, and a thousand jobs may have had one notification.
        """
        if self._state.workers > Crowd.AT_ONCE and now >= self._next_call:
            self._next_call = now + ANNOUNCE_SECONDS
            self._link.run(lambda conn: leases.announce_more(conn, self._state.database.channel, MORE))

    def _claim(self, limit: int, fronts: Mapping[leases.Lane, leases.Front] | None, free: int) -> list[ClaimedJob]:
        state = self._state
        types, lease = self.lane.task_types, state.settings.lease_seconds
        jobs = self._link.run(lambda conn: leases.claim(conn, state.worker_id, types, limit, lease, fronts, free))
        state.tally.claims += 1
        if self.lane.pace is not None and (jobs or (limit > 0 and fronts is None)):
            self.lane.pace.claimed(jobs)
        return jobs

    def _is_limited(self, jobs: Sequence[ClaimedJob], now: float) -> bool:
        """Whether limits of types may be why a claim returned so few jobs. Jobs that all start at once need no more."""
        if len(jobs) <= self.lane.slots.size:
            return False
        if now >= self._limited_until:
            self._limited = self._link.run(lambda conn: leases.limited_types(conn, self.lane.task_types))
            self._limited_until = now + LIMITS_SECONDS
        limited = any(job.task_type in self._limited for job in jobs)
        if limited:
            self._maintenance.begin()
        return limited

    def _has_more(self, jobs: Sequence[ClaimedJob], limit: int, *, limited: bool, onwards: bool) -> bool:
        """Whether another claim may find jobs at once.

        A claim that limits held back took half of what the worker may have. So the other half is claimed, unless the
        worker has it: then the report of its runs makes the fetcher claim again.
        """
        if limited:
            return len(self._state.held) <= len(jobs)
        return len(jobs) == limit or onwards

    def _claim_canary(self, now: float) -> bool:
        """While no other job can be started: claims a canary if one was asked for, and looks for one now and then.

        Returns whether it asked the database.
        """
        if self.lane.slots.canary is not None or not (self._canary_asked.is_set() or now >= self._next_canary):
            return False
        self._canary_asked.clear()
        self._next_canary = now + IDLE_SECONDS
        self._take(self._claim(0, None, 1), now, 1)
        return True

    def _take(self, jobs: Sequence[ClaimedJob], now: float, free: int) -> Sequence[ClaimedJob]:
        """Queues jobs for the slots that were claimed while `free` of these were, and returns them.

        Those that would wait behind long runs go back.
        """
        lane, kept = self.lane, jobs
        if lane.pace is not None and len(jobs) > 1:
            kept = jobs[: lane.pace.fitting(jobs, lane.busy(self._state.held, now))]
        if kept:
            known = origins(self._state.executor.recorder, self._link, kept)
            self._state.take(kept, now, lane, origins=known, begun=len(jobs) <= free)
            self._maintenance.note_work()
            if len(jobs) <= lane.slots.size:
                time.sleep(GIVE_WAY_SECONDS)
        if len(kept) < len(jobs):
            self._state.give_back(jobs[len(kept) :], now)
        return kept

    def _limit(self, now: float) -> int:
        """How many jobs to claim now. 0 until half of the target, or half a batch, is free, unless a slot is idle."""
        slots, pace, line = self.lane.slots, self.lane.pace, self._state.line
        most_held, batch = int(MOST_HELD * line.scale) + self._others, int(BATCH * line.scale)
        target = slots.size
        # While a canary runs, the next job may be another one, which must not wait behind a run.
        if pace is not None and slots.canary is None:
            target += pace.ahead(self.lane.busy(self._state.held, now))
        outstanding = slots.waiting + slots.occupied
        room = min(target - outstanding, most_held - len(self._state.held), batch)
        enough = min(target - target // 2, batch // 2)
        return room if outstanding < slots.size or room >= enough else 0

    def _pause(self) -> float:
        """Seconds until the next job is due or the next poll, with jitter so that workers do not poll together."""
        now, due = self._link.run(lambda conn: leases.next_due(conn, self.lane.task_types))
        idle = IDLE_SECONDS if self._listener is not None and self._listener.connected else DEAF_SECONDS
        idle *= random.uniform(0.9, 1.0)  # noqa: S311 -- no secret depends on it
        if due is None:
            return idle
        gap = (due - now).total_seconds()
        # All workers know when the job is due.
        return min(idle, max(gap, 0.01) + self._crowd.delay(1, self._state.workers)) if gap > 0 else NEAR_SECONDS

    def _wait(self, seconds: float) -> None:
        """Waits for a notification or a wake-up, for at most `seconds`."""
        if self._listener is None:
            self._woken.wait(seconds)
        else:
            self._hear(seconds)
        self._woken.clear()

    def _hear(self, seconds: float) -> None:
        if self._listener is None:
            return
        payloads = self._listener.wait(seconds)
        if self._listener.connected and not self._heard:
            self._heard = True
            # A cancellation between the first claim and LISTEN is missed; a heartbeat soon after finds it.
            # Listening before the first claim would delay that claim.
            self._heartbeat.beat_soon()
        if CANCEL in payloads:
            self._heartbeat.beat_now()
        if CANARY in payloads:
            self._canary_asked.set()
        self._note_calls(payloads)

    def _note_calls(self, payloads: Sequence[str]) -> None:
        """Decides when to claim after these notifications."""
        now = time.monotonic()
        if MORE in payloads:
            self._next_call = now + ANNOUNCE_SECONDS
            self._more_poll = min(self._more_poll, now + self._crowd.soon(self._state.workers))
        notifications = sum(payload not in {CANCEL, MORE} for payload in payloads)
        if not notifications:
            return
        self._lane_fronts.announced()
        delay = self._crowd.delay(notifications, self._state.workers)
        if not delay:
            self._called = True
        elif self._called_poll == math.inf:
            # The first of several draws counts: the earliest of many would be at once.
            self._called_poll = now + delay
