"""What readings give, as frozen values: the first screen, one job, the trigger's history, errors, workers, a shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobdeck.core.model import Status

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from uuid import UUID

    from jobdeck.core.model import (
        AuditEntry,
        Health,
        Job,
        Processing,
        Run,
        Worker,
        WorkerRun,
    )

HOURS: Final = 24
"""How many hours an error's course covers."""


def is_scheduled(source: str) -> bool:
    """Whether such calls come by the clock, so that their absence is a gap; the same as `job_is_scheduled` in SQL."""
    return source == "timer" or "cron" in source


def left_lying(run: WorkerRun) -> int:
    """How many jobs that were due when a scheduler called it left unclaimed, though it says that all is well.

    The count of due jobs stops at 1000. A paused call claims nothing on purpose, a cycle by hand takes a few only.
    """
    if not is_scheduled(run.source) or run.status != "ok" or run.due_before is None:
        return 0
    return max(run.due_before - run.claimed, 0)


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by status, each exact up to `LIMIT` and then `LIMIT + 1`, which stands for "more"."""

    LIMIT = 10_000

    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    removed: int = 0

    def of(self, status: Status | None) -> int:
        """The count a status tab shows; None is the tab of all jobs in the queue."""
        if status is None:
            return self.pending + self.running + self.succeeded + self.failed + self.cancelled
        if status is Status.SUCCEEDED:
            return self.succeeded + self.removed
        return int(getattr(self, status.value))


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs in order, and the cursor of the next page or None at the end."""

    jobs: tuple[Job, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the dashboard's first screen shows, read at one moment of the database's clock."""

    at: datetime
    page: Page
    counts: Counts
    processing: Processing
    health: Health
    workers: tuple[Worker, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition of the claim for one job: whether it holds, and the evidence in a sentence."""

    name: str
    holds: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class JobDetail:
    """One job with its newest runs, why it is or is not running, and what operators did to it."""

    job: Job
    runs: tuple[Run, ...]
    why: tuple[Clause, ...]
    audit: tuple[AuditEntry, ...] = ()
    in_trash: bool = False


@dataclass(frozen=True, slots=True)
class Permissions:
    """What the database lets this connection do."""

    view: bool
    operate: bool
    work: bool
    role: str


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
class ErrorGroup:
    """Failed runs that look alike: same task type, same fingerprint of the error.

    `hours` counts them by the hour, oldest first, the last being the hour up to now. `failed` and `waiting` are
    the jobs whose newest run is one of them: failed for good, and pending again. `job_ids` are 100 at most.
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
    job_ids: tuple[UUID, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What makes it this group and no other."""
        return self.task_type, self.fingerprint


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """The groups, most recent first, and where the jobs stand that the asker watches."""

    at: datetime
    trends: tuple[ErrorGroup, ...]
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
    errors: tuple[ErrorGroup, ...]

    def is_new(self, trend: ErrorGroup) -> bool:
        """Whether an error was seen in this shift for the first time in a week."""
        return trend.first_seen >= self.since


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What operators did, newest first, and the digest of the same time."""

    entries: tuple[AuditEntry, ...]
    digest: Digest


def overdue_by(job: Job, at: datetime) -> timedelta:
    """How long a pending job has been due; negative while its time has not come."""
    return at - (job.next_run_at or job.run_at)
