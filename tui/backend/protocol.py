"""What the dashboard asks of its backend, and what it gets: frozen values. They do not import the queue."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from uuid import UUID

    from jobdeck.core.model import Filter, Json
    from jobdeck.core.plugins import Preset
    from jobdeck.core.read.canaries import CanaryAnswer, State
    from jobdeck.core.read.pages.outlook import Outlook
    from jobdeck.core.read.report_types import Permissions, Snapshot

PAGE: Final = 200
LONGEST_PAGE: Final = 5_000
Verb = Literal["retry", "run-again", "cancel", "delete", "restore"]


@dataclass(frozen=True, slots=True)
class Request:
    """Which jobs to read, and in which order. `sort` is one of `SORTS` (`core/read/filters.py`).

    The natural order depends on the tab: of all jobs, those first that need somebody, or with a filter the newest;
    pending jobs by due time, finished jobs by end time.
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

    `counted` is whether these are all; otherwise they are the first ones. `ahead` is what a worker here would start.
    """

    types: tuple[tuple[str, int], ...]
    counted: bool = True
    ahead: Outlook | None = None


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


@dataclass(frozen=True, slots=True)
class Canary:
    """A request to run a job, by its id in the database, and its answer as last read (None until then)."""

    job_id: UUID
    request: int
    answer: CanaryAnswer | None = None

    @property
    def state(self) -> State:
        return self.answer.state if self.answer is not None else "waiting"

    @property
    def settled(self) -> bool:
        """Whether the state is final."""
        return self.answer is not None and self.answer.settled

    def follow(self, answers: Iterable[CanaryAnswer]) -> Canary:
        """The canary updated with the answers just read."""
        found = next((answer for answer in answers if answer.canary == self.request), None)
        return replace(self, answer=found or self.answer)


def due_among(pending: Snapshot, handled: Collection[str]) -> Due:
    """The due jobs among the first pending ones, of types that are handled here, not paused and not blocked."""
    held = pending.processing.held_types
    due = [job for job in pending.page.jobs if (job.next_run_at or job.run_at) <= pending.at]
    free = [job for job in due if job.task_type in handled and job.task_type not in held and job.blocked_by is None]
    counts = Counter(job.task_type for job in free)
    counted = pending.page.next is None or len(due) < len(pending.page.jobs)
    return Due(tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), counted)
