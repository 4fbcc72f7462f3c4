"""Lines of the operators' playbook that are looked at rather than done, and one job of each type, from the keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from jobdeck.core.model import NewJob
from jobdeck.core.programme.sandbox import sample
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.settings import Settings
from jobdeck.tui.text import playbook
from tests.core.cli.support import environment
from tests.core.http.support import opened
from tests.support.queue import Connection
from tests.tui.live import live
from tests.tui.screens.test_playbook_acting import again, jobs, run, statuses
from tests.tui.support import SMALL

pytestmark = pytest.mark.slow

HANDLERS = "tests.core.cli.handlers"
RECURRING = {
    "game_platform_sync": 15,
    "game_platform_totals_sweep": 15,
    "game_platform_profile_refresh": 1440,
    "sms_digest_processor": 60,
    "admin_alert_dispatch": 5,
    "release_parent_email_verification": 60,
}
"""The types that are typically recurring, and every how many minutes the form offers."""
ONE_TIME = (
    "game_platform_onboard_competitors",
    "game_platform_onboard_coaches",
    "message_read_receipts_backfill",
    "competitor_announcement_dispatch",
)


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    environment(monkeypatch, tmp_path, database_url)
    return Settings(database_url=SecretStr(database_url), state_dir=tmp_path, handlers=HANDLERS, drain_seconds=20.0)


def add(conn: Connection, task_type: str = "cli_echo", **facts: Any) -> None:
    producer.enqueue(conn, NewJob(task_type, **facts), actor="test")


@pytest.mark.parametrize("task_type", [*RECURRING, *ONE_TIME])
async def test_one_job_of_each_type_is_created_as_it_is_typically_used(
    settings: Settings, conn: Connection, task_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.load(conn)
    monkeypatch.setenv("SENDGRID_UNSUBSCRIBE_GROUP_ID", "7")
    async with live(settings.having(CompetitionSettings(sendgrid_unsubscribe_group_id=7)), size=SMALL) as desk:
        await desk.press("n", "enter", *task_type, "enter")
        if task_type == "competitor_announcement_dispatch":
            await desk.tab_to("field-0")
            await desk.press(*"finals", "enter")
        if task_type in RECURRING:
            await desk.tab_to("field-recurring")
            await desk.press("right")
        await desk.press("ctrl+s")
        assert desk.here == "Dashboard", desk.screen_text()
        made, twin = jobs(conn), desk.twin
        (job,) = made
        assert (job[0], job[2], job[8]) == (task_type, "pending", RECURRING.get(task_type))
        every = {1440: "1d"}.get(RECURRING.get(task_type, 0), f"{RECURRING.get(task_type)}m")
        assert (f"↻ {every}" in desk.screen_text()) is (task_type in RECURRING)
    again(conn)
    run(twin)
    assert jobs(conn) == made


async def test_a_one_time_job_that_succeeds_leaves_the_queue_and_one_that_fails_stays(
    settings: Settings, conn: Connection
) -> None:
    add(conn)
    add(conn, "cli_refuse", max_attempts=1)
    async with live(settings, "w", "enter") as desk:
        assert statuses(conn) == ["failed"]
        await desk.press("5")
        assert "cli_refuse" in desk.screen_text()
        assert "it is broken" in desk.screen_text()
        assert "cli_echo" not in desk.screen_text()
        await desk.press("4")
        assert "cli_echo" in desk.screen_text()
        assert "cli_refuse" not in desk.screen_text()


async def test_a_recurring_job_goes_back_to_pending_after_success_and_stays(
    settings: Settings, conn: Connection
) -> None:
    add(conn, recurrence_interval_minutes=60)
    async with live(settings) as desk:
        assert "↻ 60m" in desk.screen_text()
        await desk.press("w", "enter")
        assert statuses(conn) == ["pending"]
        row = next(line for line in desk.screen_text().split("\n") if "cli_echo ↻ 60m" in line)
        for words in ("pending", "✓", "in 59m"):
            assert words in row


async def test_each_status_tab_lists_its_jobs(settings: Settings, conn: Connection) -> None:
    add(conn, "cli_refuse", max_attempts=1)
    add(conn)
    async with live(settings, "w", "enter") as desk:
        add(conn, "cli_wait")
        leases.claim(conn, "a worker", ["cli_wait"], 1, 60)
        add(conn, "game_platform_sync")
        add(conn, "game_platform_totals_sweep")
        cancelled = conn.execute("SELECT id FROM job_queue WHERE task_type = 'game_platform_totals_sweep'").fetchall()
        operator.cancel(conn, [job for (job,) in cancelled], actor="test")
        await desk.press("r")
        listed = {
            "1": "cli_refuse cli_wait game_platform_sync game_platform_totals_sweep",
            "2": "game_platform_sync",
            "3": "cli_wait",
            "4": "cli_echo",
            "5": "cli_refuse",
            "6": "game_platform_totals_sweep",
        }
        every = {*listed["1"].split(), "cli_echo"}
        for key, types in listed.items():
            await desk.press(key)
            rows = desk.screen_text().split("\n")[4:-2]
            assert {name for name in every if any(f" {name} " in row for row in rows)} == set(types.split()), key


async def test_cron_health_shows_the_calls_of_the_scheduler_with_their_http_status(
    settings: Settings, conn: Connection, database_url: str
) -> None:
    add(conn)
    with opened(database_url) as door:
        assert door.run().status == 200
    async with live(settings, "h") as desk:
        text = desk.screen_text()
        assert "Triggers, newest first" in text
        assert any("cron" in line and "200" in line for line in text.split("\n")), text


async def test_cron_health_says_that_processing_was_paused_and_that_it_has_resumed(
    settings: Settings, conn: Connection
) -> None:
    add(conn)
    async with live(settings, "P", *"vendor is down", "enter", "enter", "enter", "h", size=SMALL) as desk:
        text = desk.screen_text()
        assert "PAUSED" in text
        assert "vendor is down" in text
        await desk.press("P", "y")
        assert "PAUSED" not in desk.screen_text()
        assert "Automatic processing is on." in desk.screen_text()
        await desk.press("w", "enter", "G")
        assert statuses(conn) == []
        for words in ("Run Worker", "1 job run"):
            assert words in desk.screen_text()


@pytest.mark.parametrize("recurring", [None, 60])
async def test_a_job_that_succeeded_is_retried_and_runs_at_once(
    settings: Settings, conn: Connection, recurring: int | None
) -> None:
    add(conn, recurrence_interval_minutes=recurring)
    async with live(settings, "w", "enter", "1" if recurring else "4", "R", "y") as desk:
        assert statuses(conn) == ["pending"]
        assert conn.execute("SELECT run_at <= now() FROM job_queue").fetchone() == (True,)
        await desk.press("w", "enter")
        assert "processed 1: 1 succeeded" in desk.toasts[-1]


async def test_a_failed_job_is_inspected_before_it_is_deleted(settings: Settings, conn: Connection) -> None:
    add(conn, "cli_refuse", max_attempts=1, payload={"reason": "the school is gone"})
    async with live(settings, "w", "enter", "5", "enter") as desk:
        text = desk.screen_text()
        for words in ("Last error", "the school is gone", "Why it is not running", "The job is failed"):
            assert words in text, words
        await desk.press("D", "y", "escape")
        assert statuses(conn) == []


async def test_a_new_type_of_job_is_in_the_form_as_soon_as_its_handler_is(settings: Settings) -> None:
    async with live(settings, "n", *"cli_echo") as desk:
        assert "Say a message" in desk.screen_text()


async def test_the_playbook_can_be_read_inside_the_dashboard(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[3] / "docs" / "operations.md"
    monkeypatch.setattr(playbook, "source", lambda: page.read_text(encoding="utf-8"))
    async with live(settings, "p") as desk:
        assert "Playbook" in desk.screen_text()
        for section in ("Daily monitoring", "Pause and resume", "Acting on jobs", "Cleanup", "Incident response"):
            for _ in range(30):
                if section in desk.screen_text():
                    break
                await desk.press("right_square_bracket")
            assert section in desk.screen_text(), section
