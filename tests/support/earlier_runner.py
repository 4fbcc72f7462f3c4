"""The calls of the original's runner: it claims and reports by functions of its own names."""

from __future__ import annotations

from uuid import UUID

from tests.support.queue import Connection, Row


def take(conn: Connection, limit: int = 5) -> list[Row]:
    """The claim of the earlier runner."""
    return conn.rows("SELECT * FROM job_queue_claim(%s)", limit)


def succeed(conn: Connection, job: UUID, output: str | None = None) -> Row:
    return conn.rows("SELECT * FROM job_queue_mark_succeeded(p_job_id => %s, p_output => %s)", job, output)[0]


def fail(conn: Connection, job: UUID, delay: int | None = None) -> Row:
    statement = "SELECT * FROM job_queue_mark_failed(p_job_id => %s, p_error => 'no answer', p_retry_in_ms => %s)"
    return conn.rows(statement, job, delay)[0]
