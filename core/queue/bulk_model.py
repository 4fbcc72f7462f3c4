"""An operator's action on many jobs as frozen values: what was chosen, how far it is, and the answer for each job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Job

BulkVerb = Literal["retry", "cancel", "delete", "restore"]
BulkState = Literal["chosen", "running", "finished", "stopped"]


@dataclass(frozen=True, slots=True)
class Bulk:
    """One row of `job_bulk`. `words` is the filter that chose the jobs, None where they were named.

    `driver` is who carried out the last batch: the one who began it, or a worker; `trouble` what the last batch failed
    with.
    """

    id: UUID
    state: BulkState
    action: BulkVerb | None
    words: str | None
    actor: str
    reason: str | None
    total: int
    done: int
    refused: int
    chosen_at: datetime
    started_at: datetime | None
    stepped_at: datetime | None
    finished_at: datetime | None
    driver: str | None
    stopped_by: str | None
    trouble: str | None

    @property
    def left(self) -> int:
        """How many jobs have no answer yet."""
        return self.total - self.done


@dataclass(frozen=True, slots=True)
class Share:
    """How many of the chosen jobs are of one type and in one status; status None: no longer as they were chosen."""

    task_type: str | None
    status: str | None
    jobs: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Jobs that are frozen for an action: how many of what, and the first of them."""

    bulk: Bulk
    shares: tuple[Share, ...]
    first: tuple[Job, ...]

    def of(self, status: str | None) -> int:
        """How many of them are in a status."""
        return sum(share.jobs for share in self.shares if share.status == status)


@dataclass(frozen=True, slots=True)
class BulkAnswer:
    """The answer for one job of a bulk action; `ok` is None while its turn has not come."""

    job_id: UUID
    task_type: str | None
    ok: bool | None
    message: str | None
    status: str | None
    version: int | None
