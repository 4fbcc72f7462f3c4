"""The interface between the dashboard and the queue: a protocol and frozen values. It does not import the queue."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from jobdeck.core.model import ActionResult, Enqueued, Filter, Job, Json, Processing
    from jobdeck.core.plugins import Found, Page, Preset, Recipients
    from jobdeck.core.queue.operators.flows import FlowCancelled
    from jobdeck.core.queue.requests import Wanted
    from jobdeck.core.read.canaries import CanaryAsked
    from jobdeck.core.read.pages.flows import FlowTree
    from jobdeck.core.read.report_types import (
        AuditReport,
        CronReport,
        ErrorReport,
        JobDetail,
        Permissions,
        Snapshot,
        WorkerReport,
    )
    from jobdeck.core.read.stats.error_groups import Alike
    from jobdeck.core.registry import JobType
    from jobdeck.core.worker.oneshot import CycleResult
    from jobdeck.tui.backend.bulk_words import Bulks
    from jobdeck.tui.backend.figures.protocol import Figures
    from jobdeck.tui.backend.shift.protocol import Shift

PAGE: Final = 200
LONGEST_PAGE: Final = 5_000
Verb = Literal["retry", "run-again", "cancel", "delete", "restore"]


@dataclass(frozen=True, slots=True)
class Request:
    """Which jobs to read, and in which order. `sort` is one of the model's `SORTS`.

    The natural order depends on the tab: all jobs newest first, pending jobs by due time, finished jobs by end time.
    With `group`, the task type and fingerprint of a group of errors, its jobs are listed instead of the filter's.
    With `glance`, jobs are neither listed nor counted, because the list is not on the screen.
    """

    filter: Filter
    sort: str = "natural"
    descending: bool = True
    limit: int = PAGE
    glance: bool = False
    group: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """Facts about the database and the user, read when the connection is opened."""

    label: str
    actor: str
    permissions: Permissions
    task_types: tuple[str, ...]
    embedded: bool


@dataclass(frozen=True, slots=True)
class EmbeddedWorker:
    """The worker inside this dashboard: its state, its number of running jobs, and its id in the database."""

    state: Literal["off", "running", "draining"] = "off"
    running: int = 0
    id: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The result of one read for the first screen."""

    session: Session
    snapshot: Snapshot
    worker: EmbeddedWorker


@dataclass(frozen=True, slots=True)
class Due:
    """The jobs that are due and not held back, by task type, most first.

    `counted` is whether these are all; otherwise they are the first ones.
    """

    types: tuple[tuple[str, int], ...]
    counted: bool = True


class Backend(Protocol):
    """All reads and actions of the dashboard. Methods block and raise `JobdeckError`."""

    @property
    def label(self) -> str:
        """The name of the database, also before it answers; empty when its address is invalid."""

    @property
    def creating(self) -> Creating:
        """Creates and edits jobs."""

    @property
    def bulk(self) -> Bulks:
        """Runs bulk actions."""

    @property
    def figures(self) -> Figures:
        """Reads statistics, and acts on task types and series."""

    @property
    def shift(self) -> Shift:
        """Notes to the next shift, and muted groups of errors."""

    def view(self, request: Request) -> View:
        """Reads the first screen. Connects first if necessary.

        Raises:
            DatabaseUnreachable: the database does not answer; try again later.
            JobdeckError: the database or the configuration cannot be used.
        """

    def detail(self, job_id: UUID) -> JobDetail | None:
        """Reads one job with its history; None when it does not exist."""

    def recipients(self, job_id: UUID) -> Recipients | None:
        """Reads the recipients of a job's messages; None when it sent none."""

    def flow(self, job_id: UUID) -> FlowTree | None:
        """Reads the flow of which a job is a member; None when it is in none."""

    def cron(self) -> CronReport:
        """Reads Cron Health."""

    def timeouts(self) -> Mapping[str, float]:
        """The timeout of each known task type, in seconds."""

    def errors(self, canaries: Sequence[int]) -> ErrorReport:
        """Reads the groups of errors, and what has become of these requests for canaries."""

    def ask_canary(self, job: Job) -> CanaryAsked:
        """Asks to run this job next and alone. Refused when its version differs from the displayed one."""

    def alike(self, task_type: str, fingerprint: str) -> Alike:
        """Reads the first jobs that are still in the state an error of this group left them in, and counts them."""

    def worker_report(self) -> WorkerReport:
        """Reads the workers and their jobs."""

    def audit(self, since: timedelta) -> AuditReport:
        """Reads the audit log and the digest of this period."""

    def table(self, page: Page, wanted: str) -> Sequence[Sequence[str]]:
        """Reads the rows of a plugin's page: those of `wanted`, the id of what its search found, or all."""

    def search_table(self, page: Page, text: str) -> Sequence[Found]:
        """Looks up what a plugin's page can be narrowed down to."""

    def act_on_row(self, page: Page, action: str, row: Sequence[str], answers: Mapping[str, str]) -> str:
        """Runs an action of a plugin's page on a row and returns its result as a sentence."""

    def reveal(self, job_id: UUID) -> None:
        """Records in the audit log that the user views a job's personal data."""

    def check_payload(self, task_type: str, payload: Json) -> None:
        """Checks a payload against its task type, without the database.

        Raises:
            UnknownTaskType: the type has no handler here.
            InvalidPayload: the payload is not valid for the type.
        """

    def retry_with(self, job: Job, payload: Json) -> ActionResult:
        """Retries a job with another payload. If it is displayed as having left the queue, enqueues a copy.

        Raises:
            UnknownTaskType: the type has no handler here.
            InvalidPayload: the payload is not valid for the type. Nothing was changed.
        """

    def cleanup(self, ids: Sequence[UUID] | None) -> list[ActionResult]:
        """Without `ids`, lists stuck jobs. With `ids`, marks these jobs failed if they are still stuck."""

    def purge(self, *, dry_run: bool) -> int:
        """Moves old succeeded and cancelled jobs to the trash and counts them; with `dry_run`, only counts them."""

    def act(self, verb: Verb, jobs: Sequence[Job], reason: str | None = None) -> list[ActionResult]:
        """Applies an action to these jobs. A job whose version differs from the displayed one is refused.

        The reason goes to the audit log. Only `run-again` makes copies of jobs that have left the queue.
        """

    def cancel_flow(self, flow_id: UUID, reason: str | None) -> FlowCancelled:
        """Cancels all members of a flow that wait, and asks those that run to stop; all or none.

        Raises:
            Refused: there is no such flow, or another session has locked members of it.
        """

    def due(self) -> Due:
        """Reads the jobs that a cycle of the worker could take now."""

    def pause(self, reason: str | None, until: timedelta | datetime | None, task_type: str | None = None) -> Processing:
        """Pauses processing, or one task type, for a period, until a time, or until someone resumes it."""

    def resume(self, task_type: str | None = None) -> Processing:
        """Resumes processing, or one paused task type.

        Raises:
            Refused: the task type is not paused.
        """

    def run_cycle(self, on_progress: Callable[[str], None]) -> CycleResult:
        """Runs one cycle of up to five jobs here. Calls `on_progress` in the same thread."""

    def start_worker(self) -> None:
        """Starts the embedded worker, if it is not running."""

    def stop_worker(self, timeout: float | None) -> bool:
        """Stops the embedded worker and returns whether all its jobs finished.

        Jobs that still run after `timeout` seconds (default JOBDECK_DRAIN_SECONDS) are returned to the queue.
        """

    def worker(self) -> EmbeddedWorker:
        """The state of the embedded worker. Does not block."""

    def close(self) -> None:
        """Stops the embedded worker and closes the database."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The preview of a form: the queue's answer, and the effects of a run.

    `effects` is None when there is no preview; then `remark` gives the reason.
    """

    answer: str
    ok: bool
    effects: Json | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class QuickSync:
    """A preset of a plugin. `missing` says why it cannot be enqueued here, and is empty when it can."""

    preset: Preset
    missing: str = ""


class Creating(Protocol):
    """Creates and edits jobs. Methods block and raise `JobdeckError`, except `types`, `changes` and `quick_syncs`."""

    def types(self) -> tuple[JobType, ...]:
        """The task types with a handler here, sorted by name. Does not block."""

    def find(self, key: str, text: str) -> Sequence[Found]:
        """The values that the search of a payload key finds for a text."""

    def create(self, wanted: Wanted) -> Enqueued:
        """Enqueues the job."""

    def changes(self, job: Job, wanted: Wanted) -> Json:
        """The fields that an edit would change. Does not block."""

    def edit(self, job: Job, wanted: Wanted) -> ActionResult:
        """Changes the job. It is refused when its version differs from the displayed one."""

    def rehearse(self, wanted: Wanted, job: Job | None) -> Rehearsal:
        """Previews a new job, or the edit of `job`. Changes nothing."""

    def quick_syncs(self) -> tuple[QuickSync, ...]:
        """The presets of the plugins. Does not block."""

    def quick_sync(self, name: str) -> Sequence[Enqueued]:
        """Enqueues the jobs of a preset, in one transaction."""


def due_among(pending: Snapshot, handled: Collection[str]) -> Due:
    """The due jobs among the first pending ones, of types that are handled here, not paused and not blocked."""
    held = pending.processing.held_types
    due = [job for job in pending.page.jobs if (job.next_run_at or job.run_at) <= pending.at]
    free = [job for job in due if job.task_type in handled and job.task_type not in held and job.blocked_by is None]
    counts = Counter(job.task_type for job in free)
    counted = pending.page.next is None or len(due) < len(pending.page.jobs)
    return Due(tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), counted)
