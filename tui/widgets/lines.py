"""The base of widgets that paint their own lines: scroll offset, mouse wheel, and which lines are repainted.

They keep their own scroll offset and draw no scrollbar: a `ScrollView` repaints all of itself at every change of its
offset, while here only the lines that changed are repainted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from textual.geometry import Region
from textual.message import Message

from jobdeck.tui.widgets.ink import Inked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.events import MouseScrollDown, MouseScrollUp

Drawn = TypeVar("Drawn")
WHEEL = 3


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

    @property
    def lines(self) -> int:
        """Number of lines that fit below the heading."""
        return max(self.size.height - self.HEAD, 0)

    @property
    def half(self) -> int:
        """Half a page in lines, at least 1."""
        return max(self.lines // 2, 1)

    def move(self, by: int) -> None:
        """Moves by a number of lines and stops at the ends."""
        raise NotImplementedError

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

    def _show_line(self, at: int) -> None:
        """Scrolls no further than needed to show a line."""
        self.top = min(self.top, at)
        self._show_from_below(at)

    def _show_from_below(self, at: int) -> None:
        """Scrolls down to a line that a smaller widget no longer shows."""
        if self.lines and at >= self.top + self.lines:
            self.top = at - self.lines + 1

    def _stop_at(self, total: int) -> None:
        """Keeps the offset within `total` lines."""
        self.top = min(max(self.top, 0), max(total - self.lines, 0))

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
