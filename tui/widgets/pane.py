"""Lines of text to look through: with a cursor that stays on its line's subject, or without one, to scroll."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.message import Message
from textual.strip import Strip

from jobdeck.tui.widgets.ink import INKS, Span, inks
from jobdeck.tui.widgets.lines import Lines

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from textual.events import Click, Resize


@dataclass(frozen=True, slots=True)
class Entry:
    """One line; `key` says what it is about, so that the cursor finds it again."""

    spans: tuple[Span, ...] = ()
    key: Hashable | None = None


BLANK = Entry()


def entry(*spans: Span, key: Hashable | None = None) -> Entry:
    """A line made of spans."""
    return Entry(spans, key)


class Pane(Lines[tuple[Entry, bool]], can_focus=True):
    """A list of lines. `show` takes fresh ones; with `cursor` one of them is current, else they only scroll.

    With `follow` it stays at the end as lines are added, as long as it stood there.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = inks(*INKS)

    class Moved(Message):
        """The cursor is on another line."""

    class Chosen(Message):
        """A line was clicked twice."""

    def __init__(self, *, cursor: bool = True, follow: bool = False, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self.entries: tuple[Entry, ...] = ()
        self.cursor = 0
        self._has_cursor = cursor
        self._follow = follow

    @property
    def current(self) -> Hashable | None:
        """What the line under the cursor is about."""
        return self.entries[self.cursor].key if self._has_cursor and self.cursor < len(self.entries) else None

    @property
    def place(self) -> str:
        """Where one is: the line of how many, or how much of the text is above."""
        if not self.entries or len(self.entries) <= self.size.height:
            return ""
        last = min(self.top + self.size.height, len(self.entries))
        return f"{self.top + 1}-{last}/{len(self.entries)}"

    def show(self, entries: Sequence[Entry]) -> None:
        """Takes fresh lines. The cursor stays on its subject, and that on its screen line."""
        held, line = self.current, self.cursor - self.top
        at_end = self._follow and self.top >= len(self.entries) - self.size.height
        self.entries = tuple(entries)
        if held is not None:
            found = next((at for at, one in enumerate(self.entries) if one.key == held), None)
            if found is not None:
                self.cursor = found
                self.top = found - line
        if at_end:
            self.top = len(self.entries)
        self._settle()

    def move(self, by: int) -> None:
        """Moves the cursor, or scrolls, by so many lines, stopping at the ends."""
        if not self._has_cursor:
            self.top += by
            self._settle()
            return
        self.move_to(self.cursor + by)

    def move_to(self, index: int) -> None:
        """Puts the cursor on a line, or scrolls to it."""
        if not self._has_cursor:
            self.top = index
        else:
            self.cursor = self._clamp(index)
            self._show_line(self.cursor)
        self._settle()
        self.post_message(self.Moved())

    def find(self, key: Hashable) -> None:
        """Puts the line about something at the top, and the cursor on it."""
        at = next((at for at, one in enumerate(self.entries) if one.key == key), None)
        if at is not None:
            self.top = at
            self.move_to(at)

    def on_resize(self, _event: Resize) -> None:
        """Keeps the cursor in sight."""
        self._painted = []
        if self._has_cursor:
            self._show_from_below(self.cursor)
        self._settle()
        self.refresh()
        self.post_message(self.Resized())

    def on_click(self, event: Click) -> None:
        """Puts the cursor on the clicked line; a second click opens it."""
        if self._has_cursor and event.y < len(self.entries) - self.top:
            self.move_to(self.top + event.y)
            if event.chain == 2:
                self.post_message(self.Chosen())

    def render_line(self, y: int) -> Strip:
        """The line of the text that stands there."""
        shown, cursor = self._painted[y] if y < len(self._painted) else self._line(y)
        strip = self.strip(shown.spans, self.size.width)
        if not cursor:
            return strip
        over = self.ink("cursor")
        if over.reverse:
            return Strip([Segment(part.text, over) for part in strip])
        tint = Style(bgcolor=over.bgcolor, bold=True if over.bold else None)
        return Strip([Segment(part.text, (part.style or Style()) + tint) for part in strip])

    def _clamp(self, index: int) -> int:
        return min(max(index, 0), max(len(self.entries) - 1, 0))

    def _line(self, y: int) -> tuple[Entry, bool]:
        at = self.top + y
        if at >= len(self.entries):
            return BLANK, False
        return self.entries[at], self._has_cursor and at == self.cursor

    def _settle(self) -> None:
        self.cursor = self._clamp(self.cursor)
        self._stop_at(len(self.entries))
        self._paint([self._line(y) for y in range(self.lines)])
