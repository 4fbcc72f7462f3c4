"""The statistics on Postgres. All methods block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.queue import operator, service
from jobdeck.core.read.pages import overview, series
from jobdeck.core.read.stats import backlog

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from jobdeck.core.model import ActionResult, Job
    from jobdeck.core.read.pages.overview import TypeReport
    from jobdeck.core.read.pages.series import SeriesReport
    from jobdeck.core.read.stats.backlog import TrendReport
    from jobdeck.core.read.type_settings import TypeLine
    from jobdeck.tui.backend.link import Link


class LiveFigures:
    """Implements `Figures`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def types(self) -> TypeReport:
        with self._link.reach("to read the task types") as conn:
            return overview.types().run(conn)

    def trends(self, window: timedelta) -> TrendReport:
        with self._link.reach("to read the trends") as conn:
            return backlog.trend_report(window).run(conn)

    def series(self) -> SeriesReport:
        with self._link.reach("to read the recurring jobs") as conn:
            return series.series().run(conn)

    def skip(self, job: Job) -> ActionResult:
        link = self._link
        with link.reach("to skip a run") as conn:
            return operator.skip(conn, job.id, actor=link.who(), version=job.version)

    def pause_series(self, job: Job) -> ActionResult:
        link = self._link
        act = operator.resume_series if job.is_paused else operator.pause_series
        with link.reach("to pause or resume a series") as conn:
            return act(conn, job.id, actor=link.who(), version=job.version)

    def set_type(
        self, task_type: str, changes: Mapping[str, float | datetime | None], reason: str | None
    ) -> TypeLine:  # fmt: skip
        link = self._link
        with link.reach(f"to change {task_type}") as conn:
            return service.set_type(conn, link.known(), task_type, changes, actor=link.who(), reason=reason)
