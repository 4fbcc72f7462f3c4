"""The task types of the queue: their jobs, who handles them, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.read.batch import combine, select
from jobdeck.core.read.jobs import backlog
from jobdeck.core.read.report_types import Counts
from jobdeck.core.redact import safe_error
from jobdeck.core.times import write_duration, write_rate

if TYPE_CHECKING:
    from datetime import datetime

    from jobdeck.core.model import Json
    from jobdeck.core.read.batch import Query
    from jobdeck.core.read.report_types import Backlog

LIMIT: Final = Counts.LIMIT
DEFAULT_QUEUE: Final = "default"
"""The queue of the types without a label."""
VALUES: Final = {
    "max_running": "max-running", "max_per_key": "max-per-key", "rate_runs": "rate", "rate_seconds": "",
    "rate_burst": "burst", "key_rate_runs": "key-rate", "key_rate_seconds": "", "max_age_seconds": "max-age",
    "priority": "priority", "queue": "queue",
}  # fmt: skip
"""The values that code and operators can set, and their options in commands."""


@dataclass(frozen=True, slots=True)
class TypeLine:
    """One task type. It may have more pending jobs if `at_least`, more failed ones if `failed_at_least`.

    `claimed` are the pending ones that a worker holds and has not begun.

    `due_since` is the earliest due time of its jobs that could be claimed. `workers` live ones handle it. It is
    paused while `paused_at` is set, with its queue if `paused_queue` names one, and left to a runner that is no
    worker if `set_aside`. The shares are those of failed runs from which health warns and is critical, and
    `lost_jobs` is the number of jobs that failed permanently in 15 minutes from which it warns; None for the rule
    that holds for all types. At most `max_running` of its jobs run at the same time over all workers, and
    `max_per_key` (None: one) of those that have the same concurrency key. At most `rate_runs` start in
    `rate_seconds`, `rate_burst` at once, and `key_rate_runs` with the same key in `key_rate_seconds`. One-time jobs
    expire `max_age_seconds` after they are due. None is no limit. Jobs that are enqueued without a priority have
    `priority` (None: 0). It is in `queue` (None: default). `concurrency` is the rule that gives its jobs their key,
    as a worker declared it; None is no rule. These are the values that hold. Of them, `own` are those that
    operators set (None: they took the code's value away), and `code` is what the code says, as a worker of
    `release` declared it first at `declared_at`, all by the names of the columns. `differing` are the releases with
    a live worker whose code says something else.
    """

    task_type: str
    pending: int
    running: int
    failed: int
    at_least: bool
    workers: int
    paused_at: datetime | None = None
    paused_by: str | None = None
    paused_reason: str | None = None
    paused_queue: str | None = None
    resume_at: datetime | None = None
    warning_share: float | None = None
    critical_share: float | None = None
    lost_jobs: int | None = None
    muted_until: datetime | None = None
    muted_by: str | None = None
    muted_reason: str | None = None
    failed_at_least: bool = False
    due_since: datetime | None = None
    set_aside: bool = False
    max_running: int | None = None
    max_per_key: int | None = None
    rate_runs: int | None = None
    rate_seconds: int | None = None
    rate_burst: int | None = None
    key_rate_runs: int | None = None
    key_rate_seconds: int | None = None
    max_age_seconds: int | None = None
    concurrency: str | None = None
    claimed: int = 0
    priority: int | None = None
    queue: str | None = None
    own: Json = field(default_factory=dict)
    code: Json = field(default_factory=dict)
    release: str | None = None
    declared_at: datetime | None = None
    differing: tuple[str, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether as many of its jobs are claimed or run as may; more are if the limit was lowered meanwhile."""
        return self.max_running is not None and self.running + self.claimed >= self.max_running

    @property
    def rate(self) -> str | None:
        """Its rate as people write it, `100/m`."""
        return _rate(self.rate_runs, self.rate_seconds)

    @property
    def key_rate(self) -> str | None:
        """The rate for each concurrency key as people write it."""
        return _rate(self.key_rate_runs, self.key_rate_seconds)

    @property
    def max_age(self) -> str | None:
        """How long after it is due a one-time job that has not ended expires, `1d12h`."""
        return write_duration(timedelta(seconds=self.max_age_seconds)) if self.max_age_seconds is not None else None

    @property
    def limits(self) -> tuple[str, ...]:
        """The limits in words, with how many jobs run."""
        return tuple(_words(self, f"{self.running:,} of ").values())

    @property
    def owned_limits(self) -> tuple[tuple[str, bool], ...]:
        """The limits in words, each with whether an operator set it; otherwise the code did."""
        said = _words(self, f"{self.running:,} of ")
        return tuple((words, name in self.own or name not in self.code) for name, words in said.items())

    @property
    def code_limits(self) -> tuple[str, ...]:
        """What the code says, in words."""
        said: dict[str, Any] = {name: self.code.get(name) for name in VALUES}
        return tuple(_words(replace(self, **said), "").values())

    @property
    def overridden(self) -> tuple[str, ...]:
        """The options of the values that operators set in place of those of the code."""
        return tuple(option for name, option in VALUES.items() if option and name in self.code and name in self.own)


def _words(one: TypeLine, running: str) -> dict[str, str]:
    """The limits in words, by the name of the column that holds each."""
    burst = f", {one.rate_burst:,} at once" if one.rate_burst else ""
    known = {
        "max_running": f"{running}{one.max_running:,} run" if one.max_running is not None else "",
        "rate_runs": f"{one.rate} start{burst}" if one.rate else "",
        "max_per_key": f"{one.max_per_key:,} per key run" if one.max_per_key is not None else "",
        "key_rate_runs": f"{one.key_rate} per key start" if one.key_rate else "",
        "max_age_seconds": f"cancelled {one.max_age} after due" if one.max_age else "",
        "priority": f"priority {one.priority}" if one.priority is not None else "",
        "queue": f"in the queue {safe_error(one.queue, 60)}" if one.queue is not None else "",
    }
    return {name: said for name, said in known.items() if said}


def _rate(runs: int | None, seconds: int | None) -> str | None:
    return write_rate(runs, seconds) if runs is not None and seconds is not None else None


_SETTINGS: Final = """
WITH counted AS (SELECT * FROM job_queue_type_jobs(%(most)s::integer)),
claimed AS (
    SELECT task_type, count(*)::integer AS jobs FROM job_list WHERE status = 'running' AND started_at IS NULL GROUP BY 1
),
handled AS (
    SELECT t AS task_type, count(*)::integer AS workers FROM job_workers AS w, unnest(w.task_types) AS t
    WHERE job_worker_is_alive(w.heartbeat_at, now()) GROUP BY t
),
differing AS (
    SELECT said.key AS task_type, array_agg(DISTINCT w.release ORDER BY w.release) AS releases
    FROM (SELECT DISTINCT release, code FROM job_workers WHERE job_worker_is_alive(heartbeat_at, now())) AS w
    CROSS JOIN jsonb_each(w.code) AS said JOIN job_type_values AS v ON v.task_type = said.key AND v.code <> said.value
    GROUP BY 1
),
muted AS (SELECT task_type, muted_until, muted_by, muted_reason FROM job_types WHERE muted_until > now())
SELECT task_type, coalesce(l.jobs, 0) AS pending, coalesce(c.running - coalesce(l.jobs, 0), 0) AS running,
    coalesce(c.failed, 0) AS failed, false AS at_least,
    coalesce(c.at_least, false) AS failed_at_least, coalesce(h.workers, 0) AS workers, p.paused_at, p.paused_by,
    p.reason AS paused_reason, p.resume_at, p.queue AS paused_queue,
    s.warning_share, s.critical_share, s.lost_jobs, m.muted_until, m.muted_by, m.muted_reason,
    coalesce(s.set_aside, false) AS set_aside, s.max_running, s.max_per_key, s.rate_runs, s.rate_seconds, s.rate_burst,
    s.key_rate_runs, s.key_rate_seconds, s.max_age_seconds, s.concurrency, coalesce(l.jobs, 0) AS claimed,
    s.priority, s.queue, coalesce(v.own, '{}') AS own, coalesce(v.code, '{}') AS code, v.release, v.declared_at,
    coalesce(d.releases, '{}') AS differing
FROM counted AS c FULL JOIN handled AS h USING (task_type) FULL JOIN job_types AS s USING (task_type)
LEFT JOIN muted AS m USING (task_type) LEFT JOIN claimed AS l USING (task_type)
LEFT JOIN job_paused_types AS p USING (task_type) LEFT JOIN job_type_values AS v USING (task_type)
LEFT JOIN differing AS d USING (task_type)
"""


def type_lines() -> Query[tuple[TypeLine, ...]]:
    """The types with a pending, running or failed job, a live worker or settings, by name.

    Pending jobs are counted up to 10,001 of each type, failed ones up to 10,001 in all, the last that failed. A mute
    that is over is left out.
    """

    def read(lines: tuple[TypeLine, ...], waiting: tuple[Backlog, ...]) -> tuple[TypeLine, ...]:
        known = {line.task_type: line for line in lines}
        for one in waiting:
            line = known.get(one.task_type) or TypeLine(one.task_type, 0, 0, 0, at_least=False, workers=0)
            known[one.task_type] = replace(
                line, pending=one.waiting + line.claimed, at_least=one.at_least, due_since=one.due_since,
            )  # fmt: skip
        return tuple(known[name] for name in sorted(known))

    settings = select(
        _SETTINGS, {"most": LIMIT + 1},
        read=lambda rows: tuple(TypeLine(**{**row, "differing": tuple(row["differing"])}) for row in rows),
    )  # fmt: skip
    return combine(settings, backlog(timedelta(0)), read=read)


def queue_names() -> Query[tuple[str, ...]]:
    """The queues that types are in, by name; none while no type has a label, since all are in `default` then."""
    return select(
        """
        SELECT queue FROM job_types WHERE queue IS NOT NULL
        UNION SELECT %(default)s WHERE EXISTS (SELECT FROM job_types WHERE queue IS NOT NULL) ORDER BY 1
        """,
        {"default": DEFAULT_QUEUE},
        read=lambda rows: tuple(str(row["queue"]) for row in rows),
    )


def lacks_worker(task_type: str) -> Query[bool]:
    """Whether jobs of this type wait until a worker is started: no live one handles it, and no scheduler calls."""
    return select(
        """
        SELECT NOT EXISTS (SELECT FROM job_workers
                WHERE job_worker_is_alive(heartbeat_at, now()) AND %(type)s = ANY (task_types))
            AND NOT EXISTS (SELECT FROM job_types WHERE task_type = %(type)s AND set_aside)
            AND NOT EXISTS (SELECT FROM job_worker_runs
                WHERE job_is_scheduled(source) AND started_at > now() - interval '15 minutes') AS lacks
        """,
        {"type": task_type},
        read=lambda rows: bool(rows[0]["lacks"]),
    )


def without_worker(task_type: str) -> str:
    """What is said of a type that no live worker handles, in a sentence."""
    return f"No live worker handles {task_type}. Its jobs wait until one does."
