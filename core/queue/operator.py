"""What operators do to jobs and to the processing switch: thin, typed calls into the functions of `schema.sql`.

Every function takes a psycopg connection and works inside the caller's transaction where there is one. What the
database refuses with a sentence is raised as `Refused`; nothing is changed then.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from jobdeck.core.errors import Refused
from jobdeck.core.queue.calls import Connection, rows
from jobdeck.core.read.jobs import processing
from jobdeck.core.read.rows import result_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from jobdeck.core.model import ActionResult, Json, NewJob, Processing


def retry(
    conn: Connection,
    ids: Sequence[UUID],
    *,
    actor: str,
    versions: Mapping[UUID, int] | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> list[ActionResult]:
    """Retry, or Run now for a pending job: due at once. A success that left the queue is enqueued as a copy."""
    return _act(conn, "retry", ids, versions, actor, reason, dry_run)


def cancel(
    conn: Connection,
    ids: Sequence[UUID],
    *,
    actor: str,
    versions: Mapping[UUID, int] | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> list[ActionResult]:
    """Cancels at once what waits; asks what runs to stop; dismisses what failed."""
    return _act(conn, "cancel", ids, versions, actor, reason, dry_run)


def delete(
    conn: Connection,
    ids: Sequence[UUID],
    *,
    actor: str,
    versions: Mapping[UUID, int] | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> list[ActionResult]:
    """Moves jobs that are not running to the trash, for 7 days."""
    return _act(conn, "delete", ids, versions, actor, reason, dry_run)


def _act(
    conn: Connection,
    action: str,
    ids: Sequence[UUID],
    versions: Mapping[UUID, int] | None,
    actor: str,
    reason: str | None,
    dry_run: bool,
) -> list[ActionResult]:
    seen = versions or {}
    found = rows(
        conn,
        "SELECT * FROM job_queue_act(%s, %s::uuid[], %s::bigint[], %s, %s, %s)",
        (action, list(ids), [seen.get(job_id) for job_id in ids], actor, reason, dry_run),
    )
    answers = {row["job_id"]: result_from(row) for row in found}
    return [answers[job_id] for job_id in dict.fromkeys(ids)]


def copy(conn: Connection, job_id: UUID, new: NewJob, *, actor: str, reason: str | None = None) -> UUID:
    """Enqueues `new` as a copy of a job that succeeded and left the queue, puts that on record, returns its id.

    Raises:
        Refused: the job has not left the queue by succeeding, or the copy is not acceptable.
    """
    row = rows(
        conn,
        "SELECT job_queue_copy(%s, %s::jsonb, %s, %s, %s, %s, %s) AS id",
        (job_id, json.dumps(new.payload), new.max_attempts, new.priority, new.concurrency_key, actor, reason),
    )[0]
    if row["id"] is None:
        raise Refused(f"Job {job_id} has not succeeded and left the queue, so there is nothing to copy. Look again.")
    copied: UUID = row["id"]
    return copied


def restore(
    conn: Connection, ids: Sequence[UUID], *, actor: str, reason: str | None = None, dry_run: bool = False
) -> list[ActionResult]:
    """Takes deleted jobs back out of the trash as they were."""
    found = rows(conn, "SELECT * FROM job_queue_restore(%s::uuid[], %s, %s, %s)", (list(ids), actor, reason, dry_run))
    answers = {row["job_id"]: result_from(row) for row in found}
    return [answers[job_id] for job_id in dict.fromkeys(ids)]


def edit(
    conn: Connection,
    job_id: UUID,
    *,
    changes: Json,
    actor: str,
    version: int | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> ActionResult:
    """Changes a job that is not running.

    Keys of `changes`: `payload` (validated by the caller) and with it `concurrency_key`, `run_at` and `expires_at`
    (ISO 8601), `recurrence_interval_minutes`, `priority`, `max_attempts`. A key with None clears what may be empty.
    """
    found = rows(
        conn,
        "SELECT * FROM job_queue_edit(%s, %s, %s::jsonb, %s, %s, %s)",
        (job_id, version, json.dumps(changes), actor, reason, dry_run),
    )
    return result_from(found[0])


def pause(
    conn: Connection,
    *,
    reason: str | None,
    actor: str,
    resume_at: datetime | None = None,
    task_type: str | None = None,
) -> Processing:
    """Stops claims everywhere, or those of one task type; running jobs finish.

    Raises:
        Refused: `resume_at` has passed already.
    """
    rows(conn, "SELECT job_queue_pause(%s, %s, %s, %s)", (task_type, reason, resume_at, actor))
    return processing().run(conn)


def resume(conn: Connection, *, actor: str, task_type: str | None = None) -> Processing:
    """Turns processing on again, or lets one task type go on. Missed slots are not replayed.

    Raises:
        Refused: the task type is not paused.
    """
    rows(conn, "SELECT job_queue_resume(%s, %s)", (task_type, actor))
    return processing().run(conn)


def cleanup(
    conn: Connection, *, actor: str, older_than: timedelta, dry_run: bool, ids: Sequence[UUID] | None = None
) -> list[ActionResult]:
    """Lists jobs stuck in running, and unless `dry_run` marks them failed: only leases provably expired.

    With `ids`, only those of them.
    """
    found = rows(
        conn,
        "SELECT * FROM job_queue_clean_stuck(%s, %s, %s, %s::uuid[])",
        (older_than, actor, dry_run, None if ids is None else list(ids)),
    )
    return [result_from(row) for row in found]


def expect_trigger(conn: Connection, minutes: int) -> None:
    """Says every how many minutes (1 to 1440) a scheduler is to call; health counts in this."""
    conn.execute("SELECT job_queue_expect_trigger(%s)", (minutes,))


def reveal(conn: Connection, job_id: UUID, *, actor: str) -> None:
    """Puts on record that somebody looks at a job's personal data unmasked."""
    rows(conn, "SELECT job_queue_reveal(%s, %s)", (job_id, actor))


def purge(conn: Connection, *, older_than: timedelta, dry_run: bool) -> int:
    """Removes succeeded and cancelled jobs older than this from the queue; returns how many, or how many it would."""
    if dry_run:
        row = conn.execute(
            """
            SELECT count(*) FROM job_list WHERE status IN ('succeeded', 'cancelled')
                AND coalesce(completed_at, updated_at, run_at) < now() - %s
            """,
            (older_than,),
        ).fetchone()
    else:
        row = conn.execute("SELECT job_queue_cleanup(%s)", (older_than,)).fetchone()
    return int(row[0]) if row else 0
