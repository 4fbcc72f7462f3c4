"""What the widgets have in common that paint lines of their own: their offset, the wheel, and what is repainted.

They keep their own scroll offset and draw no scrollbar: a `ScrollView` repaints all of itself at every change of its
offset, while here a line is repainted only when what it says has changed.
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
    """A widget of lines; two equal `Drawn` need no repaint."""

    class Resized(Message):
        """Another number of lines is seen now."""

    HEAD: ClassVar[int] = 0
    """How many lines above the first one stand still."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self.top = 0
        self._painted: list[Drawn] = []

    @property
    def lines(self) -> int:
        """How many lines fit under the heading."""
        return max(self.size.height - self.HEAD, 0)

    @property
    def half(self) -> int:
        """Half a page, in lines; one at least."""
        return max(self.lines // 2, 1)

    def move(self, by: int) -> None:
        """Moves by so many lines, stopping at the ends."""
        raise NotImplementedError

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """Moves as the keyboard does."""
        event.stop()
        self.move(WHEEL)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """The other way."""
        event.stop()
        self.move(-WHEEL)

    def notify_style_update(self) -> None:
        """Paints everything anew under the new colours."""
        super().notify_style_update()
        self._painted = []

    def _show_line(self, at: int) -> None:
        """Scrolls to a line, no further than needed."""
        self.top = min(self.top, at)
        self._show_from_below(at)

    def _show_from_below(self, at: int) -> None:
        """Scrolls down to a line that fell out of sight as the widget grew smaller."""
        if self.lines and at >= self.top + self.lines:
            self.top = at - self.lines + 1

    def _stop_at(self, total: int) -> None:
        """Keeps the offset within so many lines."""
        self.top = min(max(self.top, 0), max(total - self.lines, 0))

    def _paint(self, fresh: Sequence[Drawn]) -> None:
        """Repaints the lines that differ from those that are seen."""
        old, self._painted = self._painted, list(fresh)
        if len(old) != len(fresh):
            self.refresh()
            return
        for y, (before, after) in enumerate(zip(old, fresh, strict=True), start=self.HEAD):
            if before != after:
                start, end = self._difference(before, after)
                self.refresh(Region(start, y, end - start, 1))

    def _difference(self, _before: Drawn, _after: Drawn) -> tuple[int, int]:
        """The first cell that differs, and the one after the last; all of the line where nothing else is known."""
        return 0, self.size.width
