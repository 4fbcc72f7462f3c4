"""Trends with the backlog over time, and with the pauses and releases of the application as marks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.stats.trends import step_for, trends

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobdeck.core.read.rows import Row
    from jobdeck.core.read.stats.figures import Trends

ALL: Final = ""
"""The name under which the backlog of all types is stored."""
MARKS: Final = 100
MINUTE: Final = timedelta(minutes=1)

_BACKLOG: Final = """
SELECT b.bucket, b.task_type, b.waiting, b.at_least FROM job_backlog AS b
WHERE b.minutes = %(minutes)s AND b.bucket >= date_bin(%(step)s, now() - %(window)s, '2000-01-01 00:00+00')
    AND b.bucket <= now() AND (%(task_type)s::text IS NULL OR b.task_type IN ('', %(task_type)s))
"""
_PAUSES: Final = """
SELECT a.at, a.action AS kind, a.after ->> 'task_type' AS name, a.actor FROM job_audit_list AS a
WHERE a.action IN ('pause', 'resume') AND a.at > now() - %(window)s
    AND (%(task_type)s::text IS NULL OR a.after ->> 'task_type' IS NULL OR a.after ->> 'task_type' = %(task_type)s)
ORDER BY a.at DESC LIMIT %(marks)s
"""
_RELEASES: Final = """
SELECT r.first_seen AS at, 'release' AS kind, r.name, NULL AS actor FROM job_releases AS r
WHERE r.first_seen > now() - %(window)s ORDER BY r.first_seen DESC LIMIT %(marks)s
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A pause, a resume, or the first worker of a release of the application.

    `name` is the task type, None for all of them, or the release.
    """

    at: datetime
    kind: Literal["pause", "resume", "release"]
    name: str | None
    actor: str | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The most jobs that were due and waited for a worker in one bucket."""

    jobs: int
    at_least: bool


@dataclass(frozen=True, slots=True)
class TrendReport:
    """The statistics of a window, its backlog by type and bucket (`ALL` for all types), and its marks, oldest first."""

    trends: Trends
    backlog: Mapping[str, Mapping[datetime, Waiting]]
    marks: tuple[Mark, ...]

    def waiting(self, task_type: str | None = None) -> tuple[Waiting | None, ...]:
        """The backlog bucket by bucket, of one type or of all; None where nobody counted."""
        counted, chosen = self.backlog.get(ALL, {}), self.backlog.get(task_type or ALL, {})
        none = Waiting(0, at_least=False)
        return tuple(chosen.get(at, none) if at in counted else None for at in self.trends.buckets)


def trend_report(window: timedelta, *, task_type: str | None = None) -> Query[TrendReport]:
    """The trends of a window up to now, of one task type or of all.

    Raises:
        UsageError: the window is not between 5 minutes and 30 days.
    """
    step = step_for(window)
    params = {"window": window, "step": step, "minutes": step // MINUTE, "task_type": task_type}

    def read(found: Trends, backlog: list[Row], marks: tuple[Mark, ...]) -> TrendReport:
        by_type: dict[str, dict[datetime, Waiting]] = defaultdict(dict)
        for row in backlog:
            by_type[row["task_type"]][row["bucket"]] = Waiting(row["waiting"], row["at_least"])
        return TrendReport(found, dict(by_type), marks)

    return combine(
        trends(window, task_type=task_type),
        select(_BACKLOG, params, read=list),
        marks_of(window, task_type=task_type),
        read=read,
    )


def marks_of(window: timedelta, *, task_type: str | None = None) -> Query[tuple[Mark, ...]]:
    """The marks of a window up to now, oldest first; with a task type, without the pauses of others."""
    params = {"window": window, "task_type": task_type, "marks": MARKS}

    def read(*found: list[Row]) -> tuple[Mark, ...]:
        return tuple(sorted((Mark(**row) for part in found for row in part), key=lambda mark: mark.at))

    return combine(*(select(statement, params, read=list) for statement in (_PAUSES, _RELEASES)), read=read)
