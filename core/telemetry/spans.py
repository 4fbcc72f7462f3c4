"""What producers and workers know of spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from uuid import UUID

    from jobdeck.core.model import FinishedRun, RunOutcome, Ticket


class Origin(NamedTuple):
    """The spans that a run belongs to, as W3C Trace Context has them: of the enqueue, and of the run before."""

    producer: str | None = None
    run_before: str | None = None


class Sending(Protocol):
    """The span of an enqueue."""

    @property
    def traceparent(self) -> str | None:
        """What the jobs carry to their runs; None if nothing is recorded."""

    def enqueued(self, ticket: Ticket) -> Ticket:
        """Notes and counts the job, if it was created; returns what it was given."""

    def enqueued_many(self, ids: list[UUID]) -> list[UUID]:
        """The same for the jobs that were created together."""


class RunSpan(Protocol):
    """The span of one run, from the start of its handler until its report is stored."""

    @property
    def traceparent(self) -> str | None: ...

    def end(self, run: FinishedRun | None, recorded: RunOutcome | None) -> None:
        """Ends the span and counts the run. `recorded` is None for a run whose report the database did not get."""
