"""The worker: claims due jobs, runs them in threads, on an event loop or in processes, and reports them.

Each thread has one task and one module: `fetcher` claims jobs of one lane, `slots` and `executor` run handlers,
`completer` reports runs, `heartbeat` renews leases, `watchdog` checks timeouts, `maintenance` reaps and writes the
worker's records.
"""

from __future__ import annotations

import gc
import math
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobdeck.core.alerts.sentry import Alerts
from jobdeck.core.worker.completer import Completer
from jobdeck.core.worker.fetcher import Fetcher
from jobdeck.core.worker.heartbeat import Heartbeat
from jobdeck.core.worker.maintenance import Maintenance
from jobdeck.core.worker.oneshot import Budget, Cycle, CycleProgress, CycleResult
from jobdeck.core.worker.state import WorkerState
from jobdeck.core.worker.stats import TypeTally, WorkerFigures
from jobdeck.core.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.postgres.database import Database
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings
    from jobdeck.core.worker.context import RunContext

__all__ = ["Budget", "CycleProgress", "Worker", "WorkerStatus"]

GRACE_SECONDS = 5.0
"""The time that the last reports get."""
COLLECT = (10_000, 50, 100)
"""Thresholds of the garbage collector. A worker holds thousands of small objects for milliseconds each; with Python's
own thresholds, scanning them took a fifth of the time of each job, and freed nothing."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker's current state: running jobs, counts since its start, and whether the database answers."""

    state: Literal["running", "draining", "stopped"]
    connected: bool
    running: int
    claimed: int
    succeeded: int
    failed: int


class Worker:
    """One worker on one database. It can be started once, or run cycles.

    Args:
        database: the database of the queue. Handlers use its pool, so its size should be at least `concurrency` + 3.
        registry: the task types that it can run.
        settings: leases, retries, drain time.
        mode: `headless`, `embedded` or `cycle`, as shown in `job_workers`.
        source: the source of its records in `job_worker_runs`.
        concurrency: jobs of thread handlers at a time; None for `JOBDECK_CONCURRENCY`.
        task_types: the types to run; None for all in the registry.
        queues: the queues whose types to run, of those; None for all. A change holds within 20 seconds.
        worker_id: its name in the database; None for a name from host, process and random digits.
    """

    def __init__(  # noqa: PLR0913 -- one keyword per fact of a worker
        self,
        database: Database,
        registry: Registry,
        settings: Settings,
        *,
        mode: str = "headless",
        source: str = "worker",
        concurrency: int | None = None,
        task_types: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        worker_id: str | None = None,
    ) -> None:
        self.worker_id = worker_id or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._mode = mode
        self._source = source
        self._database = database
        self._registry = registry
        self._settings = settings
        self._concurrency = concurrency or settings.concurrency
        self.task_types = [registry.require(name).task_type for name in task_types or registry.names]
        self._queues = queues
        self.cycle: Cycle | None = None
        """The cycle that `run_cycle` runs or ran last."""
        self._counts_types = False
        self._state: WorkerState | None = None
        self._lock = threading.Lock()
        self._deadline = math.inf
        self._stopped = False

    def start(self) -> None:
        """Starts the threads and returns at once, even if the database is unreachable.

        Raises:
            RuntimeError: the worker was started before.
        """
        self._start(until_idle=False)

    def run_until_idle(self) -> None:
        """Runs jobs until none is held and a claim finds none, then stops. Waits for due jobs that a limit holds up."""
        self._start(until_idle=True).stopping.wait()
        self.drain()

    def run_cycle(
        self,
        limit: int = 5,
        *,
        on_progress: Callable[[CycleProgress], None] | None = None,
        http_method: str | None = None,
        budget: Budget | None = None,
    ) -> CycleResult:
        """Runs one cycle of up to `limit` due jobs, one after another.

        `http_method` is the method of the HTTP request that started the cycle, if any; `budget` limits its time.

        Raises:
            DatabaseUnreachable: the database did not answer; no job was run.
        """
        state = self._new_state(concurrency=1, one_by_one=True, ends=True)
        try:
            self.cycle = Cycle(state, limit, on_progress, budget)
            return self.cycle.run(source=self._source, http_method=http_method)
        finally:
            state.close()

    @property
    def claims(self) -> list[str]:
        """The task types whose jobs it claims now: those of its queues."""
        return self.task_types if self._state is None else self._state.task_types

    @property
    def status(self) -> WorkerStatus:
        """The current state; does not block."""
        state = self._state
        if state is None:
            return WorkerStatus("stopped", connected=False, running=0, claimed=0, succeeded=0, failed=0)
        totals = state.tally.totals()
        return WorkerStatus(
            "stopped" if self._stopped else "draining" if state.stopping.is_set() else "running",
            all(fetcher.connected for fetcher in self._fetchers),
            len(state.running()),
            totals.claimed,
            totals.succeeded,
            totals.failed,
        )

    def count_by_type(self) -> None:
        """Makes `figures` have outcomes and times by task type. Call it before the start."""
        self._counts_types = True

    @property
    def patience(self) -> float:
        """How many seconds `drain` gives the running handlers."""
        return self._settings.drain_seconds

    def figures(self) -> WorkerFigures | None:
        """What the worker does and has counted, from any thread; None before its start."""
        return self._state.figures() if self._state is not None else None

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the worker has stopped; returns False if the timeout (seconds) comes first."""
        if self._state is None:
            return True
        self._completer.thread.join(timeout)
        return not self._completer.thread.is_alive()

    def stop(self) -> None:
        """Stops as soon as the handlers do, and returns unfinished jobs to the queue."""
        self.drain(0.0)

    def drain(self, timeout: float | None = None) -> bool:
        """Stops the worker without losing a job. Another thread may call it again to shorten the time left.

        It claims no more jobs, returns waiting jobs to the queue, and gives running handlers `timeout` seconds (None:
        `JOBDECK_DRAIN_SECONDS`) to finish. Then it asks them to stop, and returns the jobs of those that do not.
        Returns whether all running jobs finished and all runs were reported.
        """
        state = self._state
        if state is None:
            return True
        patience = self.patience if timeout is None else timeout
        self._deadline = min(self._deadline, time.monotonic() + patience)
        state.stopping.set()
        self._room()
        with self._lock:
            if self._stopped:
                return True
            clean = self._stop_running(state)
            self._stop_threads(state, clean=clean)
            self._stopped = True
            return clean

    def _start(self, *, until_idle: bool) -> WorkerState:
        if self._state is not None:
            raise RuntimeError("a worker can be started once only; create a new one")
        gc.set_threshold(*COLLECT)
        state = self._state = self._new_state(self._concurrency, ends=until_idle)
        self._heartbeat = Heartbeat(state)
        self._maintenance = Maintenance(state, mode=self._mode, source=self._source, on_work=self._claim_again)
        self._fetchers = [
            Fetcher(state, lane, self._heartbeat, self._maintenance, until_idle=until_idle) for lane in state.lanes
        ]
        self._completer = Completer(state, on_done=self._room, on_finished=self._claim_after)
        self._watchdog = Watchdog(state, on_exit=self.stop, on_room=self._room)
        state.start_slots()
        for fetcher in self._fetchers:
            fetcher.thread.start()
        for part in (self._completer, self._heartbeat, self._watchdog, self._maintenance):
            part.thread.start()
        return state

    def _claim_after(self, ended: Sequence[RunContext]) -> None:
        """Makes the lanes of these runs claim at once, and the others soon."""
        if self._state is None:
            return
        lanes = {self._state.lane_of(context) for context in ended}
        for fetcher in self._fetchers:
            if fetcher.lane in lanes:
                fetcher.wake()
            else:
                fetcher.wake_soon()

    def _claim_again(self) -> None:
        for fetcher in self._fetchers:
            fetcher.wake()

    def _room(self) -> None:
        for fetcher in self._fetchers:
            fetcher.room()

    def _new_state(self, concurrency: int, *, one_by_one: bool = False, ends: bool = False) -> WorkerState:
        state = WorkerState(
            self._database,
            self._registry,
            self._settings,
            worker_id=self.worker_id,
            task_types=self.task_types,
            queues=self._queues,
            concurrency=concurrency,
            alerts=Alerts(self._settings),
            one_by_one=one_by_one,
            ends=ends,
        )
        state.tally.by_type = TypeTally() if self._counts_types else None
        return state

    def _stop_running(self, state: WorkerState) -> bool:
        """Ends claiming and running; returns whether all running jobs finished."""
        for fetcher in self._fetchers:
            fetcher.claimed_last.wait()
        for lane in state.lanes:
            lane.slots.hand_back_waiting()
        finished = state.wait_until_empty(state.running, lambda: self._deadline)
        if not finished:
            state.release_running()
        last = time.monotonic() + GRACE_SECONDS
        return state.wait_until_empty(lambda: state.held, lambda: last) and finished

    def _stop_threads(self, state: WorkerState, *, clean: bool) -> None:
        for fetcher in self._fetchers:
            fetcher.stop()
            fetcher.thread.join()
        self._completer.stop(at_once=not clean)
        self._completer.thread.join()
        self._heartbeat.stop()
        self._watchdog.stop()
        self._maintenance.stop()
        for part in (self._heartbeat, self._watchdog, self._maintenance):
            if part.thread is not threading.current_thread():
                part.thread.join()
        self._maintenance.sign_off()
        state.close_slots()
        state.close()
