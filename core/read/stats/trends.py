"""Runs over time: by task type and bucket, counts by outcome and percentiles of wait and duration."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString

from jobdeck.core.errors import UsageError
from jobdeck.core.model import RunOutcome
from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.stats.figures import RunStats, Trends

if TYPE_CHECKING:
    from jobdeck.core.read.rows import Row

HOUR: Final = timedelta(hours=1)
LONGEST: Final = timedelta(days=30)
STEPS: Final = (
    (6 * HOUR, timedelta(minutes=5)),
    (24 * HOUR, timedelta(minutes=15)),
    (7 * 24 * HOUR, 2 * HOUR),
    (LONGEST, 8 * HOUR),
)
"""The length of a bucket for windows up to this length, one that is stored. A window has at most 100 buckets."""
RAN: Final = [
    outcome.value
    for outcome in (
        RunOutcome.SUCCEEDED, RunOutcome.PARTIAL, RunOutcome.CONTINUED, RunOutcome.RETRIED, RunOutcome.FAILED,
    )
]  # fmt: skip
"""The outcomes of runs whose handler came to an end: only of these do wait and duration say something."""

KNOWN: Final = frozenset(outcome.value for outcome in RunOutcome)
"""Outcomes that this program knows; a later one may write others."""

_WINDOW: Final = """
WITH step AS (SELECT %(step)s::interval AS step, '2000-01-01 00:00+00'::timestamptz AS origin)
SELECT now() AS at, date_bin(s.step, now() - %(window)s, s.origin) AS since,
    greatest(date_bin(s.step, now() - %(window)s, s.origin),
        (SELECT q.stats_since FROM job_queue_settings AS q WHERE q.id = 1)) AS counted_since,
    ARRAY(SELECT generate_series(date_bin(s.step, now() - %(window)s, s.origin), now(), s.step)) AS buckets
FROM step AS s
"""

_COUNTS: Final = """
SELECT date_bin(%(step)s, s.bucket, '2000-01-01 00:00+00') AS at, s.task_type, s.outcome, s.dry_run,
    sum(s.runs)::bigint AS runs, sum(s.permanent)::bigint AS permanent
FROM job_stat_list AS s
WHERE s.minutes = %(minutes)s
    AND s.bucket >= date_bin(%(step)s, now() - %(window)s, '2000-01-01 00:00+00') AND s.bucket <= now()
    AND (%(task_type)s::text IS NULL OR s.task_type = %(task_type)s)
GROUP BY 1, 2, 3, 4
"""

_BINS: Final[LiteralString] = """
SELECT c.at, c.task_type, array_agg(c.runs ORDER BY c.bin) AS bins FROM (
    SELECT date_bin(%(step)s, s.bucket, '2000-01-01 00:00+00') AS at, s.task_type, b.bin, sum(b.runs)::bigint AS runs
    FROM job_stat_list AS s CROSS JOIN LATERAL unnest(s.{name}) WITH ORDINALITY AS b (runs, bin)
    WHERE s.minutes = %(minutes)s AND NOT s.dry_run AND s.outcome = ANY(%(ran)s)
        AND s.bucket >= date_bin(%(step)s, now() - %(window)s, '2000-01-01 00:00+00') AND s.bucket <= now()
        AND (%(task_type)s::text IS NULL OR s.task_type = %(task_type)s)
    GROUP BY 1, 2, 3
) AS c
GROUP BY 1, 2
"""


def step_for(window: timedelta) -> timedelta:
    """The length of a bucket for a window.

    Raises:
        UsageError: the window is not between 5 minutes and 30 days.
    """
    if not timedelta(minutes=5) <= window <= LONGEST:
        raise UsageError("A window is between 5 minutes and 30 days long, which is how long statistics are kept.")
    return next(step for longest, step in STEPS if window <= longest)


def trends(window: timedelta, *, task_type: str | None = None) -> Query[Trends]:
    """The statistics of the window up to now, of one task type or of all.

    Raises:
        UsageError: the window is not between 5 minutes and 30 days.
    """
    step = step_for(window)
    params: dict[str, Any] = {
        "window": window,
        "step": step,
        "minutes": step // timedelta(minutes=1),
        "task_type": task_type,
        "ran": RAN,
    }

    def read(known: Row, counts: list[Row], waits: list[Row], durations: list[Row]) -> Trends:
        return Trends(**known, step=step, types=_by_type(counts, waits, durations))

    return combine(
        select(_WINDOW, params, read=lambda rows: rows[0] | {"buckets": tuple(rows[0]["buckets"])}),
        select(_COUNTS, params, read=list),
        select(_BINS.format(name="waits"), params, read=list),
        select(_BINS.format(name="durations"), params, read=list),
        read=read,
    )


def _by_type(
    counts: list[Row], waits: list[Row], durations: list[Row]
) -> dict[str, dict[datetime, RunStats]]:  # fmt: skip
    found: dict[tuple[str, datetime], list[Row]] = defaultdict(list)
    for row in counts:
        found[row["task_type"], row["at"]].append(row)
    waited, took = ({(row["task_type"], row["at"]): tuple(row["bins"]) for row in rows} for rows in (waits, durations))
    types: dict[str, dict[datetime, RunStats]] = defaultdict(dict)
    for (task_type, at), rows in sorted(found.items()):
        real = [row for row in rows if not row["dry_run"]]
        types[task_type][at] = RunStats(
            outcomes={RunOutcome(row["outcome"]): row["runs"] for row in real if row["outcome"] in KNOWN},
            permanent=sum(row["permanent"] for row in real),
            dry_runs=sum(row["runs"] for row in rows if row["dry_run"]),
            waits=waited.get((task_type, at), ()),
            durations=took.get((task_type, at), ()),
        )
    return dict(types)
