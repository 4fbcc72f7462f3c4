"""Widgets that paint their own lines: named inks from the theme, and repainting of what changed only."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual._styles_cache import StylesCache
from textual.content import Content
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.style import Style
    from textual.events import Click, Resize

Span = tuple[str, str]
INKS = (
    "text", "muted", "strong", "accent", "good", "warn", "bad", "run", "key", "head", "tab", "alert", "danger",
    "cursor", "mark", "field", "unset", "chosen", "picked",
)  # fmt: skip


FILLING = ("alert", "danger")
"""Inks that colour the rest of their line as well."""


def let_go() -> None:
    """Lets go of what widgets painted that are gone. Textual would keep that of the last thousand: 20 MB of forms."""
    StylesCache.get_inner_outer.cache_clear()


def inks(*names: str) -> set[str]:
    """The component classes of a widget that uses these inks. Each costs every such widget about 9 kB."""
    return {f"ink--{name}" for name in names}


class Inked(Widget):
    """A widget whose component classes are inks; `app.tcss` gives each its colour."""

    def ink(self, name: str) -> Style:
        """The style of an ink under the current theme."""
        return self.get_component_rich_style(f"ink--{name}")

    def base(self) -> Style:
        """The widget's own colours, for what lies between the words."""
        return self.visual_style.rich_style

    def strip(self, spans: Iterable[Span], width: int) -> Strip:
        """The spans as one line of exactly `width` cells."""
        base = self.base()
        segments = [Segment(text, base + self.ink(ink)) for text, ink in spans if text]
        return Strip(segments).adjust_cell_length(width, base)


class PlainLine(Inked, can_focus=False):
    """One line of text, part of it set right. `show` repaints the cells that changed and no other."""

    COMPONENT_CLASSES: ClassVar[set[str]] = inks("text", "muted", "bad")

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id, classes=classes)
        self._left: tuple[Span, ...] = ()
        self._right: tuple[Span, ...] = ()
        self._painted: list[tuple[str, str]] = []

    @property
    def text(self) -> str:
        """What the line says, without colours."""
        return "".join(text for text, _ in self._spans()).rstrip()

    def show(self, left: Sequence[Span], right: Sequence[Span] = ()) -> None:
        """Replaces the line; does nothing when it says the same already."""
        self._left, self._right = tuple(left), tuple(right)
        self._repaint()

    def render_line(self, y: int) -> Strip:
        """The line itself; a line has no second one."""
        return self.strip(self._spans() if y == 0 else (), self.size.width)

    @property
    def spans(self) -> tuple[Span, ...]:
        """What stands in it now, from its first cell to its last."""
        return self._spans()

    def on_resize(self, _event: Resize) -> None:
        """Sets the right part anew."""
        self._painted = _cells(self._spans())

    def _spans(self) -> tuple[Span, ...]:
        width = self.size.width
        reserved = sum(cell_len(text) for text, _ in self._right)
        room = width - reserved - (1 if reserved else 0)
        used = sum(cell_len(text) for text, _ in self._left)
        if used > room:
            return (*_cut(self._left, room), (" " if reserved else "", "text"), *self._right)
        last = self._left[-1][1] if self._left else "text"
        return (*self._left, (" " * (width - reserved - used), last if last in FILLING else "text"), *self._right)

    def _repaint(self) -> None:
        fresh = _cells(self._spans())
        width = self.size.width
        blank = [(" ", "text")]
        old = self._painted + blank * max(0, width - len(self._painted))
        new = fresh + blank * max(0, width - len(fresh))
        differing = [x for x in range(min(width, len(new))) if x >= len(old) or old[x] != new[x]]
        self._painted = fresh
        if differing:
            self.refresh(Region(differing[0], 0, differing[-1] - differing[0] + 1, 1))


class Line(PlainLine, can_focus=False):
    """A line in any ink, that says where it was clicked."""

    COMPONENT_CLASSES: ClassVar[set[str]] = inks(*INKS)

    class Clicked(Message):
        """A cell of the line was clicked."""

        def __init__(self, line: Line, x: int) -> None:
            super().__init__()
            self.line = line
            self.x = x

        @property
        def control(self) -> Line:
            """The line."""
            return self.line

    def fit(self, spans: Sequence[Span]) -> None:
        """Replaces the line, and takes no more room than it needs."""
        width = sum(cell_len(text) for text, _ in spans)
        if self.styles.width is None or self.styles.width.value != width:
            self.styles.width = width
        self.show(spans)

    def on_click(self, event: Click) -> None:
        """Says where it was clicked."""
        self.post_message(self.Clicked(self, event.x))


def _cells(spans: Iterable[Span]) -> list[tuple[str, str]]:
    cells = []
    for text, ink in spans:
        for character in text:
            cells.extend([(character, ink)] * cell_len(character))
    return cells


def _cut(spans: Iterable[Span], room: int) -> list[Span]:
    kept: list[Span] = []
    for text, ink in spans:
        length = cell_len(text)
        if length > room:
            strip = Strip([Segment(text)]).crop(0, max(room - 1, 0))
            return [*kept, (f"{strip.text}…" if room > 0 else "", ink)]
        kept.append((text, ink))
        room -= length
    return [*kept, (" " * room, "text")]


class Reason(Static, can_focus=False):
    """A sentence that is wrapped and never cut. It takes no room while there is none."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self.text = ""

    def say(self, text: str) -> None:
        """Replaces the sentence; does nothing when it says the same already."""
        if text != self.text:
            self.text = text
            self.set_class(bool(text), "-said")
            self.update(Content(text))
