"""The base of both applications, the dashboard and the fleet: theme, keys typed ahead, toasts, work in threads."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual import events
from textual.binding import Binding

from jobdeck.core.redact import clean
from jobdeck.tui import themes
from jobdeck.tui.actions import key_of
from jobdeck.tui.backend.threads import Answer, Threads
from jobdeck.tui.deck import Options
from jobdeck.tui.format import within
from jobdeck.tui.terminal.ending import Ending
from jobdeck.tui.terminal.type_ahead import TypeAhead
from jobdeck.tui.widgets.ink import InkedApp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobdeck.tui.backend.threads import Background, Severity


MOST_TOASTS: Final = 2
"""Maximum number at a time. More would cover the list."""
TOAST: Final = 640
"""Maximum length in cells: ten lines."""


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
        self.monotonic = monotonic
        self._threads = Threads(self)
        self.background: Background = background or self._threads
        self._typed = TypeAhead(self, super().on_event, self.later)

    async def on_event(self, event: events.Event) -> None:
        """Delays each key until the key before it has had its effect."""
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
            await self._typed.take(event)
        else:
            await super().on_event(event)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """The dashboard's own colour variables, for themes without them."""
        return themes.FALLBACKS

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
