"""The page of one job."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from jobdeck.core.model import Status
from jobdeck.core.read.report_types import JobDetail
from tests.tui.fake import NOW, FakeBackend, job_id, lost, make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, Deck, dashboard, shown

FAILED_ROW = 5


async def open_failed(deck: Deck) -> str:
    await deck.press(*("j",) * FAILED_ROW, "enter")
    return deck.screen_text()


@pytest.mark.slow
async def test_the_page_shows_facts_clauses_runs_log_traceback_payload_and_operators() -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        text = await open_failed(deck)
        for part in (
            "game_platform_profile_refresh", "✗ failed", "5 of 5", str(job_id(24)), "Last error, not tried again",
            "429 Too Many Requests", "Why it is not running", "✗ status", "✓ switch", "Checkpoint", '"cursor": 125',
            "Runs, newest first (5)", "✗ retried", "attempt 4", "9.6s", "Log of run 80005", "125 of 655",
            "Traceback of run 80005", '"dryRun": false', "Operators", "bob@10.0.0.9",
        ):  # fmt: skip
            assert part in text, part


@pytest.mark.slow
async def test_a_running_job_shows_its_progress_lease_and_holder() -> None:
    text = await shown(sample(), "enter", size=LARGE)
    assert "62%  412 of 655" in text
    assert "batch 5 of 7" in text
    assert "web-1:4242, run 81022, lease 40s" in text


@pytest.mark.slow
async def test_esc_goes_back_to_the_same_job_in_the_list() -> None:
    async with dashboard(sample()) as deck:
        await open_failed(deck)
        await deck.press("escape")
        assert deck.here == "Dashboard"
        assert deck.table.cursor == FAILED_ROW


@pytest.mark.slow
async def test_an_action_on_the_page_acts_on_this_job_whatever_is_marked_in_the_list() -> None:
    async with dashboard(sample(), "j", "j", "space") as deck:
        await deck.press("j", "j", "enter", "R", "y")
        assert deck.backend.calls == [("retry", (job_id(24),))]


@pytest.mark.slow
async def test_the_page_follows_its_job() -> None:
    backend = FakeBackend([make_job(1)])
    async with dashboard(backend, "enter") as deck:
        assert "○ pending" in deck.screen_text()
        backend.jobs[0] = replace(backend.jobs[0], status=Status.RUNNING, started_at=NOW, attempts=1)
        await deck.refresh()
        assert "● running" in deck.screen_text()


@pytest.mark.slow
async def test_a_job_that_is_gone_is_said_to_be_gone_and_cannot_be_acted_on() -> None:
    backend = FakeBackend([make_job(1)])
    async with dashboard(backend, "enter") as deck:
        backend.jobs.clear()
        await deck.refresh()
        assert "This job no longer exists" in deck.screen_text()
        await deck.press("D")
        assert deck.here == "JobDetailScreen"


@pytest.mark.slow
async def test_a_deleted_job_is_said_to_be_in_the_trash() -> None:
    backend = FakeBackend([make_job(1)])
    backend.details[job_id(1)] = JobDetail(backend.jobs[0], (), (), in_trash=True)
    assert "It stays in the trash" in await shown(backend, "enter")


@pytest.mark.slow
async def test_the_page_says_when_the_connection_is_lost() -> None:
    async with dashboard(sample()) as deck:
        await open_failed(deck)
        deck.backend.failure = lost()
        await deck.refresh()
        assert "disconnected" in deck.screen_text()
        assert "game_platform_profile_refresh" in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), LARGE])
async def test_a_page_that_has_not_changed_is_not_painted_again(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dashboard(sample(), size=size) as deck:
        await open_failed(deck)
        painted: list[object] = []
        page = deck.app.screen.query_one("#page")
        monkeypatch.setattr(page, "refresh", lambda *regions, **_: painted.append(regions))
        await deck.refresh()
        assert painted == []


@pytest.mark.slow
async def test_y_copies_the_id_and_capital_y_the_job_as_json() -> None:
    async with dashboard(sample()) as deck:
        await open_failed(deck)
        await deck.press("y")
        assert deck.app.clipboard == str(job_id(24))
        assert "Copied 36 characters (OSC 52)." in deck.toasts[-1]
        await deck.press("Y")
        copied = json.loads(deck.app.clipboard)
        assert copied["id"] == str(job_id(24))
        assert copied["status"] == "failed"


async def test_too_much_to_copy_is_refused_with_the_reason() -> None:
    big = make_job(1, payload={"words": "x" * 60_000})
    async with dashboard(FakeBackend([big]), "Y") as deck:
        assert "Not copied" in deck.toasts[-1]
        assert f"jobdeck job {big.id} --json" in deck.toasts[-1]
        assert not deck.app.clipboard
