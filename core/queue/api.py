"""Enqueues jobs for an application: validated by their type, in the application's own transaction.

`jobdeck.enqueue` and `jobdeck.enqueue_many` are these functions.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from psycopg.pq import TransactionStatus

from jobdeck.core import registry, settings
from jobdeck.core.postgres.database import actor as current_actor
from jobdeck.core.queue import producer, requests

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Json, NewJob, Ticket
    from jobdeck.core.queue.calls import Connection
    from jobdeck.core.registry import JobType, Payload


def enqueue(  # noqa: PLR0913 -- one keyword per option of a job
    conn: Connection,
    task_type: str,
    payload: Payload | Json | None = None,
    *,
    run_at: datetime | None = None,
    every_minutes: int | None = None,
    expires_at: datetime | None = None,
    priority: int = 0,
    max_attempts: int | None = None,
    dedupe_key: str | None = None,
    concurrency_key: str | None = None,
    blocked_by: UUID | None = None,
    actor: str | None = None,
    schema: str | None = None,
) -> Ticket:
    """Enqueues one job in the caller's transaction: a rollback takes the job back, a commit shows it to workers.

    On an autocommit connection the job is there at once. A refusal inside a transaction aborts it, as every error of
    Postgres does; put `with conn.transaction()` around the call to continue the outer transaction after one.

    Args:
        conn: a psycopg connection. From SQLAlchemy: `session.connection().connection.driver_connection`.
        task_type: a type whose module this process has imported.
        payload: the type's payload model, or its JSON.
        run_at: when it is due; None for now.
        every_minutes: the interval of a recurring job.
        expires_at: when a recurring job ends.
        priority: from -100 to 100; higher runs first.
        max_attempts: how often a failing job is tried; None for the type's own value.
        dedupe_key: if a pending or running job has this key, that job is returned and none is created.
        concurrency_key: jobs with the same key never run at the same time; None for the type's own key.
        blocked_by: the job runs after the success of this job.
        actor: the name in the audit; None for the account of this process.
        schema: the schema of the queue; None for the value of `JOBDECK_SCHEMA`.

    Returns:
        The id of the job, and whether the job was created or existed with this dedupe key.

    Raises:
        UnknownTaskType: no module that this process has imported registers the type.
        InvalidPayload: the payload does not fit the type; `problems` gives the reasons by field.
        Refused: the database rejects one of the options.
    """
    job_type = registry.registered(task_type)
    new = _draft(job_type, payload)
    new = new._replace(
        run_at=run_at,
        max_attempts=new.max_attempts if max_attempts is None else max_attempts,
        priority=priority,
        dedupe_key=dedupe_key,
        concurrency_key=concurrency_key or new.concurrency_key,
        blocked_by=blocked_by,
        recurrence_interval_minutes=every_minutes,
        expires_at=expires_at,
    )
    _admit(conn, job_type, [new.payload], recurring=every_minutes is not None)
    return producer.enqueue(conn, new, actor=actor or current_actor(), schema=_schema(schema))


def enqueue_many(
    conn: Connection,
    task_type: str,
    payloads: Iterable[Payload | Json],
    *,
    run_at: datetime | None = None,
    priority: int = 0,
    max_attempts: int | None = None,
    actor: str | None = None,
    schema: str | None = None,
) -> list[UUID]:
    """Enqueues many jobs of one type in the caller's transaction, all or none, and returns their ids.

    Takes about a tenth of the time of one `enqueue` per job. The options have the same meaning as in `enqueue`, which
    also takes the keys, intervals and blockers of single jobs.

    Raises:
        UnknownTaskType: no module that this process has imported registers the type.
        InvalidPayload: a payload does not fit the type; nothing was enqueued.
        Refused: the database rejects one of the options; nothing was enqueued.
    """
    job_type = registry.registered(task_type)
    drafts = [_draft(job_type, payload) for payload in payloads]
    _admit(conn, job_type, (new.payload for new in drafts), recurring=False)
    _begin(conn)
    jobs = (
        new._replace(run_at=run_at, priority=priority, max_attempts=max_attempts or new.max_attempts) for new in drafts
    )
    return producer.enqueue_many(conn, jobs, actor=actor or current_actor(), schema=_schema(schema))


def _draft(job_type: JobType, payload: Payload | Json | None) -> NewJob:
    given = payload if isinstance(payload, dict) else job_type.dump(payload) if payload is not None else {}
    return requests.draft(registry.Registry([job_type]), job_type.task_type, given)


def _admit(conn: Connection, job_type: JobType, payloads: Iterable[Json], *, recurring: bool) -> None:
    if job_type.admit is not None:
        known = registry.Registry([job_type])
        requests.admit(conn, known, job_type.task_type, payloads, recurring=recurring, settings=settings.load())


def _begin(conn: Connection) -> None:
    """Begins the transaction of a connection without autocommit, so that the caller can roll the jobs back.

    Without this, the `conn.transaction()` in `producer.enqueue_many` would begin the transaction and commit it.
    """
    if not conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE:
        conn.execute("SELECT")


def _schema(given: str | None) -> str:
    return given or _configured_schema()


@cache
def _configured_schema() -> str:
    return settings.load().database_schema
