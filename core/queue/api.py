"""Enqueues jobs for an application: validated by their type, in the application's own transaction.

`jobdeck.enqueue`, `enqueue_many`, `enqueue_flow` and their async twins are these functions, and so are `flow_results`
and `extend_flow`, which a handler calls, and their async twins.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from pydantic import BaseModel

from jobdeck.core import registry, settings
from jobdeck.core.errors import Refused
from jobdeck.core.model import Ticket
from jobdeck.core.postgres.database import actor as current_actor
from jobdeck.core.queue import producer, requests
from jobdeck.core.queue.producers import connections, flows
from jobdeck.core.telemetry import switch
from jobdeck.core.times import with_zone

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from jobdeck.core.model import Json, NewJob
    from jobdeck.core.queue.producer import Call
    from jobdeck.core.queue.producers.connections import AsyncConnection, SyncConnection
    from jobdeck.core.queue.producers.drivers import Names, Rows
    from jobdeck.core.queue.producers.flows import BlockerResult, Flow, FlowTicket
    from jobdeck.core.registry import AsyncJobContext, JobContext, JobType, Payload
    from jobdeck.core.registry.job_context import RunFacts
    from jobdeck.core.schedules import Schedule
    from jobdeck.core.telemetry.spans import Sending


def enqueue(  # noqa: PLR0913 -- one keyword per option of a job
    conn: SyncConnection,
    task_type: str,
    payload: Payload | Json | None = None,
    *,
    run_at: datetime | None = None,
    every_minutes: int | None = None,
    schedule: Schedule | None = None,
    expires_at: datetime | None = None,
    priority: int = 0,
    max_attempts: int | None = None,
    dedupe_key: str | None = None,
    concurrency_key: str | None = None,
    blocked_by: UUID | None = None,
    unique_for: timedelta | None = None,
    actor: str | None = None,
    schema: str | None = None,
) -> Ticket:
    """Enqueues one job in the caller's transaction: a rollback takes the job back, a commit shows it to workers.

    On an autocommit connection the job is there at once. A refusal by the database inside a transaction aborts it,
    unless the call is in a savepoint: `with conn.transaction()` of psycopg, `session.begin_nested()` of SQLAlchemy,
    `transaction.atomic()` of Django. Returns the id of the job, and whether it was created or had the dedupe key.

    Args:
        conn: a psycopg connection, an SQLAlchemy session or connection, or `django.db.connection`.
        task_type: a type whose module this process has imported.
        payload: the type's payload model, or its JSON.
        run_at: when it is due, with a time zone; None for now.
        every_minutes: the interval of a recurring job.
        schedule: in place of `every_minutes`, an `Every`, or a `Cron`, which is due at its first slot from `run_at` on.
        expires_at: when a recurring job ends, with a time zone.
        priority: from -100 to 100; higher runs first.
        max_attempts: how often a failing job is tried; None for the type's own value.
        dedupe_key: if a pending or running job has this key, that job is returned and none is created.
        concurrency_key: jobs with the same key never run at the same time; None for the type's own key.
        blocked_by: the job runs after the success of this job.
        unique_for: no second one-time job with the dedupe key is created for this time, also after the first has ended.
        actor: the name in the audit; None for the account of this process.
        schema: the schema of the queue; None for the value of `JOBDECK_SCHEMA`.

    Raises:
        UnknownTaskType: no module that this process has imported registers the type.
        InvalidPayload: the payload does not fit the type; `problems` gives the reasons by field.
        Refused: the database rejects one of the options; both intervals are given; the connection is of another kind;
            or the type has an `admit` function, which needs a psycopg connection, and it is of another kind.
    """
    used = connections.sync(conn)
    new = _new(
        conn, task_type, payload, _Own(max_attempts, concurrency_key, unique_for), schedule,
        run_at=run_at, priority=priority, dedupe_key=dedupe_key, blocked_by=blocked_by,
        recurrence_interval_minutes=every_minutes, expires_at=expires_at,
    )  # fmt: skip
    with switch.sending(task_type) as span:
        call = producer.create(new, **_names(actor, schema, span))
        return span.enqueued(_ticket(used.fetch(call)))


async def aenqueue(  # noqa: PLR0913 -- one keyword per option of a job
    conn: AsyncConnection,
    task_type: str,
    payload: Payload | Json | None = None,
    *,
    run_at: datetime | None = None,
    every_minutes: int | None = None,
    schedule: Schedule | None = None,
    expires_at: datetime | None = None,
    priority: int = 0,
    max_attempts: int | None = None,
    dedupe_key: str | None = None,
    concurrency_key: str | None = None,
    blocked_by: UUID | None = None,
    unique_for: timedelta | None = None,
    actor: str | None = None,
    schema: str | None = None,
) -> Ticket:
    """Does what `enqueue` does, with the same options and errors, on an async connection.

    Args:
        conn: a psycopg or asyncpg connection, or an SQLAlchemy async session or connection. For a savepoint around the
            call: `async with conn.transaction()`, or `async with session.begin_nested()` of SQLAlchemy.
        task_type: see `enqueue`, also for the rest.
        payload: the type's payload model, or its JSON.
        run_at: when it is due, with a time zone; None for now.
        every_minutes: the interval of a recurring job.
        schedule: a `Cron`, due at its first slot from `run_at` on, or an `Every`, in place of `every_minutes`.
        expires_at: when a recurring job ends, with a time zone.
        priority: from -100 to 100; higher runs first.
        max_attempts: how often a failing job is tried; None for the type's own value.
        dedupe_key: if a pending or running job has this key, that job is returned and none is created.
        concurrency_key: jobs with the same key never run at the same time; None for the type's own key.
        blocked_by: the job runs after the success of this job.
        unique_for: no second one-time job with the dedupe key is created for this time, also after the first has ended.
        actor: the name in the audit; None for the account of this process.
        schema: the schema of the queue; None for the value of `JOBDECK_SCHEMA`.

    Raises:
        UnknownTaskType: no module that this process has imported registers the type.
        InvalidPayload: the payload does not fit the type; `problems` gives the reasons by field.
        Refused: the database rejects one of the options; both intervals are given; the connection is of another kind;
            or the type has an `admit` function, which needs a psycopg connection.
    """
    used = connections.asynchronous(conn)
    new = _new(
        conn, task_type, payload, _Own(max_attempts, concurrency_key, unique_for), schedule,
        run_at=run_at, priority=priority, dedupe_key=dedupe_key, blocked_by=blocked_by,
        recurrence_interval_minutes=every_minutes, expires_at=expires_at,
    )  # fmt: skip
    with switch.sending(task_type) as span:
        call = producer.create(new, **_names(actor, schema, span))
        return span.enqueued(_ticket(await used.fetch(call)))


def enqueue_many(
    conn: SyncConnection,
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
        Refused: as `enqueue`; nothing was enqueued.
    """
    used = connections.sync(conn)
    jobs = _many(conn, task_type, payloads, _Own(max_attempts), run_at=run_at, priority=priority)
    with switch.sending(task_type) as span:
        return span.enqueued_many(used.enqueue_many(jobs, _names(actor, schema, span)))


async def aenqueue_many(
    conn: AsyncConnection,
    task_type: str,
    payloads: Iterable[Payload | Json],
    *,
    run_at: datetime | None = None,
    priority: int = 0,
    max_attempts: int | None = None,
    actor: str | None = None,
    schema: str | None = None,
) -> list[UUID]:
    """Does what `enqueue_many` does, with the same options and errors, on an async connection: see `aenqueue`.

    If the task is cancelled meanwhile, nothing is enqueued. A connection of psycopg or asyncpg can be used further;
    SQLAlchemy closes the connection under its session.
    """
    used = connections.asynchronous(conn)
    jobs = _many(conn, task_type, payloads, _Own(max_attempts), run_at=run_at, priority=priority)
    with switch.sending(task_type) as span:
        return span.enqueued_many(await used.enqueue_many(jobs, _names(actor, schema, span)))


def enqueue_flow(
    conn: SyncConnection, flow: Flow, *, actor: str | None = None, schema: str | None = None
) -> FlowTicket:
    """Enqueues the jobs of a flow in the caller's transaction, all or none, in one statement.

    Args:
        conn: as for `enqueue`.
        flow: the members, 10,000 at most.
        actor: the name in the audit; None for the account of this process.
        schema: the schema of the queue; None for the value of `JOBDECK_SCHEMA`.

    Returns:
        The id of the flow, and the ids of its jobs by name.

    Raises:
        UnknownTaskType, InvalidPayload: as `enqueue`, for each member.
        Refused: members wait for each other in a circle, or for a job that is not there or cannot succeed; the dedupe
            key of a member is taken; and as `enqueue`. Nothing was enqueued.
    """
    used = connections.sync(conn)
    with switch.sending(flows.SPAN) as span:
        ticket = flows.ticket(used.fetch(_flow_call(conn, flow, _names(actor, schema, span))))
        span.enqueued_many(list(ticket.jobs.values()))
        return ticket


async def aenqueue_flow(
    conn: AsyncConnection, flow: Flow, *, actor: str | None = None, schema: str | None = None
) -> FlowTicket:
    """Does what `enqueue_flow` does, with the same errors, on an async connection: see `aenqueue`."""
    used = connections.asynchronous(conn)
    with switch.sending(flows.SPAN) as span:
        ticket = flows.ticket(await used.fetch(_flow_call(conn, flow, _names(actor, schema, span))))
        span.enqueued_many(list(ticket.jobs.values()))
        return ticket


def flow_results(ctx: JobContext) -> tuple[BlockerResult, ...]:
    """How the jobs ended that this run's job waited for, in the order of their ids; none if it waited for no other.

    A handler calls it. Of a series of attempts, each gets the same outcomes.
    """
    return flows.results(connections.sync(ctx.db).fetch(_outcomes_call(ctx)))


async def aflow_results(ctx: AsyncJobContext) -> tuple[BlockerResult, ...]:
    """Does what `flow_results` does, for an async handler."""
    async with ctx.adb() as conn:
        return flows.results(await connections.asynchronous(conn).fetch(_outcomes_call(ctx)))


def extend_flow(ctx: JobContext, flow: Flow, conn: psycopg.Connection[Any] | None = None) -> FlowTicket:
    """Adds jobs to the flow of this run's job, all or none: what waits for the job then also waits for them.

    A handler calls it. A member that an earlier attempt of the job has added under the same name is not added again, so
    each attempt can add the same. The members wait for each other alone.

    Args:
        ctx: the context of the run.
        flow: the members to add; its own name is not used.
        conn: a connection of the handler, to add them in its transaction, which should commit soon; None for `ctx.db`.

    Raises:
        Refused: the run was taken back or its job asked to cancel; the job is in no flow; another member has one of the
            names; and as `enqueue_flow`. Nothing was enqueued.
        UnknownTaskType, InvalidPayload: as `enqueue`, for each member.
    """
    used = conn or ctx.db
    return flows.ticket(connections.sync(used).fetch(_extend_call(used, ctx, flow)))


async def aextend_flow(
    ctx: AsyncJobContext, flow: Flow, conn: psycopg.AsyncConnection[Any] | None = None
) -> FlowTicket:
    """Does what `extend_flow` does, with the same errors, for an async handler; None for a connection of `ctx.adb`."""
    if conn is not None:
        return flows.ticket(await connections.asynchronous(conn).fetch(_extend_call(conn, ctx, flow)))
    async with ctx.adb() as own:
        return await aextend_flow(ctx, flow, own)


def _outcomes_call(ctx: RunFacts) -> Call:
    return producer.flow_outcomes(ctx.job.id, schema=ctx.settings.database_schema)


def _extend_call(conn: object, ctx: RunFacts, flow: Flow) -> Call:
    return producer.extend_flow(
        ctx.job.id,
        ctx.job.run_token,
        _members(conn, flow),
        actor=current_actor(),
        schema=ctx.settings.database_schema,
    )


def _flow_call(conn: object, flow: Flow, names: Names) -> Call:
    return producer.create_flow(flow.name, _members(conn, flow), **names)


def _members(conn: object, flow: Flow) -> str:
    ordered = flow.ordered()
    return flows.documents(ordered, _flow_drafts(conn, [member for member, _ in ordered]))


def _flow_drafts(conn: object, members: Iterable[flows.Member]) -> list[NewJob]:
    drafts = []
    payloads: dict[str, list[Json]] = {}
    for member in members:
        new = _draft(registry.registered(member.task_type), member.payload)
        payloads.setdefault(member.task_type, []).append(new.payload)
        drafts.append(_Own(member.max_attempts, member.concurrency_key).of(new))
    for task_type, given in payloads.items():
        _admit(conn, registry.registered(task_type), given, recurring=False)
    return drafts


class _Own(NamedTuple):
    """The caller's own values, in place of those of the type where the caller gave some."""

    max_attempts: int | None = None
    concurrency_key: str | None = None
    unique_for: timedelta | None = None

    def of(self, new: NewJob) -> NewJob:
        if not isinstance(self.unique_for, timedelta | None):
            raise Refused(
                "unique_for is the time for which a job is unique: a timedelta, such as timedelta(hours=1), and not "
                f"{type(self.unique_for).__name__}. Nothing was enqueued."
            )
        return new._replace(
            max_attempts=new.max_attempts if self.max_attempts is None else self.max_attempts,
            concurrency_key=self.concurrency_key or new.concurrency_key,
            unique_seconds=None if self.unique_for is None else self.unique_for.total_seconds(),
        )


def _new(
    conn: object, task_type: str, payload: Payload | Json | None, own: _Own, schedule: Schedule | None, **columns: Any
) -> NewJob:
    """One job, validated and admitted by its type."""
    job_type = registry.registered(task_type)
    for name in ("run_at", "expires_at"):
        with_zone(columns[name], name)
    new = _scheduled(own.of(_draft(job_type, payload)._replace(**columns)), schedule)
    recurring = new.recurrence_interval_minutes is not None or schedule is not None
    _admit(conn, job_type, [new.payload], recurring=recurring)
    return new


def _many(conn: object, task_type: str, payloads: Iterable[Payload | Json], own: _Own, **columns: Any) -> list[NewJob]:
    """One-time jobs, validated and admitted by their type."""
    job_type = registry.registered(task_type)
    with_zone(columns["run_at"], "run_at")
    jobs = [own.of(_draft(job_type, payload)._replace(**columns)) for payload in payloads]
    _admit(conn, job_type, (new.payload for new in jobs), recurring=False)
    return jobs


def _draft(job_type: JobType, payload: Payload | Json | None) -> NewJob:
    given = job_type.dump(payload) if isinstance(payload, BaseModel) else {} if payload is None else payload
    return requests.draft(registry.Registry([job_type]), job_type.task_type, given)


def _scheduled(new: NewJob, schedule: Schedule | None) -> NewJob:
    if schedule is None:
        return new
    if new.recurrence_interval_minutes is not None:
        raise Refused("A recurring job has either every_minutes or a schedule. Omit one of them.")
    return requests.scheduled(new, schedule, datetime.now(UTC))


def _admit(conn: object, job_type: JobType, payloads: Iterable[Json], *, recurring: bool) -> None:
    if job_type.admit is None:
        return
    if not isinstance(conn, psycopg.Connection):
        raise Refused(
            f"The type {job_type.task_type} checks each job in the database before it is enqueued (admit), for which "
            "it needs a psycopg connection. Enqueue it with jobdeck.enqueue and a psycopg connection."
        )
    known = registry.Registry([job_type])
    requests.admit(conn, known, job_type.task_type, payloads, recurring=recurring, settings=settings.load())


def _names(actor: str | None, schema: str | None, span: Sending) -> Names:
    return {"actor": actor or current_actor(), "schema": schema or _configured_schema(), "trace": span.traceparent}


def _ticket(rows: Rows) -> Ticket:
    job_id, created = rows[0]
    return Ticket(producer.plain_id(job_id), created)


@cache
def _configured_schema() -> str:
    return settings.load().database_schema
