"""Reads for the reports: Cron Health, errors over time, workers, the digest of a shift.

Like `jobdeck.core.read.jobs` it reads through views. An index, a period and a limit bound every read.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import psycopg

from jobdeck.core.model import Filter, Status
from jobdeck.core.plugins import load_plugins
from jobdeck.core.read import history
from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.health import TICK, health
from jobdeck.core.read.jobs import clock, counts, page, processing, workers
from jobdeck.core.read.report_types import (
    HOURS,
    ActionCount,
    AuditReport,
    CronReport,
    Digest,
    ErrorGroup,
    ErrorReport,
    Fleet,
    TriggerCount,
    overdue_by,
)
from jobdeck.core.read.rows import Row, jobs_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import AuditEntry, Health, Job, Processing, Worker, WorkerRun
    from jobdeck.core.plugins import Recipients
    from jobdeck.core.read.report_types import Counts, Page

Connection = psycopg.Connection[Any]

WEEK: Final = timedelta(days=7)
TRIGGERS: Final = 100
OVERDUE_LISTED: Final = 50
RUNNING_LISTED: Final = 200
SERIES_LISTED: Final = 200
COUNTED: Final = timedelta(days=1)
"""How long the counts of finished runs per minute are kept; see `job_queue_prune`."""


def cron(*, timeouts: Mapping[str, float] | None = None) -> Query[CronReport]:
    """Cron Health: the verdict, the trigger's history, the workers, and the jobs behind the verdict.

    With `timeouts` (seconds by task type), the verdict includes runs that have used most of their timeout.
    """

    def read(  # noqa: PLR0913, PLR0917 -- one argument per part of the report
        at: datetime,
        tick: timedelta,
        due: Page,
        judged: Health,
        switch: Processing,
        triggers: tuple[WorkerRun, ...],
        heard_of: tuple[Worker, ...],
        running: tuple[Job, ...],
        series: tuple[Job, ...],
    ) -> CronReport:
        overdue = tuple(job for job in due.jobs if job.blocked_by is None and overdue_by(job, at) >= tick)
        return CronReport(at, tick, judged, switch, triggers, heard_of, running, overdue, series)

    return combine(
        clock(),
        select(
            "SELECT make_interval(mins => trigger_minutes) AS tick FROM job_queue_settings WHERE id = 1",
            read=lambda rows: rows[0]["tick"] if rows else TICK,
        ),
        page(Filter(status=Status.PENDING), limit=OVERDUE_LISTED),
        health(timeouts=timeouts),
        processing(),
        history.worker_runs(limit=TRIGGERS),
        workers(),
        _running(),
        select(
            """
            SELECT * FROM job_list WHERE is_recurring AND status IN ('pending', 'running')
            ORDER BY run_at LIMIT %(most)s
            """,
            {"most": SERIES_LISTED},
            read=jobs_from,
        ),
        read=read,
    )


def _running() -> Query[tuple[Job, ...]]:
    return select(
        "SELECT * FROM job_list WHERE status = 'running' ORDER BY started_at, id LIMIT %(most)s",
        {"most": RUNNING_LISTED},
        read=jobs_from,
    )


# A job belongs to the group of its newest failed run. Jobs are looked up one by one (LATERAL), so that the planner
# does not read the whole queue.
_GROUPS: Final = """
WITH troubled AS MATERIALIZED (
    SELECT run_token, job_id, task_type, fingerprint, error_kind, error, finished_at FROM job_run_list
    WHERE outcome IN ('failed', 'retried', 'lost') AND finished_at > now() - %(since)s
    ORDER BY finished_at DESC LIMIT 20000
), alike AS (
    SELECT task_type, fingerprint, (array_agg(error_kind ORDER BY run_token DESC))[1] AS error_kind,
        coalesce((array_agg(error ORDER BY run_token DESC))[1], 'no reason given') AS sample, count(*) AS count,
        count(DISTINCT job_id) AS jobs, (array_agg(DISTINCT job_id))[1:100] AS job_ids,
        min(finished_at) AS first_seen, max(finished_at) AS last_seen
    FROM troubled GROUP BY task_type, fingerprint ORDER BY max(finished_at) DESC LIMIT %(limit)s
), hourly AS (
    SELECT task_type, fingerprint, count(*) AS runs,
        greatest(floor(extract(epoch FROM now() - finished_at) / 3600), 0)::integer AS hours_ago
    FROM troubled WHERE finished_at > now() - make_interval(hours => %(hours)s) GROUP BY 1, 2, 4
), newest AS (
    SELECT DISTINCT ON (job_id) job_id, task_type, fingerprint FROM troubled ORDER BY job_id, run_token DESC
), standing AS (
    SELECT n.task_type, n.fingerprint, count(*) FILTER (WHERE j.status = 'failed') AS failed,
        count(*) FILTER (WHERE j.status = 'pending' AND j.last_error IS NOT NULL) AS waiting
    FROM newest AS n
    CROSS JOIN LATERAL (SELECT q.status, q.last_error FROM job_list AS q WHERE q.id = n.job_id LIMIT 1) AS j
    GROUP BY n.task_type, n.fingerprint
)
SELECT a.*, coalesce(s.failed, 0) AS failed, coalesce(s.waiting, 0) AS waiting, h.course
FROM alike AS a
LEFT JOIN standing AS s ON s.task_type = a.task_type AND s.fingerprint = a.fingerprint
LEFT JOIN (
    SELECT task_type, fingerprint, jsonb_object_agg(hours_ago, runs) AS course FROM hourly GROUP BY 1, 2
) AS h ON h.task_type = a.task_type AND h.fingerprint = a.fingerprint
ORDER BY a.last_seen DESC
"""


def error_groups(*, since: timedelta = WEEK, limit: int = 100) -> Query[tuple[ErrorGroup, ...]]:
    """Failed runs of the period, grouped by type and fingerprint, most recent group first."""
    return select(_GROUPS, {"since": since, "limit": limit, "hours": HOURS}, read=_groups)


def _groups(rows: list[Row]) -> tuple[ErrorGroup, ...]:
    found = []
    for row in rows:
        course = row.pop("course") or {}
        hours = tuple(int(course.get(str(ago), 0)) for ago in reversed(range(HOURS)))
        found.append(ErrorGroup(**row | {"job_ids": tuple(row["job_ids"])}, hours=hours))
    return tuple(found)


def errors(*, since: timedelta = WEEK) -> Query[ErrorReport]:
    """The error groups."""
    return combine(clock(), error_groups(since=since), read=ErrorReport)


def alike(task_type: str, fingerprint: str, *, since: timedelta = WEEK, limit: int = 1000) -> Query[tuple[Job, ...]]:
    """The jobs whose newest failed run is in this group: failed ones, last failed first, then those awaiting retry."""
    return select(
        """
        WITH troubled AS MATERIALIZED (
            SELECT run_token, job_id, task_type, fingerprint, finished_at FROM job_run_list
            WHERE outcome IN ('failed', 'retried', 'lost') AND finished_at > now() - %(since)s
            ORDER BY finished_at DESC LIMIT 20000
        ), newest AS (
            SELECT DISTINCT ON (job_id) job_id, task_type, fingerprint, run_token FROM troubled
            ORDER BY job_id, run_token DESC
        )
        SELECT j.* FROM newest AS n
        CROSS JOIN LATERAL (SELECT q.* FROM job_list AS q WHERE q.id = n.job_id LIMIT 1) AS j
        WHERE n.task_type = %(task_type)s AND n.fingerprint = %(fingerprint)s
            AND (j.status = 'failed' OR j.status = 'pending' AND j.last_error IS NOT NULL)
        ORDER BY j.status <> 'failed', n.run_token DESC LIMIT %(limit)s
        """,
        {"task_type": task_type, "fingerprint": fingerprint, "since": since, "limit": limit},
        read=jobs_from,
    )


_WAITING_TYPES: Final = """
WITH RECURSIVE type (name) AS (
    (SELECT j.task_type FROM job_list AS j
    WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line ORDER BY j.task_type LIMIT 1)
    UNION ALL
    SELECT (SELECT j.task_type FROM job_list AS j
        WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line AND j.task_type > t.name
        ORDER BY j.task_type LIMIT 1)
    FROM type AS t WHERE t.name IS NOT NULL
)
SELECT name FROM type WHERE name IS NOT NULL LIMIT 1000
"""

_FINISHED: Final = """
SELECT coalesce(sum(succeeded - partial - continued), 0) AS succeeded, coalesce(sum(partial), 0) AS partial,
    coalesce(sum(continued), 0) AS continued, coalesce(sum(troubled), 0) AS troubled, coalesce(sum(failed), 0) AS failed
FROM job_throughput WHERE minute >= date_trunc('minute', now() - %(since)s)
"""


def fleet() -> Query[Fleet]:
    def read(at: datetime, heard_of: tuple[Worker, ...], running: tuple[Job, ...], waiting: Sequence[str]) -> Fleet:
        handled = {task_type for worker in heard_of if worker.alive for task_type in worker.task_types}
        return Fleet(at, heard_of, running, tuple(name for name in waiting if name not in handled))

    waiting = select(_WAITING_TYPES, read=lambda rows: [row["name"] for row in rows])
    return combine(clock(), workers(), _running(), waiting, read=read)


def digest(since: timedelta) -> Query[Digest]:
    """The digest of the period up to now: finished runs, actions of operators, pauses, triggers, errors."""
    counted = min(since, COUNTED)

    def read(
        at: datetime,
        finished: Row,
        entries: list[AuditEntry],
        groups: tuple[ErrorGroup, ...],
        judged: Health,
        jobs: Counts,
        switch: Processing,
        triggers: tuple[TriggerCount, ...],
    ) -> Digest:
        done = Counter((entry.actor, entry.action) for entry in entries)
        return Digest(
            at=at,
            since=at - since,
            counted_since=at - counted,
            **{name: int(number) for name, number in finished.items()},
            health=judged,
            counts=jobs,
            processing=switch,
            actions=tuple(ActionCount(*key, count) for key, count in sorted(done.items())),
            pauses=tuple(entry for entry in reversed(entries) if entry.action in {"pause", "resume"}),
            triggers=triggers,
            errors=tuple(group for group in groups if group.last_seen >= at - since),
        )

    return combine(
        clock(),
        select(_FINISHED, {"since": counted}, read=lambda rows: rows[0]),
        history.audit(since=since, limit=10_000),
        error_groups(since=max(since, WEEK)),
        health(),
        counts(),
        processing(),
        _triggers(since),
        read=read,
    )


def _triggers(since: timedelta) -> Query[tuple[TriggerCount, ...]]:
    return select(
        """
        SELECT source, count(*) AS count, count(*) FILTER (
            WHERE status = 'error' OR completed_at IS NULL AND started_at < now() - interval '15 minutes'
                AND source <> 'worker') AS troubled
        FROM job_worker_runs WHERE started_at > now() - %(since)s GROUP BY source ORDER BY source
        """,
        {"since": since},
        read=lambda rows: tuple(TriggerCount(**row) for row in rows),
    )


def audit(since: timedelta) -> Query[AuditReport]:
    """The audit of the period up to now, newest first, and its digest."""
    return combine(
        history.audit(since=since, limit=1000), digest(since), read=lambda done, shift: AuditReport(tuple(done), shift)
    )


def recipients(conn: Connection, job_id: UUID) -> Recipients | None:
    """The people that a job wrote to or skipped, from the plugin that records them; None if no plugin does."""
    for plugin in load_plugins():
        found = plugin.receipts(conn, job_id) if plugin.receipts else None
        if found is not None:
            return found
    return None
