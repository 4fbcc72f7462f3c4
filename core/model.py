"""The queue's data as frozen values: no I/O, no terminal, no clock.

The values of every run are named tuples, which are created three times as fast as frozen dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime, timedelta
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
    """The outcome of a run, as stored in `job_runs`."""

    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    CONTINUED = "continued"
    RETRIED = "retried"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    SNOOZED = "snoozed"
    LOST = "lost"
    ABANDONED = "abandoned"


SUCCESSES: Final = (RunOutcome.SUCCEEDED, RunOutcome.PARTIAL, RunOutcome.CONTINUED)
FAILURES: Final = (RunOutcome.RETRIED, RunOutcome.FAILED, RunOutcome.LOST)
"""Runs with another outcome neither succeeded nor failed, and so did dry runs."""


class Verdict(StrEnum):
    """The health of one signal or of the queue. Screens show it as a word, not only as a colour."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Job:
    """One row of `job_queue`, or with `removed` of the history, which stores neither `max_attempts` nor `priority`.

    None: `last_run_dry` before a run, `created_at` if it is not in the id, `trace_id` if nothing has a trace,
    `timeout_seconds` if the job has no timeout of its own.
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
    schedule: Json | None = None
    slots: list[datetime] | None = None
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
    last_run_dry: bool | None = None
    last_success_at: datetime | None = None
    created_by: str | None = None
    next_run_at: datetime | None = None
    overdue_seconds: float | None = None
    trace_id: str | None = None
    timeout_seconds: float | None = None
    removed: bool = False

    @property
    def is_paused(self) -> bool:
        """Whether somebody paused this series alone, which then blocks itself."""
        return self.blocked_by == self.id

    @property
    def is_dry(self) -> bool:
        """Whether its payload asks for a dry run, or its last run was one."""
        given = arguments(self.payload)
        return bool(self.last_run_dry) or given.get("dryRun", given.get("dry_run")) is True


def arguments(payload: Any) -> Json:
    """The keys of a payload; none where it is no object, as in a row that an application inserted directly."""
    return payload if isinstance(payload, dict) else {}


LEAST_PRIORITY: Final = -100
MOST_PRIORITY: Final = 100
CANARY_PRIORITY: Final = MOST_PRIORITY + 1
"""The priorities that `job_priority_fits` of the schema allows, and the one that the claim reports for a canary."""


class ClaimedJob(NamedTuple):
    """A claimed job. `due_at` is the due time of its slot, `timeout` its own, in seconds; times are the database's."""

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
    timeout: float | None = None

    @property
    def is_canary(self) -> bool:
        """Whether an operator asked to run this job now: it was claimed alone, and has a slot kept for it."""
        return self.priority == CANARY_PRIORITY

    @property
    def cycle_key(self) -> str:
        """The key shared by all attempts of one cycle of one job, and by no other run."""
        return f"{self.id}:{self.cycle}" if self.is_recurring else str(self.id)


class FinishedRun(NamedTuple):
    """A worker's report of one run.

    `outcome` is one of `succeeded partial continued failed released snoozed cancelled`; the database decides the job's
    next status. `started` and `finished` are seconds since 1970 by the database's clock, `retry_after` and `delay` are
    seconds; `permanent` forbids a retry; a run with `dry_run` changed nothing; `trace` is the run's span. A job that is
    snoozed with `give_up_after` fails for good that many seconds after the first of such runs in a row. A run that
    never `began` is a claimed job that returns to the queue, or is cancelled, before it had a slot.
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
    dry_run: bool = False
    trace: str | None = None
    give_up_after: float | None = None
    began: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """One row of `job_runs`. A run with `dry_run` changed nothing; None if an earlier schema recorded it."""

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
    dry_run: bool | None = None

    @property
    def duration(self) -> timedelta:
        return self.finished_at - self.started_at


@dataclass(frozen=True, slots=True)
class WorkerRun:
    """One row of `job_worker_runs`: a cycle, or a window of a running worker."""

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
    died: bool = False


@dataclass(frozen=True, slots=True)
class Worker:
    """One row of `job_workers`, alive by the database's clock. `slots`: `{"thread": {"taken": 1, "slots": 8}}`."""

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
    slots: Json | None = None


@dataclass(frozen=True, slots=True)
class TypePause:
    """The pause of a task type, or with its `queue`. With `set_aside` it is left to a runner that is no worker."""

    task_type: str
    reason: str | None
    paused_by: str | None
    paused_at: datetime
    resume_at: datetime | None
    set_aside: bool = False
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Processing:
    """The switch; the types and queues ("queue NAME") that are paused or set aside; in words, who has the jobs."""

    enabled: bool
    paused_reason: str | None = None
    paused_by: str | None = None
    paused_at: datetime | None = None
    resume_at: datetime | None = None
    paused_types: tuple[TypePause, ...] = ()
    set_aside: tuple[TypePause, ...] = ()
    paused_queues: tuple[TypePause, ...] = ()
    held_by: str | None = None

    @property
    def held_types(self) -> frozenset[str]:
        """The task types of which workers take no jobs: paused or set aside."""
        return frozenset(one.task_type for one in (*self.paused_types, *self.set_aside))


@dataclass(frozen=True, slots=True)
class Finding:
    """One signal of the health verdict, with the evidence as a sentence; of several findings, each has a subject."""

    signal: str
    verdict: Verdict
    evidence: str
    since: datetime | None = None
    subject: str = ""

    @property
    def name(self) -> str:
        """The signal and its subject: no other finding has this name."""
        return f"{self.signal} of {self.subject}" if self.subject else self.signal


@dataclass(frozen=True, slots=True)
class Health:
    """The health verdict and its findings, worst first.

    `finished_per_minute` are the runs that succeeded or failed in each of the last 15 minutes, oldest first, and
    `failed_per_minute` those of them that failed; the last minute is not over yet.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    oldest_due: datetime | None = None
    finished_per_minute: tuple[int, ...] = ()
    failed_last_hour: int = 0
    last_trigger: WorkerRun | None = None
    failed_per_minute: tuple[int, ...] = ()

    @property
    def last_minute(self) -> tuple[int, int] | None:
        """The runs that succeeded and those that failed in the last full minute; None if they were not read."""
        if len(self.failed_per_minute) < 2:
            return None
        return self.finished_per_minute[-2] - self.failed_per_minute[-2], self.failed_per_minute[-2]


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of a list of jobs. `search` is matched against id, type, error and payload; `standing` is a `Standing`.

    `payload` is a payload key and the beginning of its value, `payload_is` a payload key and its whole value.
    """

    status: Status | None = None
    standing: str | None = None
    task_type: str | None = None
    search: str | None = None
    error: str | None = None
    payload: tuple[str, str] | None = None
    payload_is: tuple[str, str] | None = None
    attempts_at_least: int | None = None
    older_than: timedelta | None = None
    outcome: RunOutcome | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class ActionResult:
    """The answer for one id of an action: whether it was done, a sentence and its code, and the job's new status."""

    job_id: UUID
    ok: bool
    message: str
    status: Status | None = None
    version: int | None = None
    code: str = ""


class Ticket(NamedTuple):
    """The id of a job: a new one (`created`), or that with the dedupe key, `replaced` by this one or kept."""

    job_id: UUID
    created: bool
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Enqueued:
    """An enqueued job, or (`created` False) the job that has the dedupe key: replaced by this one, or kept."""

    job: Job
    created: bool
    replaced: bool = False


class NewJob(NamedTuple):
    """A whole job, as `new_job` makes it. `run_at` None means now; a series has minutes or a schedule."""

    task_type: str
    payload: Json = {}  # noqa: RUF012 -- a payload is read, never changed
    run_at: datetime | None = None
    max_attempts: int = 5
    priority: int | None = None
    dedupe_key: str | None = None
    concurrency_key: str | None = None
    blocked_by: UUID | None = None
    recurrence_interval_minutes: int | None = None
    expires_at: datetime | None = None
    unique_seconds: float | None = None
    schedule: Json | None = None
    slots: tuple[datetime, ...] | None = None
    longest_wait: float | None = None
    timeout: float | None = None
