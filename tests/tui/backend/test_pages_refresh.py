"""A refresh of a page: the queue and the page are read at the same time, each once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.tui.fake import FakeBackend, lost
from tests.tui.sample import sample
from tests.tui.support import Slow

# So low that the list leaves no room for more, which would be read as well.
LOW = (80, 18)


@asynccontextmanager
async def on_a_page(backend: FakeBackend) -> AsyncIterator[Slow]:
    """The dashboard on a page that was read once; each answer waits until it is asked for."""
    slow = Slow(backend)
    async with slow.app.run_test(size=LOW) as pilot:
        await pilot.pause()
        slow.answer_all()
        slow.answer_all()
        await pilot.press("m")
        await pilot.pause()
        slow.answer_all()
        yield slow


async def test_a_page_is_read_while_the_queue_is_and_not_again_with_its_answer() -> None:
    async with on_a_page(sample()) as slow:
        assert not slow.waiting
        slow.app.poller.poke()
        assert len(slow.waiting) == 2
        # The page has its answer before the queue has, as may happen on two connections.
        slow.answer_all()
        assert not slow.waiting


@pytest.mark.slow
async def test_a_page_is_read_with_the_first_answer_after_a_lost_connection() -> None:
    backend = sample()
    async with on_a_page(backend) as slow:
        backend.failure = lost()
        slow.app.poller.poke()
        slow.answer_all()
        backend.failure = None
        slow.app.poller.poke()
        assert len(slow.waiting) == 1
        slow.answer()
        assert len(slow.waiting) == 1
