"""Runs the jobs of a queue in this thread until none is due."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import psycopg

from jobdeck.core import settings as configuration
from jobdeck.core.errors import EndlessDrain, UnknownTaskType, UsageError
from jobdeck.core.model import SUCCESSES, ClaimedJob, Filter, FinishedRun, Job, RunOutcome, Status
from jobdeck.core.postgres.database import Connection, Database
from jobdeck.core.queue import leases, operator, presence
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Registry
from jobdeck.core.testing.borrowed import APPLICATION, borrowed, known_types
from jobdeck.core.testing.result import JobResult, Sequel
from jobdeck.core.testing.running import (
    CHECKPOINT_STAYS,
    LentResources,
    RecordingContext,
    RecordingExecutor,
    lent,
    raise_failure,
    result,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from jobdeck.core.queue.leases import Finished
    from jobdeck.core.settings import Settings

LEASE_SECONDS: Final = 3600.0
READ_AHEAD: Final = 200
"""How many pending jobs are read at a time."""
SLOT_GOES_ON: Final = (RunOutcome.CONTINUED, *CHECKPOINT_STAYS)
"""Outcomes after which a series runs again before its next slot."""


def drain(
    target: psycopg.Connection[Any] | str,
    *,
    scheduled: bool = False,
    max_runs: int = 1000,
    raise_errors: bool = False,
    task_types: Sequence[str] | None = None,
    settings: Settings | None = None,
    resources: object = None,
) -> list[JobResult]:
    """Runs all jobs that are due, one after another, in this thread, also those that their handlers enqueue.

    A job is claimed, run and reported as by a worker, and `ctx.db` is the connection of the drain. On a connection in a
    transaction all of it is a part of that transaction, so a rollback takes back what was run. While processing is
    paused, nothing is run. A handler that does not return is not ended.

    Args:
        target: a psycopg connection, or the address of the database.
        scheduled: whether to run also what is due later, earliest first: retries, snoozed jobs, and each series once.
            Such a job is made due now, as the action "run now" does.
        max_runs: the maximum number of runs.
        raise_errors: whether to raise the exception of the first handler that fails, once its run is recorded.
        task_types: the types to run; None for all that imported modules register.
        settings: the settings; None for those of this process.
        resources: `ctx.resources`; None for those of the type's plugin, if it has one.

    Returns:
        The runs, in their order.

    Raises:
        EndlessDrain: after `max_runs` runs, another job was due.
        UnknownTaskType: no imported module registers one of `task_types`, or the type of a job that is due.
        UsageError: the connection cannot be used.
        SchemaMismatch: the database does not hold the queue.
    """
    if isinstance(task_types, str):
        raise UsageError(f'task_types must be a list of names, like ["{safe_error(task_types)}"].')
    if max_runs < 1:
        raise UsageError(f"max_runs must be 1 or more, not {max_runs}.")
    used = settings or configuration.load()
    known = known_types()
    registry = known if task_types is None else Registry([known.require(name) for name in dict.fromkeys(task_types)])
    with borrowed(target, used) as conn, _pool(conn, used) as database:
        presence.declare_types(conn, registry)
        with closing(LentResources(used, conn, given=resources, database=database)) as shared:
            shared.worker_id = APPLICATION
            drained = _Drain(conn, registry, used, shared, scheduled=scheduled)
            drained.run(max_runs, raise_errors=raise_errors)
            if task_types is None:
                drained.refuse_unknown()
    return drained.results


def _pool(conn: Connection, settings: Settings) -> Database:
    """A pool for the resources of plugins. It opens no connection before one is used."""
    address = psycopg.conninfo.make_conninfo(conn.info.dsn, password=conn.info.password or None)
    return Database(address, application_name=APPLICATION, schema=settings.database_schema)


class _Drain:
    """One drain on one connection."""

    def __init__(
        self, conn: Connection, registry: Registry, settings: Settings, resources: LentResources, *, scheduled: bool
    ) -> None:
        self.results: list[JobResult] = []
        self._conn = conn
        self._registry = registry
        self._settings = settings
        self._resources = resources
        self._executor = RecordingExecutor(registry, resources)
        self._scheduled = scheduled
        self._passed: set[UUID] = set()
        """Jobs that are not brought forward: series that have run, and jobs that something else holds."""

    def run(self, max_runs: int, *, raise_errors: bool) -> None:
        """Runs jobs until none can be claimed.

        Raises:
            EndlessDrain: more than `max_runs` could.
        """
        while (job := self._claim() or self._bring_forward()) is not None:
            if len(self.results) >= max_runs:
                self._give_back(job)
                raise EndlessDrain(self._endless(job, max_runs))
            made = self._run(job)
            self.results.append(made)
            if raise_errors:
                raise_failure(made)

    def refuse_unknown(self) -> None:
        """Raises UnknownTaskType if jobs are due that this process cannot run, which a worker would leave alone."""
        now = leases.database_time(self._conn)
        strange = {
            job.task_type
            for job in self._pending()
            if job.task_type not in self._registry
            and job.blocked_by is None
            and (self._scheduled or job.run_at.timestamp() <= now)
        }
        if strange:
            raise UnknownTaskType(
                f"Jobs of these types are due, and no imported module registers them: "
                f"{', '.join(sorted(map(safe_error, strange)))}. Import the modules with their @job, or name the types "
                "to run: drain(…, task_types=[…])."
            )

    def _claim(self) -> ClaimedJob | None:
        claimed = leases.claim(self._conn, APPLICATION, self._registry.names, 1, LEASE_SECONDS)
        return claimed[0] if claimed else None

    def _bring_forward(self) -> ClaimedJob | None:
        """Makes the next job due that is scheduled for later, and claims it; None if there is none."""
        if not self._scheduled:
            return None
        while (job := self._next_scheduled()) is not None:
            operator.retry(self._conn, [job.id], actor=APPLICATION)
            claimed = self._claim()
            if claimed is not None:
                return claimed
            self._passed.add(job.id)
        return None

    def _next_scheduled(self) -> Job | None:
        processing = read_jobs.processing().run(self._conn)
        if not processing.enabled or processing.held_by is not None:
            return None
        held = processing.held_types
        for job in self._pending():
            runs_here = job.task_type in self._registry and job.task_type not in held
            if runs_here and job.blocked_by is None and job.id not in self._passed:
                return job
        return None

    def _pending(self) -> Iterator[Job]:
        """The pending jobs, by due time."""
        after: str | None = None
        while True:
            page = read_jobs.page(Filter(status=Status.PENDING), limit=READ_AHEAD, after=after).run(self._conn)
            yield from page.jobs
            after = page.next
            if after is None:
                return

    def _run(self, job: ClaimedJob) -> JobResult:
        context = RecordingContext(job, self._resources)
        try:
            with lent(self._conn):
                finished = self._executor.run(job, context)
        except BaseException:
            self._give_back(job)
            raise
        finished, answer = self._report(finished)
        if context.promised is not None and answer.recorded in SUCCESSES:
            finished = context.promised
        if job.is_recurring and answer.recorded not in SLOT_GOES_ON:
            self._passed.add(job.id)
        due_in = None
        if answer.status is Status.PENDING and answer.run_at is not None:
            after = round(max(answer.run_at.timestamp() - finished.finished, 0.0), 1)
            due_in = (after, after)
        return result(context, finished, self._executor, Sequel(answer.recorded, answer.status, due_in))

    def _report(self, run: FinishedRun) -> tuple[FinishedRun, Finished]:
        """Reports a run; one that the database refuses is replaced, as by the worker. Returns what was reported."""
        try:
            return run, self._send(run)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            replaced = self._executor.not_stored(run, error)
            return replaced, self._send(replaced)

    def _send(self, run: FinishedRun) -> Finished:
        with self._conn.transaction():
            (answer,) = leases.finish(
                self._conn,
                APPLICATION,
                [run],
                retry_base=self._settings.retry_base_seconds,
                retry_cap=self._settings.retry_cap_seconds,
            )
        return answer

    def _give_back(self, job: ClaimedJob) -> None:
        self._send(self._executor.handed_back(RecordingContext(job, self._resources)))

    def _endless(self, job: ClaimedJob, max_runs: int) -> str:
        runs = sum(made.job.id == job.id for made in self.results)
        return (
            f"The drain has run {max_runs} jobs, and job {job.id} of the type {safe_error(job.task_type)} is due, "
            f"after {runs} runs of it. Raise max_runs, or find out why the queue does not become empty."
        )
