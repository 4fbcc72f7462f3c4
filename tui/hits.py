"""Where a click on one of the lines around the table goes: the tab or the key that stands there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.cells import cell_len

from tui.actions import ACTIONS, Action, Scope, Situation
from tui.status_bar import TABS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tui.ink import Span


def action_at(spans: Sequence[Span], x: int, scope: Scope, situation: Situation) -> Action | None:
    """The action whose key stands at a cell of the line that `key_line.keys` made; its label counts as well."""
    offered = [action for action in ACTIONS if scope in action.scopes and (action.footer or action.id == "mark.undo")]
    names = {situation.key(action).replace("enter", "⏎"): action for action in offered}
    end, found = 0, None
    for text, ink in spans:
        end += cell_len(text)
        if ink in {"key", "muted"} and text in names:
            found = names[text]
        if x < end:
            return found if text.strip() else None
    return None


def tab_at(spans: Sequence[Span], x: int) -> str | None:
    """The id of the action whose tab stands at a cell of the line that `status_bar.tabs` made."""
    text = "".join(text for text, _ in spans)
    starts = [found.start() for found in re.finditer(r"(?<!\S)[1-6] (?=[A-Z])", text)]
    for (name, _), start, end in zip(TABS, starts, [*starts[1:], len(text)], strict=True):
        if start <= x < end:
            return f"tab.{name.lower()}"
    return None
