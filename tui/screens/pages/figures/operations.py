"""The actions of the pages of types and series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.tui.commands import pause_series_twin, skip_twin, type_twin
from jobdeck.tui.format import one_line, short_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from jobdeck.core.model import ActionResult, Job
    from jobdeck.tui.deck import Deck


def set_type(deck: Deck, task_type: str, changes: Mapping[str, float | datetime | None], reason: str | None) -> None:
    name = one_line(task_type)
    deck.operations.do(
        f"change {name}",
        lambda: deck.reach().figures.set_type(task_type, changes, reason),
        lambda line: f"Settings of {name} changed." + ("" if line.workers else "\nNo live worker handles it."),
        type_twin(task_type, changes, reason),
    )


def skip(deck: Deck, job: Job) -> None:
    _act(deck, job, "skip a run of", skip_twin(job), lambda: deck.reach().figures.skip(job))


def pause_series(deck: Deck, job: Job) -> None:
    """Pauses a series alone, or resumes it."""
    what = "resume" if job.is_paused else "pause"
    _act(deck, job, what, pause_series_twin(job), lambda: deck.reach().figures.pause_series(job))


def _act(deck: Deck, job: Job, what: str, twin: str, act: Callable[[], ActionResult]) -> None:
    def done(result: ActionResult) -> None:
        refused = "" if result.ok else " refused"
        text = f"{short_id(job.id)}{refused}: {one_line(result.message)}\n{twin}"
        deck.say(text, "information" if result.ok else "warning")

    deck.operations.run(f"{what} job {short_id(job.id)}", act, done)
