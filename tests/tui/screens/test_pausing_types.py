"""Pausing and resuming one task type, from the list and from the page of errors."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobdeck.core.model import Processing, TypePause
from jobdeck.core.queue import operator
from jobdeck.core.settings import Settings
from jobdeck.tui.widgets.ink import Line
from tests.core.cli.support import environment
from tests.support.queue import Connection
from tests.tui.fake import NOW, minutes
from tests.tui.live import live
from tests.tui.sample import sample
from tests.tui.support import LARGE, dashboard, failed, shown

pytestmark = pytest.mark.slow

HANDLERS = "tests.core.cli.handlers"
RATE_LIMITED = "game_platform_profile_refresh"


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    environment(monkeypatch, tmp_path, database_url)
    return Settings(database_url=SecretStr(database_url), state_dir=tmp_path, handlers=HANDLERS)


def paused(name: str = "webhook_push", reason: str | None = "vendor outage") -> TypePause:
    return TypePause(name, reason, "bob@10.0.0.9", NOW - minutes(12), NOW + minutes(30))


async def test_from_the_errors_page_p_proposes_the_type_of_a_group_without_an_odd_value() -> None:
    backend = sample()
    backend.evidence.facets = {}
    async with dashboard(backend, "e", "j", "P") as deck:
        text = deck.screen_text()
        assert f"Pause {RATE_LIMITED}" in text
        assert "No worker will take another job of this type." in " ".join(text.split())
        assert "lost: those" in " ".join(text.replace("│", "").split())
        await deck.press(*"vendor down", "enter", *"30m", "enter", "enter")
        assert backend.calls == [("pause", "vendor down", timedelta(minutes=30), RATE_LIMITED)]
        twin = f"jobdeck pause --type {RATE_LIMITED} --reason 'vendor down' --for 30m"
        assert deck.toasts[-1] == f"Processing of {RATE_LIMITED} paused.\n{twin}"
        banner = deck.app.screen.query_one("#banner", Line).text
        assert banner == " PAUSED game_p…rofile_refresh since 12:04Z by alice: vendor do… · resumes in 30m"
        assert f"{RATE_LIMITED}  PAUSED since 12:04Z by alice" in deck.screen_text()


async def test_on_the_list_p_pauses_everything_unless_a_type_is_chosen() -> None:
    backend = failed(2)
    async with dashboard(backend, "P") as deck:
        assert "Everything (Automatic Processing)" in deck.screen_text()
        assert "those that wait are kept" in deck.screen_text()
        await deck.press("up", "enter", *"platform_sync", "enter")
        assert "Pause game_platform_sync" in deck.screen_text()
        await deck.press("down", "enter", "enter", "enter")
        assert backend.calls == [("pause", None, None, "game_platform_sync")]


async def test_only_the_question_about_one_type_says_that_everything_else_stays_paused() -> None:
    backend = failed(2)
    backend.processing = Processing(enabled=False, paused_by="bob", paused_at=NOW, paused_types=(paused(),))
    text = await shown(backend, "P", "down", "enter")
    assert "Resume webhook_push" in text
    assert "Automatic Processing stays paused." in text
    backend.processing = Processing(enabled=False, paused_by="bob", paused_at=NOW)
    text = await shown(backend, "P")
    assert "Resume Automatic Processing" in text
    assert "stays paused" not in text


async def test_the_choice_of_a_type_can_be_taken_back() -> None:
    backend = sample()
    async with dashboard(backend, "e", "j", "P", "up", "backspace", "down", "enter", "enter", "enter"):
        assert backend.calls == [("pause", None, None)]


async def test_while_types_are_paused_p_lists_them_with_who_since_when_why_and_until_when() -> None:
    backend = failed(1)
    backend.processing = Processing(enabled=True, paused_types=(paused(), paused("sms_digest_processor", None)))
    async with dashboard(backend, size=LARGE) as deck:
        assert "P resume" in deck.line("keys")
        await deck.press("P")
        text = " ".join(deck.screen_text().split())
        assert "Resume webhook_push paused since 11:52Z by bob@10.0.0.9 · resumes in 30m: vendor" in text
        await deck.press("enter")
        assert "Resume webhook_push" in deck.screen_text()
        await deck.press("y")
        assert backend.calls == [("resume", "webhook_push")]
        assert deck.toasts[-1] == "Processing of webhook_push resumed.\njobdeck resume --type webhook_push"
        assert "sms_digest_processor paused" in deck.line("now")


async def test_while_a_type_is_paused_another_or_everything_can_be_paused() -> None:
    backend = failed(1)
    backend.processing = Processing(enabled=True, paused_types=(paused(),))
    async with dashboard(backend, "P", *"more", "enter", "enter", "enter", "enter") as deck:
        assert backend.calls == [("pause", None, None)]
        await deck.press("P")
        assert "Resume everything" in deck.screen_text()
        await deck.press("enter")
        assert "Still paused afterwards: webhook_push." in " ".join(deck.screen_text().split())


async def test_on_the_errors_page_the_paused_type_under_the_cursor_is_the_first_to_resume() -> None:
    backend = sample()
    backend.processing = Processing(enabled=True, paused_types=(paused("a_type"), paused(RATE_LIMITED)))
    async with dashboard(backend, "e", "j", "P", "enter", "y"):
        assert backend.calls == [("resume", RATE_LIMITED)]


async def test_a_pause_of_one_type_holds_its_jobs_and_its_audit_row_names_it(
    settings: Settings, conn: Connection
) -> None:
    async with live(settings) as desk:
        await desk.press("P", "up", "enter", *"cli_echo", "enter", *"vendor outage", "enter", "enter", "enter")
        assert conn.execute("SELECT task_type, reason FROM job_paused_types").fetchall() == [
            ("cli_echo", "vendor outage")
        ]
        assert "‖ cli_echo paused" in desk.screen_text()
        await desk.press("P", "enter", "y", "o")
        lines = [line.split() for line in desk.screen_text().splitlines()]
        named = [line for line in lines if "cli_echo" in line and line[3:4] in (["pause"], ["resume"], ["ago"])]
        assert len(named) >= 2
        audit = conn.execute("SELECT action, after->>'task_type' FROM job_audit ORDER BY id").fetchall()
        assert audit == [("pause", "cli_echo"), ("resume", "cli_echo")]


async def test_a_paused_queue_is_named_and_resumed_as_one(settings: Settings, conn: Connection) -> None:
    conn.execute("INSERT INTO job_types (task_type, queue) VALUES ('cli_echo', 'mail')")
    operator.pause(conn, queue="mail", reason="relay is down", actor="kim")
    async with live(settings) as desk:
        assert "‖ queue mail paused" in desk.screen_text()
        await desk.press("P")
        text = desk.screen_text()
        assert "Resume queue mail" in text
        assert "Resume cli_echo" not in text
        await desk.press("enter")
        assert "by kim: relay is down" in desk.screen_text()
        await desk.press("y")
        assert conn.execute("SELECT FROM job_paused_types").fetchall() == []
        assert desk.toasts[-1] == "Processing of queue mail resumed.\njobdeck resume --queue mail"


async def test_a_queue_is_chosen_and_paused_with_the_types_that_join_it(settings: Settings, conn: Connection) -> None:
    conn.execute("INSERT INTO job_types (task_type, queue) VALUES ('cli_echo', 'mail')")
    async with live(settings) as desk:
        await desk.press("P", "up", "enter")
        listed = desk.screen_text()
        assert "queue default" in listed
        assert "queue mail" in listed
        await desk.press(*"queue mail", "enter")
        text = " ".join(desk.screen_text().split())
        assert "Pause queue mail" in text
        assert "No worker will take another job of this queue." in text
        assert "lost: those" in " ".join(text.replace("│", "").split())
        await desk.press(*"relay down", "enter", *"30m", "enter", "enter")
        assert desk.toasts[-1] == (
            "Processing of queue mail paused.\njobdeck pause --queue mail --reason 'relay down' --for 30m"
        )
        assert "‖ queue mail paused" in desk.screen_text()
    conn.execute("INSERT INTO job_types (task_type, queue) VALUES ('later', 'mail')")
    assert conn.execute(
        "SELECT task_type, reason, queue, resume_at > now() FROM job_paused_types ORDER BY 1"
    ).fetchall() == [("cli_echo", "relay down", "mail", True), ("later", "relay down", "mail", True)]


async def test_a_chosen_queue_can_be_taken_back_and_is_no_type_afterwards() -> None:
    backend = failed(2)
    backend.queues = ("default", "mail")
    async with dashboard(backend, "P", "up", "enter", *"queue mail", "enter") as deck:
        assert "Pause queue mail" in deck.screen_text()
        await deck.press("up", "backspace", "down", "enter", "enter", "enter")
        assert backend.calls == [("pause", None, None)]


async def test_where_no_type_has_a_queue_types_alone_are_offered(settings: Settings) -> None:
    async with live(settings) as desk:
        await desk.press("P", "up", "enter")
        assert "cli_echo" in desk.screen_text()
        assert "queue default" not in desk.screen_text()
