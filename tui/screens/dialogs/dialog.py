"""What the dialogs have in common: keys from their table, texts that name them, and a way out for the mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from rich.cells import cell_len
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from jobdeck.tui.deck import deck_of
from jobdeck.tui.dialog_keys import BY_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.events import Click
    from textual.screen import Screen

    from jobdeck.tui.deck import Deck

T = TypeVar("T")
CROSS: Final = "✕"
APART: Final = " · "
CORNER: Final = 3
"""Cells of a border after what is written in it: a blank, a bit of line and the corner."""


class Hint(Static):
    """What keys of a dialog do, beside its buttons; a click on one of them does it. `told` are words with actions."""

    def __init__(self, told: Sequence[tuple[str, str]]) -> None:
        super().__init__(Content(APART.join(words for words, _ in told)), id="hint")
        self._told = tuple(told)

    def action_at(self, x: int) -> str:
        """The action whose words stand at a cell of the screen; empty where there are none."""
        end = self.content_region.right
        for words, do in reversed(self._told):
            start = end - cell_len(words)
            if start <= x < end:
                return do
            end = start - len(APART)
        return ""


class Dialog(ModalScreen[T]):
    """A box over another screen. `DIALOG` is what it is called in the table of keys."""

    DIALOG: ClassVar[str]

    @property
    def deck(self) -> Deck:
        """What is known of the queue, and what acts on it."""
        return deck_of(self)

    def key(self, name: str) -> str:
        """The key that does something here, as a person reads it, wherever it was moved to."""
        return self.deck.key(f"{self.DIALOG}.{name}")

    def or_click(self, key: str) -> str:
        """A key that takes the line under the cursor; where there is a mouse, with what else does."""
        return f"{key} or double click" if self.deck.options.mouse else key

    def hint(self, *told: tuple[str, str]) -> Hint:
        """Names of keys and what they do, in words."""
        return Hint([(f"{self.key(name)} {words}", BY_ID[f"{self.DIALOG}.{name}"].do) for name, words in told])

    def on_mount(self) -> None:
        """Toasts of what was done before do not cover it. Where there is a mouse, a click in its border closes it."""
        self.app.clear_notifications()
        if self.deck.options.mouse:
            add_cross(self, self.key("close"))

    async def on_click(self, event: Click) -> None:
        """A click beside the box or on the cross closes as the key does; one on a hint does what its key does."""
        clicked, _ = self.get_widget_at(event.screen_x, event.screen_y)
        if isinstance(clicked, Hint):
            do = clicked.action_at(event.screen_x)
        else:
            do = BY_ID[f"{self.DIALOG}.close"].do if leaves(self, event) else ""
        if do:
            await self.run_action(do)


def add_cross(screen: Screen[T], key: str) -> None:
    """Writes into the border of a screen's box where a click closes it."""
    box = screen.query_one("#box")
    said = str(box.border_subtitle or "")
    last = f"{key} {CROSS}"
    if said.rpartition(APART)[2].startswith(f"{key} "):
        last = f"{said} {CROSS}"
    elif said:
        last = f"{said}{APART}{last}"
    box.border_subtitle = Content(last)


def leaves(screen: Screen[T], event: Click) -> bool:
    """Whether a click means to close a screen: beside its box, or on what its border says last.

    The second click of two does not: the first may have opened the screen.
    """
    if event.chain > 1:
        return False
    clicked, _ = screen.get_widget_at(event.screen_x, event.screen_y)
    if clicked is screen:
        return True
    box = screen.query_one("#box")
    last = str(box.border_subtitle).rpartition(APART.strip())[2].strip()
    end = box.region.right - CORNER
    in_border = clicked is box and event.screen_y == box.region.bottom - 1
    return in_border and bool(last) and end - cell_len(last) <= event.screen_x < end
