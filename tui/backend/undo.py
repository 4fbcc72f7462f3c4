"""The deletions of this session that can be undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobdeck.core.queue.bulk_model import Bulk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from jobdeck.core.model import Job

Deletion = tuple["Job", ...] | Bulk


@dataclass(eq=False, slots=True)
class Awaited:
    """A deletion of few jobs, which has no result yet.

    If `back` is set, it is undone at its result, and `back` is called. `deleted` are then the jobs that it deleted.
    """

    jobs: tuple[Job, ...]
    back: Callable[[UUID], None] | None = None
    deleted: tuple[Job, ...] | None = None


class Deletions:
    """The deletions that can be undone, newest last: small ones as their jobs, large ones as their bulk action."""

    def __init__(self) -> None:
        self._kept: list[Deletion] = []
        self._awaited: list[Awaited] = []

    def __bool__(self) -> bool:
        return bool(self._kept or self._awaited)

    @property
    def awaited(self) -> Awaited | None:
        """The newest deletion without a result yet."""
        return self._awaited[-1] if self._awaited else None

    def begin(self, jobs: tuple[Job, ...]) -> Awaited:
        self._awaited.append(Awaited(jobs))
        return self._awaited[-1]

    def end(self, awaited: Awaited) -> None:
        self._awaited.remove(awaited)

    @property
    def last(self) -> Deletion | None:
        """The newest deletion that was not undone."""
        return self._kept[-1] if self._kept else None

    def holds(self, job_id: UUID) -> bool:
        """Whether this job is in one of the small deletions."""
        return any(job.id == job_id for kept in self._kept if isinstance(kept, tuple) for job in kept)

    def add(self, deletion: Deletion) -> None:
        self._kept.append(deletion)

    def drop(self, many: Bulk) -> None:
        """Removes a bulk action whose undo has started."""
        self._kept = [kept for kept in self._kept if kept is not many]

    def restored(self, ids: Collection[UUID]) -> None:
        """Removes jobs that were restored in any way."""
        left = [_without(kept, ids) if isinstance(kept, tuple) else kept for kept in self._kept]
        self._kept = [kept for kept in left if kept]


def _without(jobs: Sequence[Job], ids: Collection[UUID]) -> tuple[Job, ...]:
    return tuple(job for job in jobs if job.id not in ids)
