"""Reads for the reports: Cron Health, errors over time, workers, the digest of a shift.

Like `jobdeck.core.read.jobs` it reads through views. An index, a period and a limit bound every read.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg

from jobdeck.core.model import Filter, Status
from jobdeck.core.plugins import load_plugins
from jobdeck.core.read import history
from jobdeck.core.read.batch import Query, combine, gather, select
from jobdeck.core.read.jobs import backlog, clock, counts, page, processing, workers
from jobdeck.core.read.operators import notes
from jobdeck.core.read.operators.reach import CLAIMABLE
from jobdeck.core.read.report_types import (
    ActionCount,
    AuditEntry,
    AuditReport,
    CronReport,
    Digest,
    ErrorReport,
    TriggerCount,
    WorkerReport,
    overdue_by,
)
from jobdeck.core.read.rows import Row, jobs_from
from jobdeck.core.read.runs import ran_twice
from jobdeck.core.read.stats import error_groups
from jobdeck.core.read.stats.figures import OUTCOMES, SINCE
from jobdeck.core.read.verdict.health import TICK, health

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Job, Worker
    from jobdeck.core.plugins import Recipients
    from jobdeck.core.read.report_types import Page

Connection = psycopg.Connection[Any]

WEEK: Final = timedelta(days=7)
TRIGGERS: Final = 100
OVERDUE_LISTED: Final = 50
RUNNING_LISTED: Final = 200
SERIES_LISTED: Final = 200


def cron(*, timeouts: Mapping[str, float] | None = None, production: bool = False) -> Query[CronReport]:
    """Cron Health: the verdict, the trigger's history, the workers, and the jobs behind the verdict.

    With `timeouts` (seconds by task type), the verdict includes runs that have used most of their timeout. `production`
    is for `health`.
    """

    def made(at: datetime, tick: timedelta, due: Page, **parts: Any) -> CronReport:
        overdue = tuple(job for job in due.jobs if job.blocked_by is None and overdue_by(job, at) >= tick)
        return CronReport(at=at, tick=tick, overdue=overdue, **parts)

    return gather(
        made,
        at=clock(),
        tick=select(
            "SELECT make_interval(mins => trigger_minutes) AS tick FROM job_queue_settings WHERE id = 1",
            read=lambda rows: rows[0]["tick"] if rows else TICK,
        ),
        due=page(Filter(status=Status.PENDING), limit=OVERDUE_LISTED),
        health=health(timeouts=timeouts, production=production),
        processing=processing(),
        runs=history.worker_runs(limit=TRIGGERS),
        workers=workers(),
        running=_running(),
        series=select(
            """
            SELECT * FROM job_list WHERE is_recurring AND status IN ('pending', 'running')
            ORDER BY run_at LIMIT %(most)s
            """,
            {"most": SERIES_LISTED},
            read=jobs_from,
        ),
        series_found=select(
            "SELECT count(*) AS found FROM job_list WHERE is_recurring AND status IN ('pending', 'running')",
            read=lambda rows: int(rows[0]["found"]),
        ),
        backlog=backlog(),
    )


def _running() -> Query[tuple[Job, ...]]:
    return select(
        """
        SELECT * FROM job_list WHERE status = 'running' AND (started_at IS NOT NULL OR lease_expires_at <= now())
        ORDER BY started_at, id LIMIT %(most)s
        """,
        {"most": RUNNING_LISTED},
        read=jobs_from,
    )


def errors(*, since: timedelta = WEEK, limit: int = 100, new_in_release: bool = False) -> Query[ErrorReport]:
    """The error groups, which of them are muted, and which the newest release brought; or only these groups."""
    return gather(
        ErrorReport,
        at=clock(),
        trends=error_groups.groups(since=since, limit=limit, new_in_release=new_in_release),
        total=error_groups.count(since=since),
        mutes=notes.mutes(),
        release=error_groups.newest_release(),
    )


_NOT_ASIDE: Final = """
{claimable}
SELECT name FROM claimable WHERE name IS NOT NULL AND NOT EXISTS (
    SELECT FROM job_paused_types AS p WHERE p.task_type = claimable.name AND p.set_aside) LIMIT 1000
"""
_WAITING_TYPES: Final[LiteralString] = _NOT_ASIDE.format(claimable=CLAIMABLE)

_COUNTED: Final = """
SELECT greatest(job_stat_bucket(5, now() - %(since)s),
        (SELECT q.stats_since FROM job_queue_settings AS q WHERE q.id = 1)) AS counted_since,
    coalesce(sum(r.runs) FILTER (WHERE r.outcome = 'succeeded' AND NOT r.dry_run), 0)::bigint AS succeeded,
    coalesce(sum(r.runs) FILTER (WHERE r.outcome = 'partial' AND NOT r.dry_run), 0)::bigint AS partial,
    coalesce(sum(r.runs) FILTER (WHERE r.outcome = 'continued' AND NOT r.dry_run), 0)::bigint AS continued,
    coalesce(sum(r.runs - r.permanent) FILTER (WHERE r.outcome = ANY(%(failures)s) AND r.outcome <> 'failed'
        AND NOT r.dry_run), 0)::bigint AS troubled,
    coalesce(sum(r.runs - r.permanent) FILTER (WHERE r.outcome = 'failed' AND NOT r.dry_run), 0)::bigint AS cycles,
    coalesce(sum(r.permanent) FILTER (WHERE NOT r.dry_run), 0)::bigint AS failed,
    coalesce(sum(r.runs) FILTER (WHERE r.dry_run), 0)::bigint AS dry_runs
FROM ({since}) AS r
"""
_FINISHED: Final[LiteralString] = _COUNTED.format(since=SINCE.format(begins="(now() - %(since)s)"))


# A bulk action writes a row for each of its jobs, so the rows that the digest lists are chosen before they are limited.
_ENTRIES: Final = """
SELECT id, at, actor, action, job_id, before, after, reason FROM job_audit_list
WHERE at > now() - %(since)s
    AND (action IN ('pause', 'resume', 'canary', 'canary ended') OR action LIKE 'bulk %%')
ORDER BY id DESC LIMIT 10000
"""


def worker_report() -> Query[WorkerReport]:
    """The workers, what they run, and the task types with waiting jobs that no live worker handles.

    Types that are set aside are left out. Workers that told no release are not among the releases.
    """

    def read(
        at: datetime, heard_of: tuple[Worker, ...], running: tuple[Job, ...], waiting: Sequence[str],
        releases: Mapping[str, str],
    ) -> WorkerReport:  # fmt: skip
        handled = {task_type for worker in heard_of if worker.alive for task_type in worker.task_types}
        unhandled = tuple(name for name in waiting if name not in handled)
        return WorkerReport(at, heard_of, running, unhandled, releases)

    waiting = select(_WAITING_TYPES, read=lambda rows: [row["name"] for row in rows])
    releases = select(
        "SELECT id, release FROM job_workers WHERE release <> ''",
        read=lambda rows: {row["id"]: row["release"] for row in rows},
    )
    return combine(clock(), workers(), _running(), waiting, releases, read=read)


def digest(since: timedelta, *, production: bool = False) -> Query[Digest]:
    """The digest of the period up to now: finished runs, actions of operators, pauses, triggers, errors.

    `production` is for `health`.
    """

    def made(at: datetime, finished: Row, entries: list[AuditEntry], **parts: Any) -> Digest:
        return Digest(
            at=at,
            since=at - since,
            **finished,
            pauses=tuple(entry for entry in reversed(entries) if entry.action in {"pause", "resume"}),
            bulks=tuple(entry for entry in reversed(entries) if entry.action.startswith("bulk ")),
            canaries=_open_canaries(entries),
            **parts,
        )

    return gather(
        made,
        at=clock(),
        finished=select(_FINISHED, {"since": since, **OUTCOMES}, read=lambda rows: rows[0]),
        entries=select(_ENTRIES, {"since": since}, read=lambda rows: [AuditEntry(**row) for row in rows]),
        errors=error_groups.groups(since=since),
        health=health(production=production),
        counts=counts(),
        processing=processing(),
        actions=_actions(since),
        triggers=_triggers(since),
        notes=notes.open_notes(),
        mutes=notes.mutes(),
        lost=ran_twice.lost_runs(since),
    )


def _actions(since: timedelta) -> Query[tuple[ActionCount, ...]]:
    return select(
        """
        SELECT actor, action, count(*) AS count FROM job_audit_list WHERE at > now() - %(since)s
        GROUP BY actor, action ORDER BY actor COLLATE "C", action COLLATE "C"
        """,
        {"since": since},
        read=lambda rows: tuple(ActionCount(**row) for row in rows),
    )


def _open_canaries(entries: Sequence[AuditEntry]) -> tuple[AuditEntry, ...]:
    """The requests for canaries without an answer, oldest first."""
    ended = {(entry.after or {}).get("canary") for entry in entries if entry.action == "canary ended"}
    return tuple(entry for entry in reversed(entries) if entry.action == "canary" and entry.id not in ended)


def _triggers(since: timedelta) -> Query[tuple[TriggerCount, ...]]:
    return select(
        """
        SELECT source, count(*) AS count, count(*) FILTER (
            WHERE status = 'error' OR completed_at IS NULL AND started_at < now() - interval '15 minutes'
                AND source NOT IN ('worker', 'embedded')) AS troubled
        FROM job_worker_runs WHERE started_at > now() - %(since)s GROUP BY source ORDER BY source
        """,
        {"since": since},
        read=lambda rows: tuple(TriggerCount(**row) for row in rows),
    )


def audit(since: timedelta, *, production: bool = False) -> Query[AuditReport]:
    """The audit of the period up to now, newest first, and its digest."""
    return combine(history.actions(since=since), digest(since, production=production), read=AuditReport)


def recipients(conn: Connection, job_id: UUID) -> Recipients | None:
    """The people that a job wrote to or skipped, from the plugin that records them; None if no plugin does."""
    for plugin in load_plugins():
        found = plugin.receipts(conn, job_id) if plugin.receipts else None
        if found is not None:
            return found
    return None
