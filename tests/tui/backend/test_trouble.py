"""Trouble with the database as it is seen: nothing cut at 80 columns, nothing old that looks new, nothing twice."""

from __future__ import annotations

import re

import pytest

from jobdeck.core.errors import DatabaseUnreachable
from jobdeck.core.model import Processing, Status
from jobdeck.core.read.report_types import CronReport
from jobdeck.tui.actions import NO_ANSWER
from jobdeck.tui.run import sentence
from tests.tui.fake import FakeBackend, make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, Slow, dashboard, failed

ADVICE = (
    "The database at db-primary.internal.example.org:5432/production does not answer (connection refused). "
    "Check DATABASE_URL or --database-url, and that Postgres is running there."
)
SIZES = pytest.mark.parametrize("size", [(60, 24), SMALL, LARGE])


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("page", ["", "enter", "e", "m", "o", "p", "l", "b", "h"])
@pytest.mark.slow
async def test_the_advice_of_a_lost_connection_is_never_cut(page: str) -> None:
    backend = failed(3)
    async with dashboard(backend, *([page] if page else []), size=LARGE) as deck:
        backend.failure = DatabaseUnreachable(ADVICE)
        await deck.refresh()
        for size in (LARGE, SMALL, (60, 24)):
            await deck.pilot.resize_terminal(*size)
            shown = words(deck.screen_text().replace("│", " "))
            assert ADVICE in shown
            assert re.search(r"disconnected \d+s, retry in \d+s", shown)
        backend.failure = None
        await deck.press("r")
        assert "does not answer" not in words(deck.screen_text())


@pytest.mark.slow
async def test_a_page_that_cannot_be_read_says_why_in_full() -> None:
    backend = failed(3)
    async with dashboard(backend) as deck:
        backend.evidence.cron = _refuse  # type: ignore[method-assign]
        await deck.press("h")
        assert ADVICE in words(deck.screen_text().replace("│", " "))


def _refuse() -> CronReport:
    raise DatabaseUnreachable(ADVICE)


@pytest.mark.slow
@SIZES
async def test_that_personal_data_is_shown_is_said_in_full_whatever_the_job_is_called(size: tuple[int, int]) -> None:
    job = make_job(1, Status.FAILED, task_type="release_parent_email_verification_of_everybody", is_recurring=True)
    async with dashboard(FakeBackend([job]), "enter", size=size) as deck:
        assert "PERSONAL DATA" not in deck.screen_text()
        await deck.press("X")
        assert "PERSONAL DATA SHOWN, X hides it" in deck.screen_text()
        assert "✗ failed" in deck.screen_text()
        await deck.press("X")
        assert "PERSONAL DATA" not in deck.screen_text()


@pytest.mark.slow
async def test_that_nothing_can_be_changed_is_said_once_and_until_the_database_answers() -> None:
    backend = failed(1)
    async with dashboard(backend) as deck:
        backend.failure = DatabaseUnreachable(ADVICE)
        await deck.refresh()
        await deck.press("D", "R")
        assert deck.toasts == [NO_ANSWER]
        backend.failure = None
        await deck.press("r")
        assert deck.toasts == []


@pytest.mark.slow
async def test_what_else_was_said_stays_when_the_database_answers_again() -> None:
    backend = failed(1)
    async with dashboard(backend, "R") as deck:
        backend.failure = DatabaseUnreachable(ADVICE)
        await deck.press("y")
        assert "is unknown" in deck.toasts[-1]
        backend.failure = None
        await deck.refresh()
        assert "is unknown" in deck.toasts[-1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("why", ["lost", "role", "option"])
async def test_the_help_says_once_and_first_why_nothing_can_be_changed(why: str, size: tuple[int, int]) -> None:
    backend = FakeBackend([make_job(1)], operate=why != "role", work=why != "role", read_only=why == "option")
    async with dashboard(backend, size=size) as deck:
        if why == "lost":
            backend.failure = DatabaseUnreachable(ADVICE)
            await deck.refresh()
        await deck.press("question_mark")
        shown = words(deck.screen_text().replace("│", " "))
        for sentence_ in {
            "lost": [NO_ANSWER],
            "role": ["has read-only access. Connect as a member of job_operator", "may not run jobs. Connect as a"],
            "option": ["This dashboard was started with --read-only. Start it without --read-only to make changes."],
        }[why]:
            assert shown.count(sentence_) == 1
            assert shown.index(sentence_) < shown.index("run jobs again")


@pytest.mark.slow
async def test_a_dialog_that_covers_the_list_says_of_when_the_list_is_and_that_the_connection_was_lost() -> None:
    backend = sample()
    async with dashboard(backend) as deck:
        deck.clock.now += 1
        deck.app.dashboard.tick()
        await deck.press("question_mark")
        assert deck.line("header").endswith("as of 12:04:31Z")
        assert "<5s" not in deck.line("header")
        backend.failure = DatabaseUnreachable(ADVICE)
        await deck.refresh()
        await deck.refresh()
        assert deck.toasts == [NO_ANSWER]
        backend.failure = None
        await deck.press("escape")
        assert "<5s" in deck.line("header")
        assert deck.toasts == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [(60, 24), SMALL, (90, 24), (100, 24), LARGE])
async def test_covering_the_list_moves_nothing_in_the_header(size: tuple[int, int]) -> None:
    async with dashboard(sample(), size=size) as deck:
        before = deck.app.dashboard.line("header").text
        width = deck.app.dashboard.line("clock").size.width
        await deck.press("question_mark")
        assert deck.app.dashboard.line("header").text == before
        assert deck.app.dashboard.line("clock").size.width == width


@pytest.mark.slow
async def test_no_number_of_jobs_is_given_before_the_list_is_there() -> None:
    slow = Slow(failed(2))
    async with slow.app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        assert "0 jobs" not in slow.screen_text()
        slow.answer()
        await pilot.pause()
        assert "1/2" in slow.screen_text()
        await pilot.press("5")
        await pilot.pause()
        assert "0 jobs" not in slow.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_slow_database_is_named_as_what_is_wrong_and_no_longer_once_it_is_quick(size: tuple[int, int]) -> None:
    slow = Slow(sample())
    async with slow.app.run_test(size=size) as pilot:
        await pilot.pause()
        slow.wait(9)  # opening it takes as long as it takes
        slow.answer()
        await pilot.pause()
        assert "Database slow" not in slow.screen_text()
        slow.waiting.clear()
        slow.app.poller.poke()
        slow.wait(14)
        slow.answer()
        await pilot.pause()
        assert "! Database slow: 14s" in slow.screen_text()
        slow.app.poller.poke()
        slow.answer()
        await pilot.pause()
        assert "Database slow" not in slow.screen_text()


async def test_data_that_are_late_are_said_to_be_old_at_80_columns() -> None:
    async with dashboard(sample()) as deck:
        deck.clock.now += 41
        deck.app.dashboard.tick()
        assert "41s old" in deck.line("header")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["enter", "e", "h"])
async def test_a_page_says_how_old_it_is_when_no_answer_comes(page: str) -> None:
    slow = Slow(failed(2))
    async with slow.app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        slow.answer()
        slow.waiting.clear()
        await pilot.press(page)
        await pilot.pause()
        slow.clock.now += 4
        slow.app.screen.tick()  # type: ignore[attr-defined]
        await pilot.pause()
        assert "waiting 4s" in slow.screen_text()
        slow.answer_all()
        await pilot.pause()
        slow.app.screen.tick()  # type: ignore[attr-defined]
        await pilot.pause()
        assert "old" not in slow.screen_text()
        slow.clock.now += 41
        slow.app.screen.tick()  # type: ignore[attr-defined]
        await pilot.pause()
        assert "45s old" in slow.screen_text()


def test_the_last_sentence_breaks_between_words() -> None:
    text = (
        "jobdeck: The database at db.example.org/jobdeck has schema version 0, and this program needs 1. "
        "Run `jobdeck init` to upgrade it."
    )
    lines = sentence(text, 80).split("\n")
    assert all(len(line) <= 80 for line in lines)
    assert " ".join(lines) == text
    assert sentence(text, 0) == text
    assert "`jobdeck init`" in sentence(text, 80)


@pytest.mark.slow
async def test_which_lines_are_seen_is_right_while_a_line_above_comes_and_goes() -> None:
    async with dashboard(sample(), "j", "j", "j", "j", "j", "enter") as deck:
        assert "1-21/" in deck.screen_text()
        await deck.press("X")
        assert "1-20/" in deck.screen_text()
        deck.backend.failure = DatabaseUnreachable(ADVICE)
        await deck.refresh()
        assert "1-16/" in deck.screen_text()


@pytest.mark.slow
async def test_a_database_that_is_down_at_the_start_is_not_said_to_be_connecting() -> None:
    backend = failed(2)
    backend.failure = DatabaseUnreachable(ADVICE)
    async with dashboard(backend) as deck:
        assert "connecting" not in deck.screen_text()
        assert "not connected" in deck.line("header")
        assert words(deck.screen_text()).count(ADVICE) == 1
        assert "No data yet." in deck.screen_text()
        backend.failure = None
        await deck.press("r")
        assert "1/2" in deck.screen_text()
        assert ADVICE not in words(deck.screen_text())
        assert "disconnected" not in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("why", ["lost", "paused"])
async def test_on_a_tiny_terminal_nothing_stands_beside_the_sentence(why: str) -> None:
    backend = failed(2)
    if why == "paused":
        backend.processing = Processing(enabled=False)
    async with dashboard(backend, size=(40, 10)) as deck:
        if why == "lost":
            backend.failure = DatabaseUnreachable(ADVICE)
            await deck.refresh()
        await deck.pilot.pause()
        assert words(deck.screen_text()) == (
            "Jobdeck needs 60 columns and 12 lines; this terminal has 40 and 10. Enlarge it, or press q to quit."
        )
        await deck.pilot.resize_terminal(*SMALL)
        await deck.pilot.pause()
        assert ("disconnected" if why == "lost" else "PAUSED") in deck.screen_text()
