"""Creates and edits jobs, runs them again, and changes settings of types, for commands and the dashboard alike.

The job's type validates every payload and, if it has an `admit` function, admits the job. Every function works in the
caller's transaction if one is open.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import Refused, UnknownTaskType
from jobdeck.core.model import Enqueued, NewJob, Status
from jobdeck.core.queue import operator, producer
from jobdeck.core.queue.requests import admit, admit_change, changes, draft, new_job, new_jobs, new_payload
from jobdeck.core.read import job_lists, jobs
from jobdeck.core.read.sentences import result
from jobdeck.core.read.type_settings import DEFAULT_QUEUE, TypeLine, queue_names, type_lines
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import ActionResult, Job, Json
    from jobdeck.core.plugins import Preset
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.queue.requests import Wanted
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

QUICK_SYNC_AHEAD: Final = timedelta(hours=1)
"""A job of Quick Sync that has not run is not due later than this."""


def create(
    conn: Connection, registry: Registry, wanted: Wanted, *, settings: Settings, actor: str, dry_run: bool = False
) -> Enqueued:
    """Enqueues the job, or with `dry_run` returns the job that would be enqueued.

    Raises:
        Refused: the type is unknown, the payload does not fit, or the type or the database refuses the job.
    """
    with conn.transaction(force_rollback=dry_run):
        made = new_job(registry, wanted, jobs.clock().run(conn))
        recurring = made.recurrence_interval_minutes is not None or made.schedule is not None
        admit(conn, registry, made.task_type, [made.payload], recurring=recurring, settings=settings)
        return enqueue(conn, made, actor=actor)


def create_many(  # noqa: PLR0913 -- one keyword per choice of the caller
    conn: Connection,
    registry: Registry,
    wanted: Wanted,
    payloads: Sequence[Json],
    *,
    copies: int = 1,
    settings: Settings,
    actor: str,
    dry_run: bool = False,
    watched: Callable[[list[NewJob]], Iterable[NewJob]] = iter,
) -> list[UUID]:
    """Enqueues one-time jobs, `copies` of each payload, with the other options of `wanted`; returns their ids.

    `watched` yields the jobs it is given, while the database works; an exception of it takes everything back.

    Raises:
        Refused: the type is unknown, a payload does not fit, or the type or the database refuses a job; nothing is
            enqueued then.
    """
    with conn.transaction(force_rollback=dry_run):
        made = new_jobs(registry, wanted, payloads, jobs.clock().run(conn))
        admit(conn, registry, wanted.task_type, [job.payload for job in made], recurring=False, settings=settings)
        return producer.enqueue_many(conn, watched(made * copies), actor=actor)


def enqueue(conn: Connection, new: NewJob, *, actor: str) -> Enqueued:
    """Enqueues the job and reads it back, or the job that already has its dedupe key.

    Raises:
        Refused: the database rejects the interval, priority or blocker, or the job with the same dedupe key has just
            left the queue.
    """
    with conn.transaction():
        ticket = producer.enqueue(conn, new, actor=actor)
        # The history is read only for a job that has left the queue.
        found = job_lists.queued([ticket.job_id]).run(conn) or job_lists.removed([ticket.job_id]).run(conn)
    job = next(iter(found), None)
    if job is None and new.unique_seconds is not None:
        raise Refused(f"Job {ticket.job_id} has this dedupe key, which counts for a time. Nothing was enqueued.")
    if job is None:
        raise Refused("The job with the same dedupe key has just left the queue. Enqueue again.")
    return Enqueued(job, ticket.created, ticket.replaced)


def edit(  # noqa: PLR0913 -- one keyword per choice of the caller
    conn: Connection,
    registry: Registry,
    job: Job,
    wanted: Wanted,
    *,
    settings: Settings,
    actor: str,
    version: int | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> ActionResult:
    """Changes the job to match `wanted`, if it is still at `version` (None: the version of `job`).

    Raises:
        Refused: the type is unknown, the payload does not fit, or the type refuses it.
    """
    expected = job.version if version is None else version
    made = changes(registry, job, wanted, jobs.clock().run(conn))
    if not made and expected == job.version and not job.removed:
        return result(job.id, "nothing-to-change", ok=True, status=job.status, version=job.version)
    admit_change(conn, registry, job, made, settings=settings)
    return operator.edit(conn, job.id, changes=made, actor=actor, version=expected, reason=reason, dry_run=dry_run)


def run_again(  # noqa: PLR0913 -- one keyword per choice of the caller
    conn: Connection,
    registry: Registry,
    ids: Sequence[UUID],
    *,
    settings: Settings,
    actor: str,
    versions: Mapping[UUID, int] | None = None,
    payload: Json | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> list[ActionResult]:
    """Runs jobs again that have succeeded, and returns one answer per id.

    For a job that left the queue it enqueues a copy, with `payload` if given; the type must admit it like any new job.
    An ended series is still in the queue and becomes due itself; one with an entry in `versions` must still have that
    version.
    """
    left = {job.id: job for job in job_lists.removed(ids).run(conn)}
    here = {job.id: job for job in job_lists.queued(ids).run(conn)}

    def answer(job_id: UUID) -> ActionResult:
        if job_id in left:
            return _copy(
                conn, registry, left[job_id], payload, settings=settings, actor=actor, reason=reason, dry_run=dry_run
            )
        job = here.get(job_id)
        if job is None:
            return operator.run_again(conn, job_id, actor=actor, reason=reason, dry_run=dry_run)
        if job.status is not Status.SUCCEEDED:
            state = job.status.value
            return result(job_id, "not-succeeded", ok=False, status=job.status, version=job.version, state=state)
        if payload is not None:
            return result(job_id, "edit-succeeded", ok=False, status=job.status, version=job.version)
        seen = {job_id: (versions or {}).get(job_id, job.version)}
        return operator.retry(conn, [job_id], actor=actor, versions=seen, reason=reason, dry_run=dry_run)[0]

    return [answer(job_id) for job_id in dict.fromkeys(ids)]


def retry_with(
    conn: Connection, registry: Registry, job: Job, payload: Json, *, settings: Settings, actor: str
) -> ActionResult:
    """Retries a job with another payload if it still has this version; enqueues a copy of one that had left the queue.

    Raises:
        Refused: the type is unknown, the payload does not fit, or the type refuses it; nothing was changed.
    """
    made = new_payload(registry, job.task_type, payload)
    if job.removed:
        return _copy(conn, registry, job, payload, settings=settings, actor=actor)
    if payload == job.payload:
        return operator.retry(conn, [job.id], actor=actor, versions={job.id: job.version})[0]
    with conn.transaction():
        admit_change(conn, registry, job, made, settings=settings)
        edited = operator.edit(conn, job.id, changes=made, actor=actor, version=job.version)
        return operator.retry(conn, [job.id], actor=actor)[0] if edited.ok else edited


def _copy(
    conn: Connection,
    registry: Registry,
    job: Job,
    payload: Json | None,
    *,
    settings: Settings,
    actor: str,
    reason: str | None = None,
    dry_run: bool = False,
) -> ActionResult:
    """Enqueues a copy of a job that left the queue, with its own payload or another and its type's maximum attempts."""
    same = payload is None or payload == job.payload
    try:
        new = NewJob(job.task_type, job.payload)
        if not same or registry.get(job.task_type) is not None:
            new = draft(registry, job.task_type, job.payload if payload is None else payload)
        with conn.transaction(force_rollback=dry_run):
            admit(conn, registry, job.task_type, [new.payload], recurring=False, settings=settings)
            return operator.run_again(
                conn, job.id, payload=None if same else new.payload, max_attempts=new.max_attempts,
                concurrency_key=new.concurrency_key, actor=actor, reason=reason, dry_run=dry_run,
            )  # fmt: skip
    except Refused as refusal:
        return result(job.id, "not-admitted", ok=False, sentence=str(refusal))


def rehearse(
    conn: Connection, registry: Registry, wanted: Wanted, job: Job | None, *, settings: Settings, actor: str
) -> ActionResult:
    """The answer to creating a job, or to editing `job` if given; nothing is changed."""
    if job is not None:
        return edit(conn, registry, job, wanted, settings=settings, actor=actor, dry_run=True)
    made = create(conn, registry, wanted, settings=settings, actor=actor, dry_run=True)
    if not made.created:
        there = made.job
        return result(there.id, "key-held-create", ok=False, holder=there.id, state=there.status.value)
    return result(made.job.id, "would-enqueue", ok=True, status=made.job.status)


def known_type(conn: Connection, registry: Registry, task_type: str) -> TypeLine:
    """A type that this program has a handler for, or of which the queue has a job, a live worker or settings.

    Raises:
        UnknownTaskType: it is none of these, so its name is probably misspelled.
    """
    found = next((line for line in type_lines().run(conn) if line.task_type == task_type), None)
    return found or TypeLine(registry.require(task_type).task_type, 0, 0, 0, at_least=False, workers=0)


def set_type(
    conn: Connection,
    registry: Registry,
    task_type: str,
    changes: Mapping[str, float | datetime | str | None],
    *,
    actor: str,
    reason: str | None = None,
    dry_run: bool = False,
) -> TypeLine:
    """Changes settings of a task type, see `operator.set_type`, and returns the type as it is then.

    A type that is set aside need not be known: it is another runner's, and may have no job at the moment.

    Raises:
        UnknownTaskType: neither this program nor the queue knows the type.
        Refused: a setting is not possible; nothing was changed.
    """
    with conn.transaction(force_rollback=dry_run):
        if not changes.get("set_aside"):
            known_type(conn, registry, task_type)
        operator.set_type(conn, task_type, changes=changes, actor=actor, reason=reason)
        return known_type(conn, registry, task_type)


def set_queue(
    conn: Connection,
    queue: str,
    changes: Mapping[str, float | datetime | str | None],
    *,
    actor: str,
    reason: str | None = None,
    dry_run: bool = False,
) -> list[TypeLine]:
    """Changes settings of each type that is in a queue now, see `set_type`, and returns the types as they are then.

    A type that joins the queue later keeps its own settings.

    Raises:
        Refused: no type is in the queue, or a setting is not possible; nothing was changed.
    """
    with conn.transaction(force_rollback=dry_run):
        found = [line for line in type_lines().run(conn) if (line.queue or DEFAULT_QUEUE) == queue]
        if not found:
            known = ", ".join(queue_names().run(conn)) or DEFAULT_QUEUE
            raise Refused(
                f"No task type is in the queue {safe_error(queue, 100)}. The queues are {known}. Nothing was changed."
            )
        for line in found:
            operator.set_type(conn, line.task_type, changes=changes, actor=actor, reason=reason)
        names = {line.task_type for line in found}
        return [line for line in type_lines().run(conn) if line.task_type in names]


def missing_types(registry: Registry, preset: Preset) -> list[str]:
    """The task types of a preset (Quick Sync) that have no handler in this process."""
    return [task_type for task_type in preset.task_types if task_type not in registry]


def enqueue_preset(conn: Connection, registry: Registry, preset: Preset, *, actor: str) -> list[Enqueued]:
    """Enqueues the jobs of a preset in one transaction; each waits until the one before it has succeeded.

    Each has a dedupe key, so that a second press creates no second job.

    Raises:
        UnknownTaskType: a type of this preset has no handler in this process.
        Refused: a job that is not one of Quick Sync has such a key; nothing was enqueued.
    """
    if absent := missing_types(registry, preset):
        raise UnknownTaskType(
            f"The quick sync {preset.name} needs {' and '.join(absent)}, which have no handler in this process. "
            f"Known types: {', '.join(registry.names) or 'none'}."
        )
    done: list[Enqueued] = []
    with conn.transaction():
        for task_type in preset.task_types:
            new = draft(registry, task_type, dict(preset.payload))._replace(
                dedupe_key=f"quick-sync:{task_type}", blocked_by=done[-1].job.id if done else None
            )
            done.append(enqueue(conn, new, actor=actor))
            if not done[-1].created:
                _refuse_foreign(done[-1].job, task_type, jobs.clock().run(conn))
    return done


def _refuse_foreign(job: Job, task_type: str, now: datetime) -> None:
    """Refuses a job that has a key of Quick Sync and will not do its work: of another type, or first due far ahead."""
    is_far = job.status is Status.PENDING and job.attempts == 0 and job.run_at > now + QUICK_SYNC_AHEAD
    if job.task_type == task_type and not is_far:
        return
    due = f", due at {job.run_at:%Y-%m-%d %H:%M} UTC" if is_far else ""
    raise Refused(
        f"Job {job.id} ({job.task_type}{due}, enqueued by {job.created_by or 'an unknown program'}) has the dedupe key "
        f"of Quick Sync for {task_type}. Nothing was enqueued. Look at it with `jobdeck job {job.id}`, then cancel it "
        "or make it due."
    )
