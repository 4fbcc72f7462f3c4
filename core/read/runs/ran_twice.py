"""Which jobs may have acted twice: what the history knows, and no more.

A run that was lost may have done its work before. If its job then runs again, the queue alone cannot tell; what each
run has returned, such as the ids of a vendor, is the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.rows import Row, run_from

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from uuid import UUID

    from jobdeck.core.model import Run

MOST: Final = 1_000
"""The maximum number of lost runs that are read."""
SAMPLED: Final = 50_000
"""The maximum number of runs whose jobs are counted."""
FAILED: Final = 10_000
"""Among how many failed runs of the queue those of a group of errors are looked for."""
LISTED: Final = 50
"""Of how many jobs the runs are listed."""

_LOST: Final = """
SELECT l.job_id AS of_job, l.lost, l.began AS runs_began, l.unclear AS runs_unclear, r.*
FROM (SELECT l.*, l.ordinality <= %(listed)s AND l.began + l.unclear > 1 AS shown
    FROM job_lost_runs(%(since)s, %(task_type)s, %(most)s) WITH ORDINALITY AS l) AS l
LEFT JOIN LATERAL (SELECT r.* FROM job_run_list AS r WHERE r.run_token = ANY(l.tokens)) AS r ON l.shown
ORDER BY l.ordinality, r.run_token, r.late
"""
_NEWEST: Final = "SELECT * FROM job_run_page(NULL, NULL, NULL, NULL, NULL, %(limit)s)"
_OF_GROUP: Final = """
SELECT * FROM (
    SELECT * FROM job_run_list WHERE outcome IN ('failed', 'retried', 'lost')
    ORDER BY finished_at DESC LIMIT %(most)s
) AS r WHERE r.task_type = %(task_type)s AND r.fingerprint = %(fingerprint)s LIMIT %(limit)s
"""
_BY_JOB: Final = "SELECT * FROM job_runs_by_job(%(since)s, %(task_type)s, %(most)s)"


@dataclass(frozen=True, slots=True)
class LostRuns:
    """The jobs of which a run was lost, each in one of three numbers, and the runs of the newest of the first two.

    `twice`: two runs or more began. `unclear`: of a run it is not known whether it began; if it did, two have begun.
    `alone`: at most one run began, and there is no other. With `at_least` there may be more: `MOST` runs were read.
    """

    twice: int = 0
    unclear: int = 0
    alone: int = 0
    at_least: bool = False
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class SameContent:
    """One-time jobs of a type with the same payload, each of which ended within an hour of another one."""

    task_type: str
    jobs: int
    first_at: datetime
    last_at: datetime
    job_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class RanTwice:
    """What is known of the period up to now.

    `once` and `again` are the jobs with one run, or several, of which none was lost, among the newest `SAMPLED` runs:
    those since `counted_since`, if the period has more. `hidden` says that the session may not compare payloads.
    """

    at: datetime
    since: datetime
    lost: LostRuns
    read: int
    once: int
    again: int
    counted_since: datetime | None
    same: tuple[SameContent, ...]
    hidden: bool


@dataclass(frozen=True, slots=True)
class RunReport:
    """The page of runs: which jobs may have acted twice, and the newest runs."""

    twice: RanTwice
    newest: tuple[Run, ...]


def lost_runs(since: timedelta, *, task_type: str | None = None) -> Query[LostRuns]:
    """The jobs of which a run was lost in the period up to now."""
    return select(_LOST, {"since": since, "task_type": task_type, "most": MOST, "listed": LISTED}, read=_lost)


def ran_twice(since: timedelta, *, task_type: str | None = None) -> Query[RanTwice]:
    """Which jobs may have acted twice in the period up to now, and which have the same content."""

    def read(now: Row, lost: LostRuns, counted: dict[str, Any]) -> RanTwice:
        return RanTwice(now["at"], now["at"] - since, lost, hidden=not now["sees"], **counted)

    by_job = select(_BY_JOB, {"since": since, "task_type": task_type, "most": SAMPLED}, read=_counted)
    now = select("SELECT now() AS at, job_sees_payloads() AS sees", read=lambda rows: rows[0])
    return combine(now, lost_runs(since, task_type=task_type), by_job, read=read)


def run_report(since: timedelta, *, group: tuple[str, str] | None = None, limit: int = 200) -> Query[RunReport]:
    """The page of runs; with a group of errors, by type and fingerprint, those of its type and of the group."""
    newest = runs_of_group(*group, limit=limit) if group else select(_NEWEST, {"limit": limit}, read=_runs)
    return combine(ran_twice(since, task_type=group[0] if group else None), newest, read=RunReport)


def runs_of_group(task_type: str, fingerprint: str, *, limit: int) -> Query[tuple[Run, ...]]:
    """The newest runs of a group of errors, among the newest `FAILED` failed runs of the queue."""
    given = {"task_type": task_type, "fingerprint": fingerprint, "most": FAILED, "limit": limit}
    return select(_OF_GROUP, given, read=_runs)


def _runs(rows: list[Row]) -> tuple[Run, ...]:
    return tuple(map(run_from, rows))


def _lost(rows: list[Row]) -> LostRuns:
    jobs = {row["of_job"]: row for row in rows}
    twice = sum(row["runs_began"] > 1 for row in jobs.values())
    alone = sum(row["runs_began"] + row["runs_unclear"] == 1 for row in jobs.values())
    return LostRuns(
        twice=twice,
        unclear=len(jobs) - twice - alone,
        alone=alone,
        at_least=sum(row["lost"] for row in jobs.values()) == MOST,
        runs=tuple(run_from(row) for row in rows if row["run_token"] is not None),
    )


def _counted(rows: list[Row]) -> dict[str, Any]:
    one = {row["part"]: row for row in rows}
    same = [row for row in rows if row["part"] == "same"]
    return {
        "read": one["read"]["jobs"],
        "once": one["once"]["jobs"],
        "again": one["again"]["jobs"],
        "counted_since": one["read"]["first_at"],
        "same": tuple(
            SameContent(row["task_type"], row["jobs"], row["first_at"], row["last_at"], tuple(row["job_ids"]))
            for row in same
        ),
    }
