"""Reads the history: runs, cycles of workers, the audit of operators' actions.

Like `jobdeck.core.read.jobs` it reads through views, newest first, up to a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import UsageError
from jobdeck.core.model import Run, RunOutcome, WorkerRun
from jobdeck.core.read.batch import Query, select
from jobdeck.core.read.job_lists import LOOKED_AT
from jobdeck.core.read.report_types import AuditEntry, AuditLine
from jobdeck.core.read.rows import NO_CURSOR, Row, run_from

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

ALIKE: Final = 10
"""From this number on, actions in a row are one line if they differ only in the job, as those of a bulk action."""
NEWEST: Final = 50_000
"""The maximum number of actions that are read."""


_RUNS: Final = "SELECT * FROM job_run_page(NULL, NULL, %(token)s, %(late)s, NULL, %(limit)s)"
_RUNS_OF: Final = """
SELECT * FROM job_run_page_of(%(job_id)s, %(task_type)s, %(outcome)s, %(token)s, %(late)s, %(limit)s)
"""
_RUNS_LIKE: Final = """
SELECT r.*, b.reach FROM job_run_reach(%(token)s, %(late)s, %(most)s) AS b (reach)
LEFT JOIN LATERAL job_run_page(%(task_type)s, %(outcome)s, %(token)s, %(late)s, b.reach, %(limit)s) AS r ON true
"""


def runs(
    *,
    job_id: UUID | None = None,
    task_type: str | None = None,
    outcome: RunOutcome | None = None,
    limit: int = 50,
    after: str | None = None,
    most: int | None = None,
) -> Query[tuple[list[Run], str | None]]:
    """Runs, newest first, and the cursor of the next page.

    Without a job, a type or an outcome is looked for among the next `most` runs, or `LOOKED_AT`. A page with a cursor
    may therefore have fewer runs than `limit`, and even none.

    Raises:
        UsageError: `after` is not a cursor.
    """
    if after is not None and not (after.isdecimal() and len(after) <= 18):
        raise UsageError(NO_CURSOR)
    # A lost run and the late report of its worker have the same token, so the cursor also says which of the two it is.
    token, late = divmod(int(after), 2) if after else (None, 0)
    chosen = task_type is not None or outcome is not None

    def read(rows: list[Row]) -> tuple[list[Run], str | None]:
        reach = rows[0].pop("reach", None) if rows else None
        found = [run_from(row) for row in rows[:limit] if row["run_token"] is not None]
        if len(rows) > limit:
            return found, str(rows[limit - 1]["run_token"] * 2 + rows[limit - 1]["late"])
        return found, None if reach is None else str(reach * 2)

    return select(
        _RUNS_OF if job_id is not None else _RUNS_LIKE if chosen else _RUNS,
        {
            "job_id": job_id,
            "task_type": task_type,
            "outcome": outcome.value if outcome else None,
            "token": token,
            "late": bool(late),
            "limit": limit + 1,
            "most": LOOKED_AT if most is None else most,
        },
        read=read,
    )


def run(run_token: int) -> Query[Run | None]:
    """One run; of a lost run whose worker reported late, the lost one."""
    return select(
        "SELECT * FROM job_run_list WHERE run_token = %(token)s ORDER BY late LIMIT 1",
        {"token": run_token},
        read=lambda rows: run_from(rows[0]) if rows else None,
    )


def newest_tokens(limit: int) -> Query[frozenset[int]]:
    """The highest run tokens of all runs, ended ones and those that run now."""

    def read(rows: list[Row]) -> frozenset[int]:
        return frozenset(sorted((row["run_token"] for row in rows), reverse=True)[:limit])

    return select(
        """
        (SELECT run_token FROM job_run_list ORDER BY run_token DESC LIMIT %(limit)s)
        UNION
        (SELECT run_token FROM job_list WHERE status = 'running' ORDER BY run_token DESC LIMIT %(limit)s)
        """,
        {"limit": limit},
        read=read,
    )


def worker_runs(*, limit: int = 50, but: str = "") -> Query[tuple[WorkerRun, ...]]:
    """Cycles and windows of workers, newest first, without those of the source `but`.

    A window that is open although its worker is not alive has `died`.
    """
    return select(
        """
        SELECT id, started_at, completed_at, source, http_method, http_status, status, processed,
            coalesce(succeeded, 0) AS succeeded, coalesce(failed, 0) AS failed, released, claimed, due_before,
            worker_id, message, error_message,
            completed_at IS NULL AND source IN ('worker', 'embedded') AND NOT EXISTS (SELECT FROM job_workers AS w
                WHERE w.id = worker_id AND job_worker_is_alive(w.heartbeat_at, now())) AS died
        FROM job_worker_runs WHERE source <> %(but)s ORDER BY started_at DESC LIMIT %(limit)s
        """,
        {"limit": limit, "but": but},
        read=lambda rows: tuple(WorkerRun(**row) for row in rows),
    )


def audit(*, job_id: UUID | None = None, since: timedelta | None = None, limit: int = 200) -> Query[list[AuditEntry]]:
    return select(
        """
        SELECT id, at, actor, action, job_id, before, after, reason FROM job_audit_list
        WHERE (%(job_id)s::uuid IS NULL OR job_id = %(job_id)s)
            AND (%(since)s::interval IS NULL OR at > now() - %(since)s)
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"job_id": job_id, "since": since, "limit": limit},
        read=lambda rows: [AuditEntry(**row) for row in rows],
    )


def actions(*, since: timedelta, limit: int = 1000) -> Query[tuple[AuditLine, ...]]:
    """The operators' actions of the period up to now, newest first.

    `ALIKE` or more in a row that differ only in the job are one line, which has the newest of them. Only the newest
    `NEWEST` actions and `limit` lines are read.
    """
    return select(
        """
        WITH recent AS (
            SELECT id, job_id, (actor, action, reason) AS alike,
                coalesce(after ->> 'task_type', before ->> 'task_type') COLLATE "C" AS task_type
            FROM job_audit_list WHERE at > now() - %(since)s ORDER BY id DESC LIMIT %(newest)s
        ), marked AS (
            SELECT id, task_type,
                job_id IS NULL OR alike IS DISTINCT FROM lag(alike) OVER (ORDER BY id DESC) AS begins
            FROM recent
        ), numbered AS (
            SELECT id, task_type,
                count(*) FILTER (WHERE begins) OVER (ORDER BY id DESC ROWS UNBOUNDED PRECEDING) AS line
            FROM marked
        ), lines AS (
            SELECT line, max(id) AS newest, count(*) AS jobs,
                min(task_type) IS DISTINCT FROM max(task_type) AS mixed,
                sum(count(*)) OVER (ORDER BY line ROWS UNBOUNDED PRECEDING) = %(newest)s AS at_least
            FROM numbered GROUP BY line
        ), shown AS (
            SELECT n.id, CASE WHEN l.jobs < %(alike)s THEN 1 ELSE l.jobs END AS jobs,
                l.mixed AND l.jobs >= %(alike)s AS mixed, l.at_least
            FROM numbered AS n JOIN lines AS l USING (line) WHERE l.jobs < %(alike)s OR n.id = l.newest
            ORDER BY n.id DESC LIMIT %(limit)s
        )
        SELECT a.id, a.at, a.actor, a.action, a.job_id, a.before, a.after, a.reason, s.jobs, s.mixed, s.at_least
        FROM shown AS s JOIN job_audit_list AS a USING (id) ORDER BY a.id DESC
        """,
        {"since": since, "limit": limit, "alike": ALIKE, "newest": NEWEST},
        read=lambda rows: tuple(_line(**row) for row in rows),
    )


def _line(*, jobs: int, mixed: bool, at_least: bool, **action: Any) -> AuditLine:
    return AuditLine(AuditEntry(**action), jobs, mixed=mixed, at_least=at_least)
