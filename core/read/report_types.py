"""What the pages of evidence show, as frozen values: the trigger's history, errors, workers, a shift. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from jobdeck.core.model import AuditEntry, Counts, Health, Job, Processing, Worker, WorkerRun

SCHEDULED: Final = frozenset({"cron_http", "timer", "vercel_cron_secret", "vercel_cron_user_agent"})
"""Sources that come by the clock, so that their absence is a gap."""

HOURS: Final = 24
"""How many hours an error's course covers."""


def left_lying(run: WorkerRun) -> int:
    """How many jobs that were due when a scheduler called it left unclaimed, though it says that all is well.

    The count of due jobs stops at 1000. A paused call claims nothing on purpose, a cycle by hand takes a few only.
    """
    if run.source not in SCHEDULED or run.status != "ok" or run.due_before is None:
        return 0
    return max(run.due_before - run.claimed, 0)


@dataclass(frozen=True, slots=True)
class CronReport:
    """Cron Health: the verdict, and what it rests on, at one moment of the database's clock.

    `tick` is how often a scheduler is expected to call. `runs` are newest first, `running` oldest first, `overdue`
    due first; `series` are the recurring jobs that wait or run.
    """

    at: datetime
    tick: timedelta
    health: Health
    processing: Processing
    runs: tuple[WorkerRun, ...]
    workers: tuple[Worker, ...]
    running: tuple[Job, ...]
    overdue: tuple[Job, ...]
    series: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class ErrorTrend:
    """Failed runs that look alike: same task type, same fingerprint of the error.

    `hours` counts them by the hour, oldest first, the last being the hour up to now. `failed` and `waiting` are
    the jobs whose newest run is one of them: failed for good, and pending again.
    """

    task_type: str
    fingerprint: str
    error_kind: str | None
    sample: str
    count: int
    jobs: int
    first_seen: datetime
    last_seen: datetime
    hours: tuple[int, ...]
    failed: int
    waiting: int

    @property
    def key(self) -> tuple[str, str]:
        """What makes it this group and no other."""
        return self.task_type, self.fingerprint


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """The groups, most recent first, and where the jobs stand that the asker watches."""

    at: datetime
    trends: tuple[ErrorTrend, ...]
    watched: tuple[Job, ...] = ()


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers heard of in the last day, what runs, and the task types that wait for a worker that there is not."""

    at: datetime
    workers: tuple[Worker, ...]
    running: tuple[Job, ...]
    unhandled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActionCount:
    """How often one actor did one thing."""

    actor: str
    action: str
    count: int


@dataclass(frozen=True, slots=True)
class TriggerCount:
    """Cycles and windows of one source: how many, and how many of them ended in an error or not at all."""

    source: str
    count: int
    troubled: int


@dataclass(frozen=True, slots=True)
class Digest:
    """A shift in figures. Finished runs are counted from `counted_since` on: the counts are kept for a day.

    Each run is counted once: `continued` ones went on with another run, `troubled` ones are to be tried again.
    """

    at: datetime
    since: datetime
    counted_since: datetime
    succeeded: int
    partial: int
    continued: int
    troubled: int
    failed: int
    health: Health
    counts: Counts
    processing: Processing
    actions: tuple[ActionCount, ...]
    pauses: tuple[AuditEntry, ...]
    triggers: tuple[TriggerCount, ...]
    errors: tuple[ErrorTrend, ...]

    def is_new(self, trend: ErrorTrend) -> bool:
        """Whether an error was seen in this shift for the first time in a week."""
        return trend.first_seen >= self.since


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What operators did, newest first, and the digest of the same time."""

    entries: tuple[AuditEntry, ...]
    digest: Digest


@dataclass(frozen=True, slots=True)
class Recipient:
    """One person whom a job wrote to or left out: the address masked, and what became of the message."""

    channel: str | None
    address: str
    state: str
    detail: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Recipients:
    """Whom a job wrote to: how many in each state, and the first of them."""

    counts: tuple[tuple[str, int], ...]
    listed: tuple[Recipient, ...]


def overdue_by(job: Job, at: datetime) -> timedelta:
    """How long a pending job has been due; negative while its time has not come."""
    return at - (job.next_run_at or job.run_at)
