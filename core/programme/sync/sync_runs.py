"""The ledger of sync runs, which also prevents two runs from overlapping.

A row that is `running` and alive locks its scope: one coach or everyone. It is a row and not a session-level
advisory lock, because a transaction-mode pooler does not give us a session: the lock would stay on a connection
that the pooler lends to others. The transaction lock below only makes the check and the insert atomic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import LeaseLost, Snooze
from jobdeck.core.programme.sync.rules import BUSY_PAUSE_SECONDS, STALE_AFTER

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg


def open_run(conn: psycopg.Connection[Any], *, job_id: UUID, coach_id: UUID | None, sync_type: str) -> UUID:
    """Marks dead runs as failed and opens a run, which replaces an earlier attempt of the same job.

    Raises:
        Snooze: a live run has competitors in common with this one.
    """
    with conn.transaction():
        conn.execute("select job_queue_lock_name('game_platform_sync_runs')")
        conn.execute(
            """
            update public.game_platform_sync_runs
            set status = 'failed', completed_at = now(),
                error_message = case when job_id = %(job)s then 'A later attempt of the same job took over.'
                                     else 'The worker that ran it stopped unexpectedly.' end
            where status = 'running'
              and (job_id = %(job)s or coalesce(heartbeat_at, started_at) < now() - %(stale)s::interval)
            """,
            {"job": job_id, "stale": STALE_AFTER},
        )
        busy = conn.execute(
            """
            select job_id from public.game_platform_sync_runs
            where status = 'running' and (coach_id is null or %(coach)s::uuid is null or coach_id = %(coach)s)
            limit 1
            """,
            {"coach": coach_id},
        ).fetchone()
        if busy is not None:
            raise Snooze(
                BUSY_PAUSE_SECONDS,
                f"Another sync of the same competitors is running (job {busy[0] or 'unknown'}). "
                f"This job is due again in {BUSY_PAUSE_SECONDS:.0f} s, and no attempt is counted.",
            )
        opened = conn.execute(
            """
            insert into public.game_platform_sync_runs (job_id, coach_id, sync_type, status, heartbeat_at)
            values (%s, %s, %s, 'running', now()) returning id
            """,
            (job_id, coach_id, sync_type),
        ).fetchall()
    found: UUID = opened[0][0]
    return found


def beat(conn: psycopg.Connection[Any], run_id: UUID) -> None:
    """Renews the run's heartbeat.

    Raises:
        LeaseLost: another run has taken over.
    """
    alive = conn.execute(
        "update public.game_platform_sync_runs set heartbeat_at = clock_timestamp() "
        "where id = %s and status = 'running'",
        (run_id,),
    )
    if alive.rowcount == 0:
        raise LeaseLost(f"The sync run {run_id} was taken over by another worker; this one stops.")


def close_run(
    conn: psycopg.Connection[Any], run_id: UUID, *, synced: int, failed: int, error: str | None = None
) -> None:
    """Ends the run as failed if there is an error, else as completed. A run that was taken over is not changed."""
    conn.execute(
        """
        update public.game_platform_sync_runs
        set status = case when %(error)s::text is null then 'completed' else 'failed' end,
            completed_at = clock_timestamp(), heartbeat_at = clock_timestamp(),
            competitors_synced = %(synced)s, competitors_failed = %(failed)s, error_message = %(error)s
        where id = %(id)s and status = 'running'
        """,
        {"id": run_id, "synced": synced, "failed": failed, "error": error},
    )
