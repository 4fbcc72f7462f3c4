"""The widgets for choices in a form, each one line high: all choices visible, or picked from a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual.message import Message

from jobdeck.tui.format import fit
from jobdeck.tui.widgets.ink import Inked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.binding import BindingType
    from textual.events import Click, Key
    from textual.strip import Strip

    from jobdeck.tui.widgets.ink import Span


class Segments(Inked, can_focus=True):
    """A choice of a few words, all visible; with `several`, any number of them can be chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("left,h", "step(-1)", "previous"),
        ("right,l", "step(1)", "next"),
        ("space", "next", "choose"),
    ]

    class Changed(Message):
        """The choice has changed."""

        def __init__(self, segments: Segments) -> None:
            super().__init__()
            self.segments = segments

    def __init__(
        self, choices: Sequence[tuple[str, str]], value: str, *, several: bool = False, id: str | None = None  # noqa: A002 -- Textual's name
    ) -> None:  # fmt: skip
        """`choices` are pairs of value and word. With `several`, `value` holds the values separated by blanks."""
        super().__init__(id=id)
        self.choices = tuple(choices)
        self.several = several
        self.value = value
        self._at = max(self._index(), 0)

    @staticmethod
    def width_of(choices: Sequence[tuple[str, str]]) -> int:
        """The width of the choices in cells."""
        return sum(cell_len(word) + 3 for _, word in choices)

    def set_value(self, value: str) -> None:
        """Sets the value without a message."""
        if value != self.value:
            self.value = value
            self._at = max(self._index(), 0)
            self.refresh()

    def choose(self, index: int) -> None:
        """Chooses a word; with `several`, adds or removes it."""
        self._at = index
        word = self.choices[index][0]
        if self.several:
            chosen = set(self.value.split()) ^ {word}
            self._take(" ".join(value for value, _ in self.choices if value in chosen))
        else:
            self._take(word)

    def action_step(self, by: int) -> None:
        """Moves to another word and stops at the ends; chooses it unless `several`."""
        at = min(max(self._at + by, 0), len(self.choices) - 1)
        if self.several:
            self._at = at
            self.refresh()
        elif at != self._at:
            self.choose(at)

    def action_next(self) -> None:
        """Toggles the word with `several`; otherwise chooses the next word, after the last the first."""
        self.choose(self._at if self.several else (self._at + 1) % len(self.choices))

    def on_click(self, event: Click) -> None:
        start = 0
        for index, (_, word) in enumerate(self.choices):
            start += cell_len(word) + 3
            if event.x < start - 1:
                self.choose(index)
                return

    def render_line(self, y: int) -> Strip:
        """Draws the words; brackets mark the chosen ones, not only colour."""
        spans: list[Span] = []
        chosen = set(self.value.split()) if self.several else {self.value}
        for index, (value, word) in enumerate(self.choices):
            on = value in chosen
            here = self.has_focus and index == self._at
            ink = "picked" if on and self.has_focus else "chosen" if on else "key" if here else "muted"
            spans += [(f"[{word}]" if on else f" {word} ", ink), (" ", "text")]
        return self.strip(spans if y == 0 else (), self.size.width)

    def _index(self) -> int:
        return next((index for index, (value, _) in enumerate(self.choices) if value == self.value), -1)

    def _take(self, value: str) -> None:
        self.value = value
        self.refresh()
        self.post_message(self.Changed(self))


class PickField(Inked, can_focus=True):
    """Shows a choice from a long list, which opens in a dialog."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("enter,space", "open('')", "choose"),
        ("backspace,delete", "clear", "leave out"),
    ]

    class Opened(Message):
        """The user opens the list; `typed` is the first search."""

        def __init__(self, field: PickField, typed: str) -> None:
            super().__init__()
            self.field = field
            self.typed = typed

    class Cleared(Message):
        """The user has cleared the choice."""

        def __init__(self, field: PickField) -> None:
            super().__init__()
            self.field = field

    def __init__(self, label: str, *, empty: str = "", id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self.label = label
        self.empty = empty

    def set_label(self, label: str) -> None:
        if label != self.label:
            self.label = label
            self.refresh()

    def action_open(self, typed: str) -> None:
        self.post_message(self.Opened(self, typed))

    def action_clear(self) -> None:
        self.post_message(self.Cleared(self))

    def on_key(self, event: Key) -> None:
        """Opens the list at a typed character, which begins the search."""
        if event.character and event.is_printable and not event.character.isspace():
            event.stop()
            event.prevent_default()
            self.action_open(event.character)

    def on_click(self) -> None:
        self.action_open("")

    def render_line(self, y: int) -> Strip:
        """Draws the choice and the arrow."""
        width = self.size.width
        text = fit(self.label or self.empty, max(width - 4, 1))
        ink = "picked" if self.has_focus else "field" if self.label else "unset"
        return self.strip([(f" {text} ", ink), ("▾ ", ink)] if y == 0 else (), width)
