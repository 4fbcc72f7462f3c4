"""Work off the UI's thread, and what those who start it need of the application.

Threads are daemons of their own, so that leaving never waits for a connection that hangs.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from textual.message import Message

from jobdeck.core.errors import DatabaseUnreachable, JobdeckError
from jobdeck.tui.format import one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.app import App

    from jobdeck.tui.backend.protocol import Backend

T = TypeVar("T")
Severity = Literal["information", "warning", "error"]

logger = logging.getLogger(__name__)


class Timer(Protocol):
    """A call that was scheduled and can be cancelled before it happens."""

    def cancel(self) -> None:
        """Keeps it from happening."""


class Background(Protocol):
    """Runs work off the UI's thread and hands its answer, or the exception it raised, to the UI's thread."""

    def __call__(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Starts the work; `done` is called later, once."""


class Host(Protocol):
    """What work in the background needs of the application."""

    @property
    def background(self) -> Background:
        """Starts work off the UI's thread."""

    def reach(self) -> Backend:
        """The backend, made at its first use; blocks, so it is called in the background."""

    def tell(self, deliver: Callable[[], None]) -> None:
        """Has something called on the UI's thread; may be called in any thread."""

    def later(self, seconds: float, callback: Callable[[], Awaitable[None] | None]) -> Timer:
        """Calls something on the UI's thread after so many seconds."""

    def monotonic(self) -> float:
        """The monotonic clock, in seconds."""

    def say(self, text: str, severity: Severity = "information") -> None:
        """Shows a toast."""

    def key(self, action_id: str) -> str:
        """The name of the key that takes an action."""

    def changed(self) -> None:
        """Reads the queue again and redraws the screen: something was done to the queue."""

    def redraw(self) -> None:
        """Redraws the screen from what is known."""


class Answer(Message, bubble=False):
    """Work has ended; `deliver` takes its answer to whoever asked."""

    def __init__(self, deliver: Callable[[], None]) -> None:
        super().__init__()
        self.deliver = deliver


class Threads:
    """One daemon thread for each piece of work; the answer comes back as a message to the app."""

    def __init__(self, app: App[int]) -> None:
        self._app = app

    def __call__(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Starts the work; `done` is called on the UI's thread with its answer or the exception it raised."""

        def run() -> None:
            try:
                answer: T | Exception = work()
            except Exception as error:  # noqa: BLE001 -- handed to `done`, which tells the person
                answer = error
            self.tell(lambda: done(answer))

        threading.Thread(target=run, name="jobdeck-ui", daemon=True).start()

    def tell(self, deliver: Callable[[], None]) -> None:
        """Has something called on the UI's thread; nothing happens once the app has left."""
        if self._app.is_running:
            self._app.post_message(Answer(deliver))


def failure(what: str, error: Exception) -> str:
    """What to say when something could not be done, or when nobody knows whether it was."""
    if isinstance(error, DatabaseUnreachable):
        return f"Whether Jobdeck could {what} is unknown: {one_line(str(error))} It is not tried again; look first."
    if isinstance(error, JobdeckError):
        return f"Could not {what}: {one_line(str(error))}"
    logger.error("The action %s failed", what, exc_info=error)
    return f"Could not {what}: {type(error).__name__}. The log file (JOBDECK_LOG_FILE) has the details."
