"""Ends the dashboard on a signal, a closed terminal or an error, with the terminal restored and one sentence."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import threading
from typing import TYPE_CHECKING

from textual.app import App

from jobdeck.core.errors import JobdeckError
from jobdeck.tui.terminal.thrift import thrifty

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType
    from textual.driver import Driver

INPUT = 0
OUTPUTS = (1, 2)
LOOK_EVERY = 1_000
"""Milliseconds between two checks of the terminal's foreground process."""

logger = logging.getLogger(__name__)


class Ending(App[int]):
    """An app that always restores the terminal. After an error, `failure` has the sentence for the user."""

    failure: JobdeckError | None = None
    gave_up = False
    """Whether `failure` is an error that waiting would not fix, such as a missing schema."""

    def heed_signals(self, tell: Callable[[Callable[[], None]], None]) -> None:
        """Installs handlers of signals and watches for a closed terminal. `tell` schedules a call on this thread."""
        if self.is_headless:
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.exit, 128 + signal.SIGTERM, 128 + signal.SIGTERM)
        hung_up = 128 + signal.SIGHUP

        def heard(*_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.exit, hung_up, hung_up)

        # The terminal sends one, and its shell another. A handler of the loop is removed when the loop is closed. Then
        # the second signal would end the process before its worker has drained.
        signal.signal(signal.SIGHUP, heard)
        self.call_later(watch, lambda: tell(lambda: self.exit(hung_up, hung_up)), lambda: self.is_running)

    def _handle_exception(self, error: Exception) -> None:
        """Ends the app with a sentence. Textual would print a traceback with the values of all variables."""
        if self.is_headless:
            super()._handle_exception(error)
            return
        logger.error("The dashboard failed", exc_info=error)
        self._end_because_of(type(error).__name__)

    def panic(self, *renderables: RenderableType) -> None:
        """Ends the app with a sentence after an error in Textual's thread for keys, which passes a traceback."""
        if self.is_headless:
            super().panic(*renderables)
            return
        from rich.traceback import Traceback  # noqa: PLC0415 -- slow to import, and rarely needed

        stacks = [stack for one in renderables if isinstance(one, Traceback) for stack in one.trace.stacks]
        logger.error("Reading the terminal failed: %s", [f"{stack.exc_type}: {stack.exc_value}" for stack in stacks])
        self._end_because_of(stacks[0].exc_type if stacks else "error")

    def _end_because_of(self, error: str) -> None:
        self.failure = JobdeckError(
            f"The dashboard ended because of an unexpected {error}. "
            "To keep the traceback, set JOBDECK_LOG_FILE and do the same again."
        )
        self._return_code = 1
        self._close_messages_no_wait()

    def give_up(self, error: JobdeckError) -> None:
        """Ends the app with an error that waiting would not fix."""
        self.failure, self.gave_up = error, True
        self.exit(error.exit_code, error.exit_code)

    def get_driver_class(self) -> type[Driver]:
        """The platform's driver, changed to write less."""
        return thrifty(super().get_driver_class())


def watch(gone: Callable[[], None], wanted: Callable[[], bool]) -> None:
    """Calls `gone` once, in its own thread, when the terminal on standard input is closed or used by another shell.

    It ends soon after it is no longer `wanted`. The kernel sends no SIGHUP when the terminal did not control this
    process, and `nohup` blocks it. Textual would then read end-of-file in a loop and use a whole core. Nor is there a
    signal when the shell that started this program has died and another shell uses the terminal: both would write to
    it.
    """
    threading.Thread(target=_wait, args=(gone, wanted), name="jobdeck-terminal", daemon=True).start()


def _wait(gone: Callable[[], None], wanted: Callable[[], bool]) -> None:
    poll = select.poll()
    poll.register(INPUT, 0)
    starter = os.getppid()
    while not (found := poll.poll(LOOK_EVERY)):
        if not wanted():
            return
        if os.getppid() != starter and _another_has_it():
            gone()  # the terminal still exists and can be restored
            return
    if found[0][1] & select.POLLNVAL:  # closed by this process, or the system cannot poll terminals
        return
    _quieten()
    gone()


def _another_has_it() -> bool:
    try:
        return os.tcgetpgrp(INPUT) != os.getpgrp()
    except OSError:  # the terminal does not control this process
        return False


def _quieten() -> None:
    """Redirects all output to /dev/null, so that the normal shutdown does not fail when it writes."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in OUTPUTS:
        os.dup2(nowhere, stream)
