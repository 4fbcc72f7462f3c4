"""What a program does about a job that an operator asks for: enqueues it, changes it, or says what would come of it.

Each takes a connection and works in the caller's transaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jobdeck.core.errors import Refused
from jobdeck.core.model import ActionResult, Enqueued, NewJob, Status
from jobdeck.core.queue import operator, producer
from jobdeck.core.queue.requests import admit, admit_change, changes, new_job
from jobdeck.core.read import jobs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from jobdeck.core.model import Job
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.queue.requests import Wanted
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings


def create(conn: Connection, registry: Registry, wanted: Wanted, *, settings: Settings, actor: str) -> Enqueued:
    """Enqueues the job.

    Raises:
        Refused: the type is unknown, the payload does not fit, or the type or the queue does not take it.
    """
    with conn.transaction():
        made = new_job(registry, wanted, jobs.clock().run(conn))
        recurring = made.recurrence_interval_minutes is not None
        admit(conn, registry, made.task_type, [made.payload], recurring=recurring, settings=settings)
        return enqueue(conn, made, actor=actor)


def enqueue(conn: Connection, new: NewJob, *, actor: str) -> Enqueued:
    """Enqueues the job, and reads what stands in the queue for it.

    Raises:
        Refused: the interval, priority or blocker is not acceptable, or the job that holds the dedupe key has left
            the queue meanwhile.
    """
    with conn.transaction():
        ticket = producer.enqueue(conn, new, actor=actor)
        job = jobs.job(ticket.job_id).run(conn)
    if job is None:
        raise Refused("The job that holds the same dedupe key has just left the queue. Enqueue again.")
    return Enqueued(job, ticket.created)


def edit(
    conn: Connection,
    registry: Registry,
    job: Job,
    wanted: Wanted,
    *,
    settings: Settings,
    actor: str,
    dry_run: bool = False,
) -> ActionResult:
    """Makes the job what is wanted, if it is still at the version that was seen.

    Raises:
        Refused: the type is unknown, the payload does not fit, or the type does not take it.
    """
    made = changes(registry, job, wanted, jobs.clock().run(conn))
    admit_change(conn, registry, job, made, settings=settings)
    return operator.edit(conn, job.id, changes=made, actor=actor, version=job.version, dry_run=dry_run)


def run_again(
    conn: Connection, registry: Registry, job: Job, *, settings: Settings, actor: str, reason: str | None = None
) -> ActionResult:
    """Enqueues a copy of a job that succeeded and has left the queue; the type is asked as for any new job.

    The history keeps neither its key nor how many attempts it had, which are the type's, nor its priority.
    """
    known = registry.get(job.task_type)
    try:
        new = NewJob(job.task_type, job.payload, priority=job.priority or 0)
        if known is not None:
            key = known.concurrency_key(known.parse(job.payload))
            new = new._replace(max_attempts=known.max_attempts, concurrency_key=key)
        with conn.transaction():
            admit(conn, registry, job.task_type, [job.payload], recurring=False, settings=settings)
            copied = operator.copy(conn, job.id, new, actor=actor, reason=reason)
    except Refused as refusal:
        return ActionResult(job.id, ok=False, message=str(refusal))
    return ActionResult(job.id, ok=True, message=f"Enqueued again as {copied}.", status=Status.PENDING)


def retry_removed(
    conn: Connection,
    registry: Registry,
    ids: Sequence[UUID],
    *,
    settings: Settings,
    actor: str,
    reason: str | None,
    dry_run: bool,
) -> list[ActionResult]:
    """Runs those again that have left the queue, as copies; of the others it says nothing."""
    answers = []
    for one in ids:
        found = jobs.job(one).run(conn)
        if found is not None and found.removed:
            with conn.transaction(force_rollback=dry_run):
                answer = run_again(conn, registry, found, settings=settings, actor=actor, reason=reason)
            message = "A copy of it would be enqueued." if answer.ok and dry_run else answer.message
            answers.append(replace(answer, message=message))
    return answers


def rehearse(
    conn: Connection, registry: Registry, wanted: Wanted, job: Job | None, *, settings: Settings, actor: str
) -> ActionResult:
    """What the queue would answer; nothing is changed. `job` is the one that would be edited."""
    if job is not None:
        return edit(conn, registry, job, wanted, settings=settings, actor=actor, dry_run=True)
    with conn.transaction(force_rollback=True):
        made = create(conn, registry, wanted, settings=settings, actor=actor)
    if not made.created:
        there = f"Job {made.job.id} with the same dedupe key is {made.job.status.value} already."
        return ActionResult(made.job.id, ok=False, message=f"{there} Nothing would be enqueued.")
    return ActionResult(made.job.id, ok=True, message="It would be enqueued.", status=made.job.status)
