"""Starts the dashboard for tests: an in-memory queue, a fixed clock, background work done at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from textual.pilot import Pilot

from jobdeck.core.model import Status
from jobdeck.core.plugins import Page, PageAction, TextField
from jobdeck.tui.app import JobdeckApp
from jobdeck.tui.backend.threads import Background
from jobdeck.tui.deck import Options
from jobdeck.tui.screens.top import Top
from jobdeck.tui.widgets.jobs import folds
from jobdeck.tui.widgets.jobs.job_table import JobTable
from tests.tui.fake import Clock, FakeBackend, at_once, make_job

SMALL = (80, 24)
LARGE = (200, 50)
NEVER = 1_000_000
"""More jobs than any test lists."""
RARELY = 3600.0
"""An interval that no test lives to see the end of, in seconds."""


def make_app(
    backend: FakeBackend, *, clock: Clock | None = None, background: Background = at_once, **options: object
) -> JobdeckApp:
    """An app that reads the queue again when a test asks for it, or after the `interval` that the test gives.

    Else a busy machine would have it read in the middle of a test.
    """
    app = JobdeckApp(
        lambda: backend,
        Options(ticking=False, read_only=backend.read_only, **options),  # type: ignore[arg-type]
        background=background,
        monotonic=clock or Clock(),
    )
    if "interval" not in options:
        _never_poll(app)
    return app


def _never_poll(app: JobdeckApp) -> None:
    later = app.later

    def later_or_never(seconds: float, callback: Callable[[], Any]) -> asyncio.TimerHandle:
        return later(RARELY if callback == app.poller.poke else seconds, callback)

    app.later = later_or_never  # type: ignore[method-assign]


def failed(number: int) -> FakeBackend:
    return FakeBackend([make_job(at + 1, Status.FAILED, last_error="boom") for at in range(number)])


PLUGIN_PAGE = Page(title="Orders", key="I", columns=("number", "state"), query=lambda _conn: [("1", "open")])
"""A page as a plugin adds it, for tests that open every page."""


PAGE_ACTION = PageAction(
    run=lambda _conn, row, answers: f"Closed {row[0]}: {answers['reason']}.",
    asks=(TextField("reason", "Reason"),),
    about=lambda row: f"Order {row[0]}.",
    command=lambda row, answers: f"shop close {row[0]} --reason {answers['reason']}",
)
"""An action that asks for a text first."""


class Held:
    """Background work that waits, while it is `holding`, until the test lets it go."""

    def __init__(self, *, holding: bool = False) -> None:
        self.kept: list[Callable[[], None]] = []
        self.holding = holding

    def __call__(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        if self.holding:
            self.kept.append(lambda: at_once(work, done))
        else:
            at_once(work, done)

    def let_one_go(self) -> None:
        self.kept.pop(0)()

    def let_these_go(self) -> None:
        """What is kept now, but not what that sets off."""
        for _ in range(len(self.kept)):
            self.let_one_go()

    def let_all_go(self) -> None:
        while self.kept:
            self.let_one_go()


class Slow:
    """An app whose background work waits until it is told to be done."""

    def __init__(self, backend: FakeBackend) -> None:
        self.clock = Clock()
        self.waiting: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self.app = JobdeckApp(
            lambda: backend,
            Options(ticking=False),
            background=lambda work, done: self.waiting.append((work, done)),
            monotonic=self.clock,
        )
        _never_poll(self.app)

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.app.dashboard.tick()

    def answer(self) -> None:
        at_once(*self.waiting.pop(0))

    def answer_all(self) -> None:
        """What waits now, but not what that sets off: the list is read again while the machine is busy."""
        for _ in range(len(self.waiting)):
            self.answer()

    def header(self) -> str:
        return " ".join(self.app.dashboard.line(name).text for name in ("header", "clock"))

    def screen_text(self) -> str:
        lines = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in lines)


@dataclass
class Desk:
    """A running dashboard in a test."""

    app: JobdeckApp
    pilot: Pilot[int]

    @property
    def toasts(self) -> list[str]:
        return [toast.message for toast in self.app._notifications]

    @property
    def here(self) -> str:
        return type(self.app.screen).__name__

    def screen_text(self) -> str:
        """What the terminal shows, line by line."""
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text[:width].rstrip() for strip in lines[:height])

    def text_in(self, widget: str) -> str:
        """What the terminal shows in the place of a widget, line by line."""
        place = self.app.screen.query_one(widget).region
        lines = self.screen_text().splitlines()[place.y : place.bottom]
        return "\n".join(line[place.x : place.right].rstrip() for line in lines)

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause()


@dataclass
class Deck(Desk):
    """A running dashboard over an in-memory queue."""

    backend: FakeBackend
    clock: Clock

    @property
    def table(self) -> JobTable:
        return self.app.dashboard.table

    def line(self, name: str) -> str:
        """What one of the lines says; the header is two, the second of them the clock."""
        if name == "now":
            return self.app.dashboard.query_one(Top).text
        names = ("header", "clock") if name == "header" else (name,)
        return " ".join(self.app.dashboard.line(one).text for one in names)

    async def refresh(self) -> None:
        """Reads the queue again, as the timer would."""
        self.app.poller.poke()
        await self.pilot.pause()


@asynccontextmanager
async def dashboard(
    backend: FakeBackend,
    *keys: str,
    size: tuple[int, int] = SMALL,
    toasts: bool = False,
    background: Background = at_once,
    folding: bool = False,
    **options: object,
) -> AsyncIterator[Deck]:
    """A running dashboard after these keys; with `toasts` they are painted, else only kept.

    The jobs of tests read alike. Each has a row of its own, unless the test is about `folding` them.
    """
    clock = Clock()
    app = make_app(backend, clock=clock, background=background, **options)
    with patch.object(folds, "FEWEST", folds.FEWEST if folding else NEVER):
        async with app.run_test(size=size, notifications=toasts) as pilot:
            await pilot.pause()
            deck = Deck(app, pilot, backend, clock)
            await deck.press(*keys)
            yield deck


async def shown(backend: FakeBackend, *keys: str, **options: Any) -> str:
    """What the terminal shows after these keys."""
    async with dashboard(backend, *keys, **options) as deck:
        return deck.screen_text()


async def said(backend: FakeBackend, *keys: str, **options: Any) -> str:
    """The last toast after these keys."""
    async with dashboard(backend, *keys, **options) as deck:
        return deck.toasts[-1]
