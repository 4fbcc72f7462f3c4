"""Reads the databases of the fleet, each at its own pace, so that a slow one holds no other up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jobdeck.core.fleet import ANSWER_SECONDS, Trouble, rank, word
from jobdeck.tui.backend.poller import AWAY, Link

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobdeck.core.fleet import Member, Reading
    from jobdeck.core.read.pages.overview import DatabaseFigures
    from jobdeck.tui.backend.threads import Timer
    from jobdeck.tui.terminal.hosting import Hosting


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one database. Times are seconds of the monotonic clock.

    `figures` were last read at `read_at`, also where there is a `trouble` now. `asked_at` is the start of the reading
    that is under way.
    """

    figures: DatabaseFigures | None = None
    read_at: float | None = None
    trouble: Trouble | None = None
    asked_at: float | None = None
    link: Link = field(default_factory=Link)

    @property
    def retry_at(self) -> float | None:
        """When it is asked again after a failure; None where it is not."""
        return self.link.retry_at if self.trouble is not None and self.asked_at is None else None


class Watch:
    """The databases and what is known of each. One is asked again only after it has answered."""

    def __init__(
        self,
        members: Sequence[Member],
        host: Hosting,
        *,
        interval: float,
        known: Mapping[str, Standing] | None = None,
    ) -> None:
        self.members = {member.name: member for member in members}
        self.interval = interval
        self.standings = {name: replace((known or {}).get(name, Standing()), asked_at=None) for name in self.members}
        self._host = host
        self._timers: dict[str, Timer] = {}
        self._away = False

    @property
    def pace(self) -> float:
        """Current delay from an answer to the next reading, in seconds."""
        return max(self.interval, AWAY) if self._away else self.interval

    def set_away(self, away: bool) -> None:
        """Reads less often while the terminal does not have the focus, and at once when the focus returns."""
        returned, self._away = self._away and not away, away
        if returned:
            self.refresh()

    def refresh(self) -> None:
        """Asks all databases now, but those that have not answered yet."""
        for name in self.members:
            self.poke(name)

    def poke(self, name: str) -> None:
        standing, member = self.standings[name], self.members[name]
        if standing.asked_at is not None:
            return
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        self.standings[name] = replace(standing, asked_at=self._host.monotonic())
        self._host.background(member.read, lambda answer: self._answered(name, answer))

    def reading(self, name: str) -> Reading | None:
        """The state of a database: slow when it has not answered for too long; None before its first answer."""
        standing = self.standings[name]
        waited = 0.0 if standing.asked_at is None else self._host.monotonic() - standing.asked_at
        if waited >= ANSWER_SECONDS:
            return self.members[name].silent(waited)
        return standing.trouble or standing.figures

    @property
    def names(self) -> list[str]:
        """The databases, worst first, and in the given order where they are equal. Those not read yet are last."""
        readings = {name: self.reading(name) for name in self.members}
        return sorted(readings, key=lambda name: (1, 0) if (known := readings[name]) is None else (0, rank(known)))

    @property
    def tally(self) -> dict[str, int]:
        """How many databases are in each state, worst first."""
        found: dict[str, int] = {}
        for name in self.names:
            reading = self.reading(name)
            state = "not read yet" if reading is None else word(reading)
            found[state] = found.get(state, 0) + 1
        return found

    def close(self) -> None:
        """Closes the connections. Does not wait for a database that has not answered."""
        for member in self.members.values():
            member.close()

    def _answered(self, name: str, answer: Reading | Exception) -> None:
        if isinstance(answer, Exception):
            raise answer
        now, standing = self._host.monotonic(), self.standings[name]
        if isinstance(answer, Trouble):
            link = standing.link.failed(now, answer.message)
            self.standings[name] = replace(standing, trouble=answer, asked_at=None, link=link)
            delay = max(link.retry_at - now, self.pace)
        else:
            self.standings[name] = Standing(answer, standing.asked_at, link=standing.link.succeeded(now))
            delay = self.pace
        self._timers[name] = self._host.later(delay, lambda: self.poke(name))
        self._host.redraw()
