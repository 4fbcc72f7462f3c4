"""Runs of one type in the history, some of which failed with one error."""

from __future__ import annotations

from typing import Any, Final

from psycopg.types.json import Jsonb

from tests.support.queue import Connection

ERROR: Final = "0123456789ab"


def ran(conn: Connection, runs: int, payload: Any, outcome: str = "succeeded", **fields: Any) -> None:
    """That many runs ended now, each of a job of its own; failed ones are in the group."""
    shown = {"worker_id": "w1", "attempt": 1, "task_type": "push", "late": False} | fields
    conn.execute(
        """
        INSERT INTO job_runs (run_token, late, job_id, task_type, payload, attempt, worker_id, due_at, started_at,
            finished_at, outcome, error, fingerprint)
        SELECT nextval('job_run_token_seq'), %(late)s, gen_random_uuid(), %(task_type)s, %(payload)s, %(attempt)s,
            %(worker_id)s, now(), now(), clock_timestamp(), %(outcome)s, 'no',
            CASE WHEN %(outcome)s IN ('failed', 'retried', 'lost') THEN %(error)s END
        FROM generate_series(1, %(runs)s)
        """,
        shown | {"payload": Jsonb(payload), "outcome": outcome, "runs": runs, "error": ERROR},
    )
    conn.execute(
        """
        WITH counted AS (
            INSERT INTO job_stat_errors AS e (task_type, fingerprint, bucket, runs)
            SELECT 'push', %(error)s, job_stat_bucket(5, now()), %(runs)s WHERE %(failed)s
            ON CONFLICT (task_type, fingerprint, bucket) DO UPDATE SET runs = e.runs + excluded.runs)
        INSERT INTO job_error_groups (task_type, fingerprint, first_at, last_at)
        SELECT 'push', %(error)s, now(), clock_timestamp() WHERE %(failed)s
        ON CONFLICT (task_type, fingerprint) DO UPDATE SET last_at = excluded.last_at
        """,
        {"error": ERROR, "runs": runs, "failed": outcome != "succeeded"},
    )


def of_coach(conn: Connection) -> None:
    """A tenth of the runs are those of one coach, and only theirs fail."""
    for coach in range(9):
        ran(conn, 30, {"coachId": f"c{coach}", "division": "Senior"})
    ran(conn, 9, {"coachId": "bad", "division": "Senior"})
    ran(conn, 21, {"coachId": "bad", "division": "Senior"}, "retried")
