"""What will start when a pause ends, a worker starts or jobs are retried: how many, how fast, and how many at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.report_types import Counts
from jobdeck.core.read.sentences import amount
from jobdeck.core.times import about

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.read.rows import Row

    Slots = Mapping[str, tuple[str, int]]
    """By task type the kind of its slots in a worker that is to start, and their number."""

NAMED: Final = 3

_STARTS: Final = """
(%(types)s::text[] IS NULL OR d.task_type = ANY (%(types)s::text[])) AND NOT EXISTS (
    SELECT FROM job_paused_types AS p WHERE p.task_type = d.task_type AND p.task_type IS DISTINCT FROM %(resumed)s)
"""
"""Whether jobs of a row's type start."""
_DUE: Final = """
WITH found AS (
    SELECT 'running' AS part, NULL AS task_type, concurrency_key AS key FROM job_list
    WHERE status = 'running' AND concurrency_key IS NOT NULL
    UNION ALL
    (SELECT 'in line', d.task_type, d.concurrency_key FROM job_list AS d
    WHERE d.status = 'pending' AND d.blocked_by IS NULL AND d.in_line AND d.run_at <= now() AND {starts}
    LIMIT %(most)s)
    UNION ALL
    SELECT 'retried', i.task_type, j.concurrency_key FROM job_bulk_items AS i JOIN job_list AS j ON j.id = i.job_id
    WHERE i.bulk_id = %(retried)s AND j.status <> 'running' AND NOT (j.status = 'pending' AND j.run_at <= now())
), keyed AS (
    -- No join finds what runs with a key: the planner may expect few rows, and read them all once for each key.
    SELECT part, task_type, key, count(*) AS jobs,
        sum(count(*)) OVER (PARTITION BY key ORDER BY part = 'retried', task_type NULLS FIRST) - count(*) AS before,
        sum(count(*) FILTER (WHERE part = 'running')) OVER (PARTITION BY key) AS running
    FROM found GROUP BY 1, 2, 3
), due AS (
    SELECT b.task_type, sum(b.jobs)::bigint AS jobs, sum(b.free)::bigint AS free,
        sum(greatest(0, least(b.jobs - b.free, b.ending)))::bigint AS next
    FROM (
        SELECT task_type, overdue AS jobs, overdue AS free, 0 AS ending FROM job_queue_backlog(interval '0', %(most)s)
        UNION ALL
        SELECT k.task_type, k.jobs, CASE WHEN k.part = 'in line' THEN 0 WHEN k.key IS NULL THEN k.jobs
            ELSE greatest(0, least(k.jobs, coalesce(t.max_per_key, 1) - k.before)) END, 2 * k.running - k.before
        FROM keyed AS k LEFT JOIN job_types AS t ON t.task_type = k.task_type WHERE k.part <> 'running'
    ) AS b WHERE b.jobs > 0 GROUP BY b.task_type
)
SELECT d.task_type, d.jobs AS due, d.free, d.free + d.next AS most, t.rate_runs, t.rate_seconds, s.kind, s.slots,
    least(t.max_running, CASE WHEN t.concurrency = 'type' OR starts_with(t.concurrency, 'key:')
        THEN coalesce(t.max_per_key, 1) END) AS max_running
FROM due AS d LEFT JOIN job_types AS t ON t.task_type = d.task_type
CROSS JOIN LATERAL (
    SELECT min(s.kind) AS kind, sum(s.slots)::integer AS slots FROM job_slots(d.task_type) AS s
) AS s
WHERE {starts} ORDER BY d.jobs DESC, d.task_type
"""
_MISSED: Final = """
SELECT task_type, sum(CASE
    WHEN slots IS NOT NULL THEN (SELECT count(*) FROM unnest(slots) AS s WHERE s > run_at AND s <= now())
    ELSE floor(extract(epoch FROM now() - run_at)
        / coalesce((schedule ->> 'seconds')::double precision, 60 * recurrence_interval_minutes)) END)::bigint AS runs
FROM (
    SELECT task_type, slots, schedule, run_at, recurrence_interval_minutes FROM job_list
    WHERE is_recurring AND status IN ('pending', 'running') AND status = 'pending' AND blocked_by IS NULL
        AND run_at <= now() AND schedule ->> 'catch_up' = 'all'
    ORDER BY run_at LIMIT 500
) AS d
WHERE {starts} GROUP BY task_type ORDER BY 2 DESC, 1
"""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The jobs that are due, the slots of series that are made up for, and what holds them back.

    `limit` is the rate that takes longest, in runs and seconds, and `lasts` is how long it takes. `at_once` is how many
    run at the same time; 0 without a worker that handles them. `in_line` are those of the jobs that start once others
    with their concurrency key have ended.
    """

    jobs: int
    at_least: bool
    missed: tuple[tuple[str, int], ...] = ()
    lasts: timedelta | None = None
    limit: tuple[int, int] | None = None
    at_once: int = 0
    in_line: int = 0

    @property
    def words(self) -> str:
        """One sentence, such as `1,204 jobs start, about 4 minutes at the limit of 60/m, at most 5 at once.`."""
        if not self.jobs:
            return "No job is due."
        number = amount(self.jobs, at_least=self.at_least)
        parts = [f"{number} {'job starts' if self.jobs == 1 else 'jobs start'}"]
        if self.in_line:
            parts.append(_in_line(self.jobs, self.in_line))
        named = [f"{runs:,} catch-up {'run' if runs == 1 else 'runs'} of {name}" for name, runs in self.missed if runs]
        parts += named[:NAMED]
        if len(named) > NAMED:
            more = len(named) - NAMED
            parts.append(f"catch-up runs of {more:,} more {'type' if more == 1 else 'types'}")
        if self.lasts is not None and self.limit is not None:
            runs, seconds = self.limit
            unit = {1: "s", 60: "m", 3600: "h", 86_400: "d"}.get(seconds, f"{seconds}s")
            parts.append(f"{about(self.lasts.total_seconds())} at the limit of {runs:,}/{unit}")
        them = "it" if self.jobs == 1 else "them"
        parts.append(f"no worker handles {them}" if not self.at_once else f"at most {self.at_once:,} at once")
        return f"{', '.join(parts)}."


def outlook(
    types: Sequence[str] | None = None,
    *,
    resumed: str | None = None,
    retried: UUID | None = None,
    slots: Slots | None = None,
) -> Query[Outlook]:
    """What starts when jobs of these types, or of all, may start; paused types are left out, but for the `resumed` one.

    `retried` is a bulk action whose frozen jobs will be due as well; `slots` are those of a worker that is to start.
    """
    given = {"types": None if types is None else list(types), "resumed": resumed, "retried": retried}

    def read(due: list[Row], missed: list[Row]) -> Outlook:
        jobs = sum(one["due"] for one in due)
        waiting = sum(one["due"] - one["free"] for one in due)
        made_up = tuple((one["task_type"], int(one["runs"])) for one in missed)
        missing = dict(made_up)
        limited = [
            ((one["due"] + missing.get(one["task_type"], 0)) * one["rate_seconds"] / one["rate_runs"], one)
            for one in due
            if one["rate_runs"] is not None
        ]
        longest = max(limited, key=lambda found: found[0], default=None)
        return Outlook(
            jobs=jobs,
            at_least=waiting > Counts.LIMIT or any(one["due"] > Counts.LIMIT for one in due),
            missed=made_up,
            lasts=timedelta(seconds=longest[0]) if longest else None,
            limit=(longest[1]["rate_runs"], longest[1]["rate_seconds"]) if longest else None,
            at_once=_at_once(due, slots or {}),
            in_line=waiting,
        )

    return combine(
        select(_DUE.format(starts=_STARTS), {**given, "most": Counts.LIMIT + 1}, read=list),
        select(_MISSED.format(starts=_STARTS), given, read=list),
        read=read,
    )


def _in_line(jobs: int, waiting: int) -> str:
    """How many of these jobs do not start before their key is free."""
    if jobs == 1:
        return "once its key is free"
    which = "all" if waiting == jobs else amount(waiting, at_least=waiting > Counts.LIMIT)
    return f"{which} of them once {'its' if waiting == 1 else 'their'} key is free"


def _at_once(due: list[Row], here: Slots) -> int:
    """How many of these jobs run at the same time: types of one kind share its slots; types and keys have limits."""
    places: dict[str, int] = {}
    slots: dict[str, int] = {}
    for one in due:
        kind, added = here.get(one["task_type"], (one["kind"], 0))
        own = (one["slots"] or 0) + added
        if own:
            may = own if one["max_running"] is None else min(own, one["max_running"])
            places[kind] = places.get(kind, 0) + min(may, one["most"])
            slots[kind] = max(slots.get(kind, 0), own)
    # Those that wait behind a job of a paused type run as well, once it has ended.
    return max(sum(min(number, slots[kind]) for kind, number in places.items()), min(len(slots), 1))
