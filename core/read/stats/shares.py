"""The share of failed runs by task type, now and usually, and what ended in each of the last minutes."""

from __future__ import annotations

from typing import Final

from jobdeck.core.read.batch import Query, select
from jobdeck.core.read.stats.figures import OUTCOMES, FailureShare

# The usual share: full hours, and the 5 minutes between the last of them and an hour ago.
_SHARES: Final = """
WITH recent AS (
    SELECT s.task_type, sum(s.runs) AS runs, sum(s.runs) FILTER (WHERE s.outcome = ANY(%(failures)s)) AS failed
    FROM job_stat_list AS s
    WHERE s.minutes = 1 AND s.bucket >= job_stat_bucket(1, now() - interval '15 minutes')
        AND NOT s.dry_run AND s.outcome = ANY(%(judged)s)
    GROUP BY 1
), usual AS (
    SELECT s.task_type, sum(s.runs) AS runs, sum(s.runs) FILTER (WHERE s.outcome = ANY(%(failures)s)) AS failed
    FROM (
        SELECT * FROM job_stat_list AS h
        WHERE h.minutes = 60 AND h.bucket >= job_stat_bucket(60, now() - interval '7 days')
            AND h.bucket < job_stat_bucket(60, now() - interval '1 hour')
        UNION ALL
        SELECT * FROM job_stat_list AS f
        WHERE f.minutes = 5 AND f.bucket >= job_stat_bucket(60, now() - interval '1 hour')
            AND f.bucket < job_stat_bucket(5, now() - interval '1 hour')
    ) AS s
    WHERE NOT s.dry_run AND s.outcome = ANY(%(judged)s)
    GROUP BY 1
), day AS (
    SELECT s.task_type, s.outcome = ANY(%(failures)s) AS failed, s.runs, s.first_at, s.last_at
    FROM job_stat_list AS s
    WHERE s.minutes = 1 AND s.bucket >= job_stat_bucket(1, now() - interval '1 day')
        AND NOT s.dry_run AND s.outcome = ANY(%(judged)s)
), newest AS (
    SELECT d.task_type, max(d.last_at) AS last_at, max(d.last_at) FILTER (WHERE NOT d.failed) AS succeeded_at
    FROM day AS d GROUP BY 1
), streak AS (
    SELECT d.task_type,
        sum(CASE WHEN d.first_at > n.succeeded_at OR n.succeeded_at IS NULL THEN d.runs ELSE 1 END) AS runs
    FROM day AS d JOIN newest AS n USING (task_type)
    WHERE d.failed AND (n.succeeded_at IS NULL OR d.last_at > n.succeeded_at)
    GROUP BY 1
)
SELECT n.task_type, n.last_at, coalesce(r.runs, 0)::bigint AS runs, coalesce(r.failed, 0)::bigint AS failed,
    coalesce(u.runs, 0)::bigint AS usual_runs, coalesce(u.failed, 0)::bigint AS usual_failed,
    coalesce(k.runs, 0)::bigint AS failed_in_a_row
FROM newest AS n
LEFT JOIN recent AS r USING (task_type)
LEFT JOIN usual AS u USING (task_type)
LEFT JOIN streak AS k USING (task_type)
ORDER BY n.task_type
"""

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
    return select(_SHARES, OUTCOMES, read=lambda rows: tuple(FailureShare(**row) for row in rows))
