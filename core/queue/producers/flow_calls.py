"""Enqueues flows, and what a run does with its own flow: reads how its blockers ended, and adds members."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jobdeck.core import registry
from jobdeck.core.queue import producer
from jobdeck.core.queue.calls import actor as current_actor
from jobdeck.core.queue.producers import connections, drafts
from jobdeck.core.queue.producers.flows import SPAN, BlockerResult, Flow, FlowTicket, Member
from jobdeck.core.telemetry import switch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

    from jobdeck.core.model import Json, NewJob
    from jobdeck.core.queue.producer import Call, Rows
    from jobdeck.core.queue.producers.connections import AsyncConnection, SyncConnection
    from jobdeck.core.queue.producers.drivers import Names
    from jobdeck.core.registry import AsyncJobContext, JobContext
    from jobdeck.core.registry.job_context import RunFacts
    from jobdeck.core.telemetry.spans import Sending


def _documents(ordered: Sequence[tuple[Member, tuple[str, ...]]], jobs: Sequence[NewJob]) -> str:
    """The list of members for `job_flow_create`, as JSON."""
    return json.dumps([member.document(new, after) for (member, after), new in zip(ordered, jobs, strict=True)])


def _noted(rows: Rows, flow: Flow, span: Sending) -> FlowTicket:
    """The answer of `job_flow_create` and `job_flow_add`, noted in the span of the enqueue."""
    ticket = FlowTicket(producer.plain_id(rows[0][0]), {name: producer.plain_id(job_id) for _, name, job_id in rows})
    span.enqueued_each((member.task_type for member in flow.members), ticket.flow_id)
    return ticket


def _results(rows: Rows) -> tuple[BlockerResult, ...]:
    """The answer of `job_flow_outcomes`."""
    return tuple(BlockerResult(*row) for row in rows)


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
    with switch.sending(SPAN) as span:
        return _noted(used.fetch(_flow_call(conn, flow, drafts.names(actor, schema, span))), flow, span)


async def aenqueue_flow(
    conn: AsyncConnection, flow: Flow, *, actor: str | None = None, schema: str | None = None
) -> FlowTicket:
    """Does what `enqueue_flow` does, with the same errors, on an async connection: see `aenqueue`."""
    used = connections.asynchronous(conn)
    with switch.sending(SPAN) as span:
        return _noted(await used.fetch(_flow_call(conn, flow, drafts.names(actor, schema, span))), flow, span)


def flow_results(ctx: JobContext) -> tuple[BlockerResult, ...]:
    """How the jobs ended that this run's job waited for, in the order of their ids; none if it waited for no other.

    A handler calls it. Of a series of attempts, each gets the same outcomes.
    """
    return _results(connections.sync(ctx.db).fetch(_outcomes_call(ctx)))


async def aflow_results(ctx: AsyncJobContext) -> tuple[BlockerResult, ...]:
    """Does what `flow_results` does, for an async handler."""
    async with ctx.adb() as conn:
        return _results(await connections.asynchronous(conn).fetch(_outcomes_call(ctx)))


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
    with switch.sending(SPAN) as span:
        return _noted(connections.sync(used).fetch(_extend_call(used, ctx, flow, span)), flow, span)


async def aextend_flow(
    ctx: AsyncJobContext, flow: Flow, conn: psycopg.AsyncConnection[Any] | None = None
) -> FlowTicket:
    """Does what `extend_flow` does, with the same errors, for an async handler; None for a connection of `ctx.adb`."""
    if conn is not None:
        with switch.sending(SPAN) as span:
            return _noted(await connections.asynchronous(conn).fetch(_extend_call(conn, ctx, flow, span)), flow, span)
    async with ctx.adb() as own:
        return await aextend_flow(ctx, flow, own)


def _outcomes_call(ctx: RunFacts) -> Call:
    return producer.flow_outcomes(ctx.job.id, schema=ctx.settings.database_schema)


def _extend_call(conn: object, ctx: RunFacts, flow: Flow, span: Sending) -> Call:
    return producer.extend_flow(
        ctx.job.id,
        ctx.job.run_token,
        _members(conn, flow),
        actor=current_actor(),
        schema=ctx.settings.database_schema,
        trace=span.traceparent,
    )


def _flow_call(conn: object, flow: Flow, names: Names) -> Call:
    return producer.create_flow(flow.name, _members(conn, flow), **names)


def _members(conn: object, flow: Flow) -> str:
    ordered = flow.ordered()
    return _documents(ordered, _flow_drafts(conn, [member for member, _ in ordered]))


def _flow_drafts(conn: object, members: Iterable[Member]) -> list[NewJob]:
    made = []
    payloads: dict[str, list[Json]] = {}
    for member in members:
        drafts.ranked(member.priority)
        new = drafts.draft(registry.registered(member.task_type), member.payload)
        payloads.setdefault(member.task_type, []).append(new.payload)
        made.append(drafts.Own(member.max_attempts, member.concurrency_key, timeout=member.timeout).of(new))
    for task_type, given in payloads.items():
        drafts.admit(conn, registry.registered(task_type), given, recurring=False)
    return made
