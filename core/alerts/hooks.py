"""Calls an application's hooks for jobs that failed for good, in a thread of their own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.logs import event
from jobdeck.core.model import ClaimedJob, FinishedRun, Job, Run, RunOutcome, Status
from jobdeck.core.read import history
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.redact import readable
from jobdeck.core.registry import around
from jobdeck.core.registry.around import FailedJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    import psycopg


log = logging.getLogger(__name__)

WAITING: Final = 10_000
"""Failures that may wait for the hooks; more are dropped, so that a slow hook cannot fill the memory."""
END_SECONDS: Final = 5.0


def lost_runs(conn: psycopg.Connection[Any], jobs: Sequence[UUID]) -> Iterator[tuple[Run, Job | None]]:
    """The last lost run of each of these jobs that has one, and the job if it is still there."""
    for job_id in jobs:
        runs, _ = history.runs(job_id=job_id, outcome=RunOutcome.LOST, limit=1).run(conn)
        for run in runs:
            yield run, read_jobs.job(job_id).run(conn)


class FailureHooks:
    """The hooks of one worker. Without hooks it does nothing and has no thread."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._waiting: queue.Queue[FailedJob | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def failed(self, job: ClaimedJob, run: FinishedRun) -> None:
        """Calls the hooks for a run that was recorded as failed for good."""
        if around.failure_hooks:
            self._put(job, run, job.attempt)

    def lost(self, conn: psycopg.Connection[Any], jobs: Sequence[UUID]) -> None:
        """Calls the hooks for those of the jobs, or slots of series, whose last attempt was lost with its worker."""
        if not around.failure_hooks:
            return
        for run, job in lost_runs(conn, jobs):
            # A series counts the attempts of its next slot from 0; one that is tried again goes on counting.
            if job is not None and (job.status is Status.FAILED or (job.is_recurring and job.attempts < run.attempt)):
                self._put(job, run, run.attempt)

    def close(self) -> None:
        """Waits up to 5 s until the hooks have been called, and ends the thread."""
        with self._lock:
            thread = self._thread
        # A hook may stop its worker.
        if thread is None or thread is threading.current_thread():
            return
        last = time.monotonic() + END_SECONDS
        with suppress(queue.Full):
            self._waiting.put(None, timeout=END_SECONDS)
        thread.join(max(last - time.monotonic(), 0.0))
        if thread.is_alive():
            event(log, logging.WARNING, "the hooks of failed jobs are too slow; the worker ends without them")

    def _put(self, job: ClaimedJob | Job, run: FinishedRun | Run, attempt: int) -> None:
        failure = FailedJob(
            job.id, job.task_type, job.payload, attempt, job.is_recurring, run.error_kind, run.error, self._worker
        )
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=f"{self._worker} hooks", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(failure)
        except queue.Full:
            event(log, logging.WARNING, "a hook is too slow; it is not called for a failed job", job=failure.job_id)

    def _loop(self) -> None:
        while (failure := self._waiting.get()) is not None:
            for hook in around.failure_hooks:
                try:
                    hook(failure)
                except BaseException as error:  # noqa: BLE001 -- also SystemExit: the other hooks must be called
                    event(
                        log,
                        logging.ERROR,
                        "a hook of a failed job failed",
                        hook=getattr(hook, "__name__", repr(hook)),
                        job=failure.job_id,
                        error=readable(error),
                    )
