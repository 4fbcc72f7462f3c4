"""The line of keys at the bottom of a screen: those that apply now, and to how many jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from jobdeck.core.model import Status
from jobdeck.tui.actions import (
    BY_ID,
    ON_MANY,
    ON_ONE,
    Action,
    Scope,
    Situation,
    applicable,
    offered,
    runs_again,
    unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobdeck.tui.widgets.ink import Span

KEPT = ("help", "quit", "palette")
"""Keys that are always on the line; the palette only where there is a mouse."""
TABS: Final = "tabs"
FIRST: Final = (
    "job.detail", "filter", TABS, "page.errors", "help", "quit", "mark.undo", "job.retry", "processing", "job.cancel",
    "job.delete", "job.new", "page.health", "worker.cycle", "quick.sync", "refresh",
)  # fmt: skip
"""The keys of the list, the one that a newcomer needs first in front. What does not fit is left out from the end."""
COMMON: Final = ("help", "quit", "processing", "page.errors", "page.health", "job.new", "refresh")
"""The keys that most pages have; a page's own keys are in front of them."""
WHERE_NEEDED: Final = frozenset({"flow.cancel"})
"""Keys that few jobs have a use for: they are on the line only where they apply."""
NARROW_LABELS = {" run now": " run  ", " run again": " again"}
"""As wide as the same key's label on another job, so that the keys beside it do not move."""


def keys(scope: Scope, situation: Situation, width: int, *, paused: bool = False) -> list[Span]:
    """The keys of a scope, the most needed first. Keys that do not apply now are dimmed, and say why when pressed.

    While several jobs are selected, the actions on them come first. Help and quit are never left out. With a mouse,
    the palette stays as well, as the last.
    """
    spans = {name: _spans(name, scope, situation, paused=paused) for name in _names(scope, situation)}
    if _length(spans.values()) > width + 2:
        spans = {name: [(NARROW_LABELS.get(text, text), ink) for text, ink in key] for name, key in spans.items()}
    while len(spans) > len(KEPT) and _length(spans.values()) > width + 2:
        del spans[next(name for name in reversed(spans) if name not in KEPT)]
    margin: list[Span] = [(" ", "text")] if _length(spans.values()) < width + 2 else []
    return [*margin, *[span for key in spans.values() for span in key][1:]]


def _names(scope: Scope, situation: Situation) -> list[str]:
    """The ids of the actions on the line, the most needed first; `TABS` stands for those that choose a tab."""
    absent = WHERE_NEEDED & situation.refused.keys()
    names = [action.id for action in offered(scope) if action.footer and action.id not in absent]
    if scope == "list":
        names = [name for name in names if name in FIRST]
        names += [TABS, *(["mark.undo"] if situation.can_undo else [])]
        names.sort(key=FIRST.index)
        if situation.chosen is not None or len(situation.jobs) > 1:
            names.sort(key=lambda name: name not in ON_MANY)
    else:
        names.sort(key=lambda name: COMMON.index(name) if name in COMMON else -1)
    return [*names, "palette"] if situation.mouse and scope in BY_ID["palette"].scopes else names


def _spans(name: str, scope: Scope, situation: Situation, *, paused: bool) -> list[Span]:
    if name == TABS:
        first, last = (situation.key(BY_ID[f"tab.{tab}"]) for tab in ("all", "cancelled"))
        return [("  ", "text"), (f"{first}-{last}", "key"), (" tabs", "text")]
    return _key(BY_ID[name], scope, situation, paused=paused)


def _length(keys: Iterable[Sequence[Span]]) -> int:
    return sum(cell_len(text) for key in keys for text, _ in key)


def _key(action: Action, scope: Scope, situation: Situation, *, paused: bool) -> list[Span]:
    grey = unavailable(action, situation) is not None
    key = situation.key(action)
    name = "⏎" if key == "enter" else key
    label = _label(action, scope, situation, paused=paused)
    return [("  ", "text"), (name, "muted" if grey else "key"), (f" {label}", "muted" if grey else "text")]


def _label(action: Action, scope: Scope, situation: Situation, *, paused: bool) -> str:
    if action.id == "quit" and (situation.in_fleet or scope != "list") and scope != "fleet":
        return "fleet" if scope == "list" else "back"
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
        return f" {sum(situation.chosen.of(status.value) for status in action.states or ()):,}"
    if action.changes and len(situation.jobs) > 1 and action.id in ON_MANY and action.id not in ON_ONE:
        return f" {len(applicable(action, situation.jobs))}"
    return ""
