"""What the threads of one worker share."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from jobdeck.core.worker.context import RunContext, RunResources, Stop
from jobdeck.core.worker.executor import Runner, Slots
from jobdeck.core.worker.stats import Pace, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Sized

    from jobdeck.core.alerts.sentry import Alerts
    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

GRACE_SECONDS = 5.0
"""How long handlers that were asked to stop may take."""
SETTLE_SECONDS = 0.1
SAFE_SHARE = 0.9
"""The part of a lease that a worker relies on; the rest is for handlers to stop in."""


class Station:
    """One worker's identity, its slots, and the jobs it holds.

    `held` has every job from its claim until the database has taken in how its run ended, by run token.
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
        self.runner = Runner(registry, self.resources)
        self.slots = Slots(self.runner, self.done, concurrency, worker_id)
        self.stopping = threading.Event()
        self.settled = threading.Condition()
        """Notified when jobs are no longer held."""

    def close(self) -> None:
        """Lets go of what runs had opened outside the database."""
        self.resources.close()
        self.alerts.close()

    def lease_end(self, sent: float) -> float:
        """Until when a lease may be relied on whose claim or renewal was sent at that moment (monotonic)."""
        return sent + self.settings.lease_seconds * SAFE_SHARE

    def wait_until_empty(self, jobs: Sized, deadline: Callable[[], float]) -> bool:
        """Waits until nothing is left of `held`, or of what runs; false if the deadline (monotonic) comes first."""
        with self.settled:
            while jobs:
                left = deadline() - time.monotonic()
                if left <= 0:
                    return False
                self.settled.wait(min(left, SETTLE_SECONDS))
            return True

    def release_running(self) -> None:
        """Asks all running handlers to stop, and hands back what goes on after a grace period all the same."""
        for context in list(self.slots.running):
            if context.stop is None:
                context.stop = Stop.RELEASED
        last = time.monotonic() + GRACE_SECONDS
        self.wait_until_empty(self.slots.running, lambda: last)
        for context in list(self.slots.running):
            self.slots.write_off(context, self.runner.handed_back(context), replace=False)

    def take(self, jobs: Sequence[ClaimedJob], sent: float) -> None:
        """Holds jobs that were just claimed and queues them for the slots."""
        epoch = jobs[0].claimed_at.timestamp() - time.monotonic()
        end = self.lease_end(sent)
        contexts = [RunContext(job, self.resources, epoch, end) for job in jobs]
        self.tally.claimed += len(contexts)
        self.held.update((context.job.run_token, context) for context in contexts)
        self.slots.put(contexts)
