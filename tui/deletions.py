"""What was deleted from here, so that the last deletion can be taken back, and then the one before."""

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
    """A deletion of few jobs that was not answered yet. `back` is told of it if it is to be taken back at once."""

    back: Callable[[UUID], None] | None = None


class Deletions:
    """Few jobs that were deleted at once, or the action that deleted many; the newest last."""

    def __init__(self) -> None:
        self._kept: list[Deletion] = []
        self._awaited: list[Awaited] = []

    def __bool__(self) -> bool:
        return bool(self._kept or self._awaited)

    @property
    def awaited(self) -> Awaited | None:
        """The newest one that was not answered yet."""
        return self._awaited[-1] if self._awaited else None

    def begin(self) -> Awaited:
        """One more is under way."""
        self._awaited.append(Awaited())
        return self._awaited[-1]

    def end(self, awaited: Awaited) -> None:
        """It was answered, whatever the answer."""
        self._awaited.remove(awaited)

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
        """An action that is being taken back, if it was not before."""
        self._kept = [kept for kept in self._kept if kept is not many]

    def restored(self, ids: Collection[UUID]) -> None:
        """Forgets jobs that are back, however they came back."""
        left = [_without(kept, ids) if isinstance(kept, tuple) else kept for kept in self._kept]
        self._kept = [kept for kept in left if kept]


def _without(jobs: Sequence[Job], ids: Collection[UUID]) -> tuple[Job, ...]:
    return tuple(job for job in jobs if job.id not in ids)
