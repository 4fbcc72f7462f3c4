"""Lists of lines and long texts, which paint their own lines.

They keep their own scroll offset and draw no scrollbar: a `ScrollView` repaints all of itself at every change of its
offset, while here only the lines that changed are repainted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.visual import Visual

from jobdeck.tui.widgets.ink import Inked, changed_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from textual.content import Content
    from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize

    from jobdeck.tui.widgets.ink import Span

Drawn = TypeVar("Drawn")
WHEEL = 3
ROOMY: Final = 130
"""From this width on, the columns of a sheet are side by side."""
GAP: Final = 2
LAST: Final = 1_000_000
"""A line behind the last one of every list."""
SPARE: Final = 10
"""The free lines from which on something else is said below a list."""


class Lines(Inked, Generic[Drawn], can_focus=True):
    """A widget of lines. A line whose `Drawn` value has not changed is not repainted."""

    class Resized(Message):
        """The number of visible lines has changed."""

    HEAD: ClassVar[int] = 0
    """Number of heading lines, which do not scroll."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self.top = 0
        self._painted: list[Drawn] = []
        self._below: tuple[tuple[Span, ...], ...] = ()

    @property
    def lines(self) -> int:
        """Number of lines that fit below the heading."""
        return max(self.size.height - self.HEAD, 0)

    @property
    def spare(self) -> int:
        """Number of free lines below the last one; 0 where they are too few to say something there."""
        free = self.lines - self.total
        return free if free >= SPARE else 0

    @property
    def half(self) -> int:
        """Half a page in lines, at least 1."""
        return max(self.lines // 2, 1)

    @property
    def total(self) -> int:
        """Number of all lines."""
        raise NotImplementedError

    @property
    def place(self) -> str:
        """The visible lines and their number, as `1-20/45`; empty when all are visible."""
        if self.total <= self.size.height:
            return ""
        return f"{self.top + 1}-{min(self.top + self.size.height, self.total)}/{self.total}"

    def move(self, by: int) -> None:
        """Moves by a number of lines and stops at the ends."""
        raise NotImplementedError

    def move_to(self, index: int) -> None:
        """Moves to a line, or to the last one if there are fewer."""
        raise NotImplementedError

    def say_below(self, lines: Sequence[tuple[Span, ...]]) -> None:
        """Sets the lines below the last one, where there is room."""
        if self._below != tuple(lines):
            self._below = tuple(lines)
            self._repaint()

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self.move(WHEEL)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self.move(-WHEEL)

    def notify_style_update(self) -> None:
        """Repaints everything in the colours of a new theme."""
        super().notify_style_update()
        self._painted = []

    def _repaint(self) -> None:
        """Paints the visible lines again, those of them that have changed."""
        raise NotImplementedError

    def _said_below(self, place: int) -> tuple[Span, ...]:
        """The line at this place below the last one; empty where nothing is said."""
        return self._below[place] if place < len(self._below) else ()

    def _show_line(self, at: int) -> None:
        """Scrolls no further than needed to show a line."""
        self.top = min(self.top, at)
        self._show_from_below(at)

    def _show_from_below(self, at: int) -> None:
        """Scrolls down to a line that a smaller widget no longer shows."""
        if self.lines and at >= self.top + self.lines:
            self.top = at - self.lines + 1

    def _stop(self) -> None:
        """Keeps the offset within the lines."""
        self.top = min(max(self.top, 0), max(self.total - self.lines, 0))

    def _clamp(self, index: int) -> int:
        """The nearest line that there is."""
        return min(max(index, 0), max(self.total - 1, 0))

    def _paint(self, fresh: Sequence[Drawn]) -> None:
        """Repaints the lines that have changed."""
        old, self._painted = self._painted, list(fresh)
        if len(old) != len(fresh):
            self.refresh()
            return
        for y, (before, after) in enumerate(zip(old, fresh, strict=True), start=self.HEAD):
            if before != after:
                start, end = self._difference(before, after)
                self.refresh(Region(start, y, end - start, 1))

    def _difference(self, _before: Drawn, _after: Drawn) -> tuple[int, int]:
        """The first cell that differs and the cell after the last; the whole line unless a subclass knows better."""
        return 0, self.size.width


MOVES: Final[Mapping[str, Callable[[Lines[Any]], None]]] = {
    "move.down": lambda lines: lines.move(1),
    "move.up": lambda lines: lines.move(-1),
    "move.half_down": lambda lines: lines.move(lines.half),
    "move.half_up": lambda lines: lines.move(-lines.half),
    "move.top": lambda lines: lines.move_to(0),
    "move.bottom": lambda lines: lines.move_to(LAST),
}
"""What the movement keys do, by the ids of their actions."""


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

    With `follow`, a pane that is scrolled to its end stays there when lines are added. With `links` there is a cursor
    while the pane has the focus and lines with a key; it begins on the first of these.
    """

    class Moved(Message):
        """The cursor has moved to another line."""

    class Chosen(Message):
        """A line was double-clicked."""

    def __init__(
        self,
        *,
        cursor: bool = True,
        follow: bool = False,
        links: bool = False,
        id: str | None = None,  # noqa: A002 -- Textual's name
    ) -> None:
        super().__init__(id=id)
        self.entries: tuple[Entry, ...] = ()
        self.cursor = 0
        self._has_cursor = cursor
        self._follow = follow
        self._links = links

    @property
    def current(self) -> Hashable | None:
        """The key of the line under the cursor."""
        return self.entries[self.cursor].key if self._has_cursor and self.cursor < len(self.entries) else None

    @property
    def total(self) -> int:
        return len(self.entries)

    def show(self, entries: Sequence[Entry]) -> None:
        """Replaces the lines. The cursor stays on its subject, which stays on its screen line."""
        held, line = self.current, self.cursor - self.top
        at_end = self._follow and self.top >= len(self.entries) - self.size.height
        self.entries = tuple(entries)
        found = self._place_of(held) if held is not None else None
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
        at = self._place_of(key)
        if at is not None:
            self.move_to(at)

    def find(self, key: Hashable) -> None:
        """Scrolls the line of a subject to the top and puts the cursor on it."""
        at = self._place_of(key)
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

    def on_focus(self) -> None:
        first = next((at for at, one in enumerate(self.entries) if one.key is not None), None)
        if self._links and first is not None:
            self._has_cursor = True
            self.move_to(first)

    def on_blur(self) -> None:
        if self._links:
            self._has_cursor = False
            self._settle()

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

    def _place_of(self, key: Hashable) -> int | None:
        return next((at for at, one in enumerate(self.entries) if one.key == key), None)

    def _line(self, y: int) -> tuple[Entry, bool]:
        at = self.top + y
        if at >= len(self.entries):
            return Entry(self._said_below(at - len(self.entries))), False
        return self.entries[at], self._has_cursor and at == self.cursor

    def _settle(self) -> None:
        self.cursor = self._clamp(self.cursor)
        self._stop()
        self._repaint()

    def _repaint(self) -> None:
        self._paint([self._line(y) for y in range(self.lines)])

    def _difference(self, before: tuple[Entry, bool], after: tuple[Entry, bool]) -> tuple[int, int]:
        (was, was_current), (now, is_current) = before, after
        if was_current != is_current:
            return 0, self.size.width
        return changed_cells(was.spans, now.spans, self.size.width)


class Sheet(Lines[Strip], can_focus=True):
    """Shows a text wrapped to the width of the widget, from the line that it is scrolled to.

    From `roomy` columns on, the columns of the text are side by side.
    """

    def __init__(self, *, roomy: int = ROOMY, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self._roomy = roomy
        self._columns: tuple[Content, ...] = ()
        self._strips: list[Strip] = []

    @property
    def total(self) -> int:
        return len(self._strips)

    def show(self, columns: Sequence[Content]) -> None:
        """Replaces the text."""
        before = self._columns
        self._columns = tuple(columns)
        same = len(before) == len(columns) and all(a.is_same(b) for a, b in zip(before, columns, strict=True))
        if not same:
            self._set()

    def move(self, by: int) -> None:
        self.move_to(self.top + by)

    def move_to(self, index: int) -> None:
        self.top = index
        self._repaint()

    def on_resize(self, _event: Resize) -> None:
        self._painted = []
        self._set()
        self.post_message(self.Resized())

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._set()

    def render_line(self, y: int) -> Strip:
        return self._painted[y] if y < len(self._painted) else self._blank(self.size.width)

    def _set(self) -> None:
        width = self.size.width
        if not width:
            return
        if width >= self._roomy and len(self._columns) == 2:
            half = (width - GAP) // 2
            left, right = (self._wrapped(column, half) for column in self._columns)
            gap = self._blank(width - 2 * half)
            longest = max(len(left), len(right))
            left += [self._blank(half)] * (longest - len(left))
            right += [self._blank(half)] * (longest - len(right))
            self._strips = [Strip.join([a, gap, b]) for a, b in zip(left, right, strict=True)]
        else:
            self._strips = []
            for column in self._columns:
                self._strips += [self._blank(width)] if self._strips else []
                self._strips += self._wrapped(column, width)
        self._repaint()

    def _wrapped(self, content: Content, width: int) -> list[Strip]:
        strips = Visual.to_strips(self, content, width, None, self.visual_style)
        base = self.visual_style.rich_style
        return [strip.adjust_cell_length(width, base) for strip in strips]

    def _blank(self, width: int) -> Strip:
        return Strip.blank(width, self.visual_style.rich_style)

    def _repaint(self) -> None:
        self._stop()
        fresh = self._strips[self.top : self.top + self.lines]
        self._paint(fresh + [self._blank(self.size.width)] * (self.lines - len(fresh)))
