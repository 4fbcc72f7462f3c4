"""The base of pages with a table above and the details of its current line below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rich.cells import cell_len
from textual.containers import Container

from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.widgets.ink import Line, Reason
from jobdeck.tui.widgets.pane import Pane, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult

    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry

T = TypeVar("T")


class SplitPage(ListPage[T]):
    """A heading of columns, a line for each subject, a rule with the subject's name, and its details.

    The lines keep their order, so the cursor stays where it is when the figures change.
    """

    def compose(self) -> ComposeResult:
        yield Line(id="title")
        yield Line(id="banner")
        yield Reason()
        yield Line(id="columns")
        with Container(id="parts"):
            yield self.make_pane()
            yield Line(id="rule")
            yield Pane(id="about", cursor=False)
        yield Line(id="keys")

    def columns(self, width: int) -> str:
        """The heading of the lines."""
        raise NotImplementedError

    def about(self, data: T, width: int) -> tuple[list[Span], Sequence[Entry]]:
        """The words in the rule, and the details of the current line; empty where there is none."""
        raise NotImplementedError

    @property
    def pane(self) -> Pane:
        """The pane with the focus, otherwise the lines."""
        return self.focused if isinstance(self.focused, Pane) else self.list_pane

    @property
    def list_pane(self) -> Pane:
        return self.query_one("#pane", Pane)

    @property
    def key_of_line(self) -> Any:
        """The key of the current line; None where there is none."""
        return self.list_pane.current if self.is_there else None

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {"pane.next": self._other_pane}

    def redraw(self) -> None:
        if not self.is_there:
            return
        self.draw_banner()
        width = self.list_pane.size.width
        self.query_one("#columns", Line).show([(self.columns(width), "head")])
        if width:
            reading = [entry((" Reading…", "muted"))]
            self.list_pane.show(reading if self.data is None else self.entries(self.data, width))
        self.draw_title()
        self.draw_keys()
        self.draw_about()

    def on_pane_moved(self) -> None:
        super().on_pane_moved()
        self.draw_about()

    def draw_about(self) -> None:
        """Draws the rule and the details."""
        pane = self.query_one("#about", Pane)
        if self.data is None or not pane.size.width:
            pane.show([])
            return
        words, details = self.about(self.data, pane.size.width)
        length = sum(cell_len(text) for text, _ in words)
        self.query_one("#rule", Line).show([*words, ("─" * max(self.size.width - length, 0), "muted")])
        pane.show(details)

    def _other_pane(self) -> None:
        other = self.query_one("#about", Pane) if self.pane is self.list_pane else self.list_pane
        other.focus()
