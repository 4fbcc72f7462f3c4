"""The pages Suppressions and Sent To of the competition, over a real database, by keys alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr
from textual.pilot import Pilot

from jobdeck.core.plugins import Page
from jobdeck.core.programme.plugin import plugin
from jobdeck.core.settings import Settings
from tests.core.cli.support import environment
from tests.core.programme.people_world import COACH, PUPIL, PeopleWorld
from tests.support.queue import Connection
from tests.tui.live import Desk, live
from tests.tui.sample import sample
from tests.tui.screens.test_snapshots import SnapCompare
from tests.tui.support import LARGE, SMALL, make_app


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    environment(monkeypatch, tmp_path, database_url)
    return Settings(database_url=SecretStr(database_url), state_dir=tmp_path, handlers="tests.core.cli.handlers")


@pytest.fixture
def world(conn: Connection) -> PeopleWorld:
    made = PeopleWorld(conn)
    made.bar("zzada@example.org", created_at="2026-01-02T00:00:00Z")
    made.bar("zzalan@example.org", "group_unsub", scope="announcements", created_at="2026-01-03T00:00:00Z")
    made.bar_number("+15005550001", "stop", created_at="2026-01-01T00:00:00Z")
    return made


def said(desk: Desk) -> str:
    """The text of the screen in one line, without the frame of a dialog."""
    return " ".join(desk.screen_text().replace("│", " ").split())


def rows(desk: Desk) -> list[str]:
    """The lines of the table."""
    return [line.strip() for line in desk.screen_text().split("\n") if line.strip().startswith("2026-")]


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_blocked_addresses_are_listed_masked_and_whole(
    settings: Settings, world: PeopleWorld, size: tuple[int, int]
) -> None:
    world.bar("zzgrace@example.org", "spam", source="\x1b[31mzzgrace@example.org", created_at="2026-01-04T00:00:00Z")
    async with live(settings, "B", size=size) as desk:
        assert "4 rows" in desk.screen_text()
        assert [" ".join(line.split()[:4]) for line in rows(desk)] == [
            "2026-01-04 mail z…@example.org spam",
            "2026-01-03 mail z…@example.org left",
            "2026-01-02 mail z…@example.org bounced",
            "2026-01-01 text …01 texted",
        ]
        assert "zz" not in desk.screen_text()
        assert "\x1b" not in desk.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "number"),
    [("Ada Byron", 2), ("left the gr", 1), ("texts", 1), ("zzalan@example.org", 1), ("Alan Turing", 1)],
)
async def test_the_list_is_narrowed_down_to_a_person_a_kind_or_a_channel(
    settings: Settings, world: PeopleWorld, words: str, number: int
) -> None:
    del world
    async with live(settings, "B", "slash", *words, "enter") as desk:
        assert len(rows(desk)) == number
        await desk.press("slash", "pageup", "enter")
        assert len(rows(desk)) == 3


@pytest.mark.slow
async def test_a_block_is_lifted_with_a_reason_and_the_answer_says_what_is_left(
    settings: Settings, world: PeopleWorld
) -> None:
    async with live(settings, "B", "j", "enter", "enter", size=SMALL) as desk:
        assert "z…@example.org: bounced since 2026-01-02." in said(desk)
        assert "SendGrid keeps a list of its own" in said(desk)
        await desk.press("enter", "enter")
        assert "Reason, for the audit log is missing." in desk.screen_text()
        await desk.press(*"mailbox works", "enter", "enter")
        assert desk.here == "TablePage"
        assert desk.toasts[-1].startswith("Lifted the block of z…@example.org. SendGrid keeps a list of its own")
        assert len(rows(desk)) == 2
        assert [(row["action"], row["reason"]) for row in world.audit()] == [("lift block", "mailbox works")]


@pytest.mark.slow
async def test_the_dialog_names_the_command_that_lifts_the_same_block(settings: Settings, world: PeopleWorld) -> None:
    block = world.conn.rows("select id from email_suppressions where reason = 'hard_bounce'")[0]["id"]
    async with live(settings, "B", "j", "enter", "enter", *"why") as desk:
        text = "".join(desk.screen_text().replace("│", " ").split())
        assert f"jobdecksuppressionslift{block}--reasonwhy--yes" in text
        await desk.press("escape")
        assert desk.here == "TablePage"
        assert len(rows(desk)) == 3


@pytest.mark.slow
async def test_an_address_is_blocked_from_any_line_and_a_bad_one_is_refused(
    settings: Settings, world: PeopleWorld
) -> None:
    async with live(settings, size=SMALL) as desk:
        await desk.press("B", "enter", *"block", "enter", *"nobody", "enter", *"asked", "enter", "enter")
        assert desk.toasts[-1].startswith("Could not block an address: This is neither an e-mail address nor a phone")
        await desk.press("enter", *"block", "enter", *"zznew@example.org", "enter", *"asked", "enter", "enter")
        assert desk.toasts[-1] == "Blocked z…@example.org: messages to it are left out."
        assert len(rows(desk)) == 4
        assert "zznew" not in str(world.audit())


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_messages_are_listed_once_a_person_is_chosen(
    settings: Settings, world: PeopleWorld, size: tuple[int, int]
) -> None:
    world.message("zzada@example.org", COACH)
    world.message("+15005550001", COACH, channel="sms", state="uncertain", last_event="\x1b[31mzzada@example.org")
    world.message("zzalan@example.org", PUPIL, kind="announcement")
    async with live(settings, "U", size=size) as desk:
        assert "No rows. / searches: a name (competitors: the whole one), an address, or an id." in desk.screen_text()
        await desk.press("slash", *"ada")
        assert "Ada Byron" in desk.screen_text()
        await desk.press("enter")
        assert "2 rows" in desk.screen_text()
        assert "Ada Byron" in desk.screen_text()
        assert "unread alert" in desk.screen_text()
        assert "delivered" in desk.screen_text()
        assert "zz" not in desk.screen_text()
        assert "\x1b" not in desk.screen_text()
        await desk.press("slash", *"alan turing", "enter")
        assert "announcement" in desk.screen_text()
        assert "1 row" in desk.screen_text()


@pytest.mark.slow
async def test_namesakes_are_told_apart_and_minors_are_not_named(settings: Settings, world: PeopleWorld) -> None:
    world.pupil(uuid4(), "Alan", "Turing")
    async with live(settings, "U", "slash", *"alan") as desk:
        assert "No matches." in desk.screen_text()
        await desk.press(*" turing")
        assert desk.screen_text().count("competitor of Ada Byron") == 2


@pytest.mark.slow
async def test_an_address_is_revealed_with_a_reason(settings: Settings, world: PeopleWorld) -> None:
    world.message("zzada@example.org", COACH)
    async with live(settings, "U", "slash", *"ada", "enter", "enter", "enter") as desk:
        assert "Viewing its address is recorded in the audit log" in said(desk)
        assert world.audit() == []
        await desk.press(*"complaint 12", "enter", "enter")
        assert "The message went to zzada@example.org." in said(desk)
        await desk.press("escape")
        assert "zzada" not in desk.screen_text()
        assert [(row["action"], row["reason"]) for row in world.audit()] == [("reveal", "complaint 12")]


@pytest.mark.slow
async def test_both_pages_are_in_the_help_and_the_palette(settings: Settings, world: PeopleWorld) -> None:
    del world
    async with live(settings, "question_mark", size=(120, 100)) as desk:
        assert "blocked addresses and numbers; block" in said(desk)
        assert "mail and texts to a person, and what" in said(desk)
        await desk.press("escape", "colon", *"suppr", "enter")
        assert "Suppressions" in desk.screen_text()
        await desk.press("colon", *"sent to", "enter")
        assert "Sent To" in desk.screen_text()


SUPPRESSIONS, SENT_TO = plugin.pages
BLOCKED = [
    ("2026-02-03", "mail", "a…@example.org", "left the group", "announcements", "sendgrid event"),
    ("2026-02-02", "text", "…06", "texted STOP", "everything", "twilio"),
    ("2026-02-01", "mail", "p…@school5.example.org", "bounced", "everything", "sendgrid event"),
]
SENT = [
    ("03-04 08:12", "announcement", "a…@example.org", "delivered", "open 03-05", "0c6f5a1d"),
    ("03-01 10:00", "unread alert", "…06", "uncertain", "", "5a1d2e34"),
    ("2025-11-20", "parent probe", "p…@school5.example.org", "bounced", "11-21", "original"),
]


@pytest.mark.parametrize(
    ("page", "rows", "keys"),
    [(SUPPRESSIONS, BLOCKED, "jj"), (SENT_TO, SENT, "j")],
    ids=["suppressions", "sent-to"],
)
def test_picture(snap_compare: SnapCompare, page: Page, rows: list[tuple[str, ...]], keys: str) -> None:
    app = make_app(sample())

    async def open_page(pilot: Pilot[int]) -> None:
        await pilot.pause()
        app.open_table(replace(page, query=lambda _conn, _wanted: rows))
        await pilot.pause()
        await pilot.press(*keys)
        await pilot.pause()

    assert snap_compare(app, terminal_size=SMALL, run_before=open_page)


@pytest.mark.slow
async def test_what_lifting_a_block_leaves_with_the_provider_is_said_below_the_list(
    settings: Settings, world: PeopleWorld
) -> None:
    del world
    async with live(settings, "B", "j", size=SMALL) as desk:
        assert "lift the block z…@example.org: bounced since 2026-01-02. SendGrid keeps a list" in said(desk)
        await desk.press("enter")
        assert "Suppressions: 2026-01-02 mail z…@example.org bounced" in said(desk)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(60, 12), (200, 50)])
async def test_a_small_terminal_still_shows_rows(settings: Settings, world: PeopleWorld, size: tuple[int, int]) -> None:
    del world
    async with live(settings, "B", size=size) as desk:
        assert len(rows(desk)) >= 2
