"""Awkward moments: a page is just being made, the dashboard is just being left, the process was held up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from textual import _time, events
from textual._callback import invoke

from tests.support.waiting import becomes
from tests.tui.sample import sample
from tests.tui.screens.test_pages import KEYS
from tests.tui.support import SMALL, dashboard, failed, make_app


@pytest.mark.slow
@pytest.mark.parametrize("page", [*KEYS, "job"])
async def test_a_second_that_begins_and_an_answer_that_comes_while_a_page_is_made_are_no_trouble(page: str) -> None:
    async with dashboard(sample()) as deck:
        if page == "job":
            deck.app.open_job(deck.table.jobs[0])
        else:
            deck.app.open_page(page)
        assert not deck.app.screen.is_mounted
        deck.app.tick()
        deck.app.poller.poke()
        await deck.pilot.pause()
        assert "Reading…" not in deck.screen_text()


async def test_what_was_to_come_later_is_no_trouble_once_the_dashboard_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[Callable[[], Any]] = []
    app = make_app(sample())
    app.background = lambda work, done: done(work()) if app.is_running else None

    def keep(seconds: float, callback: Callable[[], Any]) -> asyncio.TimerHandle:
        later.append(callback)
        return call_later(seconds, callback)

    call_later = app.later
    monkeypatch.setattr(app, "later", keep)
    app._typed._later = keep
    async with app.run_test(size=SMALL) as pilot:
        app.tick()
        await pilot.pause()
        for key in "qjj":
            app.post_message(events.Key(key, key))
    assert len(later) >= 3
    for callback in tuple(later):
        await invoke(callback)


@pytest.mark.slow
async def test_a_process_that_was_held_up_when_it_set_a_timer_goes_on_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, read = failed(1), asyncio.Event()
    app = make_app(backend, interval=0.01)
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        hours = itertools.count(step=3600)
        monkeypatch.setattr(_time, "get_time", lambda: float(next(hours)))
        before = len(backend.requests)
        monkeypatch.setattr(app, "link_changed", lambda: read.set() if len(backend.requests) > before + 3 else None)
        await becomes(read.is_set, "another reading")
        monkeypatch.undo()
