"""The state that the threads of one worker share."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from jobdeck.core.alerts.hooks import FailureHooks
from jobdeck.core.logs import event
from jobdeck.core.redact import readable
from jobdeck.core.worker.context import RunContext, RunResources, Stop
from jobdeck.core.worker.executor import Executor
from jobdeck.core.worker.runs.tracing import recorder_of
from jobdeck.core.worker.slots.lane import Lane
from jobdeck.core.worker.slots.loop import LoopSlots
from jobdeck.core.worker.slots.pace import Line, Pace
from jobdeck.core.worker.slots.processes import ProcessSlots
from jobdeck.core.worker.slots.threads import ThreadSlots
from jobdeck.core.worker.stats import Tally, WorkerFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence, Sized
    from collections.abc import Set as AbstractSet
    from uuid import UUID

    from jobdeck.core.alerts.sentry import Alerts
    from jobdeck.core.model import ClaimedJob, Json
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings
    from jobdeck.core.telemetry.spans import Origin

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
"""The time that handlers get to stop, and resources to close."""
SETTLE_SECONDS = 0.1
_KINDS = {"threads": "thread", "loop": "async", "processes": "process"}
"""The kind of handler that each lane runs."""
SAFE_SHARE = 0.9
"""The part of a lease that a worker relies on. In the rest of it, handlers can stop."""


class WorkerState:
    """One worker's identity, its lanes, and the jobs it holds.

    There is a lane for each kind of handler among the task types. `slots` and `pace` are those of threads. `held` has
    every job, by run token, from its claim until the database has accepted the report of its run.
    """

    def __init__(  # noqa: PLR0913 -- one keyword per fact
        self,
        database: Database,
        registry: Registry,
        settings: Settings,
        *,
        worker_id: str,
        task_types: Sequence[str],
        queues: Sequence[str] | None = None,
        concurrency: int,
        alerts: Alerts,
        one_by_one: bool = False,
        ends: bool = False,
    ) -> None:
        """Creates the lanes, which do not run yet.

        With `one_by_one` the worker runs one job at a time, whatever the size of its lanes. One that `ends` by itself
        does not wait for a handler that is over its timeout and cannot be stopped.
        """
        self.database = database
        self.settings = settings
        self.worker_id = worker_id
        self.task_types = list(task_types)
        self.handled = tuple(task_types)
        self.queues = queues
        self.empty_queues: AbstractSet[str] = frozenset()
        """The queues that no type of this worker was in when that was last read."""
        self.alerts = alerts
        self.hooks = FailureHooks(worker_id)
        self.tally = Tally()
        self.line = Line()
        self.pace = Pace(concurrency, self.line)
        self.workers = 1
        """How many workers run some of these task types, when that was last read."""
        self.held: dict[int, RunContext] = {}
        self.done: queue.SimpleQueue[RunContext | None] = queue.SimpleQueue()
        self.resources = RunResources(settings, database)
        self.resources.on_lost = self.note_lost
        self.resources.worker_id = worker_id
        self.executor = Executor(registry, self.resources, recorder_of(settings))
        self.slots = ThreadSlots(self.executor, self.done, concurrency, worker_id, keeps=not ends)
        self.lanes = self._lanes(ends=ends)
        self.capacity = 1 if one_by_one else sum(lane.slots.size for lane in self.lanes)
        """The number of jobs that the worker runs at a time."""
        self._lane_of = {name: lane for lane in self.lanes for name in lane.task_types}
        self._idle_at: dict[Lane, int] = {}
        self.stopping = threading.Event()
        self.troubled: AbstractSet[str] = frozenset()
        """The parts of upkeep that failed when they were last tried."""
        self._losing = threading.Lock()
        self._counting = threading.Lock()
        self.settled = threading.Condition()
        """Notified when jobs are no longer held."""

    def _lanes(self, *, ends: bool) -> tuple[Lane, ...]:
        registry = self.executor.registry
        kinds: dict[str, list[str]] = {"thread": [], "async": [], "process": []}
        for name in self.task_types:
            found = registry.get(name)
            kinds[found.kind if found is not None else "thread"].append(name)
        lanes = []
        if kinds["thread"] or not self.task_types:
            lanes.append(Lane("threads", kinds["thread"], self.slots, self.pace, frozenset(kinds["thread"])))
        shared = (self.executor, self.done, self.worker_id)
        if kinds["async"]:
            lanes.append(
                Lane("loop", kinds["async"], LoopSlots(*shared, keeps=not ends), None, frozenset(kinds["async"]))
            )
        if kinds["process"]:
            lanes.append(Lane("processes", kinds["process"], ProcessSlots(*shared), None, frozenset(kinds["process"])))
        return tuple(lanes)

    def choose(self, task_types: Collection[str]) -> None:
        """Claims jobs of these types alone from now on. Jobs that the worker has claimed still run."""
        self.task_types = [name for name in self.handled if name in task_types]
        for lane in self.lanes:
            lane.task_types[:] = [name for name in self.task_types if name in lane.handled]

    def start_slots(self) -> None:
        for lane in self.lanes:
            lane.slots.start()

    def close_slots(self) -> None:
        for lane in self.lanes:
            lane.slots.close()

    def running(self) -> list[RunContext]:
        """The runs of all lanes."""
        return [context for lane in self.lanes for context in list(lane.slots.running)]

    def slots_by_kind(self) -> Json | None:
        """The slots of each kind of handler and the types that have them; None if the worker runs one job at a time."""
        if self.capacity != sum(lane.slots.size for lane in self.lanes):
            return None
        return {_KINDS[lane.name]: {"slots": lane.slots.size, "types": lane.task_types} for lane in self.lanes}

    def lane_of(self, context: RunContext) -> Lane:
        """The lane of a run."""
        return self.lane_of_type(context.job.task_type)

    def lane_of_type(self, task_type: str) -> Lane:
        """The lane of a task type; the first one for a type that this worker does not have."""
        return self._lane_of.get(task_type, self.lanes[0])

    def note_idle(self, lane: Lane, claimed: int) -> None:
        """Stops the worker if no lane has found a job, and none was held, since `claimed` jobs were claimed in all."""
        self._idle_at[lane] = claimed
        if all(self._idle_at.get(one) == self.tally.claimed for one in self.lanes):
            self.stopping.set()

    def close(self) -> None:
        """Calls the hooks that wait, and closes the resources of runs and the alerts.

        Resources get a limited time to close: one may wait for a process that a handler has left behind.
        """
        self.hooks.close()
        closing = threading.Thread(target=self._close_resources, name=f"{self.worker_id} resources", daemon=True)
        closing.start()
        closing.join(GRACE_SECONDS)
        if closing.is_alive():
            message = "the resources of task types do not close; the worker ends without them"
            event(log, logging.WARNING, message, worker=self.worker_id)
        self.alerts.close()

    def _close_resources(self) -> None:
        try:
            self.resources.close()
        except BaseException as error:  # noqa: BLE001 -- an application's own code
            event(log, logging.ERROR, "the resources of task types failed to close", error=readable(error))

    def lease_end(self, sent: float) -> float:
        """The monotonic time until which a lease is safe whose claim or renewal was sent at `sent`."""
        return sent + self.settings.lease_seconds * SAFE_SHARE

    def wait_until_empty(self, jobs: Callable[[], Sized], deadline: Callable[[], float]) -> bool:
        """Waits until `jobs()` is empty; returns False if the deadline (monotonic) comes first."""
        with self.settled:
            while jobs():
                left = deadline() - time.monotonic()
                if left <= 0:
                    return False
                self.settled.wait(min(left, SETTLE_SECONDS))
            return True

    def release_running(self) -> None:
        """Asks the handlers of all held jobs to stop; after a grace period, returns the jobs of those that run on."""
        for context in list(self.held.values()):
            if context.stop is None:
                context.must_stop(Stop.RELEASED)
        last = time.monotonic() + GRACE_SECONDS
        self.wait_until_empty(self.running, lambda: last)
        for lane in self.lanes:
            for context in list(lane.slots.running):
                late = context.stop is Stop.TIMED_OUT
                report = self.executor.timed_out(context) if late else self.executor.handed_back(context)
                lane.slots.write_off(context, report, replace=False)

    def lose(self, context: RunContext) -> bool:
        """Stops a run whose lease is lost, and counts it. Returns whether that was not known before.

        One that has ended in its handler's own transaction goes on: its job is held no more because it has ended.
        """
        if context.promised is not None or not self.note_lost(context):
            return False
        context.must_stop(Stop.LOST)
        return True

    def note_lost(self, context: RunContext) -> bool:
        """Counts a run whose lease is lost. Returns whether that was not known before."""
        with self._losing:
            if context.stop is Stop.LOST:
                return False
            context.stop = Stop.LOST
            self.tally.lost_leases += 1
            return True

    def figures(self) -> WorkerFigures:
        """The worker's figures at the moment, from any thread."""
        tally = self.tally
        running, waiting = len(self.running()), sum(lane.slots.waiting for lane in self.lanes)
        by_type = tally.by_type
        return WorkerFigures(
            slots=self.capacity,
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

    def take(
        self,
        jobs: Sequence[ClaimedJob],
        sent: float,
        lane: Lane | None = None,
        *,
        stop: Stop | None = None,
        origins: Mapping[UUID, Origin] | None = None,
        begun: bool = True,
    ) -> None:
        """Adds jobs that were just claimed to `held` and queues them for the slots of their lane.

        With `stop` they are not run. `origins` are the spans that they belong to, where traces are recorded. `begun`
        is whether the database takes their runs for begun. If the slots raise an error, the jobs are handed back.
        """
        contexts = self._hold(jobs, sent)
        if stop is not None:
            for context in contexts:
                context.stop = stop
        if not begun:
            for context in contexts:
                context.is_known = False
        if origins:
            for context in contexts:
                context.origin = origins.get(context.job.id, context.origin)
        try:
            (lane or self.lane_of(contexts[0])).slots.put(contexts)
        except Exception:
            # No slot has them, such as where the machine has no thread left for an event loop.
            self._hand_back(contexts)
            raise

    def give_back(self, jobs: Sequence[ClaimedJob], sent: float) -> None:
        """Returns jobs to the queue that were just claimed."""
        self._hand_back(self._hold(jobs, sent))

    def _hold(self, jobs: Sequence[ClaimedJob], sent: float) -> list[RunContext]:
        epoch = jobs[0].claimed_at.timestamp() - time.monotonic()
        end = self.lease_end(sent)
        contexts = [RunContext(job, self.resources, epoch, end) for job in jobs]
        with self._counting:
            # In this order: `note_idle` is called for a number that was read before `held` was found empty.
            self.held.update((context.job.run_token, context) for context in contexts)
            self.tally.claimed += len(contexts)
        return contexts

    def _hand_back(self, contexts: Sequence[RunContext]) -> None:
        for context in contexts:
            context.result = self.executor.handed_back(context)
            self.done.put(context)
