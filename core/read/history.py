"""What has happened: runs, cycles of workers, errors in groups, what operators did. Changes nothing.

Like `jobdeck.core.read.jobs` it reads through views, newest first and no more than it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from jobdeck.core.errors import UsageError
from jobdeck.core.model import AuditEntry, ErrorGroup, Run, RunOutcome, WorkerRun
from jobdeck.core.read.batch import ask
from jobdeck.core.read.batch import rows as _rows
from jobdeck.core.read.job_lists import NO_CURSOR
from jobdeck.core.read.rows import Row, run_from

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from jobdeck.core.read.batch import Asked

Connection = psycopg.Connection[Any]


def runs(
    conn: Connection,
    *,
    job_id: UUID | None = None,
    task_type: str | None = None,
    outcome: RunOutcome | None = None,
    limit: int = 50,
    after: str | None = None,
) -> tuple[list[Run], str | None]:
    """Runs, newest first, and the cursor of those after them; see `ask_runs`."""
    return ask_runs(conn, job_id=job_id, task_type=task_type, outcome=outcome, limit=limit, after=after)()


def ask_runs(
    conn: Connection,
    *,
    job_id: UUID | None = None,
    task_type: str | None = None,
    outcome: RunOutcome | None = None,
    limit: int = 50,
    after: str | None = None,
) -> Asked[tuple[list[Run], str | None]]:
    """Asks for runs, newest first, and the cursor of those after them.

    Raises:
        UsageError: `after` is no cursor.
    """
    if after is not None and not (after.isdecimal() and len(after) <= 18):
        raise UsageError(NO_CURSOR)
    # A run that was lost and its worker's late return share a token, so the cursor tells which of the two it is.
    token, late = divmod(int(after), 2) if after else (None, 0)

    def read(rows: list[Row]) -> tuple[list[Run], str | None]:
        found = [run_from(row) for row in rows[:limit]]
        return found, str(rows[limit - 1]["run_token"] * 2 + rows[limit - 1]["late"]) if len(rows) > limit else None

    return ask(
        conn,
        """
        SELECT * FROM job_run_list
        WHERE (%(job_id)s::uuid IS NULL OR job_id = %(job_id)s)
            AND (%(task_type)s::text IS NULL OR task_type = %(task_type)s)
            AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
            AND (%(token)s::bigint IS NULL OR (run_token, late) < (%(token)s::bigint, %(late)s))
        ORDER BY run_token DESC, late DESC LIMIT %(limit)s
        """,
        {
            "job_id": job_id,
            "task_type": task_type,
            "outcome": outcome.value if outcome else None,
            "token": token,
            "late": bool(late),
            "limit": limit + 1,
        },
        read=read,
    )


def ask_worker_runs(conn: Connection, *, limit: int = 50) -> Asked[list[WorkerRun]]:
    """Asks for cycles and windows, newest first."""
    return ask(
        conn,
        """
        SELECT id, started_at, completed_at, source, http_method, http_status, status, processed,
            coalesce(succeeded, 0) AS succeeded, coalesce(failed, 0) AS failed, released, claimed, due_before,
            worker_id, message, error_message
        FROM job_worker_runs ORDER BY started_at DESC LIMIT %(limit)s
        """,
        {"limit": limit},
        read=lambda rows: [WorkerRun(**row) for row in rows],
    )


def errors(conn: Connection, *, since: timedelta, limit: int = 100) -> list[ErrorGroup]:
    """Failed runs of the time given, grouped by type and fingerprint, most recent group first."""
    rows = _rows(
        conn,
        """
        SELECT task_type, fingerprint, (array_agg(error_kind ORDER BY run_token DESC))[1] AS error_kind,
            coalesce((array_agg(error ORDER BY run_token DESC))[1], 'no reason given') AS sample, count(*) AS count,
            min(finished_at) AS first_seen, max(finished_at) AS last_seen,
            (array_agg(DISTINCT job_id))[1:100] AS job_ids
        FROM (
            SELECT * FROM job_run_list
            WHERE outcome IN ('failed', 'retried', 'lost') AND finished_at > now() - %(since)s
            ORDER BY finished_at DESC LIMIT 20000
        ) AS troubled
        GROUP BY task_type, fingerprint ORDER BY max(finished_at) DESC LIMIT %(limit)s
        """,
        {"since": since, "limit": limit},
    )
    return [ErrorGroup(**row | {"job_ids": tuple(row["job_ids"])}) for row in rows]


def audit(
    conn: Connection, *, job_id: UUID | None = None, since: timedelta | None = None, limit: int = 200
) -> list[AuditEntry]:
    """What operators did, newest first."""
    return ask_audit(conn, job_id=job_id, since=since, limit=limit)()


def ask_audit(
    conn: Connection, *, job_id: UUID | None = None, since: timedelta | None = None, limit: int = 200
) -> Asked[list[AuditEntry]]:
    """Asks what operators did, newest first."""
    return ask(
        conn,
        """
        SELECT id, at, actor, action, job_id, before, after, reason FROM job_audit_list
        WHERE (%(job_id)s::uuid IS NULL OR job_id = %(job_id)s)
            AND (%(since)s::interval IS NULL OR at > now() - %(since)s)
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"job_id": job_id, "since": since, "limit": limit},
        read=lambda rows: [AuditEntry(**row) for row in rows],
    )
