"""The actions of clicks on the lines around the table: on a key, a tab or a figure."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from jobdeck.tui.actions import BY_ID, Scope, Situation, offered
from jobdeck.tui.widgets.status_bar import ON, PAUSED, SHORT_TABS, TABS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jobdeck.tui.widgets.ink import Span

SWITCH: Final = re.compile(rf"((Automatic )?Processing )?({ON}|{PAUSED})")
FILLER: Final = "\0"
"""A placeholder for the second cell of a wide character."""


def at(line: str, spans: Sequence[Span], x: int, scope: Scope, situation: Situation) -> str | None:
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


def _key(spans: Sequence[Span], x: int, scope: Scope, situation: Situation) -> str | None:
    """The action of a key on the line from `key_line.keys`; its label counts as well."""
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


def _tab(spans: Sequence[Span], x: int, _scope: Scope, situation: Situation) -> str | None:
    """The tab on the line from `status_bar.tabs`; it reaches from its key to the next key. Or the way back."""
    text, end, found = _cells(spans), 0, None
    for name, _ in TABS:
        action_id = f"tab.{name.lower()}"
        key = situation.key(BY_ID[action_id])
        start = min((at for word in (name, SHORT_TABS.get(name, name)) if (at := text.find(f"{key} {word}", end)) >= 0),
                    default=-1)  # fmt: skip
        if not 0 <= start <= x:
            break
        end, found = start + 1, action_id
    return found or phrase_at(spans, x, _phrases((("back", "goes back"),), situation))


def _header(spans: Sequence[Span], x: int, _scope: Scope, _situation: Situation) -> str | None:
    """Pauses or resumes on the switch; opens the workers after it."""
    switch = SWITCH.search(_cells(spans))
    if switch is None or x < switch.start():
        return None
    return "processing" if x < switch.end() else "page.workers"


def _health(_spans: Sequence[Span], _x: int, _scope: Scope, _situation: Situation) -> str | None:
    return "page.health"


def _clock(spans: Sequence[Span], _x: int, _scope: Scope, _situation: Situation) -> str | None:
    return "freeze" if "FROZEN" in _cells(spans) else "refresh"


def _banner(spans: Sequence[Span], _x: int, _scope: Scope, _situation: Situation) -> str | None:
    text = _cells(spans)
    return "processing" if text.startswith(" PAUSED") else "refresh" if text.startswith(" disconnected") else None


def _filter(spans: Sequence[Span], x: int, _scope: Scope, situation: Situation) -> str | None:
    """Edits the filter; clears it at the end of the line. None while a filter is being typed."""
    text = _cells(spans)
    clears = text.rfind(f"{situation.key(BY_ID['back'])} clears")
    if clears < 0:
        return None
    return "back" if x >= clears else "filter"


def _peek(spans: Sequence[Span], x: int, _scope: Scope, situation: Situation) -> str | None:
    """Marks and ranges on the right; on the left the key that a sentence names."""
    ends = accumulate(cell_len(text) for text, _ in spans)
    text, ink = next((span for span, end in zip(spans, ends, strict=True) if x < end), ("", ""))
    if ink == "accent":
        return "mark.range" if text.startswith("selecting") else "mark.undo"
    named = (("sort.reverse", "reverses"), ("filter", "narrows it"), ("page.bulk", "shows it"), ("back", "leaves"))
    return phrase_at(spans, x, _phrases(named, situation))


def _title(spans: Sequence[Span], x: int, _scope: Scope, situation: Situation) -> str | None:
    return phrase_at(spans, x, _phrases((("bulk.older", "older"), ("bulk.newer", "newer")), situation))


def _phrases(named: Iterable[tuple[str, str]], situation: Situation) -> list[tuple[str, str]]:
    """Pairs of a phrase, as `S reverses`, and its action."""
    return [(f"{situation.key(BY_ID[action_id])} {words}", action_id) for action_id, words in named]


LINES: Final[dict[str, Callable[[Sequence[Span], int, Scope, Situation], str | None]]] = {
    "keys": _key,
    "tabs": _tab,
    "header": _header,
    "clock": _clock,
    "health": _health,
    "banner": _banner,
    "filter-line": _filter,
    "peek": _peek,
    "title": _title,
}
