"""Sentences of the dashboard's design that no other test states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobdeck.core.model import Filter
from jobdeck.core.postgres.database import Database
from jobdeck.core.settings import Settings
from jobdeck.core.worker.oneshot import CycleResult
from jobdeck.tui.actions import ACTIONS
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.backend.protocol import Request
from tests.tui.support import LARGE, Slow, failed

KEYS = {
    "1": "tab.all", "2": "tab.pending", "3": "tab.running", "4": "tab.succeeded", "5": "tab.failed",
    "6": "tab.cancelled", "j": "move.down", "down": "move.down", "k": "move.up", "up": "move.up", "g": "move.top",
    "G": "move.bottom", "ctrl+d": "move.half_down", "ctrl+u": "move.half_up", "enter": "job.detail", "escape": "back",
    "slash": "filter", "colon": "palette", "ctrl+p": "palette", "question_mark": "help", "q": "quit", "space": "mark",
    "v": "mark.range", "a": "mark.all", "A": "mark.matching", "u": "mark.undo", "R": "job.retry", "C": "job.cancel",
    "D": "job.delete", "n": "job.new", "s": "sort", "S": "sort.reverse", "w": "worker.cycle", "W": "worker.embedded",
    "P": "processing", "Q": "quick.sync", "h": "page.health", "e": "page.errors", "z": "freeze", "r": "refresh",
    "plus": "interval.longer", "minus": "interval.shorter", "y": "copy.id", "Y": "copy.json", "l": "page.log",
}  # fmt: skip


def test_the_keys_of_the_list_are_those_of_the_design() -> None:
    bound = {key: action.id for action in ACTIONS if "list" in action.scopes for key in action.keys}
    assert {key: bound.get(key) for key in KEYS} == KEYS


@pytest.mark.slow
async def test_a_cycle_is_watched_while_it_runs_and_its_sum_is_said() -> None:
    backend = failed(2)
    backend.cycle = CycleResult("ok", 3, 2, 1, "")
    slow = Slow(backend)
    async with slow.app.run_test(size=LARGE) as pilot:
        await pilot.pause()
        slow.answer()
        await pilot.pause()
        while slow.waiting:
            slow.answer()
        await pilot.press("w")
        slow.answer()
        await pilot.pause()
        await pilot.press("enter")
        work, done = slow.waiting.pop()
        answer = work()
        await pilot.pause()
        assert "Run Worker: 3 of 3 done" in slow.app.dashboard.line("peek").text
        done(answer)
        await pilot.pause()
        assert "Run Worker" not in slow.app.dashboard.line("peek").text
        assert "processed 3: 2 succeeded, 1 failed" in [toast.message for toast in slow.app._notifications][-1]


@pytest.mark.parametrize(("embedded", "asked", "state"), [
    (True, False, "running"), (False, False, "off"), (False, True, "running"),
])  # fmt: skip
def test_the_worker_runs_by_itself_on_the_embedded_database_and_elsewhere_when_asked(
    embedded: bool, asked: bool, state: str, database_url: str
) -> None:
    @contextmanager
    def open_database(_settings: Settings, *, application_name: str, **_options: Any) -> Iterator[Database]:
        with Database(database_url, application_name=application_name) as database:
            database.probe()
            yield database

    settings = Settings.model_validate({} if embedded else {"database_url": database_url})
    backend = LiveBackend(settings, worker=asked, open_database=open_database)
    try:
        view = backend.view(Request(Filter()))
        assert (view.session.embedded, view.worker.state) == (embedded, state)
    finally:
        backend.close()
