"""How jobs stand now: what a list says in place of `pending`, as one SQL expression, and the types at their limits.

Lists, their order and filters share the expression, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, LiteralString

from jobdeck.core.read.batch import Query, select
from jobdeck.core.times import write_rate

if TYPE_CHECKING:
    from datetime import datetime

NEXT_LOOKED_AT: Final = 50
_RUNNING: Final = """
LEFT JOIN (
    SELECT q.task_type, count(*) AS jobs FROM job_list AS q WHERE q.status = 'running' GROUP BY q.task_type
) AS r ON r.task_type = t.task_type
"""
# A rate is in use until this time. Whether it has a place this very moment changes many times a second.
_IS_FULL: Final = "t.limited AND (coalesce(r.jobs, 0) >= t.max_running OR t.rate_until > now())"
_FULL: Final = """
SELECT t.task_type, t.max_running, coalesce(r.jobs, 0) AS running, t.rate_runs, t.rate_seconds
FROM job_types AS t {running} WHERE {is_full}
"""

_STANDS: Final = """
SELECT types.*, working.*, switch.* FROM (
    SELECT ARRAY(SELECT p.task_type FROM job_paused_types AS p
            WHERE NOT p.set_aside AND (p.resume_at IS NULL OR p.resume_at > now())) AS paused,
        coalesce(array_agg(t.task_type) FILTER (WHERE t.paused_at IS NOT NULL AND t.set_aside), '{{}}') AS aside,
        coalesce(array_agg(t.task_type) FILTER (WHERE {is_full}), '{{}}') AS full_types,
        ARRAY(SELECT h.task_type FROM job_hold_list AS h WHERE h.until IS NULL OR h.until > now()) AS held
    FROM job_types AS t {running}
) AS types CROSS JOIN (
    SELECT count(*) > 0 AS any, coalesce(array_agg(h.task_type), '{{}}') || ARRAY(
        SELECT s.task_type FROM job_stat_list AS s
        WHERE s.minutes = 0 AND s.last_at > now() - interval '15 minutes') AS handled
    FROM job_workers AS w LEFT JOIN LATERAL unnest(w.task_types) AS h (task_type) ON true
    WHERE job_worker_is_alive(w.heartbeat_at, now())
) AS working CROSS JOIN (
    SELECT coalesce(bool_or((s.processing_enabled OR s.resume_at <= now()) AND s.held_by IS NULL), false) AS processing
    FROM job_queue_settings AS s WHERE s.id = 1
) AS switch
"""
STANDS: Final[LiteralString] = _STANDS.format(is_full=_IS_FULL, running=_RUNNING)
"""One row with what `STANDING` needs to know besides the job.

A type that the calls of a scheduler run has no worker. It counts as handled for 15 minutes after a run of it.
"""
CIRCUMSTANCES: Final[LiteralString] = f"CROSS JOIN ({STANDS}) AS stands"

STANDING: Final = """
CASE
    WHEN j.status = 'running' AND j.started_at IS NULL THEN 'claimed'
    WHEN j.status <> 'pending' THEN j.status
    WHEN j.blocked_by = j.id THEN 'paused'
    WHEN job_is_hold(j.blocked_by) THEN 'held'
    WHEN j.blocked_by IS NOT NULL THEN 'waiting'
    WHEN j.task_type = ANY (stands.held) AND job_is_held(j.id) THEN 'held'
    WHEN j.task_type = ANY (stands.paused) THEN 'paused'
    WHEN j.task_type = ANY (stands.aside) THEN 'pending'
    WHEN j.run_at > now() THEN
        CASE WHEN j.attempts > 0 AND j.last_outcome IN ('retried', 'lost') THEN 'retrying' ELSE 'pending' END
    WHEN NOT stands.processing THEN 'paused'
    WHEN j.in_line THEN 'waiting'
    WHEN j.task_type = ANY (stands.full_types) THEN 'at limit'
    WHEN stands.any AND NOT j.task_type = ANY (stands.handled) THEN 'cannot run'
    WHEN j.run_at <= now() - interval '1 minute' THEN 'overdue'
    WHEN j.attempts > 0 AND j.last_outcome IN ('retried', 'lost') THEN 'retrying'
    ELSE 'pending'
END
"""
"""How the job `j`, a row of `job_list`, stands: a word of `Standing`. `stands` is the row of `STANDS`.

A job that is behind another one with its key waits for that only once it is due and may start. A hold keeps a job also
before a claim has looked at it, which writes that into the job's row.
"""

STANDS_SO: Final[LiteralString] = f" AND ({STANDING}) = %(standing)s"
MAY_BE_OF: Final = """
AND CASE %(standing)s WHEN 'waiting' THEN false
    WHEN 'held' THEN l.task_type = ANY (stands.held)
    WHEN 'paused' THEN l.task_type = ANY (stands.paused) OR NOT stands.processing
    WHEN 'at limit' THEN l.task_type = ANY (stands.full_types)
    WHEN 'cannot run' THEN NOT l.task_type = ANY (stands.handled) ELSE true END
"""
MAY_WAIT: Final = " AND %(standing)s NOT IN ('at limit', 'cannot run', 'overdue')"
MAY_BE_DUE: Final = """
AND j.run_at <= CASE WHEN %(standing)s IN ('at limit', 'cannot run', 'overdue') THEN now() ELSE 'infinity' END
"""
"""Conditions that leave out pending jobs which cannot have the wanted standing, so that few are judged by `STANDS_SO`.

They are about the types of the lanes `l`, the jobs that wait for another one, and the time when a job is due.
"""

RANK: Final = """
array_position(ARRAY['failed', 'cannot run', 'overdue', 'retrying', 'running', 'claimed', 'at limit', 'waiting',
    'held', 'pending', 'succeeded', 'cancelled'],
    CASE WHEN {standing} <> 'paused' THEN {standing} WHEN {run_at} <= now() THEN 'overdue' ELSE 'pending' END)
"""
"""The place of a standing where those come first that need somebody. A paused job counts once it is due."""


@dataclass(frozen=True, slots=True)
class FullType:
    """A task type at its limit: as many of its jobs run as may, or its rate is in use."""

    task_type: str
    running: int
    max_running: int | None = None
    rate_runs: int | None = None
    rate_seconds: int | None = None

    @property
    def words(self) -> str:
        """The limit in words: `2 of 2 places taken`, `starts 60/m`."""
        if self.max_running is not None and self.running >= self.max_running:
            return f"{self.running:,} of {self.max_running:,} places taken"
        return f"starts {write_rate(self.rate_runs, self.rate_seconds)}" if self.rate_runs and self.rate_seconds else ""


def full_types() -> Query[tuple[FullType, ...]]:
    """The task types that are at their limit now."""
    return select(
        _FULL.format(running=_RUNNING, is_full=_IS_FULL), read=lambda rows: tuple(FullType(**row) for row in rows)
    )


def next_due() -> Query[tuple[str, datetime] | None]:
    """The task type and the time of the next run of a series that is not paused, among the next `NEXT_LOOKED_AT`."""
    return select(
        """
        SELECT n.task_type, n.run_at FROM (
            SELECT task_type, status, run_at FROM job_list
            WHERE is_recurring AND status IN ('pending', 'running')
                AND run_at > now() AND run_at < '9999-12-30 00:00+00'
            ORDER BY run_at LIMIT %(most)s
        ) AS n
        WHERE n.status = 'pending' AND NOT EXISTS (SELECT FROM job_paused_types AS p WHERE p.task_type = n.task_type
            AND (p.resume_at IS NULL OR p.resume_at > n.run_at))
        ORDER BY n.run_at LIMIT 1
        """,
        {"most": NEXT_LOOKED_AT},
        read=lambda rows: (rows[0]["task_type"], rows[0]["run_at"]) if rows else None,
    )
