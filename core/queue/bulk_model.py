"""A bulk action as frozen values: the chosen jobs, the progress, and the answer for each job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Job

BulkVerb = Literal["retry", "cancel", "delete", "restore", "edit", "revert"]
BulkState = Literal["chosen", "running", "finished", "stopped"]
UNDONE_BY: Final[Mapping[BulkVerb | None, BulkVerb]] = {"delete": "restore", "edit": "revert"}
"""The actions that can be undone, and what undoes them."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """One row of `job_bulk`.

    `words` is the filter that chose the jobs, None if their ids were given. `driver` carried out the last batch: the
    user who started the action, or a worker. `trouble` is the error of the last batch, if it failed. `reverts` is the
    bulk edit that this action undoes.
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
    reverts: UUID | None = None

    @property
    def left(self) -> int:
        """How many jobs have no answer yet."""
        return self.total - self.done


@dataclass(frozen=True, slots=True)
class Share:
    """The number of chosen jobs of one type and status; status None counts those that have changed since the choice."""

    task_type: str | None
    status: str | None
    jobs: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Jobs frozen for an action: their number by type and status, and the first few."""

    bulk: Bulk
    shares: tuple[Share, ...]
    first: tuple[Job, ...]

    @property
    def types(self) -> list[str]:
        return sorted({share.task_type for share in self.shares if share.task_type is not None})

    def of(self, status: str | None) -> int:
        """How many chosen jobs have this status."""
        return sum(share.jobs for share in self.shares if share.status == status)


@dataclass(frozen=True, slots=True)
class BulkAnswer:
    """The answer for one job of a bulk action; `ok` is None until a batch has reached the job."""

    job_id: UUID
    task_type: str | None
    ok: bool | None
    message: str | None
    status: str | None
    version: int | None
    code: str | None = None
