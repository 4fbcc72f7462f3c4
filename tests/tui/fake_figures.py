"""Statistics of an in-memory queue; a test sets what it wants to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from jobdeck.core.errors import Refused
from jobdeck.core.model import ActionResult, Job, Status
from jobdeck.core.read.pages.overview import TypeFigures, TypeReport
from jobdeck.core.read.pages.series import SeriesLine, SeriesPause, SeriesReport
from jobdeck.core.read.stats.backlog import TrendReport
from jobdeck.core.read.stats.figures import Trends
from jobdeck.core.read.stats.minutes import LastMinutes
from jobdeck.core.read.type_settings import TypeLine

if TYPE_CHECKING:
    from tests.tui.fake import FakeBackend


class FakeFigures:
    """Serves the figures that a test gave it."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.found: tuple[TypeFigures, ...] = ()
        self.seen: TrendReport | None = None
        self.minutes: LastMinutes | None = None
        self.windows: list[timedelta] = []
        self.reads: list[str] = []

    def _read(self, what: str) -> None:
        self.reads.append(what)
        if self.backend.failure is not None:
            raise self.backend.failure

    def types(self) -> TypeReport:
        """The figures, with the pauses of the backend."""
        self._read("types")
        pauses = {pause.task_type: pause for pause in self.backend.processing.paused_types}
        return TypeReport(self.backend.at, tuple(self._paused(one, pauses) for one in self.found))

    def _paused(self, one: TypeFigures, pauses: Mapping[str, object]) -> TypeFigures:
        pause = pauses.get(one.line.task_type)
        if pause is None:
            return one
        names = {
            "paused_reason": "reason",
            "paused_by": "paused_by",
            "paused_at": "paused_at",
            "resume_at": "resume_at",
        }
        return replace(one, line=replace(one.line, **{to: getattr(pause, of) for to, of in names.items()}))

    def last_minutes(self, number: int) -> LastMinutes:
        """The minutes that the test gave, else a queue that has just begun to count."""
        self._read("minutes")
        none = (None,) * number
        return self.minutes or LastMinutes(self.backend.at.replace(second=0, microsecond=0), none, none, none)

    def trends(self, window: timedelta) -> TrendReport:
        """The report that the test gave, else one without a run."""
        self._read("trends")
        self.windows.append(window)
        at = self.backend.at
        step = timedelta(minutes=5)
        buckets = tuple(at - window + step * number for number in range(1, int(window / step) + 1))[-100:]
        empty = Trends(at, buckets[0], buckets[0], step, buckets, {})
        return self.seen or TrendReport(empty, {}, ())

    def series(self) -> SeriesReport:
        """The recurring jobs of the backend; all failed as often as they say, or succeeded 20 times or more."""
        self._read("series")
        backend = self.backend
        jobs = [job for job in backend.jobs if job.is_recurring and job.status in {Status.PENDING, Status.RUNNING}]
        lines = [self._series(job) for job in sorted(jobs, key=lambda job: (job.task_type, job.id))]
        return SeriesReport(backend.at, tuple(lines), backend.processing)

    def _series(self, job: Job) -> SeriesLine:
        streak = -job.consecutive_failures or (20 if job.last_run_at else 0)
        late = self.backend.at - job.run_at if job.status is Status.PENDING and job.run_at < self.backend.at else None
        pause = SeriesPause(self.backend.at, "bob@10.0.0.9", "moved") if job.is_paused else None
        return SeriesLine(job, streak, streak == 20, None if pause else late, pause)

    def skip(self, job_id: UUID, version: int) -> ActionResult:
        self.backend.calls.append(("skip", job_id))
        if self.backend.failure is not None:
            raise self.backend.failure
        held = next(one for one in self.backend.jobs if one.id == job_id)
        if held.version != version:
            return ActionResult(job_id, ok=False, message="It has changed and is now pending.")
        return ActionResult(job_id, ok=True, message="Skipped. It runs next at 2026-07-04 13:30Z.")

    def pause_series(self, job_id: UUID, version: int) -> ActionResult:
        """Pauses the series, or resumes it where it is paused; `version` is not looked at."""
        at, job = next((place, one) for place, one in enumerate(self.backend.jobs) if one.id == job_id)
        self.backend.calls.append(("resume series" if job.is_paused else "pause series", job_id))
        changed = replace(job, blocked_by=None if job.is_paused else job_id, version=version + 1)
        self.backend.jobs[at] = changed
        return ActionResult(job_id, ok=True, message="Paused." if changed.is_paused else "Resumed.")

    def set_type(
        self, registry: object, task_type: str, changes: Mapping[str, float | datetime | str | None], reason: str | None
    ) -> TypeLine:
        del registry
        self.backend.calls.append(("set type", task_type, dict(changes), reason))
        if self.backend.failure is not None:
            raise self.backend.failure
        if (changes.get("warning_share") or 0) > 1:  # type: ignore[operator]
            raise Refused("A threshold must be more than 0 % and at most 100 %. Nothing was changed.")
        line = next(one.line for one in self.found if one.line.task_type == task_type)
        held: dict[str, Any] = {
            name: line.code.get(name) if value == "code" else value for name, value in changes.items()
        }
        changed = replace(line, **held)
        self.found = tuple(replace(one, line=changed) if one.line is line else one for one in self.found)
        return changed
