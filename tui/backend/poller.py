"""Decides when to read the database and tracks the connection. Runs on the UI's thread and knows no widget."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import DatabaseUnreachable, JobdeckError
from jobdeck.tui.backend.protocol import LONGEST_PAGE

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from jobdeck.tui.backend.protocol import Request, View
    from jobdeck.tui.backend.threads import Host

INTERVALS: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
FIRST_RETRY: Final = 1.0
LONGEST_RETRY: Final = 30.0
AWAY: Final = 10.0
"""The shortest interval, in seconds, while the terminal does not have the focus."""

logger = logging.getLogger(__name__)


class LinkState(Enum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class Link:
    """The state of the connection. Times are seconds of the monotonic clock."""

    state: LinkState = LinkState.CONNECTING
    since: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    error: str = ""

    def succeeded(self, now: float) -> Link:
        since = self.since if self.state is LinkState.CONNECTED else now
        return Link(LinkState.CONNECTED, since)

    def failed(self, now: float, error: str) -> Link:
        """The state after a failed read. The delay until the next try doubles, up to `LONGEST_RETRY`."""
        failures = self.failures + 1
        delay = min(FIRST_RETRY * 2 ** (failures - 1), LONGEST_RETRY)
        since = self.since if self.state is LinkState.DISCONNECTED else now
        return Link(LinkState.DISCONNECTED, since, failures, now + delay, error)


class Poller:
    """Reads periodically. The timer starts again only after an answer, so that two reads never overlap.

    When the request changed during a read, the answer is dropped and the new request is read at once.
    """

    def __init__(self, request: Request, host: Host, *, interval: float = 2.0) -> None:
        self.request = request
        self.link = Link(since=host.monotonic())
        self.interval = interval
        self.frozen_since: float | None = None
        self.read_at: float | None = None
        """When the read of the displayed data started. The data are at most that old."""
        self.took = 0.0
        """Duration of the last read, in seconds; 0 for the first one, which opens the database."""
        self._host = host
        self._asked: Request | None = None
        self._asked_at = 0.0
        self._again = False
        self._away = False
        self._timer: TimerHandle | None = None
        self._stopped = False

    @property
    def connected(self) -> bool:
        """Whether the last read succeeded."""
        return self.link.state is LinkState.CONNECTED

    @property
    def asking(self) -> bool:
        """Whether a read is running."""
        return self._asked is not None

    @property
    def waited(self) -> float:
        """Seconds since the running read started; 0 when none is running."""
        return self._host.monotonic() - self._asked_at if self.asking else 0.0

    def poke(self) -> None:
        """Reads now, or directly after the running read."""
        if self._stopped:
            return
        if self._asked is not None:
            self._again = True
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._asked, self._asked_at = self.request, self._host.monotonic()
        request = self.request
        self._host.reading()
        self._host.background(lambda: self._host.reach().view(request), self._answered)

    def change(self, request: Request) -> None:
        """Replaces the request and reads at once."""
        if request != self.request:
            self.request = request
            self.poke()

    def grow(self, wanted: int) -> None:
        """Reads a longer list, up to `LONGEST_PAGE`."""
        limit = min(max(wanted, self.request.limit), LONGEST_PAGE)
        self.change(replace(self.request, limit=limit))

    def step_interval(self, by: int) -> float:
        """Changes to the next longer (1) or shorter (-1) interval and returns it, in seconds."""
        nearest = min(range(len(INTERVALS)), key=lambda at: abs(INTERVALS[at] - self.interval))
        self.interval = INTERVALS[min(max(nearest + by, 0), len(INTERVALS) - 1)]
        self._restart_timer()
        return self.interval

    def set_away(self, away: bool) -> None:
        """Reads less often while the terminal does not have the focus, and at once when the focus returns."""
        if away == self._away:
            return
        self._away = away
        if away:
            self._restart_timer()
        elif self.frozen_since is None:
            self.poke()

    def toggle_freeze(self) -> bool:
        """Freezes or unfreezes the periodic reads. Returns whether they are frozen now."""
        if self.frozen_since is None:
            self.frozen_since = self._host.monotonic()
            if self._timer is not None:
                self._timer.cancel()
        else:
            self.frozen_since = None
            self.poke()
        self._host.link_changed()
        return self.frozen_since is not None

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    @property
    def pace(self) -> float:
        """Current delay from an answer to the next read, in seconds."""
        return max(self.interval, AWAY) if self._away else self.interval

    def _restart_timer(self) -> None:
        if self._asked is None and self.connected and self.frozen_since is None:
            self._arm(self.pace)

    def _arm(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._host.later(delay, self.poke)

    def _answered(self, answer: View | Exception) -> None:
        asked, self._asked = self._asked, None
        if self._stopped:
            return
        now = self._host.monotonic()
        if isinstance(answer, Exception):
            self._missed(answer, now)
        else:
            self.link = self.link.succeeded(now)
            self.took = 0.0 if self.read_at is None else now - self._asked_at
            if asked == self.request:
                self.read_at = self._asked_at
                self._host.take_view(answer)
        self._host.link_changed()
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
                self._host.give_up(error)
        else:
            logger.error("Reading the queue failed", exc_info=error)
        self.link = self.link.failed(now, str(error) or type(error).__name__)
