"""The line of keys at the foot of a screen: those that apply now, and on how many jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len

from jobdeck.core.model import Status
from jobdeck.tui.actions import BY_ID, ON_MANY, Action, Scope, Situation, applicable, offered, unavailable
from jobdeck.tui.backend.bulk_words import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobdeck.tui.widgets.ink import Span

KEPT = ("help", "quit", "palette")
"""What a mouse is never left without."""
NARROW_LABELS = {" run now": " run  "}
"""As wide as what the same key does on another job, so that the keys beside it stay where they are."""


def keys(scope: Scope, situation: Situation, width: int, *, paused: bool = False) -> list[Span]:
    """The keys that apply now; those that do not are dimmed, and say why when pressed. Help is never left out.

    Where there is a mouse, neither is the way back, and the way to all other actions comes last.
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
    return f"{action.label}{_how_many(action, situation)}"


def _how_many(action: Action, situation: Situation) -> str:
    """How many jobs an action on several would take."""
    if situation.chosen is not None and action.id in ON_MANY:
        return f" {number(sum(situation.chosen.of(status.value) for status in action.states or ()))}"
    if action.changes and len(situation.jobs) > 1 and action.id in ON_MANY:
        return f" {len(applicable(action, situation.jobs))}"
    return ""
