"""The words of the queue as frozen values: no I/O, no terminal, no clock of their own.

What passes through a worker with every run is a named tuple, which is made three times as fast as a frozen
dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

Json = dict[str, Any]


class Status(StrEnum):
    """A job's stored status."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunOutcome(StrEnum):
    """How one run ended, as `job_runs` keeps it."""

    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    CONTINUED = "continued"
    RETRIED = "retried"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"
    ABANDONED = "abandoned"


class Verdict(StrEnum):
    """A judgement of health, always shown as a word as well as a colour."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Job:
    """One row of `job_queue`, or of the history where `removed` is true (a success that left the queue).

    Of the latter the history keeps neither `max_attempts` nor `priority`, nor `created_at` where the id does not tell.
    """

    id: UUID
    task_type: str
    payload: Json
    status: Status
    run_at: datetime
    attempts: int
    max_attempts: int | None
    created_at: datetime | None
    updated_at: datetime
    version: int
    priority: int | None = 0
    last_error: str | None = None
    output: Json | None = None
    completed_at: datetime | None = None
    is_recurring: bool = False
    recurrence_interval_minutes: int | None = None
    expires_at: datetime | None = None
    last_run_at: datetime | None = None
    dedupe_key: str | None = None
    concurrency_key: str | None = None
    blocked_by: UUID | None = None
    checkpoint: Json | None = None
    progress: Json | None = None
    locked_by: str | None = None
    run_token: int | None = None
    lease_expires_at: datetime | None = None
    started_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancel_requested_by: str | None = None
    anchor_at: datetime | None = None
    consecutive_failures: int = 0
    last_outcome: RunOutcome | None = None
    last_success_at: datetime | None = None
    created_by: str | None = None
    next_run_at: datetime | None = None
    overdue_seconds: float | None = None
    removed: bool = False


class ClaimedJob(NamedTuple):
    """What a worker is given for one run. `due_at` is the slot it serves; times are the database's."""

    id: UUID
    run_token: int
    task_type: str
    payload: Json
    attempt: int
    max_attempts: int
    due_at: datetime
    claimed_at: datetime
    is_recurring: bool
    checkpoint: Json | None
    cycle: int
    priority: int = 0

    @property
    def cycle_key(self) -> str:
        """What all attempts of one cycle of one job have in common, and nothing else has."""
        return f"{self.id}:{self.cycle}" if self.is_recurring else str(self.id)


class FinishedRun(NamedTuple):
    """What a worker reports of one run.

    `outcome` is what the handler came to (`succeeded partial continued failed released cancelled`); the
    database decides what becomes of the job. `started` and `finished` are seconds since 1970 by the database's
    clock, `retry_after` and `delay` are seconds; `permanent` forbids a retry.
    """

    job_id: UUID
    run_token: int
    outcome: RunOutcome
    started: float
    finished: float
    output: Json | None = None
    checkpoint: Json | None = None
    delay: float = 0.0
    retry_after: float | None = None
    retry_base: float | None = None
    retry_cap: float | None = None
    permanent: bool = False
    error_kind: str | None = None
    error: str | None = None
    traceback: str | None = None
    log: str | None = None
    progress: Json | None = None

    @property
    def started_at(self) -> datetime:
        """When the handler began."""
        return datetime.fromtimestamp(self.started, UTC)

    @property
    def finished_at(self) -> datetime:
        """When the handler ended."""
        return datetime.fromtimestamp(self.finished, UTC)


class Finished(NamedTuple):
    """The database's answer to one reported run: what was recorded and where the job stands now.

    `recorded` is `abandoned` when the lease was lost; `status` is None when the job left the queue.
    """

    job_id: UUID
    run_token: int
    recorded: RunOutcome
    status: Status | None
    run_at: datetime | None


class Renewed(NamedTuple):
    """One running job in the reply to a heartbeat."""

    job_id: UUID
    run_token: int
    alive: bool
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class Run:
    """One row of `job_runs`."""

    run_token: int
    job_id: UUID
    task_type: str
    payload: Json
    attempt: int
    worker_id: str | None
    due_at: datetime
    started_at: datetime
    finished_at: datetime
    outcome: RunOutcome
    error_kind: str | None = None
    error: str | None = None
    traceback: str | None = None
    output: Json | None = None
    log: str | None = None
    progress: Json | None = None

    @property
    def duration(self) -> timedelta:
        """From the handler's start to its end."""
        return self.finished_at - self.started_at


@dataclass(frozen=True, slots=True)
class WorkerRun:
    """One row of `job_worker_runs`: a cycle, or a window of a standing worker."""

    id: UUID
    started_at: datetime
    completed_at: datetime | None
    source: str
    http_method: str | None
    http_status: int | None
    status: str | None
    processed: int
    succeeded: int
    failed: int
    released: int
    claimed: int
    due_before: int | None
    worker_id: str | None
    message: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Worker:
    """One row of `job_workers`; `alive` is the database's judgement of its heartbeat."""

    id: str
    host: str
    pid: int
    mode: str
    version: str
    concurrency: int
    task_types: tuple[str, ...]
    started_at: datetime
    heartbeat_at: datetime
    running: int
    alive: bool


@dataclass(frozen=True, slots=True)
class TypePause:
    """One task type that is paused by itself."""

    task_type: str
    reason: str | None
    paused_by: str | None
    paused_at: datetime
    resume_at: datetime | None


@dataclass(frozen=True, slots=True)
class Processing:
    """The processing switch, and the task types that are paused beside it."""

    enabled: bool
    paused_reason: str | None = None
    paused_by: str | None = None
    paused_at: datetime | None = None
    resume_at: datetime | None = None
    paused_types: tuple[TypePause, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One signal of the health verdict: what was looked at, how it is, and the evidence in words."""

    signal: str
    verdict: Verdict
    evidence: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict and its evidence, worst first."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    oldest_due: datetime | None = None
    finished_per_minute: tuple[int, ...] = ()
    failed_last_hour: int = 0
    last_trigger: WorkerRun | None = None


SORTS = ("natural", "task", "status", "attempts", "created", "last_run", "run_at", "error", "updated")
"""The orders that jobs are listed in."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs to list. `search` is matched against id, task type, error and payload text.

    `payload` is a payload key and the beginning of its value.
    """

    status: Status | None = None
    task_type: str | None = None
    search: str | None = None
    error: str | None = None
    payload: tuple[str, str] | None = None
    attempts_at_least: int | None = None
    older_than: timedelta | None = None
    outcome: RunOutcome | None = None


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
class ActionResult:
    """The answer for one id of an action: done or refused, with a sentence, and where the job stands now."""

    job_id: UUID
    ok: bool
    message: str
    status: Status | None = None
    version: int | None = None


class Ticket(NamedTuple):
    """Which job stands for what was enqueued: a new one, or (`created` false) the one that holds the dedupe key."""

    job_id: UUID
    created: bool


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A job that was enqueued, or (`created` false) the one that already holds the dedupe key."""

    job: Job
    created: bool


class NewJob(NamedTuple):
    """A job to enqueue. `run_at` None is now; `expires_at` ends a series."""

    task_type: str
    payload: Json = {}  # noqa: RUF012 -- a payload is read, never changed
    run_at: datetime | None = None
    max_attempts: int = 5
    priority: int = 0
    dedupe_key: str | None = None
    concurrency_key: str | None = None
    blocked_by: UUID | None = None
    recurrence_interval_minutes: int | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CycleResult:
    """What one cycle of a worker did, in the words of the original's reply."""

    PAUSED = "Processing is paused."
    """The message of a pause that no reason was given for."""

    status: Literal["ok", "paused", "error"]
    processed: int
    succeeded: int
    failed: int
    message: str
    results: tuple[Json, ...] = ()
