"""Actions of operators on jobs and on processing: thin, typed calls into the functions of `schema.sql`.

Every function works inside the caller's transaction if one is open. A refusal of the database is raised as `Refused`,
and nothing is changed then.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import Refused
from jobdeck.core.queue.calls import Connection, rows
from jobdeck.core.read.canaries import CanaryAsked, answer_from
from jobdeck.core.read.jobs import clock, processing
from jobdeck.core.read.rows import result_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.model import ActionResult, Json, Processing
    from jobdeck.core.read.canaries import CanaryAnswer
    from jobdeck.core.read.rows import Row

PURGED_TOGETHER: Final = 1_000
STUCK_AFTER: Final = timedelta(minutes=20)
"""How long a job with an expired lease has run before a clean-up takes it for stuck, without a time of the caller."""
KEPT_FOR: Final = timedelta(days=14)
"""How long jobs that have ended are kept before a purge moves them to the trash, without a time of the caller."""


def _act(
    action: str,
    conn: Connection,
    ids: Sequence[UUID],
    *,
    actor: str,
    versions: Mapping[UUID, int] | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> list[ActionResult]:
    seen = versions or {}
    found = rows(
        conn,
        "SELECT * FROM job_queue_act(%s, %s::uuid[], %s::bigint[], %s, %s, %s)",
        (action, list(ids), [seen.get(job_id) for job_id in ids], actor, reason, dry_run),
    )
    return _in_order(ids, found)


def _in_order(ids: Sequence[UUID], found: Iterable[Row]) -> list[ActionResult]:
    """The answers in the order of the ids."""
    answers = {row["job_id"]: result_from(row) for row in found}
    return [answers[job_id] for job_id in dict.fromkeys(ids)]


retry = partial(_act, "retry")
"""Makes jobs due now: a retry, or "run now" for a pending job. One that succeeded and left the queue is refused."""
cancel = partial(_act, "cancel")
"""Cancels pending jobs at once, asks running jobs to stop, dismisses failed jobs."""
delete = partial(_act, "delete")
"""Moves jobs that are not running to the trash, for 7 days."""


def run_again(
    conn: Connection,
    job_id: UUID,
    *,
    payload: Json | None = None,
    max_attempts: int = 1,
    concurrency_key: str | None = None,
    actor: str,
    reason: str | None = None,
    dry_run: bool = False,
) -> ActionResult:
    """Enqueues a copy of a job that succeeded and left the queue, unless one is pending or running already.

    The copy has the payload and the keys of the job, or with `payload` that, which the caller has validated, and the
    `concurrency_key` that follows from it. Otherwise `concurrency_key` is for a job whose keys the history lacks.
    """
    given = None if payload is None else json.dumps(payload)
    found = rows(
        conn,
        "SELECT * FROM job_queue_run_again(%s, %s::jsonb, %s, %s, %s, %s, %s)",
        (job_id, given, max_attempts, concurrency_key, actor, reason, dry_run),
    )
    return result_from(found[0])


def restore(
    conn: Connection, ids: Sequence[UUID], *, actor: str, reason: str | None = None, dry_run: bool = False
) -> list[ActionResult]:
    """Moves deleted jobs out of the trash, back to the state they were in."""
    given = (list(ids), actor, reason, dry_run)
    return _in_order(ids, rows(conn, "SELECT * FROM job_queue_restore(%s::uuid[], %s, %s, %s)", given))


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
    (ISO 8601), `recurrence_interval_minutes`, `schedule` with the `slots` of a cron expression, `priority`,
    `max_attempts`, `timeout` in seconds. A value of None clears what is optional.
    """
    found = rows(
        conn,
        "SELECT * FROM job_queue_edit(%s, %s, %s::jsonb, %s, %s, %s)",
        (job_id, version, json.dumps(changes), actor, reason, dry_run),
    )
    return result_from(found[0])


def _series(
    action: str,
    conn: Connection,
    job_id: UUID,
    *,
    actor: str,
    version: int | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> ActionResult:
    """What became of one series, which must still have this version (None: any)."""
    found = rows(
        conn,
        "SELECT * FROM job_series_act(%s, %s, %s, %s, %s, %s)",
        [job_id, version, action, actor, reason, dry_run],
    )
    return result_from(found[0])


skip = partial(_series, "skip")
"""Skips the next run of a series: its job is due at the slot after it."""
pause_series = partial(_series, "pause")
"""Pauses one series: its job does not run before it is resumed. A running cycle ends as usual."""
resume_series = partial(_series, "resume")
"""Resumes a paused series at its next slot; the slots that it missed are not made up."""


def pause(
    conn: Connection,
    *,
    reason: str | None,
    actor: str,
    resume_at: datetime | timedelta | None = None,
    task_type: str | None = None,
    queue: str | None = None,
) -> Processing:
    """Stops claims of all task types, of one, or of those of a queue, also those to come; running jobs finish.

    It lasts until `resume_at`, for that period, or until somebody resumes.

    Raises:
        Refused: the time to resume is in the past, or no type is in the queue.
    """
    ends = clock().run(conn) + resume_at if isinstance(resume_at, timedelta) else resume_at
    rows(conn, "SELECT job_queue_pause(%s, %s, %s, %s, %s)", (task_type, reason, ends, actor, queue))
    return processing().run(conn)


def resume(conn: Connection, *, actor: str, task_type: str | None = None, queue: str | None = None) -> Processing:
    """Resumes processing, one paused task type, or the types of a paused queue. Missed slots are not replayed.

    A type that is paused by itself stays paused when its queue is resumed.

    Raises:
        Refused: the task type is not paused, or only with its queue; the queue is not paused; or nothing is paused, and
            somebody else holds the queue.
    """
    rows(conn, "SELECT job_queue_resume(%s, %s, %s)", (task_type, actor, queue))
    return processing().run(conn)


def set_type(
    conn: Connection,
    task_type: str,
    *,
    changes: Mapping[str, float | datetime | str | None],
    actor: str,
    reason: str | None,
) -> None:
    """Changes settings of a task type, for the next claim of every worker.

    Keys of `changes`: `warning_share` and `critical_share` (0 to 1), `muted_until`, `set_aside` (whether the type is
    left to a runner that is no worker; needs a reason), and the limits, whole numbers: `max_running`, `max_per_key`,
    `rate_runs` with `rate_seconds`, `rate_burst`, `key_rate_runs` with `key_rate_seconds`, `max_age_seconds`,
    `priority`. A value of None resets one; of a limit or the priority, "code" makes the value of the code hold again.
    Jobs that run when a limit is lowered end as they would; none starts until fewer run.

    Raises:
        Refused: a share or a limit is out of range, the one for a warning is above the other, the time is in the past,
            or the type is set aside already, or is not.
    """
    given = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in changes.items()}
    rows(conn, "SELECT job_type_set(%s, %s::jsonb, %s, %s)", (task_type, json.dumps(given), actor, reason))


def cleanup(
    conn: Connection, *, actor: str, older_than: timedelta, dry_run: bool, ids: Sequence[UUID] | None = None
) -> list[ActionResult]:
    """Lists running jobs whose lease has expired and, unless `dry_run`, marks them failed; with `ids` only those."""
    found = rows(
        conn,
        "SELECT * FROM job_queue_clean_stuck(%s, %s, %s, %s::uuid[])",
        (older_than, actor, dry_run, None if ids is None else list(ids)),
    )
    return [result_from(row) for row in found]


def expect_trigger(conn: Connection, minutes: int) -> None:
    """Stores the interval, 1 to 1440 minutes, at which a scheduler should call; the health verdict uses it."""
    conn.execute("SELECT job_queue_expect_trigger(%s)", (minutes,))


def reveal(conn: Connection, job_id: UUID, *, actor: str) -> None:
    """Records in the audit that the actor views a job's personal data unmasked."""
    rows(conn, "SELECT job_queue_reveal(%s, %s)", (job_id, actor))


def purge(
    conn: Connection,
    *,
    actor: str,
    older_than: timedelta,
    dry_run: bool,
    reason: str | None = None,
    moving: Callable[[int], object] = bool,
) -> int:
    """Moves old succeeded and cancelled jobs to the trash. Returns how many, or with `dry_run` would be.

    On an autocommit connection, 1,000 jobs at a time are moved and recorded in the audit, so that what was done before
    an interruption stays done. `moving` is called before each of these steps, with the number moved so far.
    """
    if dry_run:
        row = conn.execute(
            """
            SELECT count(*) FROM job_list WHERE status IN ('succeeded', 'cancelled')
                AND coalesce(completed_at, updated_at) < now() - %s
            """,
            (older_than,),
        ).fetchone()
        return int(row[0]) if row else 0
    moved = 0
    moving(moved)
    while part := _purge_part(conn, older_than, actor, reason):
        moved += part
        moving(moved)
    return moved


def _purge_part(conn: Connection, older_than: timedelta, actor: str, reason: str | None) -> int:
    statement = "SELECT job_queue_purge(%s, %s, %s, %s) AS moved"
    return int(rows(conn, statement, (older_than, PURGED_TOGETHER, actor, reason))[0]["moved"])


def ask_canary(
    conn: Connection,
    job_id: UUID,
    *,
    actor: str,
    version: int | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> CanaryAsked:
    """Asks a worker to run the job next and alone, if it is still at `version` (None: any), whatever is paused.

    No other job is changed, and this one not until a worker takes it. If none does within a minute, the request is
    taken back by itself. Refused where a retry would be, if no live worker handles the type, and while another job of
    its group of errors (its type and the fingerprint of its error) is asked for.
    """
    (row,) = rows(
        conn, "SELECT * FROM job_queue_ask_canary(%s, %s, %s, %s, %s)", (job_id, version, actor, reason, dry_run)
    )
    result = result_from(row)
    return CanaryAsked(result, row["facts"].get("canary") if result.ok else None)


def canary_answer(conn: Connection, canary: int) -> CanaryAnswer:
    """What has become of the request. Once its state is final, it stays as it is, as long as the audit is kept.

    Raises:
        Refused: there is no such request.
    """
    found = rows(conn, "SELECT * FROM job_queue_canary(%s)", (canary,))
    if not found:
        raise Refused(f"There is no canary {canary}.")
    return answer_from(canary, found[0])
