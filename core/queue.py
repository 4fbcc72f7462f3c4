"""The write side of the queue: thin, typed calls into the functions of `schema.sql`.

Every function takes a psycopg connection and works inside the caller's transaction where there is one. What the
database refuses with a sentence is raised as `Refused`; nothing is changed then.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob, Finished, FinishedRun, NewJob, Renewed, RunOutcome, Status, Ticket
from jobdeck.core.read.batch import ask
from jobdeck.core.read.rows import Row, processing_from, result_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from jobdeck.core.model import ActionResult, Json, Processing
    from jobdeck.core.read.batch import Asked

Connection = psycopg.Connection[Any]
Lane = tuple[str, int]
"""A task type and a priority: what is claimed of it goes by time, and by id where times are equal."""
Front = tuple["datetime", "UUID"]
"""How far a lane has been claimed: when the last job was due, and its id."""

BULK = 2_000
_DEFAULTS = tuple(NewJob._field_defaults[name] for name in NewJob._fields[2:])
_REFUSED = "JD001"
_HEX = attrgetter("hex")
_GIVE_WAY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one pass of the reaper did: runs given up as lost, jobs past their end, rows of old evidence, pauses.

    `lost_jobs` are the jobs of the lost runs, wherever they stand now.
    """

    lost: int
    expired: int
    pruned: int
    resumed: int
    lost_jobs: Sequence[UUID] = field(default=(), compare=False)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (psycopg.DataError, UnicodeEncodeError) as error:
        reason = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        raise Refused(f"What was given cannot be stored: {reason or error}. Nothing was changed.") from None
    except psycopg.Error as error:
        if error.sqlstate == _REFUSED:
            raise Refused(error.diag.message_primary or "The database refused.") from None
        raise


def _rows(conn: Connection, statement: Any, params: Any, *, tries: int = 3) -> list[Row]:
    try:
        with _refusals(), conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement, params).fetchall()
    except psycopg.errors.DeadlockDetected:
        if tries == 1 or conn.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            raise
        # The database has undone it in favour of another, which would find the locks taken again if this were quicker.
        time.sleep(_GIVE_WAY_SECONDS)
        return _rows(conn, statement, params, tries=tries - 1)


def _dumped(value: Json | None) -> str | None:
    return None if value is None else json.dumps(value)


def _array(values: Iterable[object]) -> str:
    """An array literal of values whose text needs no quoting: numbers, ids, words of ours.

    Written at once because psycopg adapts the elements of a list one by one, which is most of what a batch costs.
    """
    return f"{{{','.join(map(str, values))}}}"


def _microseconds(moments: Iterable[float]) -> str:
    return _array([int(moment * 1e6) for moment in moments])


# Enqueue


def enqueue(conn: Connection, new: NewJob, *, actor: str) -> Ticket:
    """Enqueues one job, or answers with the one that already holds its dedupe key.

    Type and payload must have been validated by the registry.

    Raises:
        Refused: the interval, priority or blocker is not acceptable.
    """
    row = _rows(
        conn,
        "SELECT job_id, created FROM job_queue_create(%s, %s::jsonb, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            new.task_type, json.dumps(new.payload), new.run_at, new.max_attempts, new.priority, new.dedupe_key,
            new.concurrency_key, new.blocked_by, new.recurrence_interval_minutes, new.expires_at, actor,
        ),
    )[0]  # fmt: skip
    return Ticket(**row)


def enqueue_many(conn: Connection, jobs: Iterable[NewJob], *, actor: str) -> list[UUID]:
    """Enqueues one-time jobs, 2 000 to a statement, in one transaction; returns the ids of those created.

    Jobs whose dedupe key is taken are left out. Bulk has no series, no blockers and no ends. What is read from
    `jobs` while the database is busy with those before costs no time of its own.

    Raises:
        Refused: a job is recurring, waits for another or has an end, or its type or priority is not acceptable.
    """
    ids: list[UUID] = []
    rest = iter(jobs)
    with _refusals(), conn.transaction(), conn.pipeline():
        sent = []
        while part := list(islice(rest, BULK)):
            sent.append(_send_part(conn, part, actor))
        for created in sent:
            ids += [job_id for (job_id,) in created]
    return ids


def _send_part(conn: Connection, part: list[NewJob], actor: str) -> psycopg.Cursor[Any]:
    task_types, payloads, *options = zip(*part, strict=True)
    given = [_unless_all(values, default) for values, default in zip(options, _DEFAULTS, strict=True)]
    run_at, max_attempts, priorities, dedupe_keys, concurrency_keys, *excluded = given
    if any(excluded):
        raise Refused("Jobs enqueued in bulk cannot recur, wait for another or expire. Enqueue those one at a time.")
    return conn.execute(
        """
        SELECT job_queue_create_many(%s::text[], ARRAY(SELECT jsonb_array_elements(%s::jsonb)),
            %s::timestamptz[], %s::integer[], %s::integer[], %s::text[], %s::text[], %s)
        """,
        (
            _words(task_types), json.dumps(payloads), run_at, max_attempts, priorities, dedupe_keys, concurrency_keys,
            actor,
        ),
        binary=True,
    )  # fmt: skip


def _words(values: Sequence[str]) -> str | list[str]:
    """An array of task types, at once where none of them needs quoting."""
    plain = all(word.isidentifier() and word.upper() != "NULL" for word in set(values))
    return _array(values) if plain else list(values)


def _unless_all(values: Sequence[Any], default: object) -> list[Any] | None:
    """The values, or None where each is the default, which the database then fills in by itself."""
    return None if values.count(default) == len(values) else list(values)


# The worker's side


def claim(
    conn: Connection,
    worker_id: str,
    task_types: Sequence[str],
    limit: int,
    lease_seconds: float,
    fronts: Mapping[Lane, Front] | None = None,
) -> list[ClaimedJob]:
    """Takes up to `limit` claimable jobs of these types, best first, each with a token of its own.

    With `fronts`, only of those lanes and only what comes behind, without a look at what is claimed already.
    """
    lanes: Sequence[object] = (None,) * 4
    if fronts:
        lanes = [list(part) for part in zip(*(lane + front for lane, front in fronts.items()), strict=True)]
    rows = conn.execute(
        """
        SELECT id, run_token, task_type, payload, attempt, max_attempts, due_at, claimed_at, is_recurring, checkpoint,
            cycle, priority
        FROM job_queue_claim(%s, %s::text[], %s, %s, %s::text[], %s::integer[], %s::timestamptz[], %s::uuid[])
        """,
        (worker_id, list(task_types), limit, lease_seconds, *lanes),
        binary=True,
    ).fetchall()
    return list(map(ClaimedJob._make, rows))


def next_due(conn: Connection, task_types: Sequence[str]) -> tuple[datetime, datetime | None]:
    """The database's time, and when the next job of these types is due: past, future or (None) not in sight."""
    row = conn.execute("SELECT at, next_due FROM job_queue_next_due(%s::text[])", (list(task_types),)).fetchone()
    if row is None:
        raise Refused("The database did not answer when the next job is due.")
    return row[0], row[1]


def heartbeat(
    conn: Connection, worker_id: str, held: Sequence[tuple[UUID, int, Json | None]], lease_seconds: float
) -> list[Renewed]:
    """Renews the leases of all jobs a worker holds, and sends their progress, in one statement."""
    rows = conn.execute(
        """
        SELECT job_id, run_token, alive, cancel_requested
        FROM job_queue_heartbeat(%s, %s::uuid[], %s::bigint[], %s::jsonb[], %s)
        """,
        (
            worker_id, _array(job_id for job_id, _, _ in held), _array(token for _, token, _ in held),
            [_dumped(progress) for _, _, progress in held], lease_seconds,
        ),
    ).fetchall()  # fmt: skip
    return [Renewed(*row) for row in rows]


def save_checkpoint(conn: Connection, job_id: UUID, run_token: int, checkpoint: Json) -> bool:
    """Keeps a checkpoint at once; False when the token no longer holds the job, and nothing was kept."""
    row = conn.execute(
        "SELECT job_queue_checkpoint(%s, %s, %s::jsonb)", (job_id, run_token, json.dumps(checkpoint))
    ).fetchone()
    return bool(row and row[0])


_DETAILS = FinishedRun._fields[5:]
_NO_DETAILS = tuple(FinishedRun._field_defaults[name] for name in _DETAILS)


def _details(run: FinishedRun) -> str | None:
    told = run[5:]
    if told == _NO_DETAILS:
        return None
    return json.dumps({name: value for name, value in zip(_DETAILS, told, strict=True) if value is not None})


def finish(
    conn: Connection, worker_id: str, runs: Sequence[FinishedRun], *, retry_base: float, retry_cap: float
) -> list[Finished]:
    """Reports finished runs in one transaction; the answers are in the order of `runs`.

    May be sent again after a lost connection: what was applied is answered and not applied twice. `retry_base`
    and `retry_cap` are seconds and apply where a run brings none of its own.
    """
    if not runs:
        return []
    details = [_details(run) for run in runs]
    ids, tokens, outcomes, started, finished, *_ = zip(*runs, strict=True)
    rows = conn.execute(
        """
        SELECT job_id, run_token, recorded, status, run_at FROM job_queue_finish(%s, %s::uuid[], %s::bigint[],
            %s::text[], ARRAY(SELECT to_timestamp(at * 1e-6::float8) FROM unnest(%s::bigint[]) AS at),
            ARRAY(SELECT to_timestamp(at * 1e-6::float8) FROM unnest(%s::bigint[]) AS at), %s::jsonb[], %s, %s)
        """,
        (
            worker_id, _array(map(_HEX, ids)), _array(tokens), _array(outcomes),
            _microseconds(started), _microseconds(finished),
            details if any(details) else _array(["NULL"] * len(runs)), retry_base, retry_cap,
        ),
    ).fetchall()  # fmt: skip
    told = {
        token: Finished(job_id, token, RunOutcome(recorded), Status(status) if status else None, run_at)
        for job_id, token, recorded, status, run_at in rows
    }
    # Nothing is said of a one-time job that succeeded as reported and left the queue: by far the most.
    if not told:
        return list(map(Finished, ids, tokens, outcomes, repeat(None), repeat(None)))
    return [told.get(run.run_token) or Finished(run.job_id, run.run_token, run.outcome, None, None) for run in runs]


def reap(conn: Connection, worker_id: str, *, retry_base: float, retry_cap: float) -> Reaped:
    """One pass of the reaper: expired leases, ended series, due resumptions, stuck lines, old evidence."""
    row = conn.execute(
        "SELECT lost, expired, pruned, resumed, lost_jobs FROM job_queue_reap(%s, %s, %s)",
        (worker_id, retry_base, retry_cap),
    ).fetchone()
    return Reaped(*row) if row else Reaped(0, 0, 0, 0)


# The operators' side


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
    rows = _rows(
        conn,
        "SELECT * FROM job_queue_act(%s, %s::uuid[], %s::bigint[], %s, %s, %s)",
        (action, list(ids), [seen.get(job_id) for job_id in ids], actor, reason, dry_run),
    )
    answers = {row["job_id"]: result_from(row) for row in rows}
    return [answers[job_id] for job_id in dict.fromkeys(ids)]


def copy(conn: Connection, job_id: UUID, new: NewJob, *, actor: str, reason: str | None = None) -> UUID:
    """Enqueues `new` as a copy of a job that succeeded and left the queue, puts that on record, returns its id.

    Raises:
        Refused: the job has not left the queue by succeeding, or the copy is not acceptable.
    """
    row = _rows(
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
    rows = _rows(conn, "SELECT * FROM job_queue_restore(%s::uuid[], %s, %s, %s)", (list(ids), actor, reason, dry_run))
    answers = {row["job_id"]: result_from(row) for row in rows}
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
    rows = _rows(
        conn,
        "SELECT * FROM job_queue_edit(%s, %s, %s::jsonb, %s, %s, %s)",
        (job_id, version, json.dumps(changes), actor, reason, dry_run),
    )
    return result_from(rows[0])


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
    _rows(conn, "SELECT job_queue_pause(%s, %s, %s, %s)", (task_type, reason, resume_at, actor))
    return processing(conn)


def resume(conn: Connection, *, actor: str, task_type: str | None = None) -> Processing:
    """Turns processing on again, or lets one task type go on. Missed slots are not replayed.

    Raises:
        Refused: the task type is not paused.
    """
    _rows(conn, "SELECT job_queue_resume(%s, %s)", (task_type, actor))
    return processing(conn)


def processing(conn: Connection) -> Processing:
    """The processing switch as it stands."""
    return ask_processing(conn)()


def ask_processing(conn: Connection) -> Asked[Processing]:
    """Asks for the processing switch as it stands."""
    settings = ask(conn, "SELECT * FROM job_queue_settings WHERE id = 1", read=list)
    pauses = ask(
        conn,
        "SELECT task_type, reason, paused_by, paused_at, resume_at FROM job_paused_types ORDER BY task_type",
        read=list,
    )
    return lambda: processing_from(next(iter(settings()), None), pauses())


def cleanup(
    conn: Connection, *, actor: str, older_than: timedelta, dry_run: bool, ids: Sequence[UUID] | None = None
) -> list[ActionResult]:
    """Lists jobs stuck in running, and unless `dry_run` marks them failed: only leases provably expired.

    With `ids`, only those of them.
    """
    rows = _rows(
        conn,
        "SELECT * FROM job_queue_clean_stuck(%s, %s, %s, %s::uuid[])",
        (older_than, actor, dry_run, None if ids is None else list(ids)),
    )
    return [result_from(row) for row in rows]


def reveal(conn: Connection, job_id: UUID, *, actor: str) -> None:
    """Puts on record that somebody looks at a job's personal data unmasked."""
    _rows(conn, "SELECT job_queue_reveal(%s, %s)", (job_id, actor))


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
