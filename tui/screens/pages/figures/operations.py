"""The actions of the pages of types and series. Each runs once, in the background, and ends with a toast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.tui.commands import pause_series_twin, skip_twin, type_twin
from jobdeck.tui.format import one_line, short_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from jobdeck.core.model import ActionResult, Job
    from jobdeck.core.read.type_settings import TypeLine
    from jobdeck.tui.deck import Deck


class FigureOperations:
    """Starts the actions and reports their results."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def set_type(
        self, task_type: str, changes: Mapping[str, float | datetime | None], reason: str | None
    ) -> None:  # fmt: skip
        """Changes settings of a task type."""
        name = one_line(task_type)

        def done(line: TypeLine) -> None:
            nobody = "" if line.workers else "\nNo live worker handles it."
            self._deck.say(f"Settings of {name} changed.{nobody}\n{type_twin(task_type, changes, reason)}")

        self._deck.operations.run(
            f"change {name}", lambda: self._deck.reach().figures.set_type(task_type, changes, reason), done
        )

    def skip(self, job: Job) -> None:
        """Skips the next run of a series."""
        what = f"skip a run of job {short_id(job.id)}"
        self._act(job, what, skip_twin(job), lambda: self._deck.reach().figures.skip(job))

    def pause_series(self, job: Job) -> None:
        """Pauses a series alone, or resumes it."""
        what = f"{'resume' if job.is_paused else 'pause'} job {short_id(job.id)}"
        self._act(job, what, pause_series_twin(job), lambda: self._deck.reach().figures.pause_series(job))

    def _act(self, job: Job, what: str, same: str, act: Callable[[], ActionResult]) -> None:
        def done(result: ActionResult) -> None:
            refused = "" if result.ok else " refused"
            text = f"{short_id(job.id)}{refused}: {one_line(result.message)}\n{same}"
            self._deck.say(text, "information" if result.ok else "warning")

        self._deck.operations.run(what, act, done)
