"""Groups of failed runs with similar errors: counts at any size, and the jobs of a group.

The order of groups does not change while a page is open: newest first, by the first failed run. Counts are in steps of
5 minutes, so a period begins up to 5 minutes earlier.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.report_types import HOURS, OTHER, ErrorGroup, Release
from jobdeck.core.read.rows import Row, jobs_from

if TYPE_CHECKING:
    from jobdeck.core.model import Job

WEEK: Final = timedelta(days=7)
BARS: Final = 12
OTHER_SAMPLE: Final = "Errors beyond the first 1,000 different ones of 5 minutes, counted together"

# The groups of the period that were last seen last. What upkeep has not added up yet is few lines: all are read.
_GROUPS: Final = """
WITH release AS MATERIALIZED (
    SELECT max(first_seen) AS at FROM job_releases HAVING count(*) > 1
), listed AS MATERIALIZED (
    SELECT task_type, fingerprint FROM (
        (SELECT g.task_type, g.fingerprint, g.last_at FROM job_error_groups AS g
        WHERE g.last_at >= job_stat_bucket(5, now() - %(since)s)
            AND (NOT %(new)s OR g.first_at >= (SELECT at FROM release))
        ORDER BY g.last_at DESC LIMIT %(limit)s)
        UNION ALL
        SELECT d.task_type, d.fingerprint, d.last_at FROM job_stat_delta AS d
        WHERE d.fingerprint IS NOT NULL AND d.last_at >= job_stat_bucket(5, now() - %(since)s)
            AND (NOT %(new)s OR NOT EXISTS (SELECT FROM job_error_group_list AS k
                WHERE k.fingerprint = d.fingerprint AND k.task_type = d.task_type
                    AND k.first_at < (SELECT at FROM release)))
    ) AS found
    GROUP BY task_type, fingerprint ORDER BY max(last_at) DESC, task_type, fingerprint LIMIT %(limit)s
), known AS MATERIALIZED (
    SELECT l.task_type, l.fingerprint, g.* FROM listed AS l CROSS JOIN LATERAL (
        SELECT max(k.error_kind) AS kind_kept, max(k.pattern) AS pattern, max(k.sample_token) AS token,
            min(k.first_at) AS first_seen, max(k.last_at) AS last_seen
        FROM job_error_group_list AS k WHERE k.fingerprint = l.fingerprint AND k.task_type = l.task_type
    ) AS g
), counted AS MATERIALIZED (
    SELECT l.task_type, l.fingerprint, c.bucket, sum(c.runs)::bigint AS runs FROM listed AS l
    CROSS JOIN LATERAL (
        SELECT e.bucket, e.runs FROM job_stat_error_list AS e
        WHERE e.fingerprint = l.fingerprint AND e.task_type = l.task_type
            AND e.bucket >= job_stat_bucket(5, now() - %(since)s)
    ) AS c
    GROUP BY 1, 2, 3
), dated AS (
    SELECT c.*, greatest(floor(extract(epoch FROM now() - c.bucket) / 3600), 0)::integer AS hours_ago,
        greatest(extract(epoch FROM job_stat_bucket(5, now()) - c.bucket) / 300, 0)::integer AS bars_ago
    FROM counted AS c
), hourly AS (
    SELECT task_type, fingerprint, jsonb_object_agg(hours_ago, runs) AS hours FROM (
        SELECT task_type, fingerprint, hours_ago, sum(runs) AS runs FROM dated
        WHERE hours_ago < %(hours)s GROUP BY 1, 2, 3
    ) AS h GROUP BY 1, 2
), total AS (
    SELECT task_type, fingerprint, sum(runs)::bigint AS count,
        jsonb_object_agg(bars_ago, runs) FILTER (WHERE bars_ago < %(bars)s) AS bars
    FROM dated GROUP BY 1, 2
), capped AS (
    SELECT DISTINCT e.task_type FROM job_stat_errors AS e
    WHERE e.fingerprint = %(other)s AND e.bucket >= job_stat_bucket(5, now() - %(since)s)
)
SELECT k.task_type, k.fingerprint, coalesce(r.error_kind, k.kind_kept) AS error_kind,
    coalesce(r.error, nullif(k.pattern, ''), 'no reason given') AS sample, k.first_seen, k.last_seen, t.count, t.bars,
    h.hours, coalesce(s.failed, 0) AS failed, coalesce(s.waiting, 0) AS waiting, coalesce(s.jobs, 0) AS jobs,
    CASE WHEN s.jobs > 0 THEN ARRAY(SELECT j.id FROM job_list AS j
            WHERE j.fingerprint = k.fingerprint AND j.task_type = k.task_type ORDER BY j.status, j.id LIMIT 100)
        WHEN r.job_id IS NOT NULL THEN ARRAY[r.job_id] ELSE '{}'::uuid[] END AS job_ids,
    EXISTS (SELECT FROM capped AS c WHERE c.task_type = k.task_type) AS capped,
    coalesce(k.first_seen >= (SELECT at FROM release), false) AS new_in_release
FROM known AS k
JOIN total AS t ON t.task_type = k.task_type AND t.fingerprint = k.fingerprint
LEFT JOIN hourly AS h ON h.task_type = k.task_type AND h.fingerprint = k.fingerprint
LEFT JOIN LATERAL (
    SELECT r.error_kind, r.error, r.job_id FROM job_run_list AS r
    WHERE r.run_token = k.token AND NOT r.late AND r.task_type = k.task_type AND r.fingerprint = k.fingerprint
) AS r ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS jobs, count(*) FILTER (WHERE j.status = 'failed') AS failed,
        -- A job that a worker has only claimed waits there.
        count(*) FILTER (WHERE j.status = 'pending' OR j.status = 'running' AND j.started_at IS NULL) AS waiting
    FROM job_list AS j
    WHERE j.fingerprint = k.fingerprint AND j.task_type = k.task_type AND j.status IN ('failed', 'pending', 'running')
) AS s ON true
ORDER BY k.first_seen DESC, k.task_type, k.fingerprint
"""

_COUNT: Final = """
SELECT count(*) AS groups FROM (
    SELECT g.task_type, g.fingerprint FROM job_error_groups AS g
    WHERE g.last_at >= job_stat_bucket(5, now() - %(since)s)
    UNION
    SELECT d.task_type, d.fingerprint FROM job_stat_delta AS d
    WHERE d.fingerprint IS NOT NULL AND d.last_at >= job_stat_bucket(5, now() - %(since)s)
) AS found
"""


def groups(*, since: timedelta = WEEK, limit: int = 100, new_in_release: bool = False) -> Query[tuple[ErrorGroup, ...]]:
    """Failed runs of the period, grouped by type and fingerprint: the groups last seen last, in their stable order.

    With `new_in_release` only groups that the newest release brought, see `newest_release`.
    """
    params = {
        "since": since, "limit": limit, "hours": HOURS, "bars": BARS, "other": OTHER, "new": new_in_release,
    }  # fmt: skip
    return select(_GROUPS, params, read=lambda rows: tuple(map(_group, rows)))


def count(*, since: timedelta = WEEK) -> Query[int]:
    """The number of groups of the period, of which `groups` returns the first."""
    return select(_COUNT, {"since": since}, read=lambda rows: int(rows[0]["groups"]))


def newest_release() -> Query[Release | None]:
    """The newest release of the application; None while workers of one release only have been here.

    The first release is not new: what failed before it is unknown.
    """
    return select(
        """
        SELECT r.name, r.first_seen FROM job_releases AS r
        WHERE (SELECT count(*) FROM job_releases) > 1 ORDER BY r.first_seen DESC LIMIT 1
        """,
        read=lambda rows: Release(**rows[0]) if rows else None,
    )


class Alike(NamedTuple):
    """The first failed and pending jobs of a group, and how many there are."""

    jobs: tuple[Job, ...]
    total: int


def alike(task_type: str, fingerprint: str, *, limit: int = 1000, skip: int = 0) -> Query[tuple[Job, ...]]:
    """The jobs whose newest failed run is in this group: failed ones, last failed first, then those awaiting retry."""
    return select(
        """
        SELECT j.* FROM job_list AS j
        WHERE j.fingerprint = %(fingerprint)s AND j.task_type = %(task_type)s AND j.status IN ('failed', 'pending')
        ORDER BY j.status <> 'failed', j.last_run_at DESC, j.id DESC LIMIT %(limit)s OFFSET %(skip)s
        """,
        {"task_type": task_type, "fingerprint": fingerprint, "limit": limit, "skip": skip},
        read=jobs_from,
    )


def counted_alike(task_type: str, fingerprint: str, *, limit: int) -> Query[Alike]:
    """The first `limit` jobs of `alike`, and the number of all of them."""
    total = select(
        """
        SELECT count(*) AS jobs FROM job_list AS j
        WHERE j.fingerprint = %(fingerprint)s AND j.task_type = %(task_type)s AND j.status IN ('failed', 'pending')
        """,
        {"task_type": task_type, "fingerprint": fingerprint},
        read=lambda rows: int(rows[0]["jobs"]),
    )
    return combine(alike(task_type, fingerprint, limit=limit), total, read=Alike)


def _group(row: Row) -> ErrorGroup:
    hours, bars = (_course(row.pop(name), length) for name, length in (("hours", HOURS), ("bars", BARS)))
    is_other = row["fingerprint"] == OTHER
    facts = row | {"job_ids": tuple(row["job_ids"]), "sample": OTHER_SAMPLE if is_other else row["sample"]}
    return ErrorGroup(**facts, hours=hours, bars=bars)


def _course(counts: dict[str, int] | None, length: int) -> tuple[int, ...]:
    """The counts, by how many steps they are ago, oldest first."""
    return tuple(int((counts or {}).get(str(ago), 0)) for ago in reversed(range(length)))
