"""The canary: the one job of an error group that is retried first, and its state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jobdeck.core.model import Status

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from jobdeck.core.model import Job

State = Literal["waiting", "running", "succeeded", "failed", "cancelled", "gone"]


@dataclass(frozen=True, slots=True)
class Canary:
    """The job before its retry, and as last read (`seen`, None until then). `gone` means that it was not found."""

    before: Job
    seen: Job | None = None
    gone: bool = False

    @property
    def job_id(self) -> UUID:
        return self.before.id

    @property
    def state(self) -> State:
        """The state of the retry. Runs before the retry do not count."""
        if self.gone:
            return "gone"
        job = self.seen
        if job is None:
            return "waiting"
        if job.removed or job.last_success_at != self.before.last_success_at:
            return "succeeded"
        if job.status is Status.RUNNING:
            return "running"
        if job.last_run_at != self.before.last_run_at and job.last_error is not None:
            return "failed"
        return "cancelled" if job.status is Status.CANCELLED else "waiting"

    @property
    def settled(self) -> bool:
        """Whether the state is final."""
        return self.state not in {"waiting", "running"}

    def follow(self, watched: Iterable[Job]) -> Canary:
        """The canary updated with the jobs just read."""
        found = next((job for job in watched if job.id == self.job_id), None)
        return replace(self, seen=found or self.seen, gone=found is None)
