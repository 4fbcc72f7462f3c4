"""When the database is read, and what is known of the connection. Lives on the UI's thread; knows no widget."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from jobdeck.core.errors import DatabaseUnreachable, JobdeckError
from jobdeck.tui.backend.protocol import LONGEST_PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.tui.backend.protocol import Backend, Request, View
    from jobdeck.tui.backend.threads import Background, Timer

INTERVALS: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
FIRST_RETRY: Final = 1.0
LONGEST_RETRY: Final = 30.0
AWAY: Final = 10.0
"""The shortest interval, in seconds, while nobody looks at the terminal."""

logger = logging.getLogger(__name__)


class LinkState(Enum):
    """Where the connection stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class Link:
    """The connection as the dashboard sees it. Times are those of the monotonic clock, in seconds."""

    state: LinkState = LinkState.CONNECTING
    since: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    error: str = ""

    def succeeded(self, now: float) -> Link:
        """After an answer."""
        since = self.since if self.state is LinkState.CONNECTED else now
        return Link(LinkState.CONNECTED, since)

    def failed(self, now: float, error: str) -> Link:
        """After no answer: the next try is twice as far away as the last, up to half a minute."""
        failures = self.failures + 1
        delay = min(FIRST_RETRY * 2 ** (failures - 1), LONGEST_RETRY)
        since = self.since if self.state is LinkState.DISCONNECTED else now
        return Link(LinkState.DISCONNECTED, since, failures, now + delay, error)


class Reader(Protocol):
    """What a poller needs of the application, and what it reports to it."""

    @property
    def background(self) -> Background:
        """Starts work off the UI's thread."""

    def reach(self) -> Backend:
        """The backend; blocks, so it is called in the background."""

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Calls something after so many seconds."""

    def monotonic(self) -> float:
        """The monotonic clock, in seconds."""

    def take_view(self, view: View) -> None:
        """Shows what was read."""

    def link_changed(self) -> None:
        """Shows what is known of the connection now."""

    def give_up(self, error: JobdeckError) -> None:
        """Ends the program: the first reading failed, and waiting would not help."""


class Poller:
    """One timer, armed again only after an answer has come, so that a slow link is never asked twice at once.

    An answer to a request that has been replaced meanwhile is dropped and the new one is asked at once.
    """

    def __init__(self, request: Request, reader: Reader, *, interval: float = 2.0) -> None:
        self.request = request
        self.link = Link(since=reader.monotonic())
        self.interval = interval
        self.frozen_since: float | None = None
        self.read_at: float | None = None
        """When the reading was begun whose answer is shown: the data are as old as that, and no older."""
        self.took = 0.0
        """Seconds that the last reading took. The first one does not count: it opens the database."""
        self._reader = reader
        self._asked: Request | None = None
        self._asked_at = 0.0
        self._again = False
        self._away = False
        self._timer: Timer | None = None
        self._stopped = False

    @property
    def connected(self) -> bool:
        """Whether the last try was answered."""
        return self.link.state is LinkState.CONNECTED

    @property
    def asking(self) -> bool:
        """Whether an answer is awaited."""
        return self._asked is not None

    @property
    def waited(self) -> float:
        """Seconds since the answer that is awaited was asked for; 0 while none is."""
        return self._reader.monotonic() - self._asked_at if self.asking else 0.0

    def poke(self) -> None:
        """Reads now, or directly after the answer that is awaited."""
        if self._stopped:
            return
        if self._asked is not None:
            self._again = True
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._asked, self._asked_at = self.request, self._reader.monotonic()
        request = self.request
        self._reader.background(lambda: self._reader.reach().view(request), self._answered)

    def change(self, request: Request) -> None:
        """Reads other jobs from now on."""
        if request != self.request:
            self.request = request
            self.poke()

    def grow(self, wanted: int) -> None:
        """Reads a longer list, up to the longest."""
        limit = min(max(wanted, self.request.limit), LONGEST_PAGE)
        self.change(replace(self.request, limit=limit))

    def step_interval(self, by: int) -> float:
        """Goes to a longer (1) or shorter (-1) interval and returns it, in seconds."""
        nearest = min(range(len(INTERVALS)), key=lambda at: abs(INTERVALS[at] - self.interval))
        self.interval = INTERVALS[min(max(nearest + by, 0), len(INTERVALS) - 1)]
        self._pace_anew()
        return self.interval

    def set_away(self, away: bool) -> None:
        """Reads less often while the terminal has not the focus, and at once when it has it again."""
        if away == self._away:
            return
        self._away = away
        if away:
            self._pace_anew()
        elif self.frozen_since is None:
            self.poke()

    def toggle_freeze(self) -> bool:
        """Stops reading by itself, or goes on; returns whether it stands still now."""
        if self.frozen_since is None:
            self.frozen_since = self._reader.monotonic()
            if self._timer is not None:
                self._timer.cancel()
        else:
            self.frozen_since = None
            self.poke()
        self._reader.link_changed()
        return self.frozen_since is not None

    def stop(self) -> None:
        """Reads no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    @property
    def pace(self) -> float:
        """Seconds from an answer to the next reading, as things are."""
        return max(self.interval, AWAY) if self._away else self.interval

    def _pace_anew(self) -> None:
        if self._asked is None and self.connected and self.frozen_since is None:
            self._arm(self.pace)

    def _arm(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._reader.later(delay, self.poke)

    def _answered(self, answer: View | Exception) -> None:
        asked, self._asked = self._asked, None
        if self._stopped:
            return
        now = self._reader.monotonic()
        if isinstance(answer, Exception):
            self._missed(answer, now)
        else:
            self.link = self.link.succeeded(now)
            self.took = 0.0 if self.read_at is None else now - self._asked_at
            if asked == self.request:
                self.read_at = self._asked_at
                self._reader.take_view(answer)
        self._reader.link_changed()
        if self._again or asked != self.request:
            self._again = False
            self.poke()
        elif not self.connected:
            self._arm(self.link.retry_at - now)
        elif self.frozen_since is None:
            self._arm(self.pace)

    def _missed(self, error: Exception, now: float) -> None:
        if isinstance(error, JobdeckError):
            if self.read_at is None and not isinstance(error, DatabaseUnreachable):
                self._reader.give_up(error)
        else:
            logger.error("Reading the queue failed", exc_info=error)
        self.link = self.link.failed(now, str(error) or type(error).__name__)
