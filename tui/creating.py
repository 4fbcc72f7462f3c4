"""What the dashboard asks when a job is made or changed, and what it gets: a protocol and frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import ActionResult, Enqueued, Job, Json
    from jobdeck.core.queue.requests import Wanted
    from jobdeck.core.registry import JobType

Searched = Literal["coach", "campaign"]


@dataclass(frozen=True, slots=True)
class Found:
    """Something to choose: its id, what it is called, and what tells it from others."""

    id: str
    label: str
    detail: str = ""


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
    """One quick sync: what it is called and does, and why it cannot be had here."""

    kind: Literal["full", "incremental", "totals"]
    label: str
    description: str
    missing: str = ""


QUICK_SYNCS: Final = (
    QuickSync("full", "Full Sync", "recent solves, then all aggregates, as two jobs"),
    QuickSync("incremental", "Incremental Sync", "recent solves, no aggregates"),
    QuickSync("totals", "Totals Sweep", "aggregates of competitors that are flagged"),
)


class Creating(Protocol):
    """What makes and changes jobs. Methods block and raise `JobdeckError`, but for `types` and `quick_syncs`."""

    def types(self) -> tuple[JobType, ...]:
        """The task types that have a handler here; does not block."""

    def find(self, kind: Searched, text: str) -> tuple[Found, ...]:
        """Coaches or campaigns that have the text."""

    def create(self, wanted: Wanted) -> Enqueued:
        """Enqueues the job."""

    def changes(self, job: Job, wanted: Wanted) -> Json:
        """What an edit would change; empty where nothing. Does not block."""

    def edit(self, job: Job, wanted: Wanted) -> ActionResult:
        """Changes the job, in the version that was seen."""

    def rehearse(self, wanted: Wanted, job: Job | None) -> Rehearsal:
        """Says what would come of it, and changes nothing; `job` is the one that would be edited."""

    def quick_syncs(self) -> tuple[QuickSync, ...]:
        """The quick syncs, and why one cannot be had; does not block."""

    def quick_sync(self, kind: str) -> Sequence[Enqueued]:
        """Enqueues the jobs of a quick sync, in one transaction."""


class Fetch(Protocol):
    """Looks for what a text says, and later hands over what was found, or the sentence that says why nothing was."""

    def __call__(self, text: str, deliver: Callable[[Sequence[Found] | str], None]) -> None:
        """Begins to look; `deliver` is called once."""
