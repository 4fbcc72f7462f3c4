"""Widgets that paint their own lines in named colours of the theme, and repaint only what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from rich.cells import cell_len
from rich.segment import Segment
from textual._styles_cache import StylesCache
from textual.app import App
from textual.content import Content
from textual.geometry import Region
from textual.message import Message
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.style import Style
    from textual.events import Click, Resize

T = TypeVar("T")
Span = tuple[str, str]
INKS = (
    "text", "muted", "strong", "accent", "good", "warn", "bad", "run", "key", "head", "tab", "alert", "danger",
    "cursor", "mark", "field", "unset", "chosen", "picked", "line",
)  # fmt: skip


def width_of(spans: Iterable[Span]) -> int:
    """The width of the spans in cells."""
    return sum(cell_len(text) for text, _ in spans)


FILLING = ("alert", "danger")
"""Inks that fill the rest of their line as well."""


def release_painted() -> None:
    """Frees what removed widgets have painted. Textual would keep the last thousand: 20 MB of forms."""
    StylesCache.get_inner_outer.cache_clear()


class InkedApp(App[int]):
    """An app that holds the inks, as component classes of its own; `app.tcss` sets the colours.

    Textual makes a node for each component class of each widget whenever a screen opens or the focus moves, so the
    inks are those of the app and not of every line.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"ink--{name}" for name in INKS}

    def ink(self, name: str) -> Style:
        """The style of an ink, without the colours of the widget under it."""
        found = self._styles_of_inks.get(name)
        if found is None:
            found = self._styles_of_inks[name] = self.get_component_styles(f"ink--{name}").partial_rich_style
        return found

    def notify_style_update(self) -> None:
        self._styles_of_inks: dict[str, Style] = {}
        super().notify_style_update()


class PaintedOnce(Screen[T]):
    """A screen that is painted once when it opens.

    Textual would paint it up to four times: after each of its layouts, and as a whole. Another kind of screen is the
    first base of a subclass, because Textual takes the styles of the first base alone.
    """

    def _compositor_refresh(self) -> None:
        """Paints no parts while the whole screen is about to be painted."""
        if self._repaint_required:
            self.check_idle()
        else:
            super()._compositor_refresh()


class Inked(Widget):
    """A widget that paints in the inks of its app, which is an `InkedApp`."""

    def ink(self, name: str) -> Style:
        """The style of an ink on the background of this widget."""
        return self.base() + cast("InkedApp", self.app).ink(name)

    def base(self) -> Style:
        """The widget's own colours, used between words."""
        return self.visual_style.rich_style

    def strip(self, spans: Sequence[Span], width: int) -> Strip:
        """The spans as one line of exactly `width` cells; what does not fit is cut with an ellipsis."""
        base = self.base()
        of_the_app = cast("InkedApp", self.app).ink
        if width_of(spans) > width:
            spans = cut(spans, width)
        segments = [Segment(text, base + of_the_app(ink)) for text, ink in spans if text]
        return Strip(segments).adjust_cell_length(width, base)


class PlainLine(Inked, can_focus=False):
    """One line of text with a left and a right part. `show` repaints only the cells that changed."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id, classes=classes)
        self._left: tuple[Span, ...] = ()
        self._right: tuple[Span, ...] = ()
        self._painted: tuple[Span, ...] = ()

    @property
    def text(self) -> str:
        """The text of the line, without colours."""
        return "".join(text for text, _ in self.spans).rstrip()

    def show(self, left: Sequence[Span], right: Sequence[Span] = ()) -> None:
        """Replaces the line; an equal one is not repainted."""
        self._left, self._right = tuple(left), tuple(right)
        self._repaint()

    def render_line(self, y: int) -> Strip:
        return self.strip(self.spans if y == 0 else (), self.size.width)

    def on_resize(self, _event: Resize) -> None:
        self._painted = self.spans

    @property
    def spans(self) -> tuple[Span, ...]:
        """The spans of the whole width, from the first cell to the last."""
        width = self.size.width
        reserved = width_of(self._right)
        room = width - reserved - (1 if reserved else 0)
        used = width_of(self._left)
        if used > room:
            return (*cut(self._left, room), (" " if reserved else "", "text"), *self._right)
        last = self._left[-1][1] if self._left else "text"
        return (*self._left, (" " * (width - reserved - used), last if last in FILLING else "text"), *self._right)

    def _repaint(self) -> None:
        before, self._painted = self._painted, self.spans
        if before == self._painted:
            return
        start, end = changed_cells(before, self._painted, self.size.width)
        if end > start:
            self.refresh(Region(start, 0, end - start, 1))


class Line(PlainLine, can_focus=False):
    """A line in any ink that reports clicks."""

    class Clicked(Message):
        """A cell of the line was clicked."""

        def __init__(self, line: Line, x: int) -> None:
            super().__init__()
            self.line = line
            self.x = x

    def fit(self, spans: Sequence[Span]) -> None:
        """Replaces the line and makes the widget as wide as its text."""
        width = width_of(spans)
        if self.styles.width is None or self.styles.width.value != width:
            self.styles.width = width
        self.show(spans)

    def on_click(self, event: Click) -> None:
        self.post_message(self.Clicked(self, event.x))


def changed_cells(before: Iterable[Span], after: Iterable[Span], width: int) -> tuple[int, int]:
    """The first cell in which two lines of a width differ, and the cell after the last one; equal if there is none."""
    blank = [(" ", "text")]
    old, new = (cells + blank * max(0, width - len(cells)) for cells in (_cells(before), _cells(after)))
    differing = [x for x in range(width) if old[x] != new[x]]
    return (differing[0], differing[-1] + 1) if differing else (0, 0)


def _cells(spans: Iterable[Span]) -> list[tuple[str, str]]:
    cells = []
    for text, ink in spans:
        for character in text:
            cells.extend([(character, ink)] * cell_len(character))
    return cells


def cut(spans: Iterable[Span], room: int) -> list[Span]:
    """The spans in `room` cells: cut with an ellipsis, or padded. Blanks at the end are cut without one."""
    given, kept, room = list(spans), [], max(room, 0)
    cells = cell_len("".join(text for text, _ in given).rstrip())
    left = room if cells <= room else max(room - 1, 0)
    for text, ink in given:
        length = cell_len(text)
        if length > left:
            kept.append((Strip([Segment(text)]).crop(0, left).text, ink))
            left = 0
            break
        kept.append((text, ink))
        left -= length
    if cells <= room:
        return [*kept, (" " * left, "text")]
    text, ink = kept[-1]
    return [*kept[:-1], (f"{text}…" if room else "", ink)]


class Reason(Static, can_focus=False):
    """A sentence that is wrapped and never cut. An empty one takes no room."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self.text = ""

    def say(self, text: str) -> None:
        """Replaces the sentence."""
        if text != self.text:
            self.text = text
            self.set_class(bool(text), "-said")
            self.update(Content(text))
