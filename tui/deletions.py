"""What was deleted from here, so that the last deletion can be taken back, and then the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.bulk_model import Bulk

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from core.model import Job

Deletion = tuple["Job", ...] | Bulk


class Deletions:
    """Few jobs that were deleted at once, or the action that deleted many; the newest last."""

    def __init__(self) -> None:
        self._kept: list[Deletion] = []

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def last(self) -> Deletion | None:
        """The newest one that was not taken back."""
        return self._kept[-1] if self._kept else None

    def holds(self, job_id: UUID) -> bool:
        """Whether this is one of few jobs that were deleted at once."""
        return any(job.id == job_id for kept in self._kept if isinstance(kept, tuple) for job in kept)

    def add(self, deletion: Deletion) -> None:
        """Another one."""
        self._kept.append(deletion)

    def drop(self, many: Bulk) -> None:
        """An action that is being taken back."""
        self._kept.remove(many)

    def restored(self, ids: Collection[UUID]) -> None:
        """Forgets jobs that are back, however they came back."""
        left = [_without(kept, ids) if isinstance(kept, tuple) else kept for kept in self._kept]
        self._kept = [kept for kept in left if kept]


def _without(jobs: Sequence[Job], ids: Collection[UUID]) -> tuple[Job, ...]:
    return tuple(job for job in jobs if job.id not in ids)
