"""The page that shows the operators' playbook."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.text import playbook
from jobdeck.tui.widgets.pane import Pane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry


class Playbook(ListPage[bool]):
    """Shows docs/operations.md. It needs no database."""

    SCOPE: ClassVar[Scope] = "playbook"
    HEADING: ClassVar[str] = "Playbook"

    def __init__(self) -> None:
        super().__init__()
        self.data = True

    def make_pane(self) -> Pane:
        return Pane(id="pane", cursor=False)

    def read(self, backend: Backend) -> bool:
        del backend
        return True

    def fetch(self) -> None:
        """Reads nothing."""

    def entries(self, data: bool, width: int) -> Sequence[Entry]:
        del data
        return playbook.entries(width)

    def summary(self, data: bool) -> list[Span]:
        """The section at the top of the pane."""
        del data
        return [(self._sections()[self._here()][1], "muted")]

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "section.next": lambda: self._go(self._here() + 1),
            "section.previous": lambda: self._go(self._here() - (self._sections()[self._here()][0] == self.pane.top)),
        }

    def _sections(self) -> list[tuple[int, str]]:
        names = set(playbook.sections())
        found = [(at, str(one.key)) for at, one in enumerate(self.pane.entries) if one.key in names]
        return [(0, ""), *found]

    def _here(self) -> int:
        return max(number for number, (at, _) in enumerate(self._sections()) if at <= self.pane.top)

    def _go(self, section: int) -> None:
        sections = self._sections()
        self.pane.move_to(sections[min(max(section, 0), len(sections) - 1)][0])
