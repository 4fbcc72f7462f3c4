"""Background work in threads, and the parts of the application that it needs.

The threads are daemons, so that leaving the dashboard never waits for a hanging connection.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from textual.message import Message

from jobdeck.core.errors import DatabaseUnreachable, JobdeckError
from jobdeck.tui.format import one_line

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Awaitable, Callable

    from textual.app import App

    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.backend.protocol import View

T = TypeVar("T")
Severity = Literal["information", "warning", "error"]

logger = logging.getLogger(__name__)


class Background(Protocol):
    """Runs functions in other threads than the UI's."""

    def __call__(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Starts `work`. Later calls `done` once, on the UI's thread, with its result or its exception."""


class Host(Protocol):
    """The part of the application that background work uses."""

    @property
    def background(self) -> Background:
        """Starts background work."""

    def opening(self, done: Callable[[Any], None]) -> Callable[[Any], None]:
        """Keeps what is typed until the returned function is called: it is for the dialog that `done` opens."""

    def reach(self) -> Backend:
        """The backend, made on first use. Blocks, so call it in the background."""

    def tell(self, deliver: Callable[[], None]) -> None:
        """Schedules a call on the UI's thread. Can be called in any thread."""

    def later(self, seconds: float, callback: Callable[[], Awaitable[None] | None]) -> TimerHandle:
        """Schedules a call on the UI's thread after `seconds`."""

    def monotonic(self) -> float:
        """The monotonic clock, in seconds."""

    def say(self, text: str, severity: Severity = "information") -> None:
        """Shows a toast."""

    def key(self, action_id: str) -> str:
        """The name of the key of an action."""

    def changed(self) -> None:
        """Reads the queue again and redraws the screen, after an action."""

    def redraw(self) -> None:
        """Redraws the screen with the data already read."""

    def reading(self) -> None:
        """Reads what else is on the screen, while the poller reads the queue."""

    def take_view(self, view: View) -> None:
        """Shows the data that the poller has read."""

    def link_changed(self) -> None:
        """Shows the state of the connection."""

    def give_up(self, error: JobdeckError) -> None:
        """Ends the program, because the first read failed and waiting would not help."""


class Answer(Message, bubble=False):
    """Background work has ended. `deliver` is to be called on the UI's thread."""

    def __init__(self, deliver: Callable[[], None]) -> None:
        super().__init__()
        self.deliver = deliver


class Threads:
    """Implements `Background` with one daemon thread per function."""

    def __init__(self, app: App[int]) -> None:
        self._app = app

    def __call__(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        def run() -> None:
            try:
                answer: T | Exception = work()
            except Exception as error:  # noqa: BLE001 -- passed to `done`, which shows it
                answer = error
            self.tell(lambda: done(answer))

        threading.Thread(target=run, name="jobdeck-ui", daemon=True).start()

    def tell(self, deliver: Callable[[], None]) -> None:
        """Schedules a call on the UI's thread. Does nothing after the app has ended."""
        if self._app.is_running:
            self._app.post_message(Answer(deliver))


def failure(what: str, error: Exception) -> str:
    """The sentence for an action that failed, or whose result is unknown because the connection was lost."""
    if isinstance(error, DatabaseUnreachable):
        return f"It is unknown whether Jobdeck could {what}: {one_line(str(error))} It does not try again. Check first."
    if isinstance(error, JobdeckError):
        return f"Could not {what}: {one_line(str(error))}"
    logger.error("The action %s failed", what, exc_info=error)
    return f"Could not {what}: {type(error).__name__}. The log file (JOBDECK_LOG_FILE) has the details."
