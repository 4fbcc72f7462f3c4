"""What ended in each of the last minutes, for the plot of the first screen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.stats.backlog import ALL, MINUTE, Mark, marks_of
from jobdeck.core.read.stats.figures import OUTCOMES

if TYPE_CHECKING:
    from datetime import datetime

    from jobdeck.core.read.rows import Row


_PRESENT: Final = """
SELECT job_stat_bucket(1, now()) AS present, q.stats_since FROM job_queue_settings AS q WHERE q.id = 1
"""
_ENDED: Final = """
SELECT s.bucket, coalesce(sum(s.runs) FILTER (WHERE s.outcome = ANY(%(successes)s)), 0)::bigint AS succeeded,
    coalesce(sum(s.runs) FILTER (WHERE s.outcome = ANY(%(failures)s)), 0)::bigint AS failed
FROM job_stat_list AS s
WHERE s.minutes = 1 AND s.bucket >= job_stat_bucket(1, now() - %(window)s) AND s.bucket <= now() AND NOT s.dry_run
GROUP BY 1
"""
_WAITING: Final = """
SELECT b.bucket, b.waiting FROM job_backlog AS b
WHERE b.minutes = 5 AND b.task_type = %(all)s AND b.bucket > now() - %(window)s - interval '5 minutes'
    AND b.bucket <= now()
"""


@dataclass(frozen=True, slots=True)
class LastMinutes:
    """The runs that ended and the jobs that waited in each full minute before `present`, oldest first.

    `present` is the start of the minute that is not over yet. None is a minute before the queue counted, or in which
    nobody counted the jobs that wait. `marks` are the pauses, resumes and releases since the first minute.
    """

    present: datetime
    succeeded: tuple[int | None, ...]
    failed: tuple[int | None, ...]
    waiting: tuple[int | None, ...]
    marks: tuple[Mark, ...] = ()


def last_minutes(number: int) -> Query[LastMinutes]:
    """The last full minutes, as many as wanted."""
    params = {"window": number * MINUTE, "all": ALL, **OUTCOMES}

    def read(known: list[Row], ended: list[Row], waiting: list[Row], marks: tuple[Mark, ...]) -> LastMinutes:
        present, since = known[0]["present"], known[0]["stats_since"]
        minutes = [present - ago * MINUTE for ago in range(number, 0, -1)]
        counted = [minute + MINUTE > since for minute in minutes]
        runs = {row["bucket"]: (row["succeeded"], row["failed"]) for row in ended}
        sampled = {row["bucket"]: row["waiting"] for row in waiting}
        succeeded, failed = (
            tuple(runs.get(minute, (0, 0))[part] if there else None
                  for minute, there in zip(minutes, counted, strict=True))
            for part in (0, 1)
        )  # fmt: skip
        waited = tuple(sampled.get(minute - timedelta(minutes=minute.minute % 5)) for minute in minutes)
        return LastMinutes(present, succeeded, failed, waited, marks)

    return combine(
        select(_PRESENT, read=list),
        select(_ENDED, params, read=list),
        select(_WAITING, params, read=list),
        marks_of(number * MINUTE),
        read=read,
    )
