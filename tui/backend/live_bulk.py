"""Actions on many jobs, on the queue itself. Everything blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import Refused
from jobdeck.core.queue import bulk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from jobdeck.core.model import Filter, Job
    from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, BulkVerb, Choice
    from jobdeck.tui.backend.link import Link

PART: Final = 1_000
"""Answers read at a time."""


class LiveBulk:
    """Bulk actions in Postgres."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def choose(self, wanted: Filter) -> Choice | None:
        """Freezes the jobs in the queue that match; None where none does."""
        with self._link.reach("to choose all jobs that match") as conn:
            return bulk.choose(conn, wanted, actor=self._link.who())

    def choose_jobs(self, jobs: Sequence[Job]) -> Choice:
        """Freezes these jobs, each in the version that was seen."""
        with self._link.reach(f"to choose {len(jobs)} jobs") as conn:
            return bulk.choose_ids(conn, {job.id: job.version for job in jobs}, actor=self._link.who())

    def choose_done(self, bulk_id: UUID) -> Choice | None:
        """Freezes the jobs that an earlier action was done to, for taking it back."""
        with self._link.reach("to choose the jobs of a bulk action") as conn:
            return bulk.choose_again(conn, bulk_id, "done", actor=self._link.who())

    def start(self, bulk_id: UUID, verb: BulkVerb) -> Bulk:
        """Has the action begin."""
        with self._link.reach(f"to {verb} many jobs") as conn:
            return bulk.start(conn, bulk_id, verb, actor=self._link.who())

    def step(self, bulk_id: UUID) -> Bulk:
        """Acts on the next of its jobs."""
        with self._link.reach("to go on with a bulk action") as conn:
            return bulk.step(conn, bulk_id, driver=self._link.who())

    def stop(self, bulk_id: UUID) -> Bulk:
        """Ends it with what is done."""
        with self._link.reach("to stop a bulk action") as conn:
            bulk.stop(conn, bulk_id, actor=self._link.who())
            found = bulk.find(conn, bulk_id)
        if found is None:
            raise Refused("This bulk action is gone: they are kept for 30 days.")
        return found

    def drop(self, bulk_id: UUID) -> None:
        """Forgets a choice that no action was begun on."""
        with self._link.reach("to forget a choice") as conn:
            bulk.drop(conn, bulk_id)

    def newest(self) -> Sequence[Bulk]:
        """The actions that were begun, newest first."""
        with self._link.reach("to read bulk actions") as conn:
            return bulk.newest(conn)

    def answers(self, bulk_id: UUID, *, refused: bool, after: UUID | None) -> Sequence[BulkAnswer]:
        """The answers in the order of the ids, behind `after`; a part of them at a time."""
        with self._link.reach("to read the answers of a bulk action") as conn:
            return bulk.answers(conn, bulk_id, refused=refused, after=after, limit=PART)
