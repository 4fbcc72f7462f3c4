"""The task types of the queue: their jobs, who handles them, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobdeck.core.read.batch import combine, select
from jobdeck.core.read.jobs import backlog
from jobdeck.core.read.report_types import Counts

if TYPE_CHECKING:
    from datetime import datetime

    from jobdeck.core.read.batch import Query
    from jobdeck.core.read.report_types import Backlog

LIMIT: Final = Counts.LIMIT


@dataclass(frozen=True, slots=True)
class TypeLine:
    """One task type. The number of pending jobs is an estimate if `estimated`, of failed ones if `failed_estimated`.

    `due_since` is the earliest due time of its jobs that could be claimed. `workers` live ones handle it. It is paused
    while `paused_at` is set, and left to a runner that is no worker if `set_aside`. The shares are those of failed runs
    from which health warns and is critical, None for the rule that holds for all types.
    """

    task_type: str
    pending: int
    running: int
    failed: int
    estimated: bool
    workers: int
    paused_at: datetime | None = None
    paused_by: str | None = None
    paused_reason: str | None = None
    resume_at: datetime | None = None
    warning_share: float | None = None
    critical_share: float | None = None
    muted_until: datetime | None = None
    muted_by: str | None = None
    muted_reason: str | None = None
    failed_estimated: bool = False
    due_since: datetime | None = None
    set_aside: bool = False


_SETTINGS: Final = """
WITH counted AS (SELECT * FROM job_queue_type_jobs(%(most)s::integer)),
handled AS (
    SELECT t AS task_type, count(*)::integer AS workers FROM job_workers AS w, unnest(w.task_types) AS t
    WHERE w.heartbeat_at > now() - interval '2 minutes' GROUP BY t
),
muted AS (SELECT task_type, muted_until, muted_by, muted_reason FROM job_types WHERE muted_until > now())
SELECT task_type, 0 AS pending, coalesce(c.running, 0) AS running, coalesce(c.failed, 0) AS failed, false AS estimated,
    coalesce(c.about, false) AS failed_estimated, coalesce(h.workers, 0) AS workers, s.paused_at, s.paused_by,
    s.paused_reason, s.resume_at, s.warning_share, s.critical_share, m.muted_until, m.muted_by, m.muted_reason,
    coalesce(s.set_aside, false) AS set_aside
FROM counted AS c FULL JOIN handled AS h USING (task_type) FULL JOIN job_types AS s USING (task_type)
LEFT JOIN muted AS m USING (task_type)
"""


def type_lines() -> Query[tuple[TypeLine, ...]]:
    """The types with a pending, running or failed job, a live worker or settings, by name.

    Pending jobs are counted up to 10,000 of each type, failed ones up to 10,000 in all; above that, the numbers are
    estimates from a sample. A mute that is over is left out.
    """

    def read(lines: tuple[TypeLine, ...], waiting: tuple[Backlog, ...]) -> tuple[TypeLine, ...]:
        known = {line.task_type: line for line in lines}
        for one in waiting:
            known[one.task_type] = replace(
                known.get(one.task_type) or TypeLine(one.task_type, 0, 0, 0, estimated=False, workers=0),
                pending=one.waiting, estimated=one.estimated, due_since=one.due_since,
            )  # fmt: skip
        return tuple(known[name] for name in sorted(known))

    settings = select(_SETTINGS, {"most": LIMIT + 1}, read=lambda rows: tuple(TypeLine(**row) for row in rows))
    return combine(settings, backlog(timedelta(0)), read=read)
