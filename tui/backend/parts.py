"""The parts of the backend: creating jobs, bulk actions, types and series, notes and mutes. All block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from jobdeck.core import plugins
from jobdeck.core.errors import JobdeckError, Refused
from jobdeck.core.queue import bulk, service
from jobdeck.core.queue.operators import bulk_edit
from jobdeck.core.queue.requests import changes
from jobdeck.core.worker.runs import preview
from jobdeck.tui.backend.protocol import QuickSync, Rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from uuid import UUID

    from jobdeck.core.model import ActionResult, Enqueued, Filter, Job, Json
    from jobdeck.core.plugins import Found, Preset
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, BulkVerb, Choice
    from jobdeck.core.queue.operators.payload_change import EditRehearsal, PayloadChange
    from jobdeck.core.queue.requests import Wanted
    from jobdeck.core.read.batch import Query
    from jobdeck.core.registry import JobType, Registry
    from jobdeck.core.settings import Settings

T = TypeVar("T")
P = ParamSpec("P")
PART: Final = 1_000
"""Number of results of a bulk action that are read at a time."""
NO_PREVIEW: Final = "This type has no preview of its effects."


class Access:
    """The way to the database. `doing` completes the sentence about a lost connection: "to read"."""

    settings: Settings
    database: Database | None
    connection: Callable[[str], AbstractContextManager[Any]]
    translated: Callable[[str], AbstractContextManager[None]]

    @property
    def actor(self) -> str:
        """The user name for the audit log."""
        raise NotImplementedError

    @property
    def known(self) -> Registry:
        """The task types with a handler here."""
        raise NotImplementedError

    def read(self, query: Callable[P, Query[T]], *given: P.args, **named: P.kwargs) -> T:
        """The result of a query."""
        with self.connection("to read") as conn:
            return query(*given, **named).run(conn)

    def change(self, doing: str, work: Callable[..., T]) -> T:
        """What a function of the queue answers, which gets a connection and the user's name as `actor`."""
        with self.connection(f"to {doing}") as conn:
            return work(conn, actor=self.actor)


class Part:
    def __init__(self, access: Access) -> None:
        self._to = access


class Bulks(Part):
    """Bulk actions. Their jobs are frozen first: their ids and versions are stored, and jobs changed later refused."""

    def choose(self, wanted: Filter) -> Choice | None:
        with self._to.connection("to select all matching jobs") as conn:
            return bulk.choose(conn, wanted, actor=self._to.actor)

    def choose_alike(self, task_type: str, fingerprint: str) -> Choice | None:
        """Freezes the failed and pending jobs of a group of errors."""
        with self._to.connection("to select the jobs of a group of errors") as conn:
            return bulk.choose_alike(conn, task_type, fingerprint, actor=self._to.actor)

    def choose_jobs(self, jobs: Sequence[Job]) -> Choice:
        """Freezes these jobs in their displayed versions."""
        with self._to.connection(f"to select {len(jobs)} jobs") as conn:
            return bulk.choose_ids(conn, {job.id: job.version for job in jobs}, actor=self._to.actor)

    def choose_undo(self, found: Bulk) -> Choice | None:
        """Freezes the jobs that an earlier action changed."""
        with self._to.connection("to select the jobs of a bulk action") as conn:
            return bulk.choose_undo(conn, found, actor=self._to.actor)

    def start(self, bulk_id: UUID, verb: BulkVerb, reason: str | None = None) -> Bulk:
        with self._to.connection(f"to {verb} many jobs") as conn:
            return bulk.start(conn, bulk_id, verb, actor=self._to.actor, reason=reason)

    def rehearse_edit(self, bulk_id: UUID, change: PayloadChange) -> EditRehearsal:
        to = self._to
        with to.connection("to prepare the edit of many jobs") as conn:
            return bulk_edit.rehearse(conn, to.known, bulk_id, change, settings=to.settings, actor=to.actor)

    def start_edit(self, bulk_id: UUID, change: PayloadChange, reason: str | None = None) -> Bulk:
        with self._to.connection("to edit many jobs") as conn:
            return bulk_edit.start(conn, bulk_id, change, actor=self._to.actor, reason=reason)

    def step(self, bulk_id: UUID) -> Bulk:
        """Changes the next batch of jobs."""
        to = self._to
        with to.connection("to continue a bulk action") as conn:
            found = bulk.find(conn, bulk_id)
            if found is None or found.action != "edit":
                return bulk.step(conn, bulk_id, driver=to.actor)
            return bulk_edit.step(conn, to.known, bulk_id, settings=to.settings, driver=to.actor)

    def stop(self, bulk_id: UUID) -> Bulk:
        with self._to.connection("to stop a bulk action") as conn:
            bulk.stop(conn, bulk_id, actor=self._to.actor)
            found = bulk.find(conn, bulk_id)
        if found is None:
            raise Refused("This bulk action no longer exists. Bulk actions are kept for 30 days.")
        return found

    def drop(self, bulk_id: UUID) -> None:
        with self._to.connection("to drop a selection") as conn:
            bulk.drop(conn, bulk_id)

    def newest(self) -> Sequence[Bulk]:
        with self._to.connection("to read bulk actions") as conn:
            return bulk.newest(conn)

    def answers(self, bulk_id: UUID, *, refused: bool, after: UUID | None) -> Sequence[BulkAnswer]:
        """A page of the results per job, ordered by id, starting after the id `after`."""
        with self._to.connection("to read the results of a bulk action") as conn:
            return bulk.answers(conn, bulk_id, refused=refused, after=after, limit=PART)


class Creating(Part):
    """Creates and edits jobs. `types`, `changes` and `quick_syncs` do not block."""

    def types(self) -> tuple[JobType, ...]:
        return tuple(self._to.known.require(name) for name in self._to.known.names)

    def find(self, key: str, text: str) -> Sequence[Found]:
        """The values that the search of a payload key finds for a text."""
        search = plugins.searches()[key]
        with self._to.connection(f"to search for a {search.noun}") as conn:
            return search.find(conn, text)

    def create(self, wanted: Wanted) -> Enqueued:
        to = self._to
        with to.connection("to enqueue a job") as conn:
            return service.create(conn, to.known, wanted, settings=to.settings, actor=to.actor)

    def changes(self, job: Job, wanted: Wanted) -> Json:
        return changes(self._to.known, job, wanted, job.run_at)

    def edit(self, job: Job, wanted: Wanted) -> ActionResult:
        to = self._to
        with to.connection("to edit a job") as conn:
            return service.edit(conn, to.known, job, wanted, settings=to.settings, actor=to.actor)

    def rehearse(self, wanted: Wanted, job: Job | None) -> Rehearsal:
        """Previews a new job, or the edit of `job`. Changes nothing."""
        to = self._to
        with to.connection("to preview it") as conn:
            answer = service.rehearse(conn, to.known, wanted, job, settings=to.settings, actor=to.actor)
        result = Rehearsal(answer.message, answer.ok)
        known = to.known.get(wanted.task_type)
        if known is None or to.database is None:
            return result
        try:
            with to.translated("to read the data of the preview"):
                found = preview.effects(known, wanted.payload, settings=to.settings, database=to.database)
        except Refused as refusal:
            return replace(result, remark=f"{refusal} Connect as a member of job_worker to see the preview.")
        except JobdeckError as error:
            return replace(result, ok=False, remark=f"A run would fail: {error}")
        return replace(result, effects=found, remark="" if found is not None else NO_PREVIEW)

    def quick_syncs(self) -> tuple[QuickSync, ...]:
        return tuple(QuickSync(preset, self._missing(preset)) for preset in plugins.presets().values())

    def quick_sync(self, name: str) -> Sequence[Enqueued]:
        with self._to.connection("to enqueue a quick sync") as conn:
            return service.enqueue_preset(conn, self._to.known, plugins.presets()[name], actor=self._to.actor)

    def _missing(self, preset: Preset) -> str:
        absent = service.missing_types(self._to.known, preset)
        return f"no handler here: {', '.join(absent)}" if absent else ""
