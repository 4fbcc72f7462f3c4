"""The way back: what the list showed before a page listed its own jobs there, and the pages that were open then.

The pages are kept as they are, with cursor and scroll position, until somebody goes back or lists something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from uuid import UUID

    from textual.app import App
    from textual.screen import Screen

    from jobdeck.core.model import Status
    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.tui.backend.protocol import Request

LONGEST: Final = 10
"""Maximum number of places that are kept; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Place:
    """What the list showed, with the job under the cursor and its screen line, and the pages that covered it."""

    request: Request
    filter_text: str
    tab_before: Status | None
    group: ErrorGroup | None
    job_id: UUID | None
    line: int
    pages: tuple[Screen[Any], ...]


class Trail:
    """The places to go back to, the newest last."""

    def __init__(self) -> None:
        self._places: list[Place] = []

    def __bool__(self) -> bool:
        return bool(self._places)

    def keep(self, app: App[Any], place: Place) -> None:
        """Keeps a place, whose pages must have been set aside."""
        self._places.append(place)
        if len(self._places) > LONGEST:
            _close(app, self._places.pop(0))

    def back(self) -> Place:
        """Takes the newest place; `reopen` shows its pages again."""
        return self._places.pop()

    def forget(self, app: App[Any]) -> None:
        """Forgets all places and closes their pages."""
        while self._places:
            _close(app, self._places.pop())


def set_aside(app: App[Any]) -> tuple[Screen[Any], ...]:
    """Uncovers the list, and returns the pages that covered it. They are kept until `reopen`."""
    pages = tuple(app.screen_stack[1:])
    for page in reversed(pages):
        app.install_screen(page, f"aside-{id(page)}")
        app.pop_screen()
    return pages


def reopen(app: App[Any], pages: tuple[Screen[Any], ...]) -> None:
    """Shows the pages again, in their order."""
    for page in pages:
        app.uninstall_screen(page)
        app.push_screen(page)


def _close(app: App[Any], place: Place) -> None:
    for page in place.pages:
        app.uninstall_screen(page)
        page.remove()
