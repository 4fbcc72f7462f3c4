"""The line of keys at the bottom of a screen, and what a click on it or on the lines around the table does."""

from __future__ import annotations

import re
from itertools import accumulate
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
from jobdeck.tui.widgets import status_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
WHERE_NEEDED: Final = frozenset({"flow.cancel", "job.retry_with"})
"""Keys that few jobs have a use for: they are on the line only where they apply."""
LABELS: Final = {"mark.undo": "undo delete", "palette": "all actions"}
"""What keys are called on the line, where the name of the action says too little."""
NARROW_LABELS = {" run now": " run  ", " run again": " again"}
"""As wide as the same key's label on another job, so that the keys beside it do not move."""
SWITCH: Final = re.compile(rf"((Automatic )?Processing )?({status_bar.ON}|{status_bar.PAUSED})")
FILLER: Final = "\0"
"""A placeholder for the second cell of a wide character."""


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
    if action.id == "job.detail" and situation.folded:
        return "unfold"
    if action.id in LABELS:
        return LABELS[action.id]
    label = action.label
    if action.id == "job.retry" and situation.jobs and all(job.status is Status.PENDING for job in situation.jobs):
        label = "run now"
    elif action.id == "job.retry" and runs_again(situation):
        label = "run again"
    return f"{label}{_how_many(action, situation)}"


def _how_many(action: Action, situation: Situation) -> str:
    """The number of jobs that the action would change; empty for one job."""
    if situation.chosen is not None and action.id in ON_MANY:
        return f" {sum(situation.chosen.of(status.value) for status in action.states or ()):,}"
    if action.changes and len(situation.jobs) > 1 and action.id in ON_MANY and action.id not in ON_ONE:
        return f" {len(applicable(action, situation.jobs))}"
    return ""


def action_at(line: str, spans: Sequence[Span], x: int, scope: Scope, situation: Situation) -> str | None:
    """The id of the action for a click on a cell of a line, or None. `line` is the id of the line's widget."""
    find = LINES.get(line)
    found = find(spans, x, scope, situation) if find is not None else None
    return found if found in {action.id for action in offered(scope)} else None


def phrase_at(spans: Sequence[Span], x: int, phrases: Iterable[tuple[str, str]]) -> str | None:
    """The value of the first phrase that covers a cell; None where none does."""
    text = _cells(spans)
    for words, found in phrases:
        start = text.find(words)
        if start <= x < start + len(words) and start >= 0:
            return found
    return None


def _cells(spans: Sequence[Span]) -> str:
    """The text with one character for each cell."""
    letters = ((letter, cell_len(letter)) for text, _ in spans for letter in text)
    return "".join(letter + FILLER * (cells - 1) for letter, cells in letters if cells)


def _on_key(spans: Sequence[Span], x: int, scope: Scope, situation: Situation) -> str | None:
    """The action of a key on the line from `keys`; its label counts as well."""
    always = {"mark.undo", "palette"}
    shown = [action for action in offered(scope) if action.footer or action.id in always]
    names = {situation.key(action).replace("enter", "⏎"): action.id for action in shown}
    end, found = 0, None
    for text, ink in spans:
        end += cell_len(text)
        if ink == "key" or (ink == "muted" and text in names):
            found = names.get(text)
        if x < end:
            return found if text.strip() else None
    return None


def _on_tab(spans: Sequence[Span], x: int, _scope: Scope, situation: Situation) -> str | None:
    """The tab on the line from `status_bar.tabs`; it reaches from its key to the next key. Or the way back."""
    text, end, found = _cells(spans), 0, None
    for name, _ in status_bar.TABS:
        action_id = f"tab.{name.lower()}"
        key = situation.key(BY_ID[action_id])
        words = (name, status_bar.SHORT_TABS.get(name, name))
        start = min((at for word in words if (at := text.find(f"{key} {word}", end)) >= 0), default=-1)
        if not 0 <= start <= x:
            break
        end, found = start + 1, action_id
    return found or phrase_at(spans, x, _phrases((("back", "goes back"),), situation))


def _on_header(spans: Sequence[Span], x: int, _scope: Scope, _situation: Situation) -> str | None:
    """Pauses or resumes on the switch; opens the workers after it."""
    switch = SWITCH.search(_cells(spans))
    if switch is None or x < switch.start():
        return None
    return "processing" if x < switch.end() else "page.workers"


def _on_clock(spans: Sequence[Span], _x: int, _scope: Scope, _situation: Situation) -> str | None:
    return "freeze" if "FROZEN" in _cells(spans) else "refresh"


def _on_banner(spans: Sequence[Span], _x: int, _scope: Scope, _situation: Situation) -> str | None:
    text = _cells(spans)
    return "processing" if text.startswith(" PAUSED") else "refresh" if text.startswith(" disconnected") else None


def _on_filter(spans: Sequence[Span], x: int, _scope: Scope, situation: Situation) -> str | None:
    """Edits the filter; leaves it at the end of the line. None while a filter is being typed."""
    text = _cells(spans)
    clears = max(text.rfind(f"{situation.key(BY_ID['back'])} {does}") for does in ("clears", "goes back"))
    if clears < 0:
        return None
    return "back" if x >= clears else "filter"


def _on_peek(spans: Sequence[Span], x: int, _scope: Scope, situation: Situation) -> str | None:
    """Marks and ranges on the right; on the left the key that a sentence names."""
    ends = accumulate(cell_len(text) for text, _ in spans)
    text, ink = next((span for span, end in zip(spans, ends, strict=True) if x < end), ("", ""))
    if ink == "accent":
        return "mark.range" if text.startswith("selecting") else "mark.undo"
    named = (("sort.reverse", "reverses"), ("filter", "narrows it"), ("page.bulk", "shows it"), ("back", "leaves"))
    return phrase_at(spans, x, _phrases(named, situation))


def _on_title(spans: Sequence[Span], x: int, _scope: Scope, situation: Situation) -> str | None:
    return phrase_at(spans, x, _phrases((("bulk.older", "older"), ("bulk.newer", "newer")), situation))


def _phrases(named: Iterable[tuple[str, str]], situation: Situation) -> list[tuple[str, str]]:
    """Pairs of a phrase, as `S reverses`, and its action."""
    return [(f"{situation.key(BY_ID[action_id])} {words}", action_id) for action_id, words in named]


LINES: Final[dict[str, Callable[[Sequence[Span], int, Scope, Situation], str | None]]] = {
    "keys": _on_key,
    "tabs": _on_tab,
    "header": _on_header,
    "clock": _on_clock,
    "banner": _on_banner,
    "filter-line": _on_filter,
    "peek": _on_peek,
    "title": _on_title,
}
