"""The results of reads as frozen values: the first screen, one job, Cron Health, errors, workers, a shift."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from jobdeck.core.model import Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Health, Job, Json, Processing, Run, Worker, WorkerRun
    from jobdeck.core.read.canaries import CanaryAnswer
    from jobdeck.core.read.operators.hold import Hold
    from jobdeck.core.read.operators.notes import Mute, Note
    from jobdeck.core.read.runs.ran_twice import LostRuns
    from jobdeck.core.read.standings import FullType

HOURS: Final = 24
"""The number of hours that the hourly counts of an error group cover."""
OTHER: Final = "other"
"""The fingerprint of failed runs beyond the first 1,000 groups of a type in 5 minutes."""


def is_scheduled(source: str) -> bool:
    """Whether calls of this source come by the clock, so that a missing one is a gap; `job_is_scheduled` in SQL."""
    return source == "timer" or "cron" in source


def left_lying(run: WorkerRun) -> int:
    """The number of due jobs that a scheduler's call left unclaimed although it ended with `ok`.

    Above `Counts.LIMIT` due jobs are not counted, so more may lie there. Paused calls and cycles by hand count as 0.
    """
    if not is_scheduled(run.source) or run.status != "ok" or run.due_before is None:
        return 0
    return max(run.due_before - run.claimed, 0)


class Standing(StrEnum):
    """How a job stands now: for a pending job, why it does not run. A job whose run has not begun is `claimed`."""

    FAILED = "failed"
    CANNOT_RUN = "cannot run"
    OVERDUE = "overdue"
    PAUSED = "paused"
    RETRYING = "retrying"
    RUNNING = "running"
    CLAIMED = "claimed"
    AT_LIMIT = "at limit"
    WAITING = "waiting"
    HELD = "held"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action of an operator."""

    id: int
    at: datetime
    actor: str
    action: str
    job_id: UUID | None
    before: Json | None
    after: Json | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One action, or the newest of `jobs` actions in a row that differ only in the job.

    `mixed` is whether they are of more than one task type, `at_least` whether there may be more than were read.
    """

    entry: AuditEntry
    jobs: int = 1
    mixed: bool = False
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by status, each exact up to `LIMIT`; a greater number says only that there are more.

    `claimed` are those of the running ones that a worker holds and has not begun.
    """

    LIMIT = 10_000

    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    removed: int = 0
    claimed: int = 0

    @property
    def begun(self) -> int:
        """The running jobs whose runs have begun."""
        return max(self.running - self.claimed, 0)

    def of(self, status: Status | None) -> int:
        """The count a status tab shows; None is the tab of all jobs in the queue."""
        if status is None:
            return self.pending + self.running + self.succeeded + self.failed + self.cancelled
        if status is Status.SUCCEEDED:
            return self.succeeded + self.removed
        return int(getattr(self, status.value))

    def at_least(self, status: Status | None) -> bool:
        """Whether there may be more than `of` answers: one of its parts is above `LIMIT`."""
        if status is None:
            return max(self.pending, self.running, self.succeeded, self.failed, self.cancelled) > self.LIMIT
        if status is Status.SUCCEEDED:
            return max(self.succeeded, self.removed) > self.LIMIT
        return self.of(status) > self.LIMIT


@dataclass(frozen=True, slots=True)
class Backlog:
    """The pending jobs of one type. `overdue` are those that are due for longer than a given time and could be claimed.

    `due_since` is the earliest due time of those that could be claimed; it may be to come. A number with `at_least` was
    not counted to its end.
    """

    task_type: str
    waiting: int
    at_least: bool
    overdue: int
    overdue_at_least: bool
    due_since: datetime | None


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs in order, and the cursor of the next page or None at the end.

    `refusal` says why nothing was read, see `jobdeck.core.read.reach`. `total` is the exact number of jobs on all
    pages; None where they were not counted. `searched` is how many jobs a filter looked through if there are more,
    otherwise None. `standings` says how each job stands.
    """

    jobs: tuple[Job, ...]
    next: str | None
    refusal: str | None = None
    total: int | None = None
    searched: int | None = None
    standings: Mapping[UUID, Standing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the dashboard's first screen shows, read in one snapshot at the database's time `at`.

    `full` are the task types at their limits. `next_due` is the task type and the time of the next run of a series.
    """

    at: datetime
    page: Page
    counts: Counts
    processing: Processing
    health: Health
    workers: tuple[Worker, ...]
    full: tuple[FullType, ...] = ()
    next_due: tuple[str, datetime] | None = None
    holds: tuple[Hold, ...] = ()


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition for claiming a job: whether it holds, and the evidence as a sentence and its code.

    The last ones, `slot` and `turn`, are about a job that could be claimed. `turn` is whether other due jobs are ahead,
    with the `facts` ahead (how many), at_least (or more) and per_second (how many runs the workers of its type finish).
    """

    name: str
    holds: bool
    evidence: str
    code: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_of_claim(self) -> bool:
        """Whether a job can only be claimed if this holds; otherwise it says what a claimable job waits for."""
        return self.name not in {"slot", "turn"}


@dataclass(frozen=True, slots=True)
class JobDetail:
    """One job with its newest runs, the clauses of its claim, and its audit."""

    job: Job
    runs: tuple[Run, ...]
    why: tuple[Clause, ...]
    audit: tuple[AuditEntry, ...] = ()
    in_trash: bool = False


@dataclass(frozen=True, slots=True)
class Permissions:
    """The rights of this connection, and its role."""

    view: bool
    operate: bool
    work: bool
    role: str


@dataclass(frozen=True, slots=True)
class CronReport:
    """Cron Health: the verdict and its evidence, at the database's time `at`.

    `tick` is the interval at which a scheduler should call. `runs` are newest first, `running` oldest first, `overdue`
    by due time; `series` are the recurring jobs that are pending or running, up to a limit, and `series_found` says how
    many there are. `backlog` has a line for each type with pending jobs; a job is overdue after one `tick`.
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
    series_found: int = 0
    backlog: tuple[Backlog, ...] = ()


NEW: Final = timedelta(days=1)
"""How long a group of errors is new. A worker's version does not decide it, because few deployments name one."""


FIRST_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Failed runs with the same task type and the same fingerprint of the error.

    `count` is exact, unless `capped`: then runs of this type were also counted in a group `OTHER`, because their errors
    differed too much, and some of them may belong here. `first_seen` is the first run of the last 30 days, also before
    the period. `hours` are the counts by hour, oldest first; the last one covers the hour until now. `bars` are the
    counts of the last 12 times 5 minutes. `jobs` are the jobs in the queue whose newest failed run is in this group;
    of these, `failed` failed permanently and `waiting` await a retry. `job_ids` has at most 100 of them, or a job that
    has left the group. `new_in_release`: its first run ended after the first worker of the newest release had started.
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
    bars: tuple[int, ...] = ()
    capped: bool = False
    new_in_release: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.task_type, self.fingerprint

    def is_new(self, now: datetime) -> bool:
        """Whether its first run that is known failed in the last 24 hours."""
        return self.first_seen > now - NEW

    def is_in_first_hour(self, now: datetime) -> bool:
        """Whether its first run that is known failed in the last hour, which `bars` cover."""
        return self.first_seen > now - FIRST_HOUR


@dataclass(frozen=True, slots=True)
class Release:
    """A release of the application, and when its first worker started."""

    name: str
    first_seen: datetime


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """The groups in a stable order, newest first, and the answers of the canaries that were asked about.

    `total` is the number of groups; `trends` has at most 100 of them. `release` is the newest one that another one
    came before.
    """

    at: datetime
    trends: tuple[ErrorGroup, ...]
    canaries: tuple[CanaryAnswer, ...] = ()
    total: int = 0
    mutes: tuple[Mute, ...] = ()
    release: Release | None = None

    def mute_of(self, trend: ErrorGroup) -> Mute | None:
        """The mute of a group, if it is muted."""
        return next((mute for mute in self.mutes if mute.key == trend.key), None)


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The workers of the last day, their `releases` by id, the running jobs, and the types that no live one handles."""

    at: datetime
    workers: tuple[Worker, ...]
    running: tuple[Job, ...]
    unhandled: tuple[str, ...]
    releases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ActionCount:
    """How often one actor performed one action."""

    actor: str
    action: str
    count: int


@dataclass(frozen=True, slots=True)
class TriggerCount:
    """Cycles and windows of one source: their number, and how many ended in an error or never ended."""

    source: str
    count: int
    troubled: int


@dataclass(frozen=True, slots=True)
class Digest:
    """The figures of a shift. Finished runs are counted from `counted_since`, in steps of 5 minutes.

    That is after `since` if the statistics begin later. Each run is counted once: `continued` runs were followed by
    another run, `troubled` runs will be retried, `cycles` failed for a series that goes on, `dry_runs` changed nothing.
    `bulks` are the audit rows of the bulk actions that were started, `canaries` of those without an answer; `notes` and
    `mutes` are those that hold now.
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
    lost: LostRuns
    cycles: int = 0
    dry_runs: int = 0
    notes: tuple[Note, ...] = ()
    mutes: tuple[Mute, ...] = ()
    bulks: tuple[AuditEntry, ...] = ()
    canaries: tuple[AuditEntry, ...] = ()

    def mute_of(self, trend: ErrorGroup) -> Mute | None:
        """The mute of a group, if it is muted."""
        return next((mute for mute in self.mutes if mute.key == trend.key), None)

    def is_new(self, trend: ErrorGroup) -> bool:
        """Whether this error appeared in this shift for the first time in a week."""
        return trend.first_seen >= self.since


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The actions, newest first, and the digest of the same period."""

    lines: tuple[AuditLine, ...]
    digest: Digest


def overdue_by(job: Job, at: datetime) -> timedelta:
    """How long a pending job has waited since it was due and there; negative before its due time."""
    return at - max(job.next_run_at or job.run_at, job.created_at or job.run_at)
