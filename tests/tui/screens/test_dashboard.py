"""What the first screen says about the queue."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len

from jobdeck.core.errors import DatabaseUnreachable
from jobdeck.core.model import Finding, Health, Processing, Status, TypePause, Verdict
from jobdeck.core.read.report_types import Counts
from jobdeck.core.read.verdict import failing_types
from tests.tui.fake import NOW, FakeBackend, lost, make_job, minutes
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, dashboard, failed, shown


async def test_the_header_says_where_who_and_whether_processing_is_on() -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        header = deck.line("header")
        for part in (
            "Jobdeck", "db.example.org/queue", "alice@10.0.0.7", "operator", "Automatic Processing ● ON",
            "workers 2 (1 here)   slots 4/8", "12:04:31Z", "updated <5s ago",
        ):  # fmt: skip
            assert part in header


async def test_at_80_columns_the_header_keeps_the_switch_and_the_clock() -> None:
    async with dashboard(sample()) as deck:
        assert "● ON" in deck.line("header")
        assert "12:04:31Z" in deck.line("header")
        assert "<5s old" in deck.line("header")
        assert len(deck.line("header")) <= 80


async def test_the_header_counts_the_seconds_since_the_last_answer_once_one_is_overdue() -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        deck.clock.now += 4
        deck.app.dashboard.tick()
        assert "updated <5s ago" in deck.line("header")
        deck.clock.now += 3
        deck.app.dashboard.tick()
        assert "updated 7s ago" in deck.line("header")
        assert "12:04:38Z" in deck.line("header")


@pytest.mark.slow
async def test_the_age_of_the_data_is_told_wherever_there_is_room_for_it() -> None:
    told = []
    async with dashboard(sample(), size=(60, 24), environment="staging") as deck:
        for width in range(60, 201, 14):
            await deck.pilot.resize_terminal(width, 24)
            header = deck.line("header")
            assert len(header) <= width
            told.append("<5s" in header)
            assert told[-1] or len(header.split("12:04:31Z")[0].rstrip()) + len("  12:04:31Z  <5s old ") > width
    assert set(told) == {False, True}


@pytest.mark.parametrize(("environment", "read_only"), [("production", False), ("production", True), ("", True)])
async def test_at_80_columns_the_switch_keeps_its_name_whatever_else_there_is_to_say(
    environment: str, read_only: bool
) -> None:
    backend = failed(1)
    backend.read_only = read_only
    async with dashboard(backend, environment=environment, production=bool(environment)) as deck:
        header = deck.line("header")
        assert "Processing ● ON" in header
        assert "12:04:31Z" in header
        assert ("read-only" in header) == read_only
        assert len(header) <= 80


async def test_a_worker_in_the_dashboard_is_counted_once_the_database_knows_it() -> None:
    backend = sample()
    known, backend.workers = backend.workers, ()
    async with dashboard(backend, size=LARGE) as deck:
        assert "worker connecting" in deck.line("header")
        assert "workers" not in deck.line("header")
        backend.workers = known[:1]
        await deck.refresh()
        assert "workers 1 (1 here)" in deck.line("header")


@pytest.mark.slow
async def test_a_production_database_is_labelled_as_such() -> None:
    async with dashboard(sample(), environment="production", production=True, size=LARGE) as deck:
        assert "production" in deck.line("header")


async def test_now_says_what_is_wrong_and_since_when_before_anything_else() -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        lines = deck.line("now").splitlines()
        assert "! sms_digest_processor failed 2 cycles in a row (since 11:00Z)" in lines[1]
        assert "last minute 12 ok, 2 failed" in lines[0]
        assert "! longest wait 12m" in lines[2]
        assert "· 5 failed jobs wait for a retry or a deletion" in lines[3]


async def test_a_critical_finding_is_a_cross_and_a_sentence() -> None:
    backend = FakeBackend()
    finding = Finding("trigger", Verdict.CRITICAL, "No trigger for 20 minutes.", NOW - minutes(20))
    backend.health = Health(Verdict.CRITICAL, (finding,))
    async with dashboard(backend) as deck:
        assert "✗ No trigger for 20 minutes (since 11:44Z)" in deck.line("now")


def one_coach_fails() -> FakeBackend:
    backend = FakeBackend()
    words = "push: one coachId fails 71 %; 12 % of runs failed (60 of 500)."
    backend.health = Health(Verdict.CRITICAL, (Finding("failures", Verdict.CRITICAL, words, NOW, subject="push"),))
    return backend


@pytest.mark.slow
async def test_now_names_the_value_of_a_key_to_a_session_that_may_see_payloads() -> None:
    backend = one_coach_fails()
    backend.evidence.values = {"push": ("coachId", "c3 mara@example.org \x1b[31m" + "x" * 100)}
    async with dashboard(backend, size=LARGE) as deck:
        assert f"push: coachId c3 <email> \\x1b[31m{'x' * 20}… fails 71 %" in deck.screen_text()


async def test_now_names_the_key_alone_to_all_others() -> None:
    async with dashboard(one_coach_fails(), size=LARGE) as deck:
        assert "push: one coachId fails 71 %" in deck.screen_text()


@pytest.mark.slow
async def test_now_names_the_most_common_error_of_a_failing_type_masked() -> None:
    backend = FakeBackend()
    words = "push: 71 % of runs failed in the 15 minutes to 12:04Z (213 of 300); green by 12:34Z if no run fails."
    backend.health = Health(Verdict.CRITICAL, (Finding("failures", Verdict.CRITICAL, words, NOW, subject="push"),))
    backend.evidence.common_errors = {"push": "vendor answered 429 to mara@example.org\x1b[31m " + "x" * 100}
    async with dashboard(backend, size=LARGE) as deck:
        text = deck.screen_text()
        assert "(213 of 300); most common error: vendor answered 429 to <email>\\x1b[31m " in text
        assert "xxx…; green by 12:34Z if no run fails" in text


@pytest.mark.slow
async def test_why_a_type_fails_is_read_once_in_a_minute_and_not_shown_after_a_failed_reading() -> None:
    backend = one_coach_fails()
    backend.evidence.values = {"push": ("coachId", "c3")}
    backend.evidence.common_errors = {"push": "vendor is down"}
    read, asked = backend.read, []

    def counting(query: Any, *given: Any, **named: Any) -> Any:
        asked.append(query)
        if asked.count(failing_types.causes) > 1 and query is failing_types.causes:
            raise DatabaseUnreachable("The database does not answer.")
        return read(query, *given, **named)

    backend.read = counting  # type: ignore[method-assign]
    async with dashboard(backend, size=LARGE) as deck:
        await deck.refresh()
        assert "push: coachId c3 fails 71 %; most common error: vendor is down; 12 %" in deck.screen_text()
        assert asked.count(failing_types.causes) == 1
        backend.at += minutes(1)
        await deck.refresh()
        assert asked.count(failing_types.causes) == 2
        assert "push: one coachId fails 71 %; 12 % of runs failed" in deck.screen_text()


async def test_tabs_show_exact_counts_and_say_that_there_are_more_than_ten_thousand() -> None:
    backend = FakeBackend()
    backend.counts = Counts(pending=10_000, running=3, succeeded=1, failed=5, cancelled=0, removed=10_001)
    async with dashboard(backend, size=LARGE) as deck:
        assert deck.line("tabs").split() == (
            [
                "1",
                "All",
                "10,009",
                "2",
                "Pending",
                "10,000",
                "3",
                "Running",
                "3",
                "4",
                "Succeeded",
                "10,000+",
                "5",
                "Failed",
                "5",
                "6",
                "Cancelled",
                "0",
            ]
        )


async def test_at_80_columns_what_is_beyond_ten_thousand_is_short() -> None:
    backend = FakeBackend()
    backend.counts = Counts(pending=10_001, running=3, succeeded=1, failed=5992, cancelled=0, removed=10_001)
    async with dashboard(backend) as deck:
        words = deck.line("tabs").split()
        assert [word for word in words if word[-1] == "+"] == ["15k+", "10k+", "10k+"]
        assert "5,992" in words


@pytest.mark.slow
async def test_number_keys_choose_the_tab_and_the_succeeded_one_lists_what_left_the_queue() -> None:
    async with dashboard(sample(), "5", size=LARGE) as deck:
        assert {job.status for job in deck.table.jobs} == {Status.FAILED}
        await deck.press("4")
        assert [job.removed for job in deck.table.jobs] == [True]
        assert "left queue" in deck.screen_text()
        await deck.press("1")
        assert len(deck.table.jobs) > 10


async def test_a_recurring_job_wears_its_badge_and_an_overdue_one_says_how_late_it_is() -> None:
    text = await shown(sample(), "d", size=LARGE)
    assert "game_platform_sync ↻ 15m" in text
    assert re.search(r"! game_platform_onboard_competitors .* overdue .* due 12m", text)
    assert re.search(r"● competitor_announcement_dispatch .* cancelling ", text)
    assert "━━━━━───  62 %" in text
    assert "⚠ 4m" in text


@pytest.mark.slow
async def test_while_paused_a_late_job_says_that_it_is_paused_and_how_late_it_is() -> None:
    backend = FakeBackend([make_job(20, next_run_at=NOW - minutes(20))])
    async with dashboard(backend) as deck:
        assert " ! game_platform_sync " in deck.screen_text()
        backend.processing = Processing(enabled=False, paused_at=NOW)
        await deck.refresh()
        *_, status, when = deck.table._painted[0].cells
        assert " ‖ game_platform_sync " in deck.screen_text()
        assert (status, when) == ((("paused    ", "warn"),), (("due 20m   ", "warn"),))


@pytest.mark.slow
async def test_a_paused_queue_wears_a_banner_with_who_why_since_when_and_how_many_jobs_it_keeps() -> None:
    backend = sample()
    backend.processing = Processing(
        enabled=False, paused_reason="MetaCTF is down", paused_by="bob@10.0.0.9", paused_at=NOW - minutes(12),
        resume_at=NOW + minutes(18),
    )  # fmt: skip
    async with dashboard(backend, size=LARGE) as deck:
        banner = deck.line("banner")
        for part in (
            "PAUSED since 11:52Z",
            "bob@10.0.0.9",
            "MetaCTF is down",
            "790 jobs kept",
            "resumes in 18m",
            "P resumes",
        ):
            assert part in banner
        assert "○ PAUSED" in deck.line("header")
        assert "P resume" in deck.line("keys")


async def test_paused_task_types_are_named_in_now() -> None:
    backend = sample()
    pause = TypePause("sms_digest_processor", "Twilio", "bob", NOW, None)
    backend.processing = Processing(enabled=True, paused_types=(pause,))
    async with dashboard(backend) as deck:
        assert "‖ sms_digest_processor paused since 12:04Z by bob: Twilio" in deck.line("now")


@pytest.mark.slow
async def test_the_banner_says_who_holds_the_queue() -> None:
    backend = sample()
    backend.processing = Processing(enabled=True, held_by="another runner")
    async with dashboard(backend) as deck:
        assert "No worker takes jobs: the queue is held by another runner." in deck.line("banner")


@pytest.mark.slow
async def test_an_empty_queue_says_so() -> None:
    async with dashboard(FakeBackend()) as deck:
        assert "The queue is empty." in deck.screen_text()
        await deck.press("5")
        assert "No failed jobs." in deck.screen_text()


@pytest.mark.slow
async def test_the_first_paint_does_not_wait_for_the_database() -> None:
    backend = FakeBackend()
    backend.failure = lost()
    async with dashboard(backend) as deck:
        assert deck.app.view is None
        assert "not connected" in deck.line("header")
        assert "disconnected 0s, retry in 1s" in deck.line("banner")


@pytest.mark.slow
async def test_a_terminal_that_is_too_small_gets_a_sentence_and_recovers() -> None:
    async with dashboard(sample()) as deck:
        await deck.pilot.resize_terminal(40, 10)
        await deck.pilot.pause()
        assert "Jobdeck needs 60 columns and 12 lines" in " ".join(deck.screen_text().split())
        await deck.press("D", "C", "R", "P", "n", "enter")
        assert deck.here == "Dashboard"
        await deck.pilot.resize_terminal(80, 24)
        await deck.pilot.pause()
        assert "game_platform_sync" in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("keys", [("D",), ("P",), ("question_mark",), ("enter",), ("slash",)])
async def test_every_page_survives_a_tiny_terminal(keys: tuple[str, ...]) -> None:
    async with dashboard(failed(3), *keys) as deck:
        before = deck.screen_text()
        for size in ((40, 10), (20, 4), (1, 1), SMALL):
            await deck.pilot.resize_terminal(*size)
            await deck.pilot.pause()
        assert deck.screen_text() == before
        await deck.press("escape", "j")
        assert deck.here == "Dashboard"
        assert deck.table.cursor == 1


@pytest.mark.slow
async def test_a_terminal_made_tiny_under_a_dialog_and_large_again_gives_the_keys_back_to_the_list() -> None:
    async with dashboard(failed(5), "D") as deck:
        await deck.pilot.resize_terminal(40, 10)
        await deck.press("escape", "j")
        await deck.pilot.resize_terminal(80, 24)
        await deck.press("j")
        assert deck.table.cursor == 2
        assert deck.app.screen.focused is deck.table
        await deck.press("slash", *"boom", "enter")
        assert deck.app.dashboard.filter_text == "boom"
        assert deck.app.screen.focused is deck.table


@pytest.mark.slow
async def test_no_column_comes_or_goes_when_the_rows_of_a_tab_change() -> None:
    jobs = [make_job(1, Status.FAILED, last_error="boom"), make_job(2, Status.FAILED, last_error="boom")]
    backend = FakeBackend(jobs)
    async with dashboard(backend, "5", size=SMALL) as deck:
        heading = deck.screen_text().splitlines()[4]
        assert heading.split() == ["task", "what", "when"]
        backend.jobs = [make_job(3, Status.FAILED, task_type="sms_digest_processor"), jobs[0]]
        await deck.refresh()
        assert deck.screen_text().splitlines()[4] == heading
        await deck.press("1")
        assert "status" in deck.screen_text().splitlines()[4]


@pytest.mark.slow
async def test_a_filter_that_leaves_one_type_gives_its_cells_to_the_arguments() -> None:
    backend = FakeBackend([make_job(at, Status.FAILED, payload={"orderId": at}, last_error="boom") for at in (1, 2)])
    async with dashboard(backend, "5", "slash", *"type:game_platform_sync", "enter", size=SMALL) as deck:
        heading, first, second = deck.screen_text().splitlines()[5:8]
        assert heading.split() == ["what", "when"]
        assert ["orderId=1" in first, "orderId=2" in second] == [True, True]
        await deck.press("slash", *["backspace"] * 4, "enter")
        assert "task" in deck.screen_text().splitlines()[5]


@pytest.mark.slow
async def test_now_says_each_thing_once() -> None:
    backend = sample()
    waiting = Finding("due jobs", Verdict.CRITICAL, "Oldest job waiting 12m.", NOW - minutes(12))
    backend.health = replace(backend.health, verdict=Verdict.CRITICAL, findings=(waiting,))
    async with dashboard(backend, size=LARGE) as deck:
        assert "✗ Oldest job waiting 12m (since 11:52Z)" in deck.line("now")
        assert "longest wait" not in deck.line("now")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("finished", "failed", "words"),
    [
        ((50, 31, 9), (50, 0, 9), "last minute 31 ok, 0 failed"),
        ((0, 153, 9), (0, 122, 9), "last minute 31 ok, 122 failed"),
        ((5083, 0, 900), (70, 0, 9), "last minute 0 ok, 0 failed"),
    ],
)
async def test_the_rate_is_what_ended_in_the_last_full_minute_successes_and_failures_apart(
    finished: tuple[int, ...], failed: tuple[int, ...], words: str
) -> None:
    backend = sample()
    backend.health = replace(backend.health, findings=(), finished_per_minute=finished, failed_per_minute=failed)
    async with dashboard(backend, size=LARGE) as deck:
        assert words in deck.line("now")


async def test_while_nothing_is_wrong_80_columns_have_the_rate_and_the_failures() -> None:
    backend = sample()
    backend.health = replace(
        backend.health, findings=(), finished_per_minute=(4153,) * 15, failed_per_minute=(3122,) * 15,
        failed_last_hour=187_320, oldest_due=None,
    )  # fmt: skip
    async with dashboard(backend) as deck:
        first, second = deck.line("now").splitlines()
        assert first == " ✓ No alarm, no backlog; last minute 1,031 runs ok, 3,122 failed, 187,320 jobs"
        assert second == "   failed permanently in the last hour"


@pytest.mark.parametrize("wrong", [1, 3, 5])
async def test_below_30_lines_two_problems_are_said_and_the_others_counted(wrong: int) -> None:
    backend = sample()
    finding = Finding("series", Verdict.WARNING, "sms_digest_processor failed 2 cycles in a row" * 2, NOW)
    backend.health = replace(backend.health, findings=(finding,) * wrong)
    async with dashboard(backend) as deck:
        lines = deck.line("now").splitlines()
        assert len(lines) == 2
        assert max(len(line) for line in lines) <= 80
        assert lines[1].endswith(f"+{wrong - 1}") == (wrong > 1)


def _pause(name: str, reason: str | None, until: float | None = None) -> TypePause:
    return TypePause(name, reason, "bob@10.0.0.9 (jobdeck)", NOW - minutes(12), NOW + minutes(until) if until else None)


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_paused_type_has_a_line_with_who_why_since_when_and_until_when(size: tuple[int, int]) -> None:
    backend = failed(1)
    backend.processing = Processing(enabled=True, paused_types=(_pause("webhook_push", "vendor outage", 30),))
    async with dashboard(backend, size=size) as deck:
        now = " ".join(deck.line("now").split())
        for said in ("‖ webhook_push paused since 11:52Z", "by bob", "vendor ou", "resumes in 30m", " P"):
            assert said in now


@pytest.mark.slow
async def test_several_paused_types_have_a_line_each() -> None:
    backend = failed(1)
    types = (_pause("webhook_push", "vendor outage", 30), _pause("sms_digest_processor", None))
    backend.processing = Processing(enabled=True, paused_types=types)
    async with dashboard(backend, size=LARGE) as deck:
        assert not deck.line("banner")
        assert "‖ webhook_push paused since 11:52Z" in deck.line("now")
        assert "‖ sms_digest_processor paused since 11:52Z" in deck.line("now")


@pytest.mark.slow
async def test_the_banner_of_everything_paused_says_that_types_are_paused_too() -> None:
    backend = failed(1)
    backend.processing = Processing(
        enabled=False, paused_by="bob", paused_at=NOW - minutes(12), paused_types=(_pause("webhook_push", None),)
    )
    async with dashboard(backend, size=LARGE) as deck:
        assert "kept · 1 type paused too" in deck.line("banner")


@pytest.mark.parametrize("letters", [24, 27, 40, 200])
async def test_the_name_in_the_banner_of_a_pause_is_cut_with_an_ellipsis_before_what_follows_it(letters: int) -> None:
    backend = sample()
    backend.processing = Processing(
        enabled=False, paused_by="a" * letters, paused_at=NOW - minutes(5), paused_reason="vendor is down",
        resume_at=NOW + minutes(30),
    )  # fmt: skip
    async with dashboard(backend) as deck:
        banner = deck.line("banner")
        assert banner.endswith("kept · resumes in 30m")
        assert cell_len(banner) <= 80
        assert ("…" in banner) == (letters > 27)
