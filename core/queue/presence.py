"""What workers put on record: that they live, what each cycle or window of theirs did, and which alarms they raised."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg

from jobdeck.core.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Json

Connection = psycopg.Connection[Any]


def report_worker(  # noqa: PLR0913 -- one keyword per column
    conn: Connection,
    *,
    worker_id: str,
    host: str,
    pid: int,
    mode: str,
    version: str,
    concurrency: int,
    task_types: Sequence[str],
    running: int,
) -> None:
    """Writes a worker's own heartbeat into `job_workers`. `mode` is `headless`, `embedded` or `cycle`."""
    conn.execute(
        "SELECT job_worker_report(%s, %s, %s, %s, %s, %s, %s::text[], %s)",
        (worker_id, host, pid, mode, version, concurrency, list(task_types), running),
    )


def remove_worker(conn: Connection, worker_id: str) -> None:
    """Takes a worker that has stopped off the list."""
    conn.execute("SELECT job_worker_remove(%s)", (worker_id,))


def open_worker_run(conn: Connection, *, source: str, worker_id: str, http_method: str | None = None) -> UUID:
    """Opens the record of a cycle or a window; notes how many jobs are due.

    `source` is `cron_http`, `worker`, `embedded`, `manual` or `cli`.
    """
    row = conn.execute("SELECT job_worker_run_open(%s, %s, %s)", (source, worker_id, http_method)).fetchone()
    if row is None:
        raise Refused("The database did not open a worker run.")
    opened: UUID = row[0]
    return opened


def note_worker_run(
    conn: Connection, run_id: UUID, *, claimed: int, succeeded: int, failed: int, released: int
) -> None:
    """Says what a window that is still open has come to; one that is closed stays as it is."""
    conn.execute("SELECT job_worker_run_note(%s, %s, %s, %s, %s)", (run_id, claimed, succeeded, failed, released))


def close_worker_run(  # noqa: PLR0913 -- one keyword per column
    conn: Connection,
    run_id: UUID,
    *,
    status: str,
    claimed: int,
    succeeded: int,
    failed: int,
    released: int,
    message: str | None = None,
    error: str | None = None,
    results: Sequence[Json] = (),
    http_status: int | None = None,
) -> None:
    """Closes the record of a cycle or a window. `status` is `ok`, `paused` or `error`."""
    conn.execute(
        "SELECT job_worker_run_close(%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s)",
        (
            run_id,
            status,
            claimed,
            succeeded,
            failed,
            released,
            message,
            error,
            json.dumps(list(results)),
            http_status,
        ),
    )


def raise_alarm(conn: Connection, name: str) -> bool:
    """Whether this alarm is news; false while one of that name stands, whoever raised it."""
    row = conn.execute("SELECT job_alarm_raise(%s)", (name,)).fetchone()
    return bool(row and row[0])


def clear_alarm(conn: Connection, name: str) -> datetime | None:
    """Takes an alarm away; since when it stood, told to one caller only, or None."""
    row = conn.execute("SELECT job_alarm_clear(%s)", (name,)).fetchone()
    return row[0] if row else None
