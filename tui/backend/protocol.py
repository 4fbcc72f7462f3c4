"""What the dashboard asks of the queue and what it gets: a protocol and frozen values, no import of the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from jobdeck.core.model import ActionResult, CycleResult, Enqueued, Filter, Job, Json, Processing
    from jobdeck.core.plugins import Found, Page, Preset, Recipients
    from jobdeck.core.queue.requests import Wanted
    from jobdeck.core.read.report_types import (
        AuditReport,
        CronReport,
        ErrorReport,
        Fleet,
        JobDetail,
        Permissions,
        Snapshot,
    )
    from jobdeck.core.registry import JobType
    from jobdeck.tui.backend.bulk_words import Bulks

PAGE: Final = 200
LONGEST_PAGE: Final = 5_000
Verb = Literal["retry", "cancel", "delete", "restore"]


@dataclass(frozen=True, slots=True)
class Request:
    """Which jobs to read, and in what order; `sort` is one of the model's `SORTS`.

    The natural order is the one that its tab asks for: all jobs newest first, pending ones by their due time,
    ended ones by their end. At a `glance` nothing is listed or counted: the list is not on the screen.
    """

    filter: Filter
    sort: str = "natural"
    descending: bool = True
    limit: int = PAGE
    glance: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of the database once it has answered."""

    label: str
    actor: str
    permissions: Permissions
    task_types: tuple[str, ...]
    embedded: bool


@dataclass(frozen=True, slots=True)
class EmbeddedWorker:
    """The worker inside this dashboard: whether it runs, how many jobs it holds, and its name in the database."""

    state: Literal["off", "running", "draining"] = "off"
    running: int = 0
    id: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """One answer of the database to the dashboard."""

    session: Session
    snapshot: Snapshot
    worker: EmbeddedWorker


class Backend(Protocol):
    """What the dashboard asks of the queue. Methods block and raise `JobdeckError`."""

    @property
    def label(self) -> str:
        """What the database is called, also before it answers; empty where its address cannot be read."""

    @property
    def creating(self) -> Creating:
        """What makes and changes jobs."""

    @property
    def bulk(self) -> Bulks:
        """Actions on many jobs."""

    def view(self, request: Request) -> View:
        """Reads the first screen, connecting first where there is no connection yet."""

    def detail(self, job_id: UUID) -> JobDetail | None:
        """Reads one job with its history; None when it is nowhere."""

    def recipients(self, job_id: UUID) -> Recipients | None:
        """Reads whom a job wrote to; None where it wrote to nobody."""

    def cron(self) -> CronReport:
        """Reads Cron Health."""

    def timeouts(self) -> Mapping[str, float]:
        """How many seconds each known task type may run."""

    def errors(self, watched: Sequence[UUID]) -> ErrorReport:
        """Reads the groups of errors, and where the watched jobs stand."""

    def alike(self, task_type: str, fingerprint: str) -> tuple[Job, ...]:
        """Reads the jobs that stand where an error of this group put them."""

    def fleet(self) -> Fleet:
        """Reads the workers and what they run."""

    def audit(self, since: timedelta) -> AuditReport:
        """Reads what operators did, and the digest of the time."""

    def table(self, page: Page) -> Sequence[Sequence[str]]:
        """Reads the rows of a plugin's page."""

    def act_on_row(self, page: Page, action: str, row: Sequence[str]) -> str:
        """Takes an action of a plugin's page on a row, and answers what came of it in a sentence."""

    def reveal(self, job_id: UUID) -> None:
        """Puts on record that a job's personal data is looked at."""

    def check_payload(self, task_type: str, payload: Json) -> None:
        """Raises `InvalidPayload` or `UnknownTaskType` where a payload does not fit; reads nothing."""

    def retry_with(self, job: Job, payload: Json) -> ActionResult:
        """Retries a job with another payload; one that has succeeded is enqueued anew."""

    def cleanup(self, ids: Sequence[UUID] | None) -> list[ActionResult]:
        """Lists stuck jobs where None; else marks those of them failed that are stuck still."""

    def purge(self, *, dry_run: bool) -> int:
        """Removes old succeeded and cancelled jobs, or counts them."""

    def act(self, verb: Verb, jobs: Sequence[Job]) -> list[ActionResult]:
        """Does one thing to exactly these jobs, each in the version that was seen."""

    def pause(self, reason: str | None, until: timedelta | datetime | None) -> Processing:
        """Pauses processing: for good, for a while, or until a time."""

    def resume(self) -> Processing:
        """Resumes processing."""

    def run_cycle(self, on_progress: Callable[[str], None]) -> CycleResult:
        """Runs one cycle of up to five jobs here; `on_progress` is called from this thread."""

    def start_worker(self) -> None:
        """Starts the embedded worker."""

    def stop_worker(self, timeout: float | None) -> bool:
        """Stops it; what still runs after `timeout` seconds (JOBDECK_DRAIN_SECONDS where None) is handed back."""

    def worker(self) -> EmbeddedWorker:
        """How the embedded worker is; does not block."""

    def close(self) -> None:
        """Lets everything go."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What would come of a form: what the queue would answer, and what a run would do.

    `effects` is None where the type has no preview, or where it could not be made; then `remark` says why.
    """

    answer: str
    ok: bool
    effects: Json | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class QuickSync:
    """A preset of a plugin, and why it cannot be enqueued here; empty where it can."""

    preset: Preset
    missing: str = ""


class Creating(Protocol):
    """What makes and changes jobs. Methods block and raise `JobdeckError`, but for `types` and `quick_syncs`."""

    def types(self) -> tuple[JobType, ...]:
        """The task types that have a handler here; does not block."""

    def find(self, key: str, text: str) -> Sequence[Found]:
        """What the look-up for a payload key finds for a text."""

    def create(self, wanted: Wanted) -> Enqueued:
        """Enqueues the job."""

    def changes(self, job: Job, wanted: Wanted) -> Json:
        """What an edit would change; empty where nothing. Does not block."""

    def edit(self, job: Job, wanted: Wanted) -> ActionResult:
        """Changes the job, in the version that was seen."""

    def rehearse(self, wanted: Wanted, job: Job | None) -> Rehearsal:
        """Says what would come of it, and changes nothing; `job` is the one that would be edited."""

    def quick_syncs(self) -> tuple[QuickSync, ...]:
        """The presets of the plugins; does not block."""

    def quick_sync(self, name: str) -> Sequence[Enqueued]:
        """Enqueues the jobs of a preset, in one transaction."""
