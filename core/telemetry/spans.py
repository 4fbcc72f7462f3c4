"""What producers and workers know of spans, also where none are recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from jobdeck.core.model import Ticket


class Origin(NamedTuple):
    """The spans that a run belongs to, as W3C Trace Context has them: of the enqueue, and of the run before."""

    producer: str | None = None
    run_before: str | None = None


class Sending:
    """The span of an enqueue. This class is that of a process that records none."""

    traceparent: str | None = None
    """What the jobs carry to their runs; None if nothing is recorded."""

    def enqueued(self, ticket: Ticket) -> Ticket:
        """Notes and counts the job, if it was created; returns what it was given."""
        return ticket

    def enqueued_many(self, ids: list[UUID]) -> list[UUID]:
        """The same for the jobs of one type that were created together."""
        return ids

    def enqueued_each(self, task_types: Iterable[str], flow_id: UUID | None = None) -> None:
        """Notes and counts the jobs of these types that were created together, as members of a flow if it is given."""
