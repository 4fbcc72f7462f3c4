"""Pictures of the pages, all from the same sample data at a fixed clock."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from jobdeck.core.model import Processing
from tests.tui.fake import NOW, lost, minutes
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, make_app

SnapCompare = Callable[..., bool]

PAGES = {
    "dashboard": (),
    "detail": ("j", "j", "j", "j", "j", "enter"),
    "confirm": ("j", "j", "space", "space", "space", "D"),
    "pause": ("P",),
    "help": ("question_mark",),
    "running": ("enter",),
    "revealed": ("j", "j", "j", "j", "j", "enter", "X"),
    "payload": ("j", "j", "j", "j", "j", "enter", "T"),
    "health": ("h",),
    "errors": ("e", "j"),
    "workers": ("m",),
    "audit": ("o",),
    "playbook": ("p",),
    "log": ("l",),
    "palette": ("colon", *"pa"),
}

LOGGED = (
    (logging.INFO, "worker here starts, 4 slots, handles 9 task types"),
    (logging.INFO, "claimed 2 jobs"),
    (logging.WARNING, "MetaCTF answered 429 Too Many Requests; the next request waits 3600 s"),
    (logging.INFO, "run 81022 succeeded after 2.4 s"),
    (logging.ERROR, "run 81023 failed: SendGrid refused the batch: the from address is not verified"),
    (logging.CRITICAL, "the lease of run 81024 could not be renewed for 60 s; its handler is stopped"),
)  # fmt: skip


def walk(*keys: str) -> Callable[[Pilot[int]], object]:
    async def run_before(pilot: Pilot[int]) -> None:
        await pilot.pause()
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await pilot.pause()

    return run_before


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "200x50"])
@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, size: tuple[int, int], snap_compare: SnapCompare) -> None:
    assert snap_compare(make_app(sample()), terminal_size=size, run_before=walk(*PAGES[page]))


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "200x50"])
def test_paused_and_disconnected(size: tuple[int, int], snap_compare: SnapCompare) -> None:
    backend = sample()
    backend.processing = Processing(
        enabled=False, paused_reason="MetaCTF is down", paused_by="bob@10.0.0.9", paused_at=NOW - minutes(12)
    )
    app = make_app(backend)

    async def lose(pilot: Pilot[int]) -> None:
        await pilot.pause()
        backend.failure = lost()
        app.poller.poke()
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=lose)


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "200x50"])
def test_the_log_with_lines_in_it(size: tuple[int, int], snap_compare: SnapCompare) -> None:
    app = make_app(sample())
    for second, (level, message) in enumerate(LOGGED):
        record = logging.LogRecord("jobdeck.worker", level, __file__, 1, message, None, None)
        record.created = NOW.timestamp() + second
        app.log_lines.handle(record)
    assert snap_compare(app, terminal_size=size, run_before=walk("l"))
