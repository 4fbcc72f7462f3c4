"""Statistics of runs that ended at chosen times, without the runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from tests.support.queue import Connection

NOW: Final = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC)


class History:
    """Runs of one task type, by the minute in which they ended."""

    def __init__(self, conn: Connection, task_type: str = "push") -> None:
        self.conn = conn
        self.task_type = task_type

    def ran(self, at: datetime, **outcomes: int) -> None:
        """So many runs with each outcome ended at this time, which a worker's report appended to the statistics."""
        self._append(at, outcomes, dry_run=False)

    def ran_dry(self, at: datetime, **outcomes: int) -> None:
        """The same of runs that changed nothing."""
        self._append(at, outcomes, dry_run=True)

    def lost(self, at: datetime, jobs: int) -> None:
        """Records runs that ended at this time and after which that many jobs failed permanently."""
        self.ran(at, failed=jobs)
        self.conn.execute(
            "UPDATE job_stat_delta SET permanent = runs WHERE task_type = %s AND outcome = 'failed' AND last_at = %s",
            (self.task_type, at),
        )

    def erred(self, at: datetime, fingerprint: str, runs: int) -> None:
        """So many runs were retried at this time, with an error of this group."""
        self.ran(at, retried=runs)
        self.conn.execute(
            "UPDATE job_stat_delta SET fingerprint = %s WHERE task_type = %s AND outcome = 'retried' AND last_at = %s",
            (fingerprint, self.task_type, at),
        )

    def _append(self, at: datetime, outcomes: dict[str, int], *, dry_run: bool) -> None:
        for outcome, runs in outcomes.items():
            if runs:
                self.conn.execute(
                    """
                    INSERT INTO job_stat_delta (minute, task_type, outcome, dry_run, runs, first_at, last_at, bins,
                        wait_seconds, duration_seconds)
                    VALUES (date_trunc('minute', %(at)s::timestamptz), %(type)s, %(outcome)s, %(dry)s, %(runs)s, %(at)s,
                        %(at)s, array_fill(job_stat_bins('1 s', '1 s'), ARRAY[%(runs)s]), %(runs)s, %(runs)s)
                    """,
                    {"at": at, "type": self.task_type, "outcome": outcome, "dry": dry_run, "runs": runs},
                )

    def usually(self, succeeded: int, failed: int) -> None:
        """These runs ended in each hour of the last week, all but the last two hours."""
        for hour in range(2, 7 * 24):
            self.ran(NOW - timedelta(hours=hour, minutes=1), succeeded=succeeded, failed=failed)
        self.add_up()

    def add_up(self) -> None:
        self.conn.execute("SELECT job_stats_compact(100000)")

    def judged_good_runs(self, at: datetime, *, runs: int = 10) -> str | None:
        """The verdict of the type at this time, after that many more runs have succeeded."""
        self.ran(at, succeeded=runs)
        return self.judged(at)

    def judged(self, at: datetime = NOW) -> str | None:
        """The verdict of the type at this time."""
        self.conn.execute("SELECT job_stats_judge(%s)", (at,))
        row = self.conn.execute(
            "SELECT verdict FROM job_failing_types WHERE task_type = %s", (self.task_type,)
        ).fetchone()
        return row[0] if row else None
