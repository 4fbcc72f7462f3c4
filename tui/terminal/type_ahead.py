"""Keys typed ahead: each is handed on only when the one before it has had its effect.

Textual hands a key to whatever has the focus when it comes. A key that opens a dialog or moves the focus has its
effect some turns of the loop later, so that what came in the same packet would be lost, or reach what lies below.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from textual.app import ScreenStackError

from jobdeck.tui.widgets.job_table import JobTable
from jobdeck.tui.widgets.pane import Pane

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.app import App
    from textual.dom import DOMNode
    from textual.events import Key, Paste

    from jobdeck.tui.backend.threads import Timer

PATIENCE: Final = 0.5
"""After so many seconds the next key is handed on, whatever has become of the one before."""

ROUNDS: Final = 3


class TypeAhead:
    """Holds keys and pastes back while an earlier one is at work."""

    def __init__(
        self,
        app: App[Any],
        hand_on: Callable[[Key | Paste], Awaitable[None]],
        later: Callable[[float, Callable[[], Awaitable[None]]], Timer],
    ) -> None:
        self._app = app
        self._later = later
        self._hand_on = hand_on
        self._held: deque[Key | Paste] = deque()
        self._turn = 0
        self._busy = False
        self._timer: Timer | None = None

    async def take(self, event: Key | Paste) -> None:
        """Hands on what was typed, now or when its turn has come."""
        self._held.append(event)
        if not self._busy:
            await self._next()

    async def _next(self) -> None:
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
        """What a key goes to; None before there is a screen, and while the program is being left."""
        if not self._app.is_running:
            return None
        try:
            return self._app.focused or self._app.screen
        except ScreenStackError:
            return None

    def _follow(self, turn: int, target: DOMNode | None, rounds: int) -> None:
        """Takes the way of a key from the focus up to the app, through each one's queue; then that of what it set off.

        In a list a key is a binding, whose effect is there when the key has arrived. A field or a button sends
        messages, and their receivers others, each of which is as far behind as its sender was in the round before.
        """
        # The app comes twice: a binding moves the focus by a callback that the app has yet to come to.
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
