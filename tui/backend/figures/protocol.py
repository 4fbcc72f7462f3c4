"""What the pages of types, trends and series ask of the backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from jobdeck.core.model import ActionResult, Job
    from jobdeck.core.read.pages.overview import TypeReport
    from jobdeck.core.read.pages.series import SeriesReport
    from jobdeck.core.read.stats.backlog import TrendReport
    from jobdeck.core.read.type_settings import TypeLine


class Figures(Protocol):
    """Reads of statistics, and the actions on task types and series. Methods block and raise `JobdeckError`."""

    def types(self) -> TypeReport:
        """Reads all task types with their figures."""

    def trends(self, window: timedelta) -> TrendReport:
        """Reads the trends of all task types.

        Raises:
            UsageError: the window is not between 5 minutes and 30 days.
        """

    def series(self) -> SeriesReport:
        """Reads the recurring jobs."""

    def skip(self, job: Job) -> ActionResult:
        """Skips the next run of a recurring job. Refused when its version differs from the displayed one."""

    def pause_series(self, job: Job) -> ActionResult:
        """Pauses a recurring job alone, or resumes it if the displayed version is paused."""

    def set_type(
        self, task_type: str, changes: Mapping[str, float | datetime | None], reason: str | None
    ) -> TypeLine:  # fmt: skip
        """Changes settings of a task type: `warning_share`, `critical_share`, `muted_until`; None resets one.

        Raises:
            Refused: a setting is not possible; nothing was changed.
        """
