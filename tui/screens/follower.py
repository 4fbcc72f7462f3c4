"""Reads about what a cursor is on, but not at each of its moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from jobdeck.tui.deck import deck_of

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Callable

    from textual.dom import DOMNode

S = TypeVar("S")
T = TypeVar("T")
REST: Final = 0.2
"""How many seconds are between the beginnings of two readings."""


class Follower(Generic[S, T]):
    """Reads about one subject at a time, in the background, while its owner is on the screen.

    While the cursor moves fast, the first subject is read, the last one, and few in between. `take` gets each answer
    with its subject; the cursor may be elsewhere by then.
    """

    def __init__(self, owner: DOMNode, read: Callable[[S], T], take: Callable[[S, T | Exception], None]) -> None:
        self._owner, self._work, self._take = owner, read, take
        self._wanted: S | None = None
        self._asked: S | None = None
        """The subject that is being read."""
        self._asked_at: float | None = None
        self._timer: TimerHandle | None = None

    def is_old(self, seconds: float) -> bool:
        """Whether the last reading began so long ago."""
        return self._asked_at is None or deck_of(self._owner).monotonic() - self._asked_at >= seconds

    def want(self, subject: S) -> None:
        """Reads about a subject, unless that is under way: now, or some time after the last reading began."""
        self._wanted = subject
        self._read_soon()

    def leave(self) -> None:
        """Reads nothing until a subject is wanted again."""
        self._wanted = None
        self._stop_timer()

    def _read_soon(self) -> None:
        self._stop_timer()
        if self._asked is not None:
            return  # Its answer goes on with what is wanted then.
        if self.is_old(REST):
            self._read()
        else:
            self._timer = deck_of(self._owner).later(REST, self._read)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> None:
        subject, self._timer = self._wanted, None
        if subject is None or not self._owner.is_attached:
            return
        deck = deck_of(self._owner)
        self._asked, self._asked_at = subject, deck.monotonic()
        deck.background(lambda: self._work(subject), lambda answer: self._answered(subject, answer))

    def _answered(self, subject: S, answer: T | Exception) -> None:
        self._asked = None
        if not self._owner.is_attached:
            return
        self._take(subject, answer)
        if self._wanted is not None and self._wanted != subject:
            self._read_soon()
