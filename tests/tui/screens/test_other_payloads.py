"""A payload can be any JSON where an application inserts its rows directly. The dashboard shows such jobs."""

from __future__ import annotations

import pytest

from jobdeck.core.model import Status
from tests.tui.fake import FakeBackend, make_job
from tests.tui.support import LARGE, SMALL, dashboard


@pytest.mark.parametrize("payload", ["text", [1], 5, None])
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.slow
async def test_a_payload_that_is_no_object_is_shown_and_can_be_replaced(payload: object, size: tuple[int, int]) -> None:
    backend = FakeBackend([make_job(1, Status.FAILED, payload=payload), make_job(2, payload=payload)])
    async with dashboard(backend, size=size) as deck:
        assert "game_platform_sync" in deck.screen_text()
        await deck.press("j", "enter")
        assert deck.here == "JobDetailScreen"
        await deck.press("escape", "E")
        assert "Edit job" in deck.screen_text()
        await deck.press("escape", "N")
        assert "Duplicate job" in deck.screen_text()
