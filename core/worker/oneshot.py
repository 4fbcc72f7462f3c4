"""A cycle: a limited number of due jobs, one after another; each is reported before the next is claimed."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from jobdeck.core.errors import JobdeckError
from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.queue import leases, presence
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.sentences import sentence
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import NAME_MODULES
from jobdeck.core.worker.completer import Completer
from jobdeck.core.worker.context import Stop
from jobdeck.core.worker.heartbeat import Heartbeat
from jobdeck.core.worker.maintenance import install_schedules, reap, resume_bulk, sign_on, write_slots
from jobdeck.core.worker.runs.tracing import origins
from jobdeck.core.worker.stats import result_of
from jobdeck.core.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.model import ClaimedJob, Json, Processing
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.worker.state import WorkerState

log = logging.getLogger(__name__)

NOTHING_DUE = "no jobs available"
NO_TYPES = f"No job is taken, because this program has no task types. {NAME_MODULES}"
INTERRUPTED = "The cycle was interrupted."
TIME_IS_UP = "The cycle's time is up; jobs that are still due wait for the next cycle."
UNKNOWN_SECONDS: Final = 5.0
"""The assumed run time of a type without recent runs."""


@dataclass(frozen=True, slots=True)
class CycleResult:
    """The result of one cycle, with the keys of the predecessor's HTTP reply."""

    PAUSED = "Processing is paused."
    """The message if processing was paused without a reason."""

    status: Literal["ok", "paused", "error"]
    processed: int
    succeeded: int
    failed: int
    message: str
    results: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class CycleProgress:
    """The progress of a cycle, reported after each claim and each run. `task_type` is the type of the newest job."""

    claimed: int
    done: int
    succeeded: int
    failed: int
    task_type: str


class Budget:
    """The time in which a cycle may claim jobs, `seconds` from now.

    After the first job, types that usually take longer than the time left are not claimed.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._end = time.monotonic() + seconds
        self._unknown = min(UNKNOWN_SECONDS, seconds / 2)
        self._typical: Mapping[str, float] = {}
        self._stopped = threading.Event()

    @property
    def left(self) -> float:
        """Seconds left; negative when the time is up."""
        return self._end - time.monotonic()

    def expect(self, typical: Mapping[str, float]) -> None:
        """Sets the usual run time of each task type, in seconds."""
        self._typical = typical

    def stop(self) -> None:
        """Ends claiming at once."""
        self._stopped.set()

    def fitting(self, task_types: Sequence[str], *, first: bool) -> list[str]:
        """The task types of which a job may still be started."""
        left = self.left
        if self._stopped.is_set() or left <= 0:
            return []
        return [name for name in task_types if first or self._typical.get(name, self._unknown) <= left]


class Cycle:
    """One cycle of one worker. It claims one job at a time, so a pause ends it after the running job."""

    def __init__(
        self,
        state: WorkerState,
        limit: int,
        on_progress: Callable[[CycleProgress], None] | None,
        budget: Budget | None = None,
    ) -> None:
        self._state = state
        self._budget = budget or Budget()
        self._limit = limit
        self._on_progress = on_progress
        self._link = Link(state.database, "running a cycle")
        self._completer = Completer(state, patience=state.settings.lease_seconds)
        self._heartbeat = Heartbeat(state)
        self._watchdog = Watchdog(state, on_exit=lambda: None)
        self._results: list[Json] = []
        self._handed_back = threading.Event()
        self._interrupted = False

    def so_far(self) -> CycleResult:
        """The result up to now; safe to call from another thread."""
        running = self._state.tally.claimed - len(self._results)
        return self._result("ok", f"{_run(self._results)}, {running} still running")

    def hand_back(self) -> None:
        """Ends the cycle and returns its running job to the queue; safe to call from another thread."""
        self._handed_back.set()
        self._budget.stop()
        self._state.release_running()

    def interrupt(self) -> None:
        """The same; the result and the record say that the cycle was interrupted."""
        self._interrupted = True
        self.hand_back()

    def run(self, *, source: str, http_method: str | None) -> CycleResult:
        """Runs the cycle and writes its record in `job_worker_runs`, which is closed however the cycle ends.

        Raises:
            psycopg.Error, JobdeckError: the record could not be opened; no job was run.
        """
        try:
            opened = self._link.run(lambda conn: self._open(conn, source, http_method))
        except BaseException:
            self._link.close()
            raise
        result = self._result("error", INTERRUPTED)
        try:
            result = self._guarded()
            return result
        finally:
            self._stop(opened, result, http_method)

    def _open(self, conn: Connection, source: str, http_method: str | None) -> UUID:
        sign_on(conn, self._state, "cycle")
        install_schedules(conn, self._state)
        write_slots(conn)
        reap(conn, self._state)
        resume_bulk(conn, self._state)
        return presence.open_worker_run(conn, source=source, worker_id=self._state.worker_id, http_method=http_method)

    def _guarded(self) -> CycleResult:
        self._state.start_slots()
        self._heartbeat.thread.start()
        self._watchdog.thread.start()
        try:
            result = self._run_jobs()
            # A cycle reports each job that it claims, so one that it holds now was not asked for.
            self._release()
            return self._result("error", INTERRUPTED) if self._interrupted else result
        except FAILURES as error:
            return self._result("error", safe_error(str(error)))
        except BaseException:
            self._release()
            raise

    def _run_jobs(self) -> CycleResult:
        while len(self._results) < self._limit:
            task_types = self._budget.fitting(self._state.task_types, first=not self._results)
            if not self._state.task_types:
                return self._result("ok", NO_TYPES)
            if not task_types:
                return self._result("ok", f"{_run(self._results)}. {TIME_IS_UP}")
            sent = time.monotonic()
            jobs = self._claim(task_types)
            if not jobs:
                processing = self._link.run(read_jobs.processing().run)
                if not processing.enabled or processing.held_by is not None:
                    return self._result("paused", _why(processing))
                break
            # The job must stop before a slot has it: the slot might start it before the next lines run.
            known = origins(self._state.executor.recorder, self._link, jobs)
            self._state.take(jobs, sent, stop=Stop.RELEASED if self._handed_back.is_set() else None, origins=known)
            if self._handed_back.is_set():
                # The other thread may have asked the held jobs to stop before this one was held.
                self._state.release_running()
            self._notify(jobs[0].task_type)
            self._report_one()
            self._notify(jobs[0].task_type)
        return self._result("ok", _run(self._results) if self._results else NOTHING_DUE)

    def _claim(self, task_types: Sequence[str]) -> list[ClaimedJob]:
        state = self._state
        return self._link.run(
            lambda conn: leases.claim(conn, state.worker_id, task_types, 1, state.settings.lease_seconds)
        )

    def _report_one(self) -> None:
        context = self._state.done.get()
        if context is None or context.result is None:
            raise JobdeckError("A run of this cycle ended without a report.")
        answers = self._completer.finish([context])
        if not answers:
            raise JobdeckError(
                f"Run {context.job.run_token} could not be reported: the database does not answer. "
                "Its job returns to the queue when its lease expires."
            )
        self._results.append(result_of(context, context.result, answers[0]))

    def _notify(self, task_type: str) -> None:
        if self._on_progress is not None:
            totals = self._state.tally.totals()
            self._on_progress(
                CycleProgress(totals.claimed, len(self._results), totals.succeeded, totals.failed, task_type)
            )

    def _result(self, status: Literal["ok", "paused", "error"], message: str) -> CycleResult:
        totals = self._state.tally.totals()
        return CycleResult(status, len(self._results), totals.succeeded, totals.failed, message, tuple(self._results))

    def _release(self) -> None:
        """Returns every job that the cycle holds to the queue."""
        self._state.release_running()
        while self._state.held:
            self._report_one()

    def _stop(self, opened: UUID, result: CycleResult, http_method: str | None) -> None:
        self._heartbeat.stop()
        self._watchdog.stop()
        self._state.close_slots()
        totals = self._state.tally.totals()
        failed = result.status == "error"
        try:
            self._link.run(
                lambda conn: presence.close_worker_run(
                    conn,
                    opened,
                    status=result.status,
                    claimed=totals.claimed,
                    succeeded=totals.succeeded,
                    failed=totals.failed,
                    released=totals.released,
                    message=None if failed else result.message,
                    error=result.message if failed else None,
                    results=list(result.results),
                    http_status=(500 if failed else 200) if http_method else None,
                )
            )
            self._link.run(lambda conn: presence.remove_worker(conn, self._state.worker_id))
            self._link.run(self._state.alerts.send_check_ins)
        except FAILURES as error:
            event(log, logging.ERROR, "the record of a cycle could not be closed", error=safe_error(str(error)))
        finally:
            self._link.close()
            self._completer.close()
            for part in (self._heartbeat, self._watchdog):
                if part.thread.ident is not None:
                    part.thread.join()


def _why(processing: Processing) -> str:
    if processing.enabled:
        return sentence("queue-held", {"who": processing.held_by})
    return safe_error(processing.paused_reason or "") or CycleResult.PAUSED


def _run(results: Sequence[Json]) -> str:
    return "1 job run" if len(results) == 1 else f"{len(results)} jobs run"
