"""What the reads of statistics return, the SQL that they share, and the share of failed runs by task type."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING, Any, Final, LiteralString

from jobdeck.core.model import FAILURES, SUCCESSES, RunOutcome
from jobdeck.core.read.batch import Query, select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta


OUTCOMES: Final[Mapping[str, Any]] = {
    "successes": [outcome.value for outcome in SUCCESSES],
    "failures": [outcome.value for outcome in FAILURES],
    "judged": [outcome.value for outcome in SUCCESSES + FAILURES],
}
"""Parameters of the statements: the outcomes that count as success, as failure, and as either."""

SINCE: Final[LiteralString] = """
SELECT s.* FROM job_stat_list AS s
WHERE s.minutes = 120 AND s.bucket >= job_stat_bucket(120, {begins} + interval '119 minutes 59.999999 s')
UNION ALL
SELECT s.* FROM job_stat_list AS s
WHERE s.minutes = 5 AND s.bucket >= job_stat_bucket(5, {begins})
    AND s.bucket < job_stat_bucket(120, {begins} + interval '119 minutes 59.999999 s')
"""
"""The counts since a time, in steps of 5 minutes: those of 2 hours, and before them those of 5 minutes."""


EDGES: Final = tuple(0.001 * 2 ** (step / 2) for step in range(67))
"""The lower edges of the bins of histograms in seconds, each 1.41 times the one before; `job_stat_bins` of schema.sql
chooses the bin. The first one has times below 1 ms, the last one times from 99 days on."""


def percentile(bins: Sequence[int], share: float) -> float | None:
    """The time in seconds that this share of the runs did not exceed, within 20 %; None without runs.

    Of times below 1 ms it is 1 ms, of times from 99 days on it is 99 days.
    """
    total = sum(bins)
    if not total:
        return None
    rank = max(math.ceil(total * share), 1)
    place = next(place for place, so_far in enumerate(accumulate(bins)) if so_far >= rank)
    if place in {0, len(EDGES)}:
        return EDGES[max(place - 1, 0)]
    # The middle between the edges, as a factor: 1.19 times the lower one.
    return EDGES[place - 1] * 2**0.25


def added(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Two histograms as one. Bins above the last one in use may be missing."""
    return tuple(left + right for left, right in zip_longest(one, other, fillvalue=0))


@dataclass(frozen=True, slots=True)
class RunStats:
    """Counts of runs by outcome, and histograms of the runs whose handler came to an end.

    `outcomes` is without dry runs, `dry_runs` is their number. `permanent` are the runs after which the job failed
    permanently.
    """

    outcomes: Mapping[RunOutcome, int] = field(default_factory=dict)
    permanent: int = 0
    dry_runs: int = 0
    waits: tuple[int, ...] = ()
    durations: tuple[int, ...] = ()

    @property
    def succeeded(self) -> int:
        """Runs that succeeded, also in part, or that continue with another run."""
        return sum(self.outcomes.get(outcome, 0) for outcome in SUCCESSES)

    @property
    def failed(self) -> int:
        """Runs that failed, whether their job is retried or not, or that were lost."""
        return sum(self.outcomes.get(outcome, 0) for outcome in FAILURES)

    def wait(self, share: float) -> float | None:
        """A percentile of the seconds from the due time to the start, within 20 %; None without runs."""
        return percentile(self.waits, share)

    def duration(self, share: float) -> float | None:
        """A percentile of the seconds that runs took, within 20 %; None without runs."""
        return percentile(self.durations, share)

    def __add__(self, other: RunStats) -> RunStats:
        names = self.outcomes.keys() | other.outcomes.keys()
        return RunStats(
            {name: self.outcomes.get(name, 0) + other.outcomes.get(name, 0) for name in names},
            self.permanent + other.permanent,
            self.dry_runs + other.dry_runs,
            added(self.waits, other.waits),
            added(self.durations, other.durations),
        )


@dataclass(frozen=True, slots=True)
class Trends:
    """Statistics by task type and by bucket, from `since` to `at`.

    `buckets` are the starts of the buckets, oldest first, each `step` long; the last one is not over yet. `types` has
    for each task type the statistics by the start of the bucket, without buckets in which no run ended. Runs are
    counted from `counted_since`, which is later than `since` if the statistics begin later.
    """

    at: datetime
    since: datetime
    counted_since: datetime
    step: timedelta
    buckets: tuple[datetime, ...]
    types: Mapping[str, Mapping[datetime, RunStats]]

    def total(self, task_type: str | None = None) -> RunStats:
        """The statistics of the whole window, of one type or of all."""
        chosen = self.types.values() if task_type is None else [self.types.get(task_type, {})]
        return sum((one for by_bucket in chosen for one in by_bucket.values()), RunStats())

    def course(self, task_type: str | None = None) -> tuple[RunStats, ...]:
        """The statistics bucket by bucket, oldest first, of one type or of all."""
        chosen = tuple(self.types.values()) if task_type is None else (self.types.get(task_type, {}),)
        return tuple(sum((one[at] for one in chosen if at in one), RunStats()) for at in self.buckets)


@dataclass(frozen=True, slots=True)
class FailureShare:
    """How often runs of a task type fail now, and how often they usually do.

    `runs` ended in the last 15 minutes, in full minutes and the present one, and `failed` of them failed, were retried
    or were lost. `usual_runs` and `usual_failed` are the same of the last 7 days without the last hour.
    `usual` is the share that the rule compares with (`job_failure_shares`), a half without a history.
    `failed_in_a_row` is the number of failures since the newest success of a day: at least that many, because of runs
    that ended in the same minute as this success only the first and the last time are known.
    """

    task_type: str
    runs: int
    failed: int
    usual_runs: int
    usual_failed: int
    failed_in_a_row: int
    last_at: datetime
    usual: float

    @property
    def share(self) -> float:
        """The share of failures in the last 15 minutes; 0 without runs."""
        return self.failed / self.runs if self.runs else 0.0


MINUTES: Final = """
SELECT coalesce(s.succeeded, 0)::integer AS succeeded, coalesce(s.failed, 0)::integer AS failed
FROM generate_series(0, 14) AS ago
LEFT JOIN (
    SELECT t.bucket, sum(t.runs) FILTER (WHERE t.outcome = ANY(%(successes)s)) AS succeeded,
        sum(t.runs) FILTER (WHERE t.outcome = ANY(%(failures)s)) AS failed
    FROM job_stat_list AS t
    WHERE t.minutes = 1 AND t.bucket >= job_stat_bucket(1, now() - interval '14 minutes') AND NOT t.dry_run
    GROUP BY 1
) AS s ON s.bucket = job_stat_bucket(1, now()) - ago * interval '1 minute'
ORDER BY ago DESC
"""
"""Successes and failures of the last 15 minutes, oldest first, the present one last. Needs `OUTCOMES`."""


def failure_shares() -> Query[tuple[FailureShare, ...]]:
    """The failure shares of all task types of which a run ended in the last day, by name."""
    return select(
        """
        SELECT task_type, runs, failed, usual_runs, usual_failed, failed_in_a_row, last_at, usual
        FROM job_failure_shares(now())
        """,
        read=lambda rows: tuple(FailureShare(**row) for row in rows),
    )


def totals() -> Query[tuple[tuple[str, str, int], ...]]:
    """Task type, outcome and number of all runs that ever ended, without dry runs; a number never becomes smaller."""
    return select(
        """
        SELECT task_type, outcome, sum(runs)::bigint AS runs FROM job_stat_list WHERE minutes = 0 AND NOT dry_run
        GROUP BY 1, 2 ORDER BY 1, 2
        """,
        read=lambda rows: tuple((row["task_type"], row["outcome"], row["runs"]) for row in rows),
    )
