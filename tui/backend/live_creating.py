"""Creating and editing jobs on Postgres."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jobdeck.core import plugins
from jobdeck.core.errors import JobdeckError, Refused
from jobdeck.core.queue import service
from jobdeck.core.queue.requests import changes
from jobdeck.core.worker.runs import preview
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
    """Implements `Creating`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def types(self) -> tuple[JobType, ...]:
        registry = self._link.known()
        return tuple(registry.require(name) for name in registry.names)

    def find(self, key: str, text: str) -> Sequence[Found]:
        search = plugins.searches()[key]
        with self._link.reach(f"to search for a {search.noun}") as conn:
            return search.find(conn, text)

    def create(self, wanted: Wanted) -> Enqueued:
        with self._link.reach("to enqueue a job") as conn:
            return service.create(
                conn, self._link.known(), wanted, settings=self._link.settings, actor=self._link.who()
            )

    def changes(self, job: Job, wanted: Wanted) -> Json:
        return changes(self._link.known(), job, wanted, job.run_at)

    def edit(self, job: Job, wanted: Wanted) -> ActionResult:
        with self._link.reach("to edit a job") as conn:
            return service.edit(
                conn, self._link.known(), job, wanted, settings=self._link.settings, actor=self._link.who()
            )

    def rehearse(self, wanted: Wanted, job: Job | None) -> Rehearsal:
        registry = self._link.known()
        with self._link.reach("to preview it") as conn:
            answer = service.rehearse(conn, registry, wanted, job, settings=self._link.settings, actor=self._link.who())
        result = Rehearsal(answer.message, answer.ok)
        known = registry.get(wanted.task_type)
        if known is None:
            return result
        try:
            with self._link.translated("to read the data of the preview"):
                settings, database = self._link.settings, self._link.pool()
                found = preview.effects(known, wanted.payload, settings=settings, database=database)
        except Refused as refusal:
            return replace(result, remark=f"{refusal} Connect as a member of job_worker to see the preview.")
        except JobdeckError as error:
            return replace(result, ok=False, remark=f"A run would fail: {error}")
        return replace(result, effects=found, remark="" if found is not None else NO_PREVIEW)

    def quick_syncs(self) -> tuple[QuickSync, ...]:
        registry = self._link.known()
        return tuple(QuickSync(preset, _missing(preset, registry)) for preset in plugins.presets().values())

    def quick_sync(self, name: str) -> Sequence[Enqueued]:
        with self._link.reach("to enqueue a quick sync") as conn:
            return service.enqueue_preset(conn, self._link.known(), plugins.presets()[name], actor=self._link.who())


def _missing(preset: Preset, registry: Registry) -> str:
    absent = service.missing_types(registry, preset)
    return f"no handler here: {', '.join(absent)}" if absent else ""
