"""The base of both applications, the dashboard and the fleet: theme, keys typed ahead, toasts, work in threads.

It ends on a signal, a closed terminal or an error, with the terminal restored and one sentence.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual import events
from textual.app import App
from textual.binding import Binding

from jobdeck.core.errors import JobdeckError
from jobdeck.core.redact import clean
from jobdeck.tui import themes
from jobdeck.tui.actions import key_of
from jobdeck.tui.backend.threads import Answer, Threads
from jobdeck.tui.deck import Options
from jobdeck.tui.format import within
from jobdeck.tui.terminal.keyboard import attentive
from jobdeck.tui.terminal.output import thrifty
from jobdeck.tui.terminal.type_ahead import TypeAhead
from jobdeck.tui.widgets.ink import InkedApp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from rich.console import RenderableType
    from textual.driver import Driver

    from jobdeck.tui.backend.threads import Background, Severity


MOST_TOASTS: Final = 2
"""Maximum number at a time. More would cover the list."""
TOAST: Final = 640
"""Maximum length in cells: ten lines."""
INPUT = 0
OUTPUTS = (1, 2)
LOOK_EVERY = 1_000
HUNG_UP = 128 + signal.SIGHUP
"""The exit code when the terminal has gone."""
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

        def heard(*_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.exit, HUNG_UP, HUNG_UP)

        # The terminal sends one, and its shell another. A handler of the loop is removed when the loop is closed. Then
        # the second signal would end the process before its worker has drained.
        signal.signal(signal.SIGHUP, heard)
        self.call_later(watch, lambda: tell(lambda: self.exit(HUNG_UP, HUNG_UP)), lambda: self.is_running)

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
        if _is_gone():  # to read or write it then is what failed, maybe before `watch` has seen it
            _quieten()
            self._return_code = HUNG_UP
        else:
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
        """The platform's driver, changed to write less and to lose no key after `esc`."""
        return attentive(thrifty(super().get_driver_class()), self.alt_keys)

    def alt_keys(self) -> Collection[str]:
        """The keys `alt+…` that the user has configured."""
        return ()


class Hosting(InkedApp, Ending):
    """An application that reads in the background. `background` and `monotonic` are for tests."""

    TITLE = "Jobdeck"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[Any]] = [Binding("ctrl+c", "help_quit", show=False, system=True, priority=True)]
    """With priority, because otherwise a dialog hides this binding of the app, and a field copies with this key."""

    def __init__(
        self,
        options: Options | None = None,
        *,
        background: Background | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.options = options or Options()
        for theme in themes.of(few_colours=self.options.few_colours):
            self.register_theme(theme)
        self.theme = self.options.theme if self.options.theme in self.available_themes else themes.DARK.name
        # Textual has begun with a theme of this name in 16 colours, and does not see that it was replaced.
        self.stylesheet.set_variables(self.get_css_variables())
        self.monotonic = monotonic
        self._threads = Threads(self)
        self.background: Background = background or self._threads
        self._typed = TypeAhead(self, super().on_event, self.later)

    def alt_keys(self) -> Collection[str]:
        return {key for keys in self.options.keymap.values() for key in keys if key.startswith("alt+")}

    async def on_event(self, event: events.Event) -> None:
        """Delays each key until the key before it has had its effect."""
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
            await self._typed.take(event)
        else:
            await super().on_event(event)

    def opening(self, done: Callable[[Any], None]) -> Callable[[Any], None]:
        """Keeps what is typed until the returned function is called: it is for the dialog that `done` opens."""
        return self._typed.opening(done)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """The dashboard's own colour variables, for themes without them."""
        return themes.FALLBACKS

    def refresh_css(self, animate: bool = True) -> None:
        """Before the first screen it only sets the colours: rules are read when they are first used, so once."""
        if self.screen_stack:
            super().refresh_css(animate)
        else:
            self.stylesheet.set_variables(self.get_css_variables())

    def begin(self, read: Callable[[], object]) -> None:
        """Uses the configured keys, reads after the first, empty screen is painted, and handles signals."""
        self.set_keymap({action_id: ",".join(keys) for action_id, keys in self.options.keymap.items()})
        self.call_after_refresh(read)
        if self.options.ticking:
            self.tick()
        self.heed_signals(self.tell)

    def tick(self) -> None:
        """Updates displayed durations now, and again soon."""
        raise NotImplementedError

    def tell(self, deliver: Callable[[], None]) -> None:
        self._threads.tell(deliver)

    def later(self, seconds: float, callback: Callable[[], Awaitable[None] | None]) -> asyncio.TimerHandle:
        """Schedules a call on this thread after `seconds`, unless the application has ended by then.

        Textual's own timer never fires when the process is suspended for that long just when the timer is set.
        """

        def due() -> None:
            if self.is_running and not self._exit:
                self.call_next(callback)

        return asyncio.get_running_loop().call_later(seconds, due)

    def on_answer(self, event: Answer) -> None:
        event.deliver()

    def key(self, action_id: str) -> str:
        """The key of an action or a dialog as shown to users, according to the user's key map."""
        return key_of(action_id, self.options.keymap)

    def say(self, text: str, severity: Severity = "information") -> None:
        """Shows a toast, which replaces one with the same text. The text is cleaned, and markup in it is not used.

        A text that is too long is shortened in its middle, where it has a name or a payload.
        """
        text = "\n".join(within(clean(text, multiline=True).split("\n"), TOAST))
        self.unsay(text)
        for shown in list(self._notifications)[: 1 - MOST_TOASTS]:
            self._unnotify(shown)
        self.notify(text, severity=severity, markup=False, timeout=8 if severity == "information" else 14)

    def unsay(self, text: str) -> None:
        """Removes the toast with this text."""
        for shown in [shown for shown in self._notifications if shown.message == text]:
            self._unnotify(shown)

    async def action_quit(self) -> None:
        """Handles ctrl+q."""
        self.leave()

    def action_help_quit(self) -> None:
        """Handles ctrl+c, for which Textual would only show a hint."""
        self.leave()

    def leave(self) -> None:
        """Leaves the program."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Redraws the screen with the data already read."""
        raise NotImplementedError


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


def _is_gone() -> bool:
    """Whether the terminal on standard input is closed at its other end."""
    poll = select.poll()
    poll.register(INPUT, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


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
