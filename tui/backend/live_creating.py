"""What makes and changes jobs, on the queue itself. Everything but `types` and `quick_syncs` blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jobdeck.core import plugins
from jobdeck.core.errors import JobdeckError, Refused
from jobdeck.core.queue import presets, service
from jobdeck.core.queue.requests import changes
from jobdeck.core.worker import preview
from jobdeck.tui.backend.protocol import QuickSync, Rehearsal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.model import ActionResult, Enqueued, Job, Json
    from jobdeck.core.plugins import Found, Preset
    from jobdeck.core.queue.requests import Wanted
    from jobdeck.core.registry import JobType, Registry
    from jobdeck.tui.backend.link import Link

NO_PREVIEW: Final = "This type has no preview of its effects."


class LiveCreating:
    """The queue in Postgres, as the Create Job form and Quick Sync see it."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def types(self) -> tuple[JobType, ...]:
        """The task types that have a handler here, by their names."""
        registry = self._link.known()
        return tuple(registry.require(name) for name in registry.names)

    def find(self, key: str, text: str) -> Sequence[Found]:
        """What the look-up for a payload key finds for a text."""
        search = plugins.searches()[key]
        with self._link.reach(f"to look for a {search.noun}") as conn:
            return search.find(conn, text)

    def create(self, wanted: Wanted) -> Enqueued:
        """Enqueues the job."""
        with self._link.reach("to enqueue a job") as conn:
            return service.create(
                conn, self._link.known(), wanted, settings=self._link.settings, actor=self._link.who()
            )

    def changes(self, job: Job, wanted: Wanted) -> Json:
        """What an edit would change; empty where nothing."""
        return changes(self._link.known(), job, wanted, job.run_at)

    def edit(self, job: Job, wanted: Wanted) -> ActionResult:
        """Changes the job, in the version that was seen."""
        with self._link.reach("to edit a job") as conn:
            return service.edit(
                conn, self._link.known(), job, wanted, settings=self._link.settings, actor=self._link.who()
            )

    def rehearse(self, wanted: Wanted, job: Job | None) -> Rehearsal:
        """Says what would come of it, and changes nothing."""
        registry = self._link.known()
        with self._link.reach("to try it") as conn:
            answer = service.rehearse(conn, registry, wanted, job, settings=self._link.settings, actor=self._link.who())
        said = Rehearsal(answer.message, answer.ok)
        known = registry.get(wanted.task_type)
        if known is None:
            return said
        try:
            with self._link.told("to read what a preview needs"):
                settings, database = self._link.settings, self._link.pool()
                found = preview.effects(known, wanted.payload, settings=settings, database=database)
        except Refused as refusal:
            return replace(said, remark=f"{refusal} Connect as a member of job_worker to see what a run would do.")
        except JobdeckError as error:
            return replace(said, ok=False, remark=f"A run would fail: {error}")
        return replace(said, effects=found, remark="" if found is not None else NO_PREVIEW)

    def quick_syncs(self) -> tuple[QuickSync, ...]:
        """The presets of the plugins, and why one cannot be enqueued here."""
        registry = self._link.known()
        return tuple(QuickSync(preset, _missing(preset, registry)) for preset in plugins.presets().values())

    def quick_sync(self, name: str) -> Sequence[Enqueued]:
        """Enqueues the jobs of a preset, in one transaction."""
        with self._link.reach("to enqueue a quick sync") as conn:
            return presets.enqueue(conn, self._link.known(), plugins.presets()[name], actor=self._link.who())


def _missing(preset: Preset, registry: Registry) -> str:
    absent = presets.missing(registry, preset)
    return f"no handler here: {', '.join(absent)}" if absent else ""
