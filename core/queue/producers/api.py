"""Enqueues jobs for an application: validated by their type, in the application's own transaction.

`jobdeck.enqueue`, `enqueue_many` and their async twins are these functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, overload

from jobdeck.core import registry
from jobdeck.core.errors import UnknownTaskType
from jobdeck.core.model import NewJob, Ticket
from jobdeck.core.queue import producer
from jobdeck.core.queue.producers import connections, drafts
from jobdeck.core.registry.handles import Handle
from jobdeck.core.telemetry import switch
from jobdeck.core.times import with_zone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta
    from typing import Unpack
    from uuid import UUID

    from jobdeck.core.model import Json
    from jobdeck.core.queue.producers.connections import AsyncConnection, SyncConnection
    from jobdeck.core.registry import JobType, Payload
    from jobdeck.core.registry.handles import P
    from jobdeck.core.schedules import Schedule

Dedupe: TypeAlias = Literal["keep", "replace"]
SEVERAL = "several"
"""Names the span of an enqueue of several types, in the place of a task type."""


class JobFacts(TypedDict, total=False):
    """The options of one job; `enqueue` says what each means."""

    run_at: datetime | None
    every_minutes: int | None
    schedule: Schedule | None
    expires_at: datetime | None
    priority: int | None
    max_attempts: int | None
    dedupe_key: str | None
    concurrency_key: str | None
    blocked_by: UUID | None
    unique_for: timedelta | None
    timeout: float | None
    dedupe: Dedupe | None
    longest_wait: timedelta | None


class JobOptions(JobFacts, total=False):
    """The options of `enqueue`."""

    actor: str | None
    schema: str | None


class ManyOptions(TypedDict, total=False):
    """The options of `enqueue_many`."""

    run_at: datetime | None
    priority: int | None
    max_attempts: int | None
    timeout: float | None
    actor: str | None
    schema: str | None


@overload
def enqueue(
    conn: SyncConnection, task_type: Handle[P], payload: P | None = None, **options: Unpack[JobOptions]
) -> Ticket: ...
@overload
def enqueue(
    conn: SyncConnection, task_type: str, payload: Payload | Json | None = None, **options: Unpack[JobOptions]
) -> Ticket: ...
def enqueue(  # noqa: PLR0913 -- one keyword per option of a job
    conn: SyncConnection,
    task_type: str | Handle[Any],
    payload: Payload | Json | None = None,
    *,
    run_at: datetime | None = None,
    every_minutes: int | None = None,
    schedule: Schedule | None = None,
    expires_at: datetime | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    dedupe_key: str | None = None,
    concurrency_key: str | None = None,
    blocked_by: UUID | None = None,
    unique_for: timedelta | None = None,
    timeout: float | None = None,
    dedupe: Dedupe | None = None,
    longest_wait: timedelta | None = None,
    actor: str | None = None,
    schema: str | None = None,
) -> Ticket:
    """Enqueues one job in the caller's transaction: a rollback takes the job back, a commit shows it to workers.

    On an autocommit connection the job is there at once. A refusal by the database inside a transaction aborts it,
    unless the call is in a savepoint: `with conn.transaction()` of psycopg, `session.begin_nested()` of SQLAlchemy,
    `transaction.atomic()` of Django. The ticket says whether the job was created, replaced the one before, or neither.

    Args:
        conn: a psycopg connection, an SQLAlchemy session or connection, or `django.db.connection`.
        task_type: the handle of a type, or its name if this process has imported its module.
        payload: the type's payload model, or its JSON.
        run_at: when it is due, with a time zone; None for now.
        every_minutes: the interval of a recurring job.
        schedule: in place of `every_minutes`, an `Every`, or a `Cron`, which is due at its first slot from `run_at` on.
        expires_at: when a recurring job ends, with a time zone.
        priority: from -100 to 100; higher runs first. None for the type's own value, or 0.
        max_attempts: how often a failing job is tried; None for the type's own value.
        dedupe_key: if a pending or running job has this key, that job is returned and none is created.
        concurrency_key: jobs with the same key never run at the same time; None for the type's own key.
        blocked_by: the job runs after the success of this job.
        unique_for: no second one-time job with the dedupe key is created for this time, also after the first has ended.
        timeout: how many seconds a run of this job may take; None for the timeout of its type.
        dedupe: "replace": the job with the dedupe key gets what is new while it waits; None, as "keep": it stays as is.
        longest_wait: with "replace", when the job is due at the latest, from its first enqueue on.
        actor: the name in the audit; None for the account of this process.
        schema: the schema of the queue; None for the value of `JOBDECK_SCHEMA`.

    Raises:
        UnknownTaskType: no module that this process has imported registers the type.
        InvalidPayload: the payload does not fit the type; `problems` gives the reasons by field.
        Refused: an option is not possible, or the connection is of another kind (with `admit`, than psycopg's).
    """
    used = connections.sync(conn)
    new = _new(
        conn, task_type, payload, run_at=run_at, every_minutes=every_minutes, schedule=schedule, expires_at=expires_at,
        priority=priority, max_attempts=max_attempts, dedupe_key=dedupe_key, dedupe=dedupe, longest_wait=longest_wait,
        concurrency_key=concurrency_key, blocked_by=blocked_by, unique_for=unique_for, timeout=timeout,
    )  # fmt: skip
    with switch.sending(new.task_type) as span:
        return span.enqueued(producer.ticket(used.fetch(producer.create(new, **drafts.names(actor, schema, span)))))


@overload
async def aenqueue(
    conn: AsyncConnection, task_type: Handle[P], payload: P | None = None, **options: Unpack[JobOptions]
) -> Ticket: ...
@overload
async def aenqueue(
    conn: AsyncConnection, task_type: str, payload: Payload | Json | None = None, **options: Unpack[JobOptions]
) -> Ticket: ...
async def aenqueue(
    conn: AsyncConnection,
    task_type: str | Handle[Any],
    payload: Payload | Json | None = None,
    *,
    actor: str | None = None,
    schema: str | None = None,
    **options: Unpack[JobFacts],
) -> Ticket:
    """Does what `enqueue` does, with the same options and errors, on an async connection.

    Args:
        conn: a psycopg or asyncpg connection, or an SQLAlchemy async session or connection. For a savepoint around the
            call: `async with conn.transaction()`, or `async with session.begin_nested()` of SQLAlchemy.
        task_type: the handle of a type, or its name if this process has imported its module.
        payload: the type's payload model, or its JSON.
        actor: the name in the audit; None for the account of this process.
        schema: the schema of the queue; None for the value of `JOBDECK_SCHEMA`.
        options: the others of `enqueue`.
    """
    used = connections.asynchronous(conn)
    new = _new(conn, task_type, payload, **options)
    with switch.sending(new.task_type) as span:
        call = producer.create(new, **drafts.names(actor, schema, span))
        return span.enqueued(producer.ticket(await used.fetch(call)))


@overload
def enqueue_many(
    conn: SyncConnection, task_type: Handle[P], payloads: Iterable[P], **options: Unpack[ManyOptions]
) -> list[UUID]: ...
@overload
def enqueue_many(
    conn: SyncConnection, task_type: str, payloads: Iterable[Payload | Json], **options: Unpack[ManyOptions]
) -> list[UUID]: ...
@overload
def enqueue_many(
    conn: SyncConnection, jobs: Iterable[NewJob], /, *, actor: str | None = ..., schema: str | None = ...
) -> list[Ticket]: ...
def enqueue_many(  # noqa: PLR0913 -- one keyword per option of all jobs
    conn: SyncConnection,
    task_type: str | Handle[Any] | Iterable[NewJob],
    payloads: Iterable[Payload | Json] | None = None,
    *,
    run_at: datetime | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    timeout: float | None = None,
    actor: str | None = None,
    schema: str | None = None,
) -> list[UUID] | list[Ticket]:
    """Enqueues many jobs in the caller's transaction, all or none.

    With a type and its payloads, all have the same options, which have the same meaning as in `enqueue`, and their ids
    are returned. It takes about a tenth of the time of one `enqueue` per job.

    With whole jobs (`send_invoice.new(…)`, `jobdeck.new_job(…)`), of several types and each with options of its own, a
    `Ticket` for each is returned, in their order. A job with a blocker, an interval, a schedule, an expiry or
    `unique_for`, or whose dedupe key is taken, takes the time of one `enqueue`.

    Raises:
        UnknownTaskType: no module that this process has imported registers the type.
        InvalidPayload: a payload does not fit the type; nothing was enqueued.
        Refused: as `enqueue`; nothing was enqueued.
    """
    used = connections.sync(conn)
    if not isinstance(task_type, str | Handle) and payloads is None:
        whole = _whole(conn, task_type)
        with switch.sending(_span_of(whole)) as span:
            tickets = used.enqueue_each(whole, drafts.names(actor, schema, span))
            span.enqueued_each(new.task_type for new, ticket in zip(whole, tickets, strict=True) if ticket.created)
            return tickets
    job_type = registry.registered(task_type)  # type: ignore[arg-type]  # refuses what is neither name nor handle
    own = drafts.Own(max_attempts, timeout=timeout)
    jobs = _many(conn, job_type, payloads or (), own, run_at=run_at, priority=priority)
    with switch.sending(job_type.task_type) as span:
        return span.enqueued_many(used.enqueue_many(jobs, drafts.names(actor, schema, span)))


@overload
async def aenqueue_many(
    conn: AsyncConnection, task_type: Handle[P], payloads: Iterable[P], **options: Unpack[ManyOptions]
) -> list[UUID]: ...
@overload
async def aenqueue_many(
    conn: AsyncConnection, task_type: str, payloads: Iterable[Payload | Json], **options: Unpack[ManyOptions]
) -> list[UUID]: ...
@overload
async def aenqueue_many(
    conn: AsyncConnection, jobs: Iterable[NewJob], /, *, actor: str | None = ..., schema: str | None = ...
) -> list[Ticket]: ...
async def aenqueue_many(  # noqa: PLR0913 -- one keyword per option of all jobs
    conn: AsyncConnection,
    task_type: str | Handle[Any] | Iterable[NewJob],
    payloads: Iterable[Payload | Json] | None = None,
    *,
    run_at: datetime | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 -- that of the jobs
    actor: str | None = None,
    schema: str | None = None,
) -> list[UUID] | list[Ticket]:
    """Does what `enqueue_many` does, with the same options and errors, on an async connection: see `aenqueue`.

    If the task is cancelled meanwhile, nothing is enqueued. A connection of psycopg or asyncpg can be used further;
    SQLAlchemy closes the connection under its session.
    """
    used = connections.asynchronous(conn)
    if not isinstance(task_type, str | Handle) and payloads is None:
        whole = _whole(conn, task_type)
        with switch.sending(_span_of(whole)) as span:
            tickets = await used.enqueue_each(whole, drafts.names(actor, schema, span))
            span.enqueued_each(new.task_type for new, ticket in zip(whole, tickets, strict=True) if ticket.created)
            return tickets
    job_type = registry.registered(task_type)  # type: ignore[arg-type]  # refuses what is neither name nor handle
    own = drafts.Own(max_attempts, timeout=timeout)
    jobs = _many(conn, job_type, payloads or (), own, run_at=run_at, priority=priority)
    with switch.sending(job_type.task_type) as span:
        return span.enqueued_many(await used.enqueue_many(jobs, drafts.names(actor, schema, span)))


def new_job(  # noqa: PLR0913 -- one keyword per option of a job
    task_type: str | Handle[Any],
    payload: Payload | Json | None = None,
    *,
    run_at: datetime | None = None,
    every_minutes: int | None = None,
    schedule: Schedule | None = None,
    expires_at: datetime | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    dedupe_key: str | None = None,
    concurrency_key: str | None = None,
    blocked_by: UUID | None = None,
    unique_for: timedelta | None = None,
    timeout: float | None = None,
    dedupe: Dedupe | None = None,
    longest_wait: timedelta | None = None,
) -> NewJob:
    """A whole job, with a validated payload and options of its own, which `enqueue_many` enqueues with others.

    The options have the same meaning as in `enqueue`. Of a type with a handle, `send_invoice.new(Invoice(…), …)`.

    Raises:
        UnknownTaskType: no module that this process has imported registers the type.
        InvalidPayload: the payload does not fit the type; `problems` gives the reasons by field.
        Refused: an option is not possible.
    """
    job_type = registry.registered(task_type)
    own = drafts.Own(max_attempts, concurrency_key, unique_for, timeout, dedupe_key, dedupe, longest_wait)
    new = own.of(drafts.draft(job_type, payload))._replace(
        run_at=with_zone(run_at, "run_at"), priority=drafts.ranked(priority), blocked_by=blocked_by,
        recurrence_interval_minutes=every_minutes,
        expires_at=with_zone(expires_at, "expires_at"),
    )  # fmt: skip
    return drafts.scheduled(new, schedule)


def _new(
    conn: object, task_type: str | Handle[Any], payload: Payload | Json | None, **facts: Unpack[JobFacts]
) -> NewJob:
    """One job, validated and admitted by its type."""
    new = new_job(task_type, payload, **facts)
    drafts.admit(conn, registry.registered(task_type), [new.payload], recurring=drafts.recurs(new))
    return new


def _whole(conn: object, jobs: Iterable[NewJob]) -> list[NewJob]:
    """Jobs of any types, admitted by them.

    Raises:
        UnknownTaskType: a value is no whole job, or no imported module registers its type.
    """
    listed = list(jobs)
    payloads: dict[tuple[str, bool], list[Json]] = {}
    for new in listed:
        if not isinstance(new, NewJob):
            raise UnknownTaskType(
                f"enqueue_many takes a type and its payloads, or whole jobs as jobdeck.new_job or the handle's new() "
                f"makes them, and not a value of the class {type(new).__qualname__}. Nothing was enqueued."
            )
        payloads.setdefault((new.task_type, drafts.recurs(new)), []).append(new.payload)
    for (task_type, recurring), given in payloads.items():
        drafts.admit(conn, registry.registered(task_type), given, recurring=recurring)
    return listed


def _span_of(jobs: Sequence[NewJob]) -> str:
    """What the span of these jobs is named after."""
    first = jobs[0].task_type if jobs else SEVERAL
    return first if all(new.task_type == first for new in jobs) else SEVERAL


def _many(
    conn: object, job_type: JobType, payloads: Iterable[Payload | Json], own: drafts.Own, **columns: Any
) -> list[NewJob]:
    """One-time jobs, validated and admitted by their type."""
    with_zone(columns["run_at"], "run_at")
    drafts.ranked(columns["priority"])
    jobs = [own.of(drafts.draft(job_type, payload)._replace(**columns)) for payload in payloads]
    drafts.admit(conn, job_type, (new.payload for new in jobs), recurring=False)
    return jobs
