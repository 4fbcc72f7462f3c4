"""The state that the threads of one worker share."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from jobdeck.core.worker.context import RunContext, RunResources, Stop
from jobdeck.core.worker.executor import Executor, Slots
from jobdeck.core.worker.stats import Pace, Tally, WorkerFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Sized
    from collections.abc import Set as AbstractSet

    from jobdeck.core.alerts.sentry import Alerts
    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

GRACE_SECONDS = 5.0
"""The time that handlers get to stop."""
SETTLE_SECONDS = 0.1
SAFE_SHARE = 0.9
"""The part of a lease that a worker relies on. In the rest of it, handlers can stop."""


class WorkerState:
    """One worker's identity, its slots, and the jobs it holds.

    `held` has every job, by run token, from its claim until the database has accepted the report of its run.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        settings: Settings,
        *,
        worker_id: str,
        task_types: Sequence[str],
        concurrency: int,
        alerts: Alerts,
    ) -> None:
        self.database = database
        self.settings = settings
        self.worker_id = worker_id
        self.task_types = list(task_types)
        self.alerts = alerts
        self.tally = Tally()
        self.pace = Pace(concurrency)
        self.held: dict[int, RunContext] = {}
        self.done: queue.SimpleQueue[RunContext | None] = queue.SimpleQueue()
        self.resources = RunResources(settings, database)
        self.executor = Executor(registry, self.resources)
        self.slots = Slots(self.executor, self.done, concurrency, worker_id)
        self.stopping = threading.Event()
        self.troubled: AbstractSet[str] = frozenset()
        """The parts of upkeep that failed when they were last tried."""
        self._losing = threading.Lock()
        self.settled = threading.Condition()
        """Notified when jobs are no longer held."""

    def close(self) -> None:
        """Closes the resources of runs and the alerts."""
        self.resources.close()
        self.alerts.close()

    def lease_end(self, sent: float) -> float:
        """The monotonic time until which a lease is safe whose claim or renewal was sent at `sent`."""
        return sent + self.settings.lease_seconds * SAFE_SHARE

    def wait_until_empty(self, jobs: Sized, deadline: Callable[[], float]) -> bool:
        """Waits until `jobs` is empty; returns False if the deadline (monotonic) comes first."""
        with self.settled:
            while jobs:
                left = deadline() - time.monotonic()
                if left <= 0:
                    return False
                self.settled.wait(min(left, SETTLE_SECONDS))
            return True

    def release_running(self) -> None:
        """Asks the handlers of all held jobs to stop; after a grace period, returns the jobs of those that run on."""
        for context in list(self.held.values()):
            if context.stop is None:
                context.stop = Stop.RELEASED
        last = time.monotonic() + GRACE_SECONDS
        self.wait_until_empty(self.slots.running, lambda: last)
        for context in list(self.slots.running):
            self.slots.write_off(context, self.executor.handed_back(context), replace=False)

    def lose(self, context: RunContext) -> bool:
        """Marks a run whose lease is lost, and counts it. Returns whether that was not known before."""
        with self._losing:
            if context.stop is Stop.LOST:
                return False
            context.stop = Stop.LOST
            self.tally.lost_leases += 1
            return True

    def figures(self) -> WorkerFigures:
        """The worker's figures at the moment, from any thread."""
        tally, running, waiting = self.tally, len(self.slots.running), self.slots.waiting
        by_type = tally.by_type
        return WorkerFigures(
            slots=self.slots.size,
            running=running,
            waiting=waiting,
            reporting=max(len(self.held) - running - waiting, 0),
            draining=self.stopping.is_set(),
            claims=tally.claims,
            claimed=tally.claimed,
            lost_leases=tally.lost_leases,
            heartbeat_at=tally.heartbeat_at,
            upkeep_at=tally.upkeep_at,
            failing_parts=len(self.troubled),
            outcomes=by_type.outcomes() if by_type else {},
            times=by_type.times() if by_type else (),
        )

    def take(self, jobs: Sequence[ClaimedJob], sent: float, *, stop: Stop | None = None) -> None:
        """Adds jobs that were just claimed to `held` and queues them for the slots; with `stop` they are not run."""
        epoch = jobs[0].claimed_at.timestamp() - time.monotonic()
        end = self.lease_end(sent)
        contexts = [RunContext(job, self.resources, epoch, end) for job in jobs]
        if stop is not None:
            for context in contexts:
                context.stop = stop
        self.tally.claimed += len(contexts)
        self.held.update((context.job.run_token, context) for context in contexts)
        self.slots.put(contexts)
