"""The figures as plain SQL counts them in `job_queue` and `job_runs`, and the rule of the failure share in Python."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

    Connection = psycopg.Connection[Any]

FAILURES = ("failed", "retried", "lost")
SILENCE = timedelta(hours=1)
SUCCESSES = ("succeeded", "partial", "continued")


class Share(NamedTuple):
    """Runs of the last 15 minutes, and of the week before the last hour; of both, those that failed."""

    runs: int
    failed: int
    usual_runs: int
    usual_failed: int

    @property
    def usual(self) -> float:
        return min((self.usual_failed + 1) / (self.usual_runs + 2), 0.5)

    @property
    def now(self) -> float:
        return self.failed / self.runs if self.runs else 0.0

    @property
    def thresholds(self) -> dict[str, float]:
        """The rule of docs/decisions/failing-types.md."""
        return {
            "critical": max(0.5, self.usual + 0.3),
            "warning": max(0.05, 2 * self.usual, self.usual + 0.1),
        }

    @property
    def verdict(self) -> str | None:
        """What begins with this share of 20 runs or more."""
        if self.runs < 20:
            return None
        return next((name for name, least in self.thresholds.items() if self.now >= least), None)


def without_runs(name: str, last_run: datetime, at: datetime) -> str:
    """The verdict at a time before which no run ended and no job was due since the last run."""
    return "note" if at - last_run >= SILENCE else name


def rows(conn: Connection, statement: str, *given: Any) -> list[tuple[Any, ...]]:
    return conn.execute(statement.encode(), given).fetchall()


def one(conn: Connection, statement: str, *given: Any) -> Any:
    """The value of a statement with one row and one column."""
    return rows(conn, statement, *given)[0][0]


def share(conn: Connection, task_type: str, at: datetime) -> Share:
    """The failure share of a type at a time."""
    minute = at.replace(second=0, microsecond=0)
    counted = """
        SELECT count(*), count(*) FILTER (WHERE outcome = ANY(%s)) FROM job_runs
        WHERE task_type = %s AND NOT late AND outcome = ANY(%s) AND finished_at >= %s AND finished_at < %s
    """
    judged = [*SUCCESSES, *FAILURES]
    recent = (minute - timedelta(minutes=15), minute + timedelta(minutes=1))
    week = (at - timedelta(days=7), at - timedelta(hours=1))
    found = [rows(conn, counted, list(FAILURES), task_type, judged, *span)[0] for span in (recent, week)]
    return Share(*found[0], *found[1])


def outcomes(conn: Connection, since: datetime) -> dict[tuple[str, str], int]:
    """The runs that ended since a time, by type and outcome."""
    found = rows(
        conn,
        "SELECT task_type, outcome, count(*) FROM job_runs WHERE NOT late AND finished_at >= %s GROUP BY 1, 2",
        since,
    )
    return {(name, outcome): runs for name, outcome, runs in found}


def jobs(conn: Connection) -> dict[tuple[str, str], int]:
    """The jobs in the queue, by type and status."""
    found = rows(conn, "SELECT task_type, status, count(*) FROM job_queue GROUP BY 1, 2")
    return {(name, status): number for name, status, number in found}


def groups(conn: Connection, since: datetime) -> dict[tuple[str, str], tuple[int, ...]]:
    """By type and group: failed runs since a time, jobs in the group now, failed ones, those awaiting a retry."""
    found = rows(
        conn,
        """
        WITH runs AS (
            SELECT task_type, fingerprint, count(*) AS runs FROM job_runs
            WHERE NOT late AND outcome = ANY(%s) AND finished_at >= %s GROUP BY 1, 2
        ), jobs AS (
            SELECT task_type, fingerprint, count(*) AS jobs, count(*) FILTER (WHERE status = 'failed') AS failed,
                count(*) FILTER (WHERE status = 'pending') AS waiting
            FROM job_queue WHERE status IN ('failed', 'pending', 'running') GROUP BY 1, 2
        )
        SELECT task_type, fingerprint, runs, coalesce(jobs, 0), coalesce(failed, 0), coalesce(waiting, 0)
        FROM runs LEFT JOIN jobs USING (task_type, fingerprint)
        """,
        list(FAILURES),
        since,
    )
    return {(name, mark): tuple(counts) for name, mark, *counts in found}


def floor5(at: datetime) -> datetime:
    """The start of the 5 minutes in which a time is."""
    return at.replace(minute=at.minute - at.minute % 5, second=0, microsecond=0)
