"""The line of keys at the bottom of a screen: those that apply now, and to how many jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len

from jobdeck.core.model import Status
from jobdeck.tui.actions import BY_ID, ON_MANY, Action, Scope, Situation, applicable, offered, runs_again, unavailable
from jobdeck.tui.backend.bulk_words import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobdeck.tui.widgets.ink import Span

KEPT = ("help", "quit", "palette")
"""Keys that stay on the line where there is a mouse."""
NARROW_LABELS = {" run now": " run  ", " run again": " again"}
"""As wide as the same key's label on another job, so that the keys beside it do not move."""


def keys(scope: Scope, situation: Situation, width: int, *, paused: bool = False) -> list[Span]:
    """The keys of a scope. Keys that do not apply now are dimmed, and say why when pressed. Help is never left out.

    With a mouse, quit and the palette stay as well, the palette last.
    """
    kept = KEPT if situation.mouse else ("help",)
    shown = [action for action in offered(scope) if action.footer]
    shown += [BY_ID["palette"]] if situation.mouse else []
    if situation.can_undo and scope == "list":
        shown.insert(0, BY_ID["mark.undo"])
    spans = {action: _key(action, scope, situation, paused=paused) for action in shown}
    if _length(spans.values()) > width + 2:
        spans = {action: [(NARROW_LABELS.get(text, text), ink) for text, ink in key] for action, key in spans.items()}
    while len(spans) > len(kept) and _length(spans.values()) > width + 2:
        del spans[next(action for action in reversed(spans) if action.id not in kept)]
    margin: list[Span] = [(" ", "text")] if _length(spans.values()) < width + 2 else []
    return [*margin, *[span for key in spans.values() for span in key][1:]]


def _length(keys: Iterable[Sequence[Span]]) -> int:
    return sum(cell_len(text) for key in keys for text, _ in key)


def _key(action: Action, scope: Scope, situation: Situation, *, paused: bool) -> list[Span]:
    grey = unavailable(action, situation) is not None
    key = situation.key(action)
    name = "⏎" if key == "enter" else key
    label = _label(action, scope, situation, paused=paused)
    return [("  ", "text"), (name, "muted" if grey else "key"), (f" {label}", "muted" if grey else "text")]


def _label(action: Action, scope: Scope, situation: Situation, *, paused: bool) -> str:
    if action.id == "quit" and scope != "list":
        return "back"
    if action.id == "processing" and paused:
        return "resume"
    if action.id == "mark.undo":
        return "undo delete"
    if action.id == "palette":
        return "all actions"
    if action.id == "job.retry" and situation.jobs and all(job.status is Status.PENDING for job in situation.jobs):
        return "run now"
    label = "run again" if action.id == "job.retry" and runs_again(situation) else action.label
    return f"{label}{_how_many(action, situation)}"


def _how_many(action: Action, situation: Situation) -> str:
    """The number of jobs that the action would change; empty for one job."""
    if situation.chosen is not None and action.id in ON_MANY:
        return f" {number(sum(situation.chosen.of(status.value) for status in action.states or ()))}"
    if action.changes and len(situation.jobs) > 1 and action.id in ON_MANY:
        return f" {len(applicable(action, situation.jobs))}"
    return ""
