"""The figures as plain SQL counts them in `job_queue` and `job_runs`, and the rule of the failure share in Python."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

    Connection = psycopg.Connection[Any]

FAILURES = ("failed", "retried", "lost")
CALM = timedelta(minutes=15)
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
        """The rule of docs/decisions/failure-share.md."""
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


class Verdict(NamedTuple):
    """A verdict, and since when the share has been below half of its threshold. The clock advances; no run fails."""

    name: str | None
    calm_since: datetime | None

    def after(self, share: Share, at: datetime) -> Verdict:
        """The verdict of the judgement at a time. A critical one that ends is a warning while that still holds."""
        if self.name is None:
            return Verdict(share.verdict, None)
        calm_since = (self.calm_since or at) if share.now < share.thresholds[self.name] / 2 else None
        over = calm_since is not None and at - calm_since >= CALM
        name = share.verdict
        if self.name == "critical" and (name == "critical" or not over):
            name = "critical"
        elif self.name == "critical" and share.now >= share.thresholds["warning"] / 2:
            name = "warning"
        elif self.name == "warning" and not over:
            name = name or "warning"
        return Verdict(name, calm_since if name == self.name else None)


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
