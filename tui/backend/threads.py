"""Work off the UI's thread. Own daemon threads, so that leaving never waits for a connection that hangs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from textual.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import App

T = TypeVar("T")


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
