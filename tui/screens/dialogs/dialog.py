"""The base of dialogs: keys from their table, hints that name the keys, and a cross that a mouse can click."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from rich.cells import cell_len
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from jobdeck.tui.deck import deck_of
from jobdeck.tui.dialog_keys import BY_ID, bindings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.events import Click
    from textual.screen import Screen

    from jobdeck.tui.deck import Deck

T = TypeVar("T")
CROSS: Final = "✕"
APART: Final = " · "
CORNER: Final = 3
"""Cells of a border after its text: a blank, a piece of line and the corner."""


class Hint(Static):
    """Keys of a dialog and what they do, beside its buttons, clickable. `phrases` are texts with their actions."""

    def __init__(self, phrases: Sequence[tuple[str, str]]) -> None:
        super().__init__(Content(APART.join(words for words, _ in phrases)), id="hint")
        self._phrases = tuple(phrases)

    def action_at(self, x: int) -> str:
        """The action of the phrase at a column of the screen; empty where there is none."""
        end = self.content_region.right
        for words, do in reversed(self._phrases):
            start = end - cell_len(words)
            if start <= x < end:
                return do
            end = start - len(APART)
        return ""


class Dialog(ModalScreen[T]):
    """A box over another screen. `DIALOG` is its name in the table of dialog keys."""

    DIALOG: ClassVar[str]

    def __init_subclass__(cls, **options: bool) -> None:
        """Binds the keys of the dialog."""
        cls.BINDINGS = [*bindings(cls.DIALOG)]
        super().__init_subclass__(**options)

    @property
    def deck(self) -> Deck:
        return deck_of(self)

    def key(self, name: str) -> str:
        """The name of a key of this dialog; configured keys count."""
        return self.deck.key(f"{self.DIALOG}.{name}")

    def or_click(self, key: str) -> str:
        """A key that chooses the line under the cursor; with a mouse, followed by `or double click`."""
        return f"{key} or double click" if self.deck.options.mouse else key

    def hint(self, *pairs: tuple[str, str]) -> Hint:
        """A hint made of pairs: the name of a key and what it does."""
        return Hint([(f"{self.key(name)} {words}", BY_ID[f"{self.DIALOG}.{name}"].do) for name, words in pairs])

    def on_mount(self) -> None:
        """Removes earlier toasts, which would cover the dialog; with a mouse, adds a cross to close it."""
        self.app.clear_notifications()
        if self.deck.options.mouse:
            add_cross(self, self.key("close"))

    async def on_click(self, event: Click) -> None:
        """Closes on a click beside the box or on the cross; runs the action of a clicked hint."""
        clicked, _ = self.get_widget_at(event.screen_x, event.screen_y)
        if isinstance(clicked, Hint):
            do = clicked.action_at(event.screen_x)
        else:
            do = BY_ID[f"{self.DIALOG}.close"].do if leaves(self, event) else ""
        if do:
            await self.run_action(do)


def add_cross(screen: Screen[T], key: str) -> None:
    """Adds the cross that closes a screen to the border of its box."""
    box = screen.query_one("#box")
    said = str(box.border_subtitle or "")
    last = f"{key} {CROSS}"
    if said.rpartition(APART)[2].startswith(f"{key} "):
        last = f"{said} {CROSS}"
    elif said:
        last = f"{said}{APART}{last}"
    box.border_subtitle = Content(last)


def leaves(screen: Screen[T], event: Click) -> bool:
    """Whether a click closes a screen: it is beside the box, or on the last words in its border.

    The second click of a double click does not count: the first may have opened the screen.
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
