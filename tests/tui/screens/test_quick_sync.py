"""Quick Sync: one key each, what came of it in words, and why one cannot be had."""

from __future__ import annotations

import pytest

from jobdeck.core.model import Status
from tests.tui.fake import FakeBackend, lost, make_job
from tests.tui.support import LARGE, dashboard, shown

KEY = "quick-sync:game_platform_sync"


@pytest.mark.slow
async def test_full_sync_queues_two_jobs_the_second_waiting_for_the_first() -> None:
    async with dashboard(FakeBackend(), "Q") as deck:
        assert not deck.backend.calls
        await deck.press("f")
        assert deck.backend.calls == [("quick_sync", "full")]
        text = deck.screen_text()
        assert "game_platform_sync" in text
        assert "waits for the first" in text
        assert "jobdeck quick-sync full" in text
        await deck.press("escape")
        first, second = sorted(deck.table.jobs, key=lambda job: job.task_type)
        assert second.blocked_by == first.id


@pytest.mark.slow
@pytest.mark.parametrize(("key", "kind"), [("i", "incremental"), ("t", "totals")])
async def test_each_sync_has_a_key_of_its_own(key: str, kind: str) -> None:
    async with dashboard(FakeBackend(), "Q", key) as deck:
        assert deck.backend.calls == [("quick_sync", kind)]
        assert " queued." in deck.screen_text()
        assert f"jobdeck quick-sync {kind}" in deck.screen_text()


@pytest.mark.slow
async def test_arrows_and_enter_do_the_same() -> None:
    async with dashboard(FakeBackend(), "Q", "down", "enter") as deck:
        assert deck.backend.calls == [("quick_sync", "incremental")]


@pytest.mark.slow
async def test_what_was_there_already_is_said_to_be() -> None:
    there = make_job(1, Status.RUNNING, dedupe_key=KEY)
    async with dashboard(FakeBackend([there]), "Q", "i") as deck:
        assert f"{there.id.hex[-8:]} exists already (running)." in deck.screen_text()
        await deck.press("f")
        assert "exists already (running)." in deck.screen_text()
        assert "queued; waits for the first." in deck.screen_text()


@pytest.mark.slow
async def test_a_totals_sweep_that_was_there_and_does_not_wait_is_said_not_to() -> None:
    there = make_job(1, dedupe_key="quick-sync:game_platform_totals_sweep", task_type="game_platform_totals_sweep")
    text = " ".join((await shown(FakeBackend([there]), "Q", "f")).replace("│", " ").split())
    assert "exists already (pending); does not wait for the first." in text


async def test_a_sync_whose_type_has_no_handler_is_greyed_with_the_reason_and_queues_nothing() -> None:
    backend = FakeBackend()
    backend.creating.missing["totals"] = "no handler here for game_platform_totals_sweep"
    async with dashboard(backend, "Q") as deck:
        assert "no handler here for game_platform_totals_sweep" in deck.screen_text()
        await deck.press("t")
        assert not backend.calls
        assert "Totals Sweep cannot be queued" in deck.screen_text()


@pytest.mark.slow
async def test_a_lost_connection_is_said_in_the_dialog_and_nothing_is_sent_twice() -> None:
    async with dashboard(FakeBackend(), "Q", size=LARGE) as deck:
        deck.backend.failure = lost()
        await deck.press("f")
        assert "It is unknown whether Jobdeck could queue Full Sync" in " ".join(deck.screen_text().split())
        assert len(deck.backend.calls) == 1
