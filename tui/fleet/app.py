"""The fleet: what is known of its databases, its page, and the application that ends when a database is opened.

Each database is read at its own pace, so that a slow one holds no other up.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.containers import Container

from jobdeck.core.fleet import ANSWER_SECONDS, Trouble, rank, word
from jobdeck.tui.actions import BY_ID, Situation, bindings, unavailable
from jobdeck.tui.backend.poller import AWAY, Link
from jobdeck.tui.deck import deck_of
from jobdeck.tui.screens.dialogs.help import Help
from jobdeck.tui.terminal.hosting import Hosting
from jobdeck.tui.text import fleet as text
from jobdeck.tui.widgets import key_line, status_bar
from jobdeck.tui.widgets.ink import Line, PaintedOnce, width_of
from jobdeck.tui.widgets.pane import MOVES, Pane

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Callable, Mapping, Sequence

    from textual.app import ComposeResult
    from textual.events import Resize
    from textual.screen import Screen

    from jobdeck.core.fleet import Member, Reading
    from jobdeck.core.read.pages.overview import DatabaseFigures
    from jobdeck.tui.backend.threads import Background
    from jobdeck.tui.deck import Options
    from jobdeck.tui.widgets.ink import Span


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
        self._timers: dict[str, TimerHandle] = {}
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


class FleetScreen(PaintedOnce[None]):
    """A line for each database, and the details of the one under the cursor. It changes no database."""

    BINDINGS: ClassVar[list[Any]] = [*bindings("fleet")]

    def __init__(self, databases: Watch, options: Options, *, at: str | None, leave: Callable[[str | None], None],
                 monotonic: Callable[[], float]) -> None:  # fmt: skip
        super().__init__()
        self.databases = databases
        self._options = options
        self._leave = leave
        self._monotonic = monotonic
        self._wanted = at
        self._moved = at is not None
        """Before somebody moves the cursor, it is on the worst database."""

    def compose(self) -> ComposeResult:
        yield Line(id="title")
        yield Line(id="columns")
        with Container(id="parts"):
            yield Pane(id="pane")
            yield Line(id="rule")
            yield Pane(id="about", cursor=False)
        yield Line(id="keys")

    def on_mount(self) -> None:
        """Draws what is known."""
        self.pane.focus()
        self.redraw()

    @property
    def pane(self) -> Pane:
        return self.query_one("#pane", Pane)

    @property
    def current(self) -> str | None:
        """The name of the database under the cursor."""
        key: Any = self.pane.current
        return key[1] if isinstance(key, tuple) else None

    def situation(self) -> Situation:
        """Refuses to open a database for a reason that waiting would not change."""
        reading = self.databases.reading(self.current) if self.current is not None else None
        refused = {}
        if isinstance(reading, Trouble) and reading.word == "unusable":
            refused["fleet.open"] = reading.message
        return Situation(refused=refused, keymap=self._options.keymap, mouse=self._options.mouse)

    def action_do(self, action_id: str) -> None:
        """Runs an action, or says why it is not available."""
        reason = unavailable(BY_ID[action_id], self.situation())
        if reason is not None:
            deck_of(self).say(reason, "warning")
            return
        handlers: dict[str, Callable[[], object]] = {
            "fleet.open": self._open,
            "refresh": self.databases.refresh,
            "help": lambda: self.app.push_screen(Help("fleet", self.situation())),
            "quit": lambda: self._leave(None),
            **{name: partial(step, self.pane) for name, step in MOVES.items()},
        }
        handlers[action_id]()

    def on_line_clicked(self, event: Line.Clicked) -> None:
        """Runs the action of the clicked key."""
        action_id = key_line.action_at(event.line.id or "", event.line.spans, event.x, "fleet", self.situation())
        if action_id is not None:
            self.action_do(action_id)

    def on_pane_moved(self) -> None:
        self._moved = True
        self.redraw()

    def on_pane_chosen(self) -> None:
        self.action_do("fleet.open")

    def on_lines_resized(self) -> None:
        self.redraw()

    def on_resize(self, _event: Resize) -> None:
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        """Draws everything from what is known; only what differs is repainted."""
        width = self.pane.size.width if self.is_mounted and self.is_attached else 0
        if not width:
            return
        now, databases = self._monotonic(), self.databases
        named = text.name_width(databases.members, width)
        lines = [
            text.line(name, databases.reading(name), self._old(name, now), databases.pace, named, width)
            for name in databases.names
        ]
        self.pane.show(lines)
        if self._wanted is not None:
            self.pane.seek(("database", self._wanted))
            self._wanted = None
        elif not self._moved and self.pane.cursor:
            self.pane.cursor = self.pane.top = 0
            self.pane.show(lines)
        self.query_one("#columns", Line).show([(text.columns(named, width), "head")])
        self._draw_title()
        self._draw_about(now, width)
        keys = self.query_one("#keys", Line)
        keys.show(key_line.keys("fleet", self.situation(), keys.size.width or width))

    def _old(self, name: str, now: float) -> float | None:
        read_at = self.databases.standings[name].read_at
        return None if read_at is None else now - read_at

    def _draw_title(self) -> None:
        right: list[Span] = [(f"{self.pane.place} ", "muted")] if self.pane.place else []
        right += [("read-only ", "warn")] if self._options.read_only else []
        right += status_bar.environment(self._options)
        left: list[Span] = [(" Jobdeck  ", "strong"), *text.summary(self.databases.tally)]
        self.query_one("#title", Line).show(left, right)

    def _draw_about(self, now: float, width: int) -> None:
        name = self.current
        if name is None:
            return
        standing = self.databases.standings[name]
        retry = None if standing.retry_at is None else standing.retry_at - now
        words, details = text.about(
            name, self.databases.members[name].label, self.databases.reading(name), width,
            last=standing.figures, old=self._old(name, now), retry=retry,
        )  # fmt: skip
        length = width_of(words)
        self.query_one("#rule", Line).show([*words, ("─" * max(width - length, 0), "muted")])
        self.query_one("#about", Pane).show(details)

    def _open(self) -> None:
        if self.current is not None:
            self._leave(self.current)


class FleetApp(Hosting):
    """Shows the fleet. It ends with `chosen`, the name of a database to open, or None to leave the program.

    `at` is the database under the cursor at the start, `known` what an earlier page knew, and `notice` what to say.
    """

    CSS_PATH: ClassVar[list[Any]] = [
        "../app.tcss",
        "../screens/dialogs/dialog.tcss",
        "../screens/dialogs/help.tcss",
        "fleet.tcss",
    ]

    def __init__(
        self,
        members: Sequence[Member],
        options: Options | None = None,
        *,
        at: str | None = None,
        known: Mapping[str, Standing] | None = None,
        notice: str = "",
        background: Background | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(options, background=background, monotonic=monotonic)
        self.databases = Watch(members, self, interval=self.options.interval, known=known)
        self.chosen: str | None = None
        self._notice = notice
        self.fleet = FleetScreen(self.databases, self.options, at=at, leave=self._end, monotonic=monotonic)

    def get_default_screen(self) -> Screen[Any]:
        return self.fleet

    def on_mount(self) -> None:
        self.begin(self.databases.refresh)
        if self._notice:
            self.say(self._notice, "error")

    def redraw(self) -> None:
        self.fleet.redraw()

    def on_app_blur(self) -> None:
        self.databases.set_away(away=True)

    def on_app_focus(self) -> None:
        self.databases.set_away(away=False)

    def leave(self) -> None:
        self._end(None)

    def _end(self, chosen: str | None) -> None:
        self.chosen = chosen
        self.exit(0)

    def tick(self) -> None:
        self.redraw()
        self.later(1.0, self.tick)
