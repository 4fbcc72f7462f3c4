"""Create Job on the screen: filled in from the keyboard, mistakes beside their field, dry run, created once."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from textual.widget import Widget
from textual.widgets import Button, TextArea

from jobdeck.core.model import Status
from jobdeck.core.queue.requests import Wanted
from jobdeck.core.registry import Registry
from jobdeck.core.schedules import Cron, Every
from jobdeck.tui.form.body import Row
from jobdeck.tui.form.widgets import PickField, Segments
from jobdeck.tui.screens.dialogs.create_job import CreateJob
from jobdeck.tui.widgets.fields import OneLine, Twin
from tests.tui.fake import NOW, FakeBackend, job_id, lost, make_job
from tests.tui.fake_creating import CAMPAIGN, COACH
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, Deck, dashboard, shown

pytestmark = pytest.mark.slow


def form(deck: Deck) -> CreateJob:
    assert isinstance(deck.app.screen, CreateJob)
    return deck.app.screen


def widget(deck: Deck, name: str) -> Widget:
    return next(row.widget for row in form(deck).query(Row) if row.field == name)


@asynccontextmanager
async def new_form(*keys: str, **options: Any) -> AsyncIterator[Deck]:
    """A form of a type that is open over an empty queue, and these keys pressed in it."""
    async with dashboard(FakeBackend(), **options) as deck:
        deck.app.dashboard.open_form(task_type="game_platform_sync")
        await deck.pilot.pause()
        await deck.press(*keys)
        yield deck


async def go_to(deck: Deck, name: str, *keys: str) -> None:
    """Walks to a field by the keyboard, from where the focus is, and presses these keys there."""
    for _ in range(40):
        if deck.app.focused is widget(deck, name):
            await deck.press(*keys)
            return
        await deck.press("tab")
    raise AssertionError(f"{name} cannot be reached by tab; the focus is on {deck.app.focused}")


async def pick(deck: Deck, *keys: str) -> None:
    await deck.press(*keys)
    await deck.pilot.pause()


def editor(deck: Deck) -> TextArea:
    return form(deck).query_one(TextArea)


def note(deck: Deck, name: str) -> str:
    return next(row._noted.text for row in form(deck).query(Row) if row.field == name)


def calls(deck: Deck, kind: str) -> list[tuple[object, ...]]:
    return [call for call in deck.backend.calls if call[0] == kind]


async def test_without_task_types_the_dashboard_says_how_to_name_handlers_and_jobs_can_still_be_edited() -> None:
    async with dashboard(FakeBackend([make_job(1, payload={"x": 1})])) as deck:
        deck.backend.creating.registry = Registry([])
        for key in ("n", "N"):
            await deck.press(key)
            assert not isinstance(deck.app.screen, CreateJob)
            assert "JOBDECK_HANDLERS" in deck.toasts.pop()
        await deck.press("E")
        assert form(deck).form.editing


async def test_a_new_job_has_the_type_under_the_cursor() -> None:
    jobs = [make_job(1, task_type="game_platform_sync"), make_job(2, task_type="sms_digest_processor")]
    async with dashboard(FakeBackend(jobs), "j", "n", "ctrl+s") as deck:
        assert calls(deck, "create") == [("create", Wanted("sms_digest_processor", {}))]


async def test_without_a_type_under_the_cursor_no_job_is_created_before_one_is_chosen() -> None:
    async with dashboard(FakeBackend(), "n", "ctrl+s") as deck:
        assert calls(deck, "create") == []
        assert deck.here == "CreateJob"
        assert "✗ choose one; enter lists them" in deck.screen_text()
        assert "✗ fix first: task type; ctrl+s goes to the first" in deck.screen_text()
        assert isinstance(deck.app.focused, PickField)
        await pick(deck, *"digest", "enter")
        assert not editor(deck).read_only
        await deck.press("ctrl+s")
        assert calls(deck, "create") == [("create", Wanted("sms_digest_processor", {}))]


async def test_a_job_is_created_from_the_keyboard_alone_and_its_toast_names_the_command() -> None:
    async with new_form() as deck:
        await go_to(deck, "forceFullSync", "right")
        await go_to(deck, "batchSize", *"150", "ctrl+s")
        assert deck.here == "Dashboard"
        assert calls(deck, "create") == [
            ("create", Wanted("game_platform_sync", {"forceFullSync": True, "batchSize": 150}))
        ]
        assert "Enqueued game_platform_sync as" in deck.toasts[-1]
        command = """jobdeck enqueue game_platform_sync --payload '{"forceFullSync": true, "batchSize": 150}'"""
        assert command in deck.toasts[-1]
        assert len(deck.table.jobs) == 1


async def test_the_cursor_goes_to_the_job_that_was_created_where_the_list_has_it() -> None:
    statuses = (Status.PENDING, Status.PENDING, Status.FAILED)
    jobs = [make_job(at, status, task_type="game_platform_sync") for at, status in enumerate(statuses)]
    async with dashboard(FakeBackend(jobs), "j", "n", "ctrl+s") as deck:
        made = deck.backend.jobs[-1]
        assert deck.table.current is not None
        assert deck.table.current.id == made.id
        await deck.press("j", "5", "n", "ctrl+s")
        assert deck.table.current.id != deck.backend.jobs[-1].id
        await deck.press("j", "1")
        assert deck.table.cursor == 0


async def test_the_task_type_is_chosen_from_a_list_by_typing_and_its_fields_appear() -> None:
    async with new_form(*"digest") as deck:
        assert deck.here == "Picker"
        assert "sms_digest_processor" in deck.screen_text()
        await pick(deck, "enter")
        assert deck.here == "CreateJob"
        assert isinstance(widget(deck, "roles"), Segments)
        await go_to(deck, "roles", "space", "right", "space", "ctrl+s")
        assert calls(deck, "create") == [("create", Wanted("sms_digest_processor", {"roles": ["coach", "admin"]}))]


async def test_a_coach_is_found_by_typing_and_an_answer_to_older_words_is_dropped() -> None:
    async with new_form() as deck:
        await go_to(deck, "coachId", *"kim")
        text = deck.screen_text()
        assert "Amara Kim" in text
        assert "Chidi Kimani" in text
        assert "Bo Lindqvist" not in text
        await pick(deck, "enter")
        field = widget(deck, "coachId")
        assert isinstance(field, PickField)
        assert field.label == "Amara Kim  …00000007"
        assert COACH in editor(deck).text
        await deck.press("backspace")
        assert editor(deck).text == "{}"
        await deck.press("enter")
        assert "all coaches" in deck.screen_text()
        assert deck.backend.creating.searched[-1] == ("coachId", "")
        await pick(deck, "down", "down", "enter")
        assert "000000000008" in editor(deck).text


async def test_a_search_that_fails_is_said_in_the_list() -> None:
    async with new_form() as deck:
        await go_to(deck, "coachId")
        deck.backend.failure = lost()
        await deck.press("enter")
        assert "does not answer" in deck.screen_text()
        await deck.press("escape")
        assert deck.here == "CreateJob"


async def test_a_campaign_is_needed_and_chosen_by_its_subject() -> None:
    async with new_form(*"announce") as deck:
        await pick(deck, "enter")
        await deck.press("ctrl+s")
        assert not calls(deck, "create")
        assert deck.app.focused is widget(deck, "campaignId")
        assert "✗ is required" in note(deck, "campaignId")
        await deck.press(*"finals")
        assert "640 of 655 left to mail" in deck.screen_text()
        await pick(deck, "enter")
        await deck.press("ctrl+s")
        assert calls(deck, "create") == [
            ("create", Wanted("competitor_announcement_dispatch", {"campaignId": CAMPAIGN}))
        ]


async def test_a_recurring_job_shows_its_interval_its_next_runs_and_its_end() -> None:
    async with new_form() as deck:
        await go_to(deck, "at", *"tomorrow 9:00")
        assert "= 2026-07-05 09:00Z, in 20h" in note(deck, "at")
        await go_to(deck, "recurring", "right", "tab", *"6h", "tab", *"7d")
        assert "next runs: 07-05 09:00, 15:00, 21:00, … every 6h, until 07-12 09:00Z" in deck.screen_text()
        await deck.press("ctrl+s")
        (_, wanted), *_ = calls(deck, "create")
        assert isinstance(wanted, Wanted)
        assert (wanted.schedule, wanted.lasting) == (Every(hours=6), timedelta(days=7))
        assert "--at 2026-07-05T09:00:00Z --every 6h --for 7d" in deck.toasts[-1]
        assert "then every 6h" in deck.toasts[-1]


async def test_interval_and_duration_are_asked_for_only_while_the_job_recurs() -> None:
    async with new_form() as deck:
        await go_to(deck, "recurring", "tab")
        assert deck.app.focused is widget(deck, "priority")
        await deck.press("shift+tab", "right", "tab")
        assert deck.app.focused is widget(deck, "every")


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_cron_expression_asks_for_its_zone_and_the_job_is_created_with_both(size: tuple[int, int]) -> None:
    async with new_form(size=size) as deck:
        await go_to(deck, "recurring", "right")
        assert not deck.app.screen.query_one("#row-tz").display
        await deck.press("tab", *"0 9 * * 1-5", "tab")
        assert deck.app.focused is widget(deck, "tz")
        await deck.press(*"America/New_York", "tab", "tab", "right")
        assert "next runs: 07-06 13:00, 07-07 13:00, 07-08 13:00, … by cron" in deck.screen_text()
        assert note(deck, "tz").strip() == "first there: Mon 07-06 09:00"
        await deck.press("ctrl+s")
        (_, wanted), *_ = calls(deck, "create")
        assert isinstance(wanted, Wanted)
        assert wanted.schedule == Cron("0 9 * * 1-5", "America/New_York", "all")


async def test_each_mistake_stands_beside_its_field_and_nothing_is_created() -> None:
    async with new_form(size=LARGE) as deck:
        await go_to(deck, "batchSize", *"900")
        await go_to(deck, "at", *"soon")
        assert "✗ must be 1 to 200" in note(deck, "batchSize")
        assert "✗ invalid; try tomorrow 9:00" in note(deck, "at")
        await deck.press("ctrl+s")
        assert not deck.backend.calls
        assert deck.app.focused is widget(deck, "batchSize")
        await deck.press("ctrl+t")
        assert not deck.backend.calls


@pytest.mark.parametrize(("field", "typed", "words"), [
    ("at", "tomorrow", "✗ invalid; try tomorrow 9:00"), ("at", "25:00", "✗ invalid; try tomorrow 9:00"),
    ("every", "often", "✗ invalid; try 30m or 7d"), ("every", "1.5s", "✗ whole seconds; try 30m"),
    ("lasting", "0d", "✗ is zero; try 30m or 7d"), ("lasting", "99999999w", "✗ too long; try 30m or 7d"),
])  # fmt: skip
async def test_beside_a_time_that_cannot_be_read_stands_one_that_can_and_is_seen_on_80_columns(
    field: str, typed: str, words: str
) -> None:
    async with new_form() as deck:
        await go_to(deck, "recurring", "right")
        await go_to(deck, field, "ctrl+u", *typed)
        assert words in deck.screen_text()


async def test_json_and_fields_are_in_step_both_ways() -> None:
    async with new_form(size=LARGE) as deck:
        editor(deck).focus()
        editor(deck).text = '{"mode": "wave", "batchSize": 20}'
        await deck.pilot.pause()
        mode, size = widget(deck, "mode"), widget(deck, "batchSize")
        assert isinstance(mode, Segments)
        assert isinstance(size, OneLine)
        assert (mode.value, size.value) == ("wave", "20")
        mode.focus()
        await deck.press("right")
        assert '"mode": "full"' in editor(deck).text
        editor(deck).text = '{"mode": "full",'
        await deck.pilot.pause()
        assert "✗ The payload is not valid JSON" in deck.screen_text()
        await deck.press("ctrl+s")
        assert not deck.backend.calls
        assert deck.app.focused is editor(deck)


async def test_the_dry_run_shows_what_a_run_would_do_in_place_and_changes_nothing() -> None:
    async with new_form(size=LARGE) as deck:
        await go_to(deck, "forceFullSync", "right", "ctrl+t")
        assert deck.here == "CreateJob"
        text = deck.screen_text()
        for part in ("The job would be enqueued.", "A run would currently:", "total: 655", "odlFull: 655"):
            assert part in text
        assert [call[0] for call in deck.backend.calls] == ["rehearse"]
        assert not deck.table.jobs
        await deck.press("left")
        assert "odlFull" not in deck.screen_text()


async def test_a_long_answer_on_a_small_screen_can_be_scrolled_while_the_focus_stays() -> None:
    async with new_form("tab", "ctrl+t") as deck:
        assert "The job would be enqueued." in deck.screen_text()
        focused = deck.app.focused
        await deck.press("pagedown")
        assert "toCreate: 0" in deck.screen_text()
        await deck.press("pageup", "pageup", "pageup")
        assert "task type" in deck.screen_text()
        assert deck.app.focused is focused


async def test_a_type_without_a_preview_says_so() -> None:
    async with new_form(*"onboard", size=LARGE) as deck:
        await pick(deck, "enter")
        await deck.press("ctrl+t")
        assert "no preview of its effects" in deck.screen_text()


async def test_a_job_that_holds_the_dedupe_key_is_named_and_the_form_stays() -> None:
    async with new_form() as deck:
        deck.backend.creating.held = make_job(3)
        await go_to(deck, "dedupe_key", *"nightly", "ctrl+s")
        assert deck.here == "CreateJob"
        assert "Not enqueued: job" in deck.screen_text()


async def test_a_lost_connection_leaves_the_form_and_says_that_the_outcome_is_unknown() -> None:
    async with new_form(size=LARGE) as deck:
        deck.backend.failure = lost()
        await deck.press("ctrl+s")
        assert deck.here == "CreateJob"
        assert "It is unknown whether Jobdeck could create the job" in deck.screen_text()
        assert len(calls(deck, "create")) == 1


async def test_esc_leaves_an_untouched_form_at_once_and_asks_before_it_throws_anything_away() -> None:
    async with new_form("escape") as deck:
        assert deck.here == "Dashboard"
    async with new_form() as deck:
        await go_to(deck, "batchSize", "5", "escape")
        assert "Press esc again to discard what you typed." in deck.screen_text()
        await deck.press("6", "escape")
        assert deck.here == "CreateJob"
        await deck.press("escape")
        assert deck.here == "Dashboard"
        assert not deck.backend.calls


async def test_many_ids_pasted_one_a_line_are_all_taken() -> None:
    async with new_form(*"onboard") as deck:
        await pick(deck, "enter")
        await go_to(deck, "competitorIds")
        ids = [str(job_id(at)) for at in range(3)]
        field = widget(deck, "competitorIds")
        assert isinstance(field, OneLine)
        from textual.events import Paste  # noqa: PLC0415 -- here only

        field.post_message(Paste("\n".join(ids) + "\r\n"))
        await deck.pilot.pause()
        await deck.press("ctrl+s")
        (_, wanted), *_ = calls(deck, "create")
        assert isinstance(wanted, Wanted)
        assert wanted.payload == {"competitorIds": ids}


async def test_a_duplicate_is_the_same_form_filled_in() -> None:
    job = make_job(1, Status.FAILED, payload={"coachId": COACH, "batchSize": 50}, priority=2)
    async with dashboard(FakeBackend([job]), "N") as deck:
        assert "Duplicate job" in deck.screen_text()
        assert "Amara Kim" in deck.screen_text()
        await deck.press("ctrl+s")
        assert calls(deck, "create") == [
            ("create", Wanted("game_platform_sync", {"coachId": COACH, "batchSize": 50}, priority=2))
        ]


async def test_a_pending_job_is_edited_in_the_version_that_was_seen() -> None:
    job = make_job(1, payload={"batchSize": 50}, version=3)
    async with dashboard(FakeBackend([job]), "E", size=LARGE) as deck:
        assert "Edit job" in deck.screen_text()
        assert not any(row.field == "type" for row in form(deck).query(Row))
        await go_to(deck, "batchSize", *"60")
        assert f"jobdeck edit {job.id} --payload" in deck.screen_text()
        assert "~ batchSize: 50 → 60" in deck.screen_text()
        await deck.press("ctrl+s")
        changes = {"payload": {"batchSize": 60}, "concurrency_key": "game_platform_sync"}
        assert calls(deck, "edit") == [("edit", job.id, 3, changes)]
        assert deck.here == "Dashboard"
        assert "Changed." in deck.toasts[-1]


async def test_an_edit_of_a_job_that_changed_meanwhile_is_refused_and_the_form_stays() -> None:
    job = make_job(1, payload={"batchSize": 50})
    async with dashboard(FakeBackend([job]), "E", size=LARGE) as deck:
        deck.backend.jobs[0] = make_job(1, Status.RUNNING, version=9)
        await go_to(deck, "batchSize", *"60", "ctrl+s")
        assert deck.here == "CreateJob"
        assert "refused: It has changed meanwhile" in deck.screen_text()


async def test_an_edit_that_changes_nothing_is_not_sent() -> None:
    async with dashboard(FakeBackend([make_job(1)]), "E", "ctrl+s") as deck:
        assert "Nothing to save" in deck.screen_text()
        assert not deck.backend.calls


@pytest.mark.parametrize("status", Status)
async def test_only_what_is_not_running_and_has_not_succeeded_can_be_edited(status: Status) -> None:
    async with dashboard(FakeBackend([make_job(1, status)]), "E") as deck:
        editable = status in {Status.PENDING, Status.FAILED, Status.CANCELLED}
        assert deck.here == ("CreateJob" if editable else "Dashboard")
        if not editable:
            assert f"a {status.value} job does not allow it" in deck.toasts[-1]


async def test_edit_and_duplicate_take_the_job_under_the_cursor_whatever_is_marked() -> None:
    jobs = [make_job(at, payload={"batchSize": at}) for at in (1, 2)]
    async with dashboard(FakeBackend(jobs), "space", "N") as deck:
        assert '"batchSize": 2' in editor(deck).text


async def test_a_job_of_a_type_without_handler_can_be_rescheduled_but_its_payload_only_looked_at() -> None:
    job = make_job(1, task_type="from_elsewhere", payload={"x": 1})
    async with dashboard(FakeBackend([job]), "E", size=LARGE) as deck:
        assert editor(deck).read_only
        await go_to(deck, "priority", "5", "ctrl+s")
        assert calls(deck, "edit") == [("edit", job.id, 1, {"priority": 5})]


async def test_the_form_opens_from_the_page_of_a_job_too() -> None:
    async with dashboard(FakeBackend([make_job(1)]), "enter", "N") as deck:
        assert deck.here == "CreateJob"
        await deck.press("escape", "n")
        assert deck.here == "CreateJob"


async def test_who_may_only_look_is_told_so_and_sees_no_form() -> None:
    async with dashboard(FakeBackend([make_job(1)], operate=False)) as deck:
        for key in ("n", "N", "E", "Q", "A"):
            await deck.press(key)
            assert deck.here == "Dashboard"
            assert "has read-only access" in deck.toasts[-1]


async def test_the_command_can_be_copied_while_the_form_is_filled_in() -> None:
    async with new_form("ctrl+y") as deck:
        assert "Copied" in deck.toasts[-1]
        assert deck.app.clipboard == "jobdeck enqueue game_platform_sync"


HOSTILE = "\x1b]0;PWNED\x07[/foo]\u202e\x9bm\x7f"


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_command_that_does_not_fit_is_cut_with_a_sign(size: tuple[int, int]) -> None:
    job = make_job(1, task_type="game_platform_onboard_competitors",
                   payload={"competitorIds": [str(job_id(at)) for at in range(40)]})  # fmt: skip
    async with dashboard(FakeBackend([job]), "N", size=size) as deck:
        twin = deck.app.screen.query_one(Twin)
        shown = [strip.text.strip() for strip in twin.render_lines(twin.size.region)]
        assert shown[0].startswith("jobdeck enqueue game_platform_onboard_competitors")
        assert shown[-1].endswith("…")


async def test_hostile_text_of_a_job_does_nothing_in_the_form() -> None:
    job = make_job(1, payload={HOSTILE: HOSTILE, "mode": HOSTILE}, task_type="game_platform_sync")
    async with dashboard(FakeBackend([job]), "N", size=LARGE) as deck:
        text = deck.screen_text()
        assert not set("\x1b\u202e\x9b\x7f") & set(text)
        assert "\\u001b" in text
        await deck.press("ctrl+s")
        assert deck.backend.calls == [("reveal", job.id)]


@pytest.mark.parametrize("facts", [
    {"task_type": HOSTILE}, {"task_type": "sms_digest_processor", "payload": {"note": HOSTILE}},
])  # fmt: skip
async def test_the_command_of_a_job_with_hostile_text_does_nothing_either(facts: dict[str, Any]) -> None:
    async with dashboard(FakeBackend([make_job(1, **facts)]), "N", size=LARGE) as deck:
        assert "jobdeck enqueue" in deck.screen_text()
        shown = deck.screen_text()
        await deck.press("ctrl+s")
        assert not set("\x1b\u202e\x9b\x7f") & set(shown + deck.screen_text() + "".join(deck.toasts))


@pytest.mark.parametrize("key", ["N", "E"])
async def test_a_form_that_shows_what_the_list_masks_puts_the_look_on_record(key: str) -> None:
    jobs = [make_job(1, payload={"note": "kim@example.org"}), make_job(2, payload={"note": "nobody"})]
    backend = FakeBackend(jobs)
    async with dashboard(backend, size=LARGE) as deck:
        assert "kim@" not in deck.screen_text()
        await deck.press(key)
        assert "kim@example.org" in deck.screen_text()
        assert backend.calls == [("reveal", jobs[0].id)]
        await deck.press("escape", "j", key)
        assert "nobody" in deck.screen_text()
        assert backend.calls == [("reveal", jobs[0].id)]


async def test_while_the_look_cannot_be_put_on_record_nothing_is_shown() -> None:
    backend = FakeBackend([make_job(1, payload={"note": "kim@example.org"})])
    async with dashboard(backend, size=LARGE) as deck:
        backend.failure = lost()
        await deck.press("N")
        assert deck.here == "Dashboard"
        assert "kim@" not in deck.screen_text()


async def test_every_field_can_be_reached_and_nothing_on_a_small_screen_is_cut_off() -> None:
    async with new_form() as deck:
        seen = set()
        for _ in range(40):
            await deck.press("tab")
            focused = deck.app.focused
            assert focused is not None
            seen.add(focused.id)
            assert deck.app.screen.region.contains_region(focused.region)
        assert {f"field-{at}" for at in range(7)} | {"field-json", "yes", "try", "no"} <= seen


@pytest.mark.slow
async def test_a_form_that_was_left_is_let_go_of_with_all_its_widgets() -> None:
    def fields() -> int:
        gc.collect()
        # By type: isinstance would ask the lazy objects of other libraries for their class.
        return sum(issubclass(type(one), TextArea | OneLine | Button) for one in gc.get_objects())

    async with dashboard(sample()) as deck:
        before = fields()
        for _ in range(3):
            await deck.press("n", "escape")
            await deck.press("enter", "T", "escape", "escape")
        assert deck.here == "Dashboard"
        assert fields() <= before


async def test_the_json_says_that_it_keeps_the_last_good_value_while_a_field_is_wrong() -> None:
    async with new_form() as deck:
        await go_to(deck, "batchSize", *"900")
        assert '"batchSize": 90' in editor(deck).text
        await deck.press("pagedown")
        assert "JSON keeps the last valid batch size" in deck.screen_text()
        await deck.press("backspace")
        assert "Payload (JSON, kept in sync with the fields)" in deck.screen_text()


async def test_what_is_needed_and_missing_leaves_the_json_in_step() -> None:
    async with new_form(*"announce", size=LARGE) as deck:
        await pick(deck, "enter")
        assert "✗ is required" in deck.screen_text()
        assert "Payload (JSON, kept in sync with the fields)" in deck.screen_text()


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_the_name_of_the_task_type_is_shown_whole(size: tuple[int, int]) -> None:
    async with new_form(*"onboard", size=size) as deck:
        await pick(deck, "enter")
        (line,) = [line for line in deck.screen_text().split("\n") if "task type" in line]
        assert "game_platform_onboard_competitors" in line


async def test_what_was_said_before_does_not_cover_the_form() -> None:
    async with dashboard(FakeBackend([make_job(1, Status.FAILED)]), "R", "y", toasts=True) as deck:
        assert "jobdeck retry" in deck.screen_text()
        await deck.press("n")
        assert "jobdeck retry" not in deck.screen_text()
        assert "jobdeck enqueue" in deck.screen_text()


async def test_the_end_of_a_series_that_is_edited_is_kept_unless_another_is_given() -> None:
    job = make_job(1, is_recurring=True, recurrence_interval_minutes=60, expires_at=NOW + timedelta(days=3))
    text = await shown(FakeBackend([job]), "E")
    row = next(line for line in text.split("\n") if line.startswith("│ for "))
    assert "unchanged " in row
    assert "forever" not in row
