"""The share of failed runs by task type, now and usually, and what ended in each of the last minutes."""

from __future__ import annotations

from typing import Final

from jobdeck.core.read.batch import Query, select
from jobdeck.core.read.stats.figures import FailureShare

MINUTES: Final = """
SELECT coalesce(s.succeeded, 0)::integer AS succeeded, coalesce(s.failed, 0)::integer AS failed
FROM generate_series(0, 14) AS ago
LEFT JOIN (
    SELECT t.bucket, sum(t.runs) FILTER (WHERE t.outcome = ANY(%(successes)s)) AS succeeded,
        sum(t.runs) FILTER (WHERE t.outcome = ANY(%(failures)s)) AS failed
    FROM job_stat_list AS t
    WHERE t.minutes = 1 AND t.bucket >= job_stat_bucket(1, now() - interval '14 minutes') AND NOT t.dry_run
    GROUP BY 1
) AS s ON s.bucket = job_stat_bucket(1, now()) - ago * interval '1 minute'
ORDER BY ago DESC
"""
"""Successes and failures of the last 15 minutes, oldest first, the present one last. Needs `OUTCOMES`."""


def failure_shares() -> Query[tuple[FailureShare, ...]]:
    """The failure shares of all task types of which a run ended in the last day, by name."""
    return select(
        """
        SELECT task_type, runs, failed, usual_runs, usual_failed, failed_in_a_row, last_at, usual
        FROM job_failure_shares(now(), false)
        """,
        read=lambda rows: tuple(FailureShare(**row) for row in rows),
    )


def totals() -> Query[tuple[tuple[str, str, int], ...]]:
    """Task type, outcome and number of all runs that ever ended, without dry runs; a number never becomes smaller."""
    return select(
        """
        SELECT task_type, outcome, sum(runs)::bigint AS runs FROM job_stat_list WHERE minutes = 0 AND NOT dry_run
        GROUP BY 1, 2 ORDER BY 1, 2
        """,
        read=lambda rows: tuple((row["task_type"], row["outcome"], row["runs"]) for row in rows),
    )
