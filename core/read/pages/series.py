"""The recurring jobs, with how their last runs ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobdeck.core.model import SUCCESSES, RunOutcome
from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.jobs import clock, processing
from jobdeck.core.read.rows import job_from
from jobdeck.core.read.stats.trends import KNOWN

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from jobdeck.core.model import Job, Processing
    from jobdeck.core.read.rows import Row

LISTED: Final = 200
LOOKED_AT: Final = 20
"""The number of last runs of a series that its streak covers."""

_SAYS_NOTHING: Final = {
    *SUCCESSES, RunOutcome.RELEASED, RunOutcome.SNOOZED, RunOutcome.CANCELLED, RunOutcome.ABANDONED
}  # fmt: skip
"""Outcomes that say nothing about success, unless the run ended well."""

# OFFSET 0: for the order alone, the planner might read the whole audit backwards.
_SERIES: Final = """
WITH listed AS MATERIALIZED (
    SELECT j.* FROM job_list AS j WHERE j.is_recurring AND j.status IN ('pending', 'running')
    ORDER BY j.run_at LIMIT %(most)s
)
SELECT l.*, p.paused_at, p.paused_by, p.paused_reason, o.outcomes
FROM listed AS l JOIN job_run_outcomes(ARRAY(SELECT id FROM listed), %(runs)s) AS o ON o.job_id = l.id
LEFT JOIN LATERAL (
    SELECT a.at AS paused_at, a.actor AS paused_by, a.reason AS paused_reason FROM (
        SELECT u.* FROM job_audit_list AS u
        WHERE l.blocked_by = l.id AND u.job_id = l.id AND u.action = 'pause series' OFFSET 0
    ) AS a ORDER BY a.id DESC LIMIT 1
) AS p ON true
ORDER BY l.task_type, l.id
"""


@dataclass(frozen=True, slots=True)
class SeriesPause:
    """Who paused one series, when and why, as the audit has it; None where it has it no longer."""

    at: datetime | None
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """One recurring job. `streak` is how many of its last runs succeeded, or failed if negative, in a row.

    With `streak_is_least` all runs that were looked at ended alike, so it may be longer. `late` is how long the next
    run has been due; None if it is not due, or runs. `pause` is that of this series alone.
    """

    job: Job
    streak: int
    streak_is_least: bool
    late: timedelta | None
    pause: SeriesPause | None = None


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """The recurring jobs by task type, the 200 that are due first if `more`."""

    at: datetime
    series: tuple[SeriesLine, ...]
    processing: Processing
    more: bool = False


def series() -> Query[SeriesReport]:
    """The recurring jobs that are pending or running."""

    def read(at: datetime, rows: list[Row], switch: Processing) -> SeriesReport:
        found = tuple(_line(row, at) for row in rows)
        if len(found) <= LISTED:
            return SeriesReport(at, found, switch)
        last = max(found, key=lambda line: (line.job.run_at, line.job.id))
        return SeriesReport(at, tuple(line for line in found if line is not last), switch, more=True)

    return combine(
        clock(), select(_SERIES, {"most": LISTED + 1, "runs": LOOKED_AT}, read=list), processing(), read=read
    )  # fmt: skip


def _line(row: Row, at: datetime) -> SeriesLine:
    outcomes = [RunOutcome(outcome) for outcome in row["outcomes"] if outcome in KNOWN]
    judged = [_succeeded(outcome) for outcome in outcomes if _succeeded(outcome) is not None]
    length = next((place for place, good in enumerate(judged) if good is not judged[0]), len(judged))
    job = job_from(row)
    late = at - job.run_at if job.status == "pending" and job.run_at < at and not job.is_paused else None
    least = length == len(judged) and len(outcomes) == LOOKED_AT
    pause = SeriesPause(row["paused_at"], row["paused_by"], row["paused_reason"]) if job.is_paused else None
    return SeriesLine(job, length if judged and judged[0] else -length, least, late, pause)


def _succeeded(outcome: RunOutcome) -> bool | None:
    """Whether a run ended well; None if it says nothing about that."""
    if outcome in {RunOutcome.SUCCEEDED, RunOutcome.PARTIAL}:
        return True
    return None if outcome in _SAYS_NOTHING else False
