"""Bulk actions on Postgres. All methods block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import Refused
from jobdeck.core.queue import bulk
from jobdeck.core.queue.operators import bulk_edit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from jobdeck.core.model import Filter, Job
    from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, BulkVerb, Choice
    from jobdeck.core.queue.operators.payload_change import EditRehearsal, PayloadChange
    from jobdeck.tui.backend.link import Link

PART: Final = 1_000
"""Number of results read at a time."""


class LiveBulk:
    """Implements `Bulks`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def choose(self, wanted: Filter) -> Choice | None:
        with self._link.reach("to select all matching jobs") as conn:
            return bulk.choose(conn, wanted, actor=self._link.who())

    def choose_alike(self, task_type: str, fingerprint: str) -> Choice | None:
        with self._link.reach("to select the jobs of a group of errors") as conn:
            return bulk.choose_alike(conn, task_type, fingerprint, actor=self._link.who())

    def choose_jobs(self, jobs: Sequence[Job]) -> Choice:
        with self._link.reach(f"to select {len(jobs)} jobs") as conn:
            return bulk.choose_ids(conn, {job.id: job.version for job in jobs}, actor=self._link.who())

    def choose_undo(self, found: Bulk) -> Choice | None:
        with self._link.reach("to select the jobs of a bulk action") as conn:
            return bulk.choose_undo(conn, found, actor=self._link.who())

    def start(self, bulk_id: UUID, verb: BulkVerb, reason: str | None = None) -> Bulk:
        with self._link.reach(f"to {verb} many jobs") as conn:
            return bulk.start(conn, bulk_id, verb, actor=self._link.who(), reason=reason)

    def rehearse_edit(self, bulk_id: UUID, change: PayloadChange) -> EditRehearsal:
        with self._link.reach("to prepare the edit of many jobs") as conn:
            return bulk_edit.rehearse(
                conn, self._link.known(), bulk_id, change, settings=self._link.settings, actor=self._link.who()
            )

    def start_edit(self, bulk_id: UUID, change: PayloadChange, reason: str | None = None) -> Bulk:
        with self._link.reach("to edit many jobs") as conn:
            return bulk_edit.start(conn, bulk_id, change, actor=self._link.who(), reason=reason)

    def step(self, bulk_id: UUID) -> Bulk:
        with self._link.reach("to continue a bulk action") as conn:
            found = bulk.find(conn, bulk_id)
            if found is None or found.action != "edit":
                return bulk.step(conn, bulk_id, driver=self._link.who())
            return bulk_edit.step(
                conn, self._link.known(), bulk_id, settings=self._link.settings, driver=self._link.who()
            )

    def stop(self, bulk_id: UUID) -> Bulk:
        with self._link.reach("to stop a bulk action") as conn:
            bulk.stop(conn, bulk_id, actor=self._link.who())
            found = bulk.find(conn, bulk_id)
        if found is None:
            raise Refused("This bulk action no longer exists. Bulk actions are kept for 30 days.")
        return found

    def drop(self, bulk_id: UUID) -> None:
        with self._link.reach("to drop a selection") as conn:
            bulk.drop(conn, bulk_id)

    def newest(self) -> Sequence[Bulk]:
        with self._link.reach("to read bulk actions") as conn:
            return bulk.newest(conn)

    def answers(self, bulk_id: UUID, *, refused: bool, after: UUID | None) -> Sequence[BulkAnswer]:
        with self._link.reach("to read the results of a bulk action") as conn:
            return bulk.answers(conn, bulk_id, refused=refused, after=after, limit=PART)
