"""Keys typed ahead: each key is delivered only when the key before it has had its effect.

Textual delivers a key to the widget that has the focus at that moment. A key that opens a dialog or moves the focus
takes effect some turns of the event loop later, so the next keys of the same packet would be lost or go to the wrong
widget.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from textual.app import ScreenStackError
from textual.events import Key

from jobdeck.tui.widgets.jobs.job_table import JobTable
from jobdeck.tui.widgets.pane import Pane

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Awaitable, Callable

    from textual.app import App
    from textual.dom import DOMNode
    from textual.events import Paste


PATIENCE: Final = 0.5
"""Seconds after which the next key is delivered in any case."""

ROUNDS: Final = 3
LONGEST: Final = 10.0
"""Seconds that keys wait for a dialog. Then they are dropped, because they were meant for it."""
LEAVING: Final = frozenset({"ctrl+c", "ctrl+q"})
"""The keys that never wait for a dialog."""


class TypeAhead:
    """Holds back keys and pastes while an earlier one takes effect."""

    def __init__(
        self,
        app: App[Any],
        hand_on: Callable[[Key | Paste], Awaitable[None]],
        later: Callable[[float, Callable[[], Awaitable[None]]], TimerHandle],
    ) -> None:
        self._app = app
        self._later = later
        self._hand_on = hand_on
        self._held: deque[Key | Paste] = deque()
        self._turn = 0
        self._busy = False
        self._timer: TimerHandle | None = None
        self._openings = 0
        """How many dialogs will open when the database has answered."""
        self._given_up = 0
        """How often somebody has left such a wait by escape."""

    async def take(self, event: Key | Paste) -> None:
        """Delivers a key or paste, now or when its turn comes."""
        if self._openings and isinstance(event, Key) and event.key in LEAVING:
            await self._hand_on(event)
            return
        if self._openings and isinstance(event, Key) and event.key == "escape":
            # Somebody does not wait for the dialog: what was typed for it is dropped, and the keys work again.
            self._held.clear()
            self._given_up, self._openings, self._busy = self._given_up + 1, 0, False
        self._held.append(event)
        if not self._busy:
            await self._next()

    def opening(self, done: Callable[[Any], None]) -> Callable[[Any], None]:
        """Keeps what is typed until the returned function is called, which calls `done`.

        What was typed goes to the screen or dialog that `done` opens. If it opens none, it is dropped. Escape drops it,
        too, and ends the wait.
        """
        before, over, epoch = self._target_screen(), False, self._given_up

        def release() -> None:
            nonlocal over
            if over or epoch != self._given_up:
                return
            over = True
            self._openings -= 1
            if self._target_screen() is before:
                self._held.clear()
            if not self._openings:
                self._turn += 1
                self._follow(self._turn, self._target(), ROUNDS)

        async def expire() -> None:
            release()

        def ended(answer: Any) -> None:
            try:
                done(answer)
            finally:
                release()

        self._openings += 1
        self._later(LONGEST, expire)
        return ended

    def _target_screen(self) -> DOMNode | None:
        target = self._target()
        return target.screen if target is not None else None

    async def _next(self) -> None:
        if self._openings:
            self._busy = True
            return
        self._turn += 1
        if self._timer is not None:
            self._timer.cancel()
        self._busy = bool(self._held)
        if not self._held:
            return
        turn, target = self._turn, self._target()
        if target is None:
            self._held.clear()
            self._busy = False
            return
        self._timer = self._later(PATIENCE, lambda: self._give_up(turn))
        await self._hand_on(self._held.popleft())
        self._follow(turn, target, 0 if isinstance(target, JobTable | Pane) else ROUNDS)

    async def _give_up(self, turn: int) -> None:
        if turn == self._turn:
            await self._next()

    def _target(self) -> DOMNode | None:
        """The receiver of a key; None before the first screen and while the app ends."""
        if not self._app.is_running:
            return None
        try:
            return self._app.focused or self._app.screen
        except ScreenStackError:
            return None

    def _follow(self, turn: int, target: DOMNode | None, rounds: int) -> None:
        """Follows a key from the focus up to the app, through each message queue, and `rounds` more times.

        In a list a key is a binding, which has taken effect when the key has arrived at the app. A field or a button
        sends messages, whose receivers send others, and each round follows one such generation.
        """
        # The app comes twice, because a binding moves the focus with a callback in the app's queue.
        way = [*target.ancestors_with_self, self._app] if target else []

        async def arrived() -> None:
            if turn != self._turn:
                return
            now = self._target()
            if rounds or now is not target:
                self._follow(turn, now, max(rounds - 1, 0))
            else:
                await self._next()

        def climb() -> None:
            while way:
                if way.pop(0).call_later(climb if way else arrived):
                    return
            self._app.call_later(arrived)

        climb()
