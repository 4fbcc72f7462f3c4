"""The evidence behind the verdict: the trigger's history, errors over time, workers, a shift. Changes nothing.

Like `jobdeck.core.read.jobs` it reads through views, and what it reads is bounded: by an index, a time and a limit.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import psycopg

from jobdeck.core.model import Filter, Status
from jobdeck.core.read import history
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.batch import ask, one_moment
from jobdeck.core.read.batch import rows as _rows
from jobdeck.core.read.health import TICK, ask_health
from jobdeck.core.read.jobs import ask_processing
from jobdeck.core.read.report_types import (
    HOURS,
    ActionCount,
    AuditReport,
    CronReport,
    Digest,
    ErrorReport,
    ErrorTrend,
    Fleet,
    Recipient,
    Recipients,
    TriggerCount,
    overdue_by,
)
from jobdeck.core.read.rows import Row, job_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Job
    from jobdeck.core.read.batch import Asked

Connection = psycopg.Connection[Any]

WEEK: Final = timedelta(days=7)
TRIGGERS: Final = 100
OVERDUE_LISTED: Final = 50
RUNNING_LISTED: Final = 200
SERIES_LISTED: Final = 200
COUNTED: Final = timedelta(days=1)
"""How long finished runs are counted by the minute; see `job_queue_prune`."""


def clock(conn: Connection) -> datetime:
    """The database's time."""
    return read_jobs.ask_clock(conn)()


def cron(conn: Connection, *, timeouts: Mapping[str, float] | None = None) -> CronReport:
    """Cron Health: the verdict, the trigger's history, workers, and the jobs that the verdict speaks of.

    With `timeouts`, in seconds by task type, runs that have used up most of theirs weigh in the verdict.
    """
    with one_moment(conn):
        clocked, expected = read_jobs.ask_clock(conn), _ask_tick(conn)
        due = read_jobs.ask_page(conn, Filter(status=Status.PENDING), limit=OVERDUE_LISTED)
        judged, switch = ask_health(conn, timeouts=timeouts), ask_processing(conn)
        triggers, workers = history.ask_worker_runs(conn, limit=TRIGGERS), read_jobs.ask_workers(conn)
        running, series = _ask_running(conn), _ask_series(conn)
    at, tick = clocked(), expected()
    return CronReport(
        at=at,
        tick=tick,
        health=judged(),
        processing=switch(),
        runs=tuple(triggers()),
        workers=tuple(workers()),
        running=running(),
        overdue=tuple(job for job in due().jobs if job.blocked_by is None and overdue_by(job, at) >= tick),
        series=series(),
    )


def _ask_tick(conn: Connection) -> Asked[timedelta]:
    return ask(
        conn,
        "SELECT make_interval(mins => trigger_minutes) AS tick FROM job_queue_settings WHERE id = 1",
        read=lambda rows: rows[0]["tick"] if rows else TICK,
    )


def _ask_running(conn: Connection) -> Asked[tuple[Job, ...]]:
    return ask(
        conn,
        "SELECT * FROM job_list WHERE status = 'running' ORDER BY started_at, id LIMIT %(most)s",
        {"most": RUNNING_LISTED},
        read=_jobs,
    )


def _ask_series(conn: Connection) -> Asked[tuple[Job, ...]]:
    return ask(
        conn,
        """
        SELECT * FROM job_list WHERE is_recurring AND status IN ('pending', 'running')
        ORDER BY run_at LIMIT %(most)s
        """,
        {"most": SERIES_LISTED},
        read=_jobs,
    )


def _jobs(rows: list[Row]) -> tuple[Job, ...]:
    return tuple(map(job_from, rows))


# Errors. A job stands where its newest failed run put it; jobs are looked up one by one, so that the planner has
# no reason to read the whole queue.
_TRENDS: Final = """
WITH troubled AS MATERIALIZED (
    SELECT run_token, job_id, task_type, fingerprint, error_kind, error, finished_at FROM job_run_list
    WHERE outcome IN ('failed', 'retried', 'lost') AND finished_at > now() - %(since)s
    ORDER BY finished_at DESC LIMIT 20000
), alike AS (
    SELECT task_type, fingerprint, (array_agg(error_kind ORDER BY run_token DESC))[1] AS error_kind,
        coalesce((array_agg(error ORDER BY run_token DESC))[1], 'no reason given') AS sample, count(*) AS count,
        count(DISTINCT job_id) AS jobs, min(finished_at) AS first_seen, max(finished_at) AS last_seen
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


def ask_trends(conn: Connection, *, since: timedelta = WEEK, limit: int = 100) -> Asked[tuple[ErrorTrend, ...]]:
    """Asks for failed runs of the time given, grouped by type and fingerprint, most recent group first."""
    return ask(conn, _TRENDS, {"since": since, "limit": limit, "hours": HOURS}, read=_trends)


def _trends(rows: list[Row]) -> tuple[ErrorTrend, ...]:
    found = []
    for row in rows:
        course = row.pop("course") or {}
        hours = tuple(int(course.get(str(ago), 0)) for ago in reversed(range(HOURS)))
        found.append(ErrorTrend(**row, hours=hours))
    return tuple(found)


def errors(conn: Connection, watched: Sequence[UUID] = (), *, since: timedelta = WEEK) -> ErrorReport:
    """The groups, and where the watched jobs stand; a watched job that is nowhere is left out."""
    with one_moment(conn):
        clocked, groups = read_jobs.ask_clock(conn), ask_trends(conn, since=since)
        asked = [read_jobs.ask_job(conn, job_id) for job_id in watched]
    found = (answer() for answer in asked)
    return ErrorReport(clocked(), groups(), tuple(job for job in found if job is not None))


def alike(
    conn: Connection, task_type: str, fingerprint: str, *, since: timedelta = WEEK, limit: int = 1000
) -> tuple[Job, ...]:
    """The jobs that failed for good with such an error, last failed first; then those that wait to be tried again."""
    return ask(
        conn,
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
        read=_jobs,
    )()


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


def fleet(conn: Connection) -> Fleet:
    """The workers, what they run, and the task types that wait though no live worker handles them."""
    with one_moment(conn):
        clocked, heard_of, running = read_jobs.ask_clock(conn), read_jobs.ask_workers(conn), _ask_running(conn)
        waiting = ask(conn, _WAITING_TYPES, read=lambda rows: [row["name"] for row in rows])
    workers = tuple(heard_of())
    handled = {task_type for worker in workers if worker.alive for task_type in worker.task_types}
    return Fleet(clocked(), workers, running(), tuple(name for name in waiting() if name not in handled))


def digest(conn: Connection, since: timedelta) -> Digest:
    """What a shift was like: what finished and failed, what operators did, pauses, triggers, errors."""
    with one_moment(conn):
        told = ask_digest(conn, since)
    return told()


def ask_digest(conn: Connection, since: timedelta) -> Asked[Digest]:
    """Asks what a shift was like."""
    counted = min(since, COUNTED)
    clocked = read_jobs.ask_clock(conn)
    finished = ask(conn, _FINISHED, {"since": counted}, read=lambda rows: rows[0])
    audit, judged, switch = history.ask_audit(conn, since=since, limit=10_000), ask_health(conn), ask_processing(conn)
    jobs, triggers, groups = (
        read_jobs.ask_counts(conn),
        _ask_triggers(conn, since),
        ask_trends(conn, since=max(since, WEEK)),
    )

    def answer() -> Digest:
        at, entries = clocked(), audit()
        done = Counter((entry.actor, entry.action) for entry in entries)
        return Digest(
            at=at,
            since=at - since,
            counted_since=at - counted,
            **{name: int(number) for name, number in finished().items()},
            health=judged(),
            counts=jobs(),
            processing=switch(),
            actions=tuple(ActionCount(*key, count) for key, count in sorted(done.items())),
            pauses=tuple(entry for entry in reversed(entries) if entry.action in {"pause", "resume"}),
            triggers=triggers(),
            errors=tuple(trend for trend in groups() if trend.last_seen >= at - since),
        )

    return answer


def _ask_triggers(conn: Connection, since: timedelta) -> Asked[tuple[TriggerCount, ...]]:
    return ask(
        conn,
        """
        SELECT source, count(*) AS count, count(*) FILTER (
            WHERE status = 'error' OR completed_at IS NULL AND started_at < now() - interval '15 minutes'
                AND source <> 'worker') AS troubled
        FROM job_worker_runs WHERE started_at > now() - %(since)s GROUP BY source ORDER BY source
        """,
        {"since": since},
        read=lambda rows: tuple(TriggerCount(**row) for row in rows),
    )


def audit(conn: Connection, since: timedelta) -> AuditReport:
    """What operators did in a time, newest first, and the digest of it."""
    with one_moment(conn):
        done, told = history.ask_audit(conn, since=since, limit=1000), ask_digest(conn, since)
    return AuditReport(tuple(done()), told())


def recipients(conn: Connection, job_id: UUID, *, limit: int = 100) -> Recipients | None:
    """Whom a job wrote to or left out, addresses masked; None where it wrote to nobody, or where one may not look."""
    allowed = "SELECT coalesce(has_table_privilege(to_regclass('public.outbox_receipts'), 'select'), false) AS may"
    if not _rows(conn, allowed)[0]["may"]:
        return None
    counts = _rows(
        conn,
        """
        SELECT CASE WHEN state = 'left out' THEN 'left out: ' || coalesce(left_out, '?') ELSE state END AS state,
            count(*) AS count
        FROM outbox_receipts WHERE job_id = %(job)s GROUP BY 1 ORDER BY 2 DESC, 1
        """,
        {"job": job_id},
    )
    if not counts:
        return None
    listed = _rows(
        conn,
        """
        SELECT channel, address, state, coalesce(left_out, error_class, last_event) AS detail,
            coalesce(last_event_at, accepted_at, created_at) AS at
        FROM outbox_receipts WHERE job_id = %(job)s
        ORDER BY state NOT IN ('failed', 'uncertain'), created_at LIMIT %(limit)s
        """,
        {"job": job_id, "limit": limit},
    )
    return Recipients(tuple((row["state"], row["count"]) for row in counts), tuple(Recipient(**row) for row in listed))
