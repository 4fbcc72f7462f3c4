"""The worker: claims due jobs, runs them in threads, reports them, and stands by until it is stopped.

Each of its threads has one part and a module of its own: `claimer` claims, `slots` run handlers, `finisher`
reports, `heartbeat` renews leases, `watch` keeps time, `upkeep` reaps and keeps the record.
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
from jobdeck.core.worker.completer import Finisher
from jobdeck.core.worker.fetcher import Claimer
from jobdeck.core.worker.heartbeat import Heartbeat
from jobdeck.core.worker.maintenance import Upkeep
from jobdeck.core.worker.oneshot import Budget, Cycle, CycleProgress
from jobdeck.core.worker.state import Station
from jobdeck.core.worker.watchdog import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import CycleResult
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

__all__ = ["Budget", "CycleProgress", "Worker", "WorkerStatus"]

GRACE_SECONDS = 5.0
"""How long the last reports may take."""
COLLECT = (10_000, 50, 100)
"""A worker holds thousands of small objects for milliseconds each. Python's own thresholds have its collector look at
them again and again in vain, for a fifth of all the time it spends on a job."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker at one moment: runs going on, counts since its start, and whether the database answers."""

    state: Literal["running", "draining", "stopped"]
    connected: bool
    running: int
    claimed: int
    succeeded: int
    failed: int


class Worker:
    """One worker on one database; may be started once, or asked for cycles.

    Args:
        database: where the queue is. Its pool serves handlers, so it should have at least `concurrency` + 2.
        registry: the task types it can run.
        settings: leases, retries, drain time.
        mode: `headless`, `embedded` or `cycle`, as `job_workers` shows it.
        source: what its records in `job_worker_runs` say set it going.
        concurrency: jobs at a time; `JOBDECK_CONCURRENCY` where None.
        task_types: only these; all of the registry where None.
        worker_id: its name in the database; made from host, process and chance where None.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        settings: Settings,
        *,
        mode: str = "headless",
        source: str = "worker",
        concurrency: int | None = None,
        task_types: Sequence[str] | None = None,
        worker_id: str | None = None,
    ) -> None:
        self.worker_id = worker_id or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._mode = mode
        self._source = source
        self._database = database
        self._registry = registry
        self._settings = settings
        self._concurrency = concurrency or settings.concurrency
        self._task_types = [registry.require(name).task_type for name in task_types or registry.names]
        self.cycle: Cycle | None = None
        """The cycle that `run_cycle` is running, or ran last."""
        self._station: Station | None = None
        self._lock = threading.Lock()
        self._deadline = math.inf
        self._stopped = False

    def start(self) -> None:
        """Starts the threads and returns at once, even while the database is away.

        Raises:
            RuntimeError: it was started before.
        """
        self._start(until_idle=False)

    def run_until_idle(self) -> None:
        """Runs jobs until a claim finds nothing while none is held, then stops."""
        claimer = self._start(until_idle=True)
        claimer.thread.join()
        self.drain()

    def run_cycle(
        self,
        limit: int = 5,
        *,
        on_progress: Callable[[CycleProgress], None] | None = None,
        http_method: str | None = None,
        budget: Budget | None = None,
    ) -> CycleResult:
        """Runs one cycle of up to `limit` due jobs, one after another, in a worker of its own.

        `http_method` is that of the request which asked for it, where there was one; `budget` bounds its time.

        Raises:
            DatabaseUnreachable: before anything was run.
        """
        station = self._new_station(concurrency=1)
        try:
            self.cycle = Cycle(station, limit, on_progress, budget)
            return self.cycle.run(source=self._source, http_method=http_method)
        finally:
            station.close()

    @property
    def status(self) -> WorkerStatus:
        """How it is now; does not block."""
        station = self._station
        if station is None:
            return WorkerStatus("stopped", connected=False, running=0, claimed=0, succeeded=0, failed=0)
        totals = station.tally.totals()
        return WorkerStatus(
            "stopped" if self._stopped else "draining" if station.stopping.is_set() else "running",
            self._claimer.connected,
            len(station.slots.running),
            totals.claimed,
            totals.succeeded,
            totals.failed,
        )

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the worker has stopped; false if the timeout comes first."""
        if self._station is None:
            return True
        self._finisher.thread.join(timeout)
        return not self._finisher.thread.is_alive()

    def stop(self) -> None:
        """Hands everything back as soon as handlers let go, and stops."""
        self.drain(0.0)

    def drain(self, timeout: float | None = None) -> bool:
        """Stops the worker without losing anything. Another thread may call it again to shorten the time left.

        Claims no more, hands back what waits, lets running handlers finish for `timeout` seconds
        (`JOBDECK_DRAIN_SECONDS` where None), then asks them to stop, and hands back those that do not.
        Returns whether all that ran could finish and everything was reported.
        """
        station = self._station
        if station is None:
            return True
        patience = self._settings.drain_seconds if timeout is None else timeout
        self._deadline = min(self._deadline, time.monotonic() + patience)
        station.stopping.set()
        self._claimer.room()
        with self._lock:
            if self._stopped:
                return True
            clean = self._stop_running(station)
            self._stop_threads(station, clean=clean)
            self._stopped = True
            return clean

    def _start(self, *, until_idle: bool) -> Claimer:
        if self._station is not None:
            raise RuntimeError("a worker is started once; make a new one")
        gc.set_threshold(*COLLECT)
        station = self._station = self._new_station(self._concurrency)
        self._heartbeat = Heartbeat(station)
        self._upkeep = Upkeep(station, mode=self._mode, source=self._source, on_work=self._claim_again)
        self._claimer = Claimer(
            station,
            on_cancel=self._heartbeat.beat_now,
            # A cancellation between the first claim and the first listening was not heard. It is rare: not worth a
            # connection and a heartbeat in the middle of the first claims.
            on_listening=self._heartbeat.beat_soon,
            on_claimed=self._upkeep.note_work,
            until_idle=until_idle,
        )
        self._finisher = Finisher(station, on_done=self._claimer.room, on_finished=self._claimer.wake)
        self._watch = Watch(station, on_exit=self.stop)
        station.slots.start()
        for part in (self._claimer, self._finisher, self._heartbeat, self._watch, self._upkeep):
            part.thread.start()
        return self._claimer

    def _claim_again(self) -> None:
        self._claimer.wake()

    def _new_station(self, concurrency: int) -> Station:
        return Station(
            self._database,
            self._registry,
            self._settings,
            worker_id=self.worker_id,
            task_types=self._task_types,
            concurrency=concurrency,
            alerts=Alerts(self._settings),
        )

    def _stop_running(self, station: Station) -> bool:
        """Ends claiming and running; returns whether all that ran could finish."""
        self._claimer.thread.join()
        station.slots.hand_back_waiting()
        finished = station.wait_until_empty(station.slots.running, lambda: self._deadline)
        if not finished:
            station.release_running()
        last = time.monotonic() + GRACE_SECONDS
        return station.wait_until_empty(station.held, lambda: last) and finished

    def _stop_threads(self, station: Station, *, clean: bool) -> None:
        self._finisher.stop(at_once=not clean)
        self._finisher.thread.join()
        self._heartbeat.stop()
        self._watch.stop()
        self._upkeep.stop()
        for part in (self._heartbeat, self._watch, self._upkeep):
            if part.thread is not threading.current_thread():
                part.thread.join()
        self._upkeep.sign_off()
        station.slots.close()
        station.close()
