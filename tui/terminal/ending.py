"""How the dashboard ends other than by being left: signals, a terminal that is gone, and errors, each as a sentence."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from textual.app import App

from jobdeck.core.errors import JobdeckError
from jobdeck.tui.terminal import hang_up
from jobdeck.tui.terminal.thrift import thrifty

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType
    from textual.driver import Driver

logger = logging.getLogger(__name__)


class Ending(App[int]):
    """An app that restores the terminal whatever happens; `failure` is why it ended, for who reads what it leaves."""

    failure: JobdeckError | None = None

    def heed_signals(self, tell: Callable[[Callable[[], None]], None]) -> None:
        """Takes the signals that end it, notices a terminal that is gone; `tell` reaches this thread from others."""
        if self.is_headless:
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.exit, 128 + number, 128 + number)
        hung_up = 128 + signal.SIGHUP
        self.call_later(hang_up.watch, lambda: tell(lambda: self.exit(hung_up, hung_up)))

    def _handle_exception(self, error: Exception) -> None:
        """Ends with a sentence, where Textual would print a traceback with the values of all variables."""
        if self.is_headless:
            super()._handle_exception(error)
            return
        logger.error("The dashboard failed", exc_info=error)
        self._end_because_of(type(error).__name__)

    def panic(self, *renderables: RenderableType) -> None:
        """Ends with a sentence as well when Textual's own thread for the keys has failed, which brings a traceback."""
        if self.is_headless:
            super().panic(*renderables)
            return
        from rich.traceback import Traceback  # noqa: PLC0415 -- slow to import, and seldom needed

        stacks = [stack for one in renderables if isinstance(one, Traceback) for stack in one.trace.stacks]
        logger.error("Reading the terminal failed: %s", [f"{stack.exc_type}: {stack.exc_value}" for stack in stacks])
        self._end_because_of(stacks[0].exc_type if stacks else "error")

    def _end_because_of(self, error: str) -> None:
        self.failure = JobdeckError(
            f"The dashboard ended because of an unforeseen {error}. "
            "Set JOBDECK_LOG_FILE and repeat what you did to keep the traceback."
        )
        self._return_code = 1
        self._close_messages_no_wait()

    def give_up(self, error: JobdeckError) -> None:
        """Ends with the sentence of what cannot be mended by waiting."""
        self.failure = error
        self.exit(error.exit_code, error.exit_code)

    def get_driver_class(self) -> type[Driver]:
        """The platform's driver, made to write no more than it has to."""
        return thrifty(super().get_driver_class())
