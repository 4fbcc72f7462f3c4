"""What a worker does to the jobs it holds: claim, renew, finish, and reap what others left.

Every function takes a psycopg connection and works inside the caller's transaction where there is one. What the
database refuses with a sentence is raised as `Refused`; nothing is changed then.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob, Finished, FinishedRun, Renewed, RunOutcome, Status
from jobdeck.core.queue.calls import Connection, array, dumped, microseconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Json

Lane = tuple[str, int]
"""A task type and a priority: what is claimed of it goes by time, and by id where times are equal."""
Front = tuple["datetime", "UUID"]
"""How far a lane has been claimed: when the last job was due, and its id."""
_HEX = attrgetter("hex")


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
            worker_id, array(job_id for job_id, _, _ in held), array(token for _, token, _ in held),
            [dumped(progress) for _, _, progress in held], lease_seconds,
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
            worker_id, array(map(_HEX, ids)), array(tokens), array(outcomes),
            microseconds(started), microseconds(finished),
            details if any(details) else array(["NULL"] * len(runs)), retry_base, retry_cap,
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
