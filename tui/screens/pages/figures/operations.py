"""The actions of the pages of types and series. Each runs once, in the background, and ends with a toast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.tui.commands import skip_twin, type_twin
from jobdeck.tui.format import one_line, short_id

if TYPE_CHECKING:
    from collections.abc import Mapping
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

        def done(result: ActionResult) -> None:
            refused = "" if result.ok else " refused"
            text = f"{short_id(job.id)}{refused}: {one_line(result.message)}\n{skip_twin(job)}"
            self._deck.say(text, "information" if result.ok else "warning")

        what = f"skip a run of job {short_id(job.id)}"
        self._deck.operations.run(what, lambda: self._deck.reach().figures.skip(job), done)
