"""A long text in one or two columns, to scroll. After a change, only the lines that differ are repainted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from textual.strip import Strip
from textual.visual import Visual

from jobdeck.tui.widgets.lines import Lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.content import Content
    from textual.events import Resize

ROOMY: Final = 130
"""From this width on, the columns are side by side."""
GAP: Final = 2


class Sheet(Lines[Strip], can_focus=True):
    """Shows a text wrapped to the width of the widget, from the line that it is scrolled to."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self._columns: tuple[Content, ...] = ()
        self._strips: list[Strip] = []

    @property
    def place(self) -> str:
        """The visible lines and their number, as `1-20/45`; empty when all are visible."""
        if len(self._strips) <= self.size.height:
            return ""
        return f"{self.top + 1}-{min(self.top + self.size.height, len(self._strips))}/{len(self._strips)}"

    def show(self, columns: Sequence[Content]) -> None:
        """Replaces the text."""
        before = self._columns
        self._columns = tuple(columns)
        same = len(before) == len(columns) and all(a.is_same(b) for a, b in zip(before, columns, strict=True))
        if not same:
            self._set()

    def move(self, by: int) -> None:
        self.move_to(self.top + by)

    def move_to(self, line: int) -> None:
        self.top = line
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
        if width >= ROOMY and len(self._columns) == 2:
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
        self._stop_at(len(self._strips))
        fresh = self._strips[self.top : self.top + self.lines]
        self._paint(fresh + [self._blank(self.size.width)] * (self.lines - len(fresh)))
