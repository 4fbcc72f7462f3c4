"""Leases of workers: claim jobs, renew leases, report finished runs, reap expired leases.

Every function works inside the caller's transaction if one is open. A refusal of the database is raised as `Refused`,
and nothing is changed then.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob, FinishedRun, RunOutcome, Status
from jobdeck.core.queue.calls import Connection, array, dumped, microseconds, texts
from jobdeck.core.queue.prepared import answer
from jobdeck.core.telemetry.spans import Origin

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Json
    from jobdeck.core.postgres.database import AsyncConnection

Lane = tuple[str, int]
"""A task type and a priority. Jobs of one lane are claimed in the order of their due time, then id."""
Front = tuple["datetime", "UUID"]
"""How far a lane has been claimed: due time and id of the last claimed job."""
_HEX = attrgetter("hex")
UPKEEP = (
    "lost", "expired", "recheck", "pauses", "stats", "backlog", "prune", "retention", "partitions", "old partitions",
)  # fmt: skip
"""The parts of upkeep, in their order; the names are those of `job_upkeep`."""
PASSES = 50
"""A part that takes longer than a short pass is called again at once, this often at most."""


class Finished(NamedTuple):
    """The database's answer to one reported run: the recorded outcome and the job's new status.

    `recorded` is `abandoned` if the lease was lost; `status` is None if the job left the queue.
    """

    job_id: UUID
    run_token: int
    recorded: RunOutcome
    status: Status | None
    run_at: datetime | None


class Renewed(NamedTuple):
    """One running job in the reply to a heartbeat."""

    job_id: UUID
    run_token: int
    alive: bool
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class Reaped:
    """Numbers of one reaper pass: runs recorded as lost, series ended, old rows deleted, pauses ended.

    `lost_jobs` are the jobs of the lost runs, whatever their status is now; `troubles` are the errors of the parts that
    failed, by the name of the part.
    """

    lost: int
    expired: int
    pruned: int
    resumed: int
    lost_jobs: Sequence[UUID] = field(default=(), compare=False)
    troubles: Mapping[str, str] = field(default_factory=dict, compare=False)


def claim(
    conn: Connection,
    worker_id: str,
    task_types: Sequence[str],
    limit: int,
    lease_seconds: float,
    fronts: Mapping[Lane, Front] | None = None,
    free: int | None = None,
) -> list[ClaimedJob]:
    """Claims up to `limit` jobs of these types, highest priority first; each claim has its own run token.

    A canary of these types is claimed before all others and alone; with a limit of 0, nothing else is claimed. With
    `fronts`, only jobs behind the front of each lane are claimed, so that the database does not scan again what was
    claimed before.

    A job that the database refuses to start, such as by a trigger of the application, is set aside for a minute, and
    the others are claimed. In an open transaction of the caller, the error is raised instead.

    `free` is how many of them a handler would be called for at once. If more are claimed, none of their runs has begun
    until a heartbeat says so. With None, each begins with the claim.
    """
    while True:
        try:
            return _claim(conn, worker_id, task_types, limit, lease_seconds, fronts, free)
        except psycopg.DatabaseError as error:
            if isinstance(error, psycopg.OperationalError) or conn.info.transaction_status != TransactionStatus.IDLE:
                raise
            found = conn.execute(
                "SELECT job_queue_set_aside(%s, %s::text[], %s)", (worker_id, texts(task_types), limit)
            )
            if not (row := found.fetchone()) or not row[0]:
                raise
        fronts = None


_CLAIM: Final = b"""
WITH claimed AS MATERIALIZED (
    SELECT id, run_token, task_type, payload, attempt, max_attempts, due_at, claimed_at, is_recurring,
        checkpoint, cycle, priority
    FROM job_queue_claim(%s, %s::text[], %s, %s, %s::text[], %s::integer[], %s::timestamptz[], %s::uuid[],
        p_free => %s)
)
SELECT c.*, ((SELECT job_queue_timeouts(ARRAY(SELECT id FROM claimed))) ->> c.id::text)::double precision
FROM claimed AS c
"""


def _claim(
    conn: Connection,
    worker_id: str,
    task_types: Sequence[str],
    limit: int,
    lease_seconds: float,
    fronts: Mapping[Lane, Front] | None,
    free: int | None,
) -> list[ClaimedJob]:
    lanes: Sequence[object] = (None,) * 4
    if fronts:
        lanes = [list(part) for part in zip(*(lane + front for lane, front in fronts.items()), strict=True)]
    given = (worker_id, texts(task_types), str(limit), repr(lease_seconds))
    slots = None if free is None else str(free)
    # A worker that has nothing to do claims without fronts, and its next job waits for this answer.
    rows = None if fronts else answer(conn, _CLAIM, (*given, None, None, None, None, slots))
    if rows is None:
        rows = conn.execute(_CLAIM, (*given, *lanes, slots), binary=True).fetchall()
    return list(map(ClaimedJob._make, rows))


def limited_types(conn: Connection, task_types: Sequence[str]) -> frozenset[str]:
    """Those of these types that have a limit over all workers."""
    rows = conn.execute(
        "SELECT task_type FROM job_types WHERE limited AND task_type = ANY (%s::text[])", (texts(task_types),)
    ).fetchall()
    return frozenset(task_type for (task_type,) in rows)


def types_of_queues(conn: Connection, task_types: Sequence[str], queues: Sequence[str]) -> dict[str, str]:
    """Those of these types that are in one of these queues, with it. A type without a queue is in `default`."""
    rows = conn.execute(
        """
        SELECT u.name, coalesce(t.queue, 'default') FROM unnest(%s::text[]) AS u (name)
        LEFT JOIN job_types AS t ON t.task_type = u.name WHERE coalesce(t.queue, 'default') = ANY (%s::text[])
        """,
        (texts(task_types), texts(queues)),
    ).fetchall()
    return dict(rows)


def origins(conn: Connection, job_ids: Sequence[UUID]) -> dict[UUID, Origin]:
    """The spans that jobs belong to, of those that belong to any."""
    rows = conn.execute(
        "SELECT job_id, trace_context, run_trace FROM job_queue_traces(%s::uuid[])", (array(map(_HEX, job_ids)),)
    ).fetchall()
    return {job_id: Origin(producer, run_before) for job_id, producer, run_before in rows}


def next_due(conn: Connection, task_types: Sequence[str]) -> tuple[datetime, datetime | None]:
    """The database's time, and the due time of the next job of these types (None if no job is waiting)."""
    row = conn.execute("SELECT at, next_due FROM job_queue_next_due(%s::text[])", (texts(task_types),)).fetchone()
    if row is None:
        raise Refused("The database did not return when the next job is due.")
    return row[0], row[1]


def held_back_until(conn: Connection, task_types: Sequence[str]) -> tuple[datetime, datetime | None]:
    """The database's time, and when a due job may start that a limit of its type holds back; None without one."""
    row = conn.execute(
        """
        SELECT n.at, CASE WHEN EXISTS (
            SELECT FROM job_queue_backlog(interval '0', 1) AS b JOIN job_types AS t USING (task_type)
            WHERE b.overdue > 0 AND t.limited AND (t.paused_at IS NULL OR t.resume_at <= n.at)
                AND t.task_type = ANY (%(types)s::text[])
        ) AND NOT EXISTS (SELECT FROM job_queue_settings WHERE held_by IS NOT NULL) THEN n.next_due END
        FROM job_queue_next_due(%(types)s::text[]) AS n
        """,
        {"types": texts(task_types)},
    ).fetchone()
    if row is None:
        raise Refused("The database did not return whether jobs are held back.")
    return row[0], row[1]


def announce_more(conn: Connection, channel: str, payload: str) -> None:
    """Tells all workers that jobs are waiting. An older worker takes any payload for the notification of a job."""
    conn.execute("SELECT pg_notify(%s, %s)", (channel, payload))


def heartbeat(
    conn: Connection,
    worker_id: str,
    held: Sequence[tuple[UUID, int, Json | None]],
    lease_seconds: float,
    began: Mapping[int, float] | None = None,
) -> list[Renewed]:
    """Renews the leases of all jobs of a worker and stores their progress, in one statement.

    `began` says, by run token, when runs began whose jobs were only claimed before, in seconds since the epoch.
    There is no answer for a job whose row another transaction has locked: its lease was not renewed.
    """
    rows = conn.execute(
        """
        SELECT job_id, run_token, alive, cancel_requested
        FROM job_queue_heartbeat(%s, %s::uuid[], %s::bigint[], %s::jsonb[], %s,
            ARRAY(SELECT to_timestamp(at * 1e-6::float8) FROM unnest(%s::bigint[]) AS at))
        """,
        (
            worker_id, array(job_id for job_id, _, _ in held), array(token for _, token, _ in held),
            texts(dumped(progress) for _, _, progress in held), lease_seconds,
            microseconds((began or {}).get(token) for _, token, _ in held),
        ),
    ).fetchall()  # fmt: skip
    return [Renewed(*row) for row in rows]


_CHECKPOINT = "SELECT job_queue_checkpoint(%s, %s, %s::jsonb)"


def save_checkpoint(conn: Connection, job_id: UUID, run_token: int, checkpoint: Json) -> bool:
    """Saves a checkpoint at once. Returns False, and saves nothing, if the run token no longer holds the job."""
    row = conn.execute(_CHECKPOINT, (job_id, run_token, json.dumps(checkpoint))).fetchone()
    return bool(row and row[0])


async def save_checkpoint_async(conn: AsyncConnection, job_id: UUID, run_token: int, checkpoint: Json) -> bool:
    """The same on a connection of an event loop."""
    cursor = await conn.execute(_CHECKPOINT, (job_id, run_token, json.dumps(checkpoint)))
    row = await cursor.fetchone()
    return bool(row and row[0])


_DETAILS = FinishedRun._fields[5:]
_NO_DETAILS = tuple(FinishedRun._field_defaults[name] for name in _DETAILS)


def details(run: FinishedRun) -> str | None:
    """The optional facts of a report as JSON; None if it has none."""
    facts = run[5:]
    if facts == _NO_DETAILS:
        return None
    return json.dumps({name: value for name, value in zip(_DETAILS, facts, strict=True) if value is not None})


def finish(
    conn: Connection, worker_id: str, runs: Sequence[FinishedRun], *, retry_base: float, retry_cap: float
) -> list[Finished]:
    """Reports finished runs in one transaction and returns the answers in the order of `runs`.

    Safe to repeat after a lost connection: a run that was already applied is answered and not applied twice.
    `retry_base` and `retry_cap` are seconds, used for runs without their own values.

    Raises:
        psycopg.errors.LockNotAvailable: another transaction has held the row of a job for half a second; `locked`
            says of which. Nothing was changed.
    """
    if not runs:
        return []
    given = [details(run) for run in runs]
    ids, tokens, outcomes, started, finished, *_ = zip(*runs, strict=True)
    rows = conn.execute(
        """
        SELECT job_id, run_token, recorded, status, run_at FROM job_queue_finish(%s, %s::uuid[], %s::bigint[],
            %s::text[], ARRAY(SELECT to_timestamp(at * 1e-6::float8) FROM unnest(%s::bigint[]) AS at),
            ARRAY(SELECT to_timestamp(at * 1e-6::float8) FROM unnest(%s::bigint[]) AS at), %s::jsonb[], %s, %s)
        """,
        (
            worker_id, array(map(_HEX, ids)), array(tokens), array(outcomes),
            microseconds(started), microseconds(finished),
            texts(given), retry_base, retry_cap,
        ),
    ).fetchall()  # fmt: skip
    answered = {
        token: Finished(job_id, token, RunOutcome(recorded), Status(status) if status else None, run_at)
        for job_id, token, recorded, status, run_at in rows
    }
    # The database returns no row for a one-time job that succeeded and left the queue. Most runs are of this kind.
    if not answered:
        return list(map(Finished, ids, tokens, outcomes, repeat(None), repeat(None)))
    return [answered.get(run.run_token) or Finished(run.job_id, run.run_token, run.outcome, None, None) for run in runs]


def locked(conn: Connection, worker_id: str, tokens: Sequence[int]) -> set[int]:
    """The run tokens, of these, whose job another transaction has locked.

    The rows of the others are locked until the end of the caller's transaction, in which `finish` then waits for none.
    """
    row = conn.execute("SELECT job_queue_locked(%s, %s::bigint[])", (worker_id, array(tokens))).fetchone()
    return set(row[0]) if row else set()


def database_time(conn: Connection) -> float:
    """The database's clock, in seconds since the epoch."""
    row = conn.execute("SELECT extract(epoch FROM clock_timestamp())::double precision").fetchone()
    if row is None:
        raise Refused("The database did not return its time.")
    return float(row[0])


def upkeep_due(conn: Connection, seconds: float) -> tuple[float, Collection[str]]:
    """The database's clock, in seconds since the epoch, and the parts of upkeep that no worker has done lately.

    A part of which the queue expects a success every few seconds is due `seconds` after the last one at the latest. The
    next partition of the history is due after a minute, because a busy queue fills millions of rows in an hour.
    """
    row = conn.execute(
        """
        SELECT extract(epoch FROM clock_timestamp())::double precision, array(
            SELECT part FROM job_upkeep
            WHERE clock_timestamp() - succeeded_at NOT BETWEEN interval '0' AND least(
                CASE part WHEN 'backlog' THEN every ELSE every / 2 END, interval '1 hour',
                CASE WHEN every <= interval '10 s' THEN make_interval(secs => %s) END,
                CASE part WHEN 'partitions' THEN interval '1 minute' END))
        """,
        (seconds,),
    ).fetchone()
    if row is None:
        raise Refused("The database did not return its time.")
    return float(row[0]), row[1]


def reap(
    conn: Connection,
    *,
    retry_base: float,
    retry_cap: float,
    take_back: bool = True,
    parts: Collection[str] = UPKEEP,
) -> Reaped:
    """Does each of these parts of upkeep, each pass in a transaction of its own unless one is open.

    A part that another worker does now is left to it. A part that fails is in `troubles` and does not affect the
    others. Without `take_back`, runs whose lease has expired are left alone.
    """
    done: dict[str, int] = {}
    lost_jobs: list[UUID] = []
    troubles: dict[str, str] = {}
    for part in UPKEEP:
        if part not in parts or (part == "lost" and not take_back):
            continue
        for _ in range(PASSES):
            row = conn.execute(
                "SELECT done, lost_jobs, trouble, more FROM job_queue_upkeep(%s, %s, %s)", (part, retry_base, retry_cap)
            ).fetchone()
            if row is None:
                break
            done[part] = done.get(part, 0) + row[0]
            lost_jobs += row[1]
            if row[2] is not None:
                troubles[part] = row[2]
            if not row[3]:
                break
    lost, expired, resumed = (done.get(part, 0) for part in ("lost", "expired", "pauses"))
    pruned = done.get("prune", 0) + done.get("retention", 0)
    return Reaped(lost, expired, pruned, resumed, lost_jobs, troubles)
