"""A list of lines: with a cursor that follows its line's subject, or without one, to scroll."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.message import Message
from textual.strip import Strip

from jobdeck.tui.widgets.lines import Lines

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from textual.events import Click, Resize

    from jobdeck.tui.widgets.ink import Span


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `key` identifies its subject, so that the cursor finds it again."""

    spans: tuple[Span, ...] = ()
    key: Hashable | None = None


BLANK = Entry()


def entry(*spans: Span, key: Hashable | None = None) -> Entry:
    return Entry(spans, key)


class Pane(Lines[tuple[Entry, bool]], can_focus=True):
    """A list of lines. `show` replaces them. With `cursor` one of them is current, otherwise they only scroll.

    With `follow`, a pane that is scrolled to its end stays there when lines are added.
    """

    class Moved(Message):
        """The cursor has moved to another line."""

    class Chosen(Message):
        """A line was double-clicked."""

    def __init__(self, *, cursor: bool = True, follow: bool = False, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self.entries: tuple[Entry, ...] = ()
        self.cursor = 0
        self._has_cursor = cursor
        self._follow = follow

    @property
    def current(self) -> Hashable | None:
        """The key of the line under the cursor."""
        return self.entries[self.cursor].key if self._has_cursor and self.cursor < len(self.entries) else None

    @property
    def place(self) -> str:
        """The visible lines and their number, as `1-20/45`; empty when all are visible."""
        if not self.entries or len(self.entries) <= self.size.height:
            return ""
        last = min(self.top + self.size.height, len(self.entries))
        return f"{self.top + 1}-{last}/{len(self.entries)}"

    def show(self, entries: Sequence[Entry]) -> None:
        """Replaces the lines. The cursor stays on its subject, which stays on its screen line."""
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
        """Moves the cursor, or scrolls, by a number of lines and stops at the ends."""
        if not self._has_cursor:
            self.top += by
            self._settle()
            return
        self.move_to(self.cursor + by)

    def move_to(self, index: int) -> None:
        if not self._has_cursor:
            self.top = index
        else:
            self.cursor = self._clamp(index)
            self._show_line(self.cursor)
        self._settle()
        self.post_message(self.Moved())

    def seek(self, key: Hashable) -> None:
        """Puts the cursor on the line of a subject, if there is one."""
        at = next((at for at, one in enumerate(self.entries) if one.key == key), None)
        if at is not None:
            self.move_to(at)

    def find(self, key: Hashable) -> None:
        """Scrolls the line of a subject to the top and puts the cursor on it."""
        at = next((at for at, one in enumerate(self.entries) if one.key == key), None)
        if at is not None:
            self.top = at
            self.move_to(at)

    def on_resize(self, _event: Resize) -> None:
        self._painted = []
        if self._has_cursor:
            self._show_from_below(self.cursor)
        self._settle()
        self.refresh()
        self.post_message(self.Resized())

    def on_click(self, event: Click) -> None:
        """Puts the cursor on the clicked line; a double click chooses it."""
        if self._has_cursor and event.y < len(self.entries) - self.top:
            self.move_to(self.top + event.y)
            if event.chain == 2:
                self.post_message(self.Chosen())

    def render_line(self, y: int) -> Strip:
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
