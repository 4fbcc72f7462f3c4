"""The first screen when something is not as it should be: slow, lost, paused, gone, very long, very wide."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rich.cells import cell_len

from jobdeck.core.model import Processing, Status
from jobdeck.core.read.report_types import Counts
from jobdeck.tui.actions import CONNECTING
from jobdeck.tui.backend.protocol import LONGEST_PAGE, PAGE
from jobdeck.tui.format import fit, middle
from jobdeck.tui.widgets.ink import Line
from tests.tui.fake import NOW, FakeBackend, lost, make_job, minutes
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, Slow, dashboard, failed, shown

LONG = "MetaCTF is being moved to another region and every answer until four in the morning may be wrong or missing"


async def test_a_change_before_the_first_answer_is_refused_because_it_still_connects_until_it_answers() -> None:
    slow = Slow(failed(2))
    async with slow.app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        await pilot.press("P")
        assert [toast.message for toast in slow.app._notifications] == [CONNECTING]
        slow.answer()
        await pilot.pause()
        assert not list(slow.app._notifications)


async def test_while_the_database_is_slow_to_answer_the_seconds_are_counted() -> None:
    slow = Slow(failed(2))
    async with slow.app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        assert "Opening the database…\n" in f"{slow.screen_text()}\n"
        assert "connecting…" in slow.header()
        slow.wait(12)
        await pilot.pause()
        assert "Opening the database… 12s" in slow.screen_text()
        slow.answer()
        await pilot.press("5")
        slow.wait(7)
        await pilot.pause()
        assert "Reading… 7s" in slow.screen_text()


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_which_database_is_being_opened_is_said_before_it_answers(size: tuple[int, int]) -> None:
    backend = failed(2)
    slow = Slow(backend)
    async with slow.app.run_test(size=size) as pilot:
        await pilot.pause()
        slow.app.reach()
        slow.wait(1)
        assert "db.example.org/queue  connecting…" in slow.header()
        backend.failure = lost()
        slow.answer()
        await pilot.pause()
        assert "db.example.org/queue  not connected" in slow.header()


@pytest.mark.slow
async def test_data_are_as_old_as_the_question_that_brought_them() -> None:
    slow = Slow(failed(2))
    async with slow.app.run_test(size=LARGE) as pilot:
        await pilot.pause()
        slow.wait(26)
        slow.answer()
        await pilot.pause()
        slow.app.dashboard.tick()
        assert "updated 26s ago" in slow.header()
        assert slow.app.now() == NOW + timedelta(seconds=26)


@pytest.mark.parametrize("width", [78, 84, 89])
async def test_the_name_of_the_database_stays_where_it_is_while_the_age_of_the_data_is_counted(width: int) -> None:
    async with dashboard(failed(1), size=(width, 24)) as deck:
        said = set()
        for seconds in (0, 5, 4, 90):
            deck.clock.now += seconds
            deck.app.dashboard.tick()
            said.add(deck.app.dashboard.line("header").text)
        assert len(said) == 1


async def test_a_long_name_leaves_room_for_the_beginning_of_the_reason() -> None:
    backend = sample()
    backend.processing = Processing(
        enabled=False, paused_reason=LONG, paused_by="alice.wonderland-li@10.0.0.7 (jobdeck)",
        paused_at=NOW - minutes(12), resume_at=NOW + minutes(180),
    )  # fmt: skip
    async with dashboard(backend) as deck:
        assert "PAUSED since 11:52Z by alice.wonder" in deck.line("banner")
        assert "…: MetaCTF" in deck.line("banner")
        assert "790 kept · resumes in 3h" in deck.line("banner")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["", "e"], ids=["list", "page"])
@pytest.mark.parametrize("size", [(60, 24), SMALL, (100, 24), LARGE])
async def test_a_long_reason_leaves_room_for_who_paused_since_when_and_how_many_wait(
    size: tuple[int, int], page: str
) -> None:
    backend = sample()
    backend.processing = Processing(
        enabled=False, paused_reason=f"{LONG}, {LONG}", paused_by="alice@10.0.0.7 (jobdeck)",
        paused_at=NOW - minutes(12), resume_at=NOW + minutes(180),
    )  # fmt: skip
    async with dashboard(backend, *page, size=size) as deck:
        banner = deck.app.screen.query_one("#banner", Line).text
        for part in ("PAUSED since 11:52Z by alice", "790 kept", "resumes in 3h"):
            assert part in banner
        assert ("@10.0.0.7" in banner) == (size[0] > 60)
        assert ("MetaCTF" in banner) == (size[0] > 60)
        assert cell_len(banner) <= size[0]


@pytest.mark.slow
async def test_a_lost_connection_says_why_in_full_and_nothing_old_looks_as_if_it_were_new() -> None:
    backend = sample()
    async with dashboard(backend) as deck:
        backend.failure = lost()
        await deck.refresh()
        assert str(lost()) in deck.screen_text()
        assert "data of 12:04:31Z" in deck.line("banner")
        board = deck.app.dashboard
        assert {ink for text, ink in board.line("tabs").spans if text.strip()} <= {"muted", "tab"}
        switch = next(ink for text, ink in board.line("header").spans if "ON" in text)
        assert switch == "muted"
        backend.failure = None
        await deck.press("r")
        assert str(lost()) not in deck.screen_text()


async def test_while_a_lost_connection_is_tried_again_no_countdown_stands_at_nought() -> None:
    slow = Slow(failed(1))
    async with slow.app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        _, done = slow.waiting.pop(0)
        done(lost())
        await pilot.pause()
        slow.wait(2)
        slow.app.poller.poke()
        slow.app.dashboard.tick()
        assert "disconnected 2s, trying again" in slow.app.dashboard.line("banner").text


async def test_that_the_job_under_the_cursor_has_left_stays_said_until_the_cursor_is_moved() -> None:
    backend = failed(5)
    async with dashboard(backend, "j", "space") as deck:
        held = deck.table.current
        assert held is not None
        backend.jobs = [job for job in backend.jobs if job.id != held.id and job.id not in deck.table.marks]
        await deck.refresh()
        for _ in range(2):
            assert f"{held.id.hex[-8:]} left this list · 1 marked job left this list, no longer marked" in deck.line(
                "peek"
            )
            await deck.refresh()
        await deck.press("j")
        assert "has left" not in deck.line("peek")


@pytest.mark.slow
async def test_a_new_order_is_said_in_its_line_and_covers_no_job() -> None:
    async with dashboard(failed(5), "s") as deck:
        assert "Sorted by task; S reverses." in deck.line("peek")
        assert not deck.toasts


@pytest.mark.slow
async def test_a_job_that_another_order_takes_out_of_sight_has_not_left_but_its_mark_is_said_to_be_dropped() -> None:
    backend = failed(5)
    async with dashboard(backend, "space", "j", size=LARGE) as deck:
        backend.jobs = backend.jobs[3:]
        await deck.press("s")
        assert "Sorted by task; S reverses. · 1 marked job left this list, no longer marked" in deck.line("peek")
        assert "has left" not in deck.line("peek")


@pytest.mark.slow
async def test_an_order_among_the_first_ten_thousand_says_that_it_is_one() -> None:
    backend = failed(5)
    backend.counts = Counts(failed=20_000)
    async with dashboard(backend, "5", "s") as deck:
        assert "Sorted by task, among the first 10,000; S reverses." in deck.line("peek")
        await deck.press("S")
        assert "Reversed, among the first 10,000." in deck.line("peek")
        await deck.press("3", "s")
        assert "among" not in deck.line("peek")


@pytest.mark.slow
async def test_at_the_end_of_the_longest_list_it_is_said_that_there_are_more() -> None:
    async with dashboard(failed(LONGEST_PAGE + 50), "G") as deck:
        assert deck.table.cursor == LONGEST_PAGE - 1
        assert "Only the first 5,000 jobs are listed. / narrows it." in deck.line("peek")
        await deck.press("k")
        assert "Only the first" not in deck.line("peek")


@pytest.mark.slow
async def test_at_the_end_of_the_list_by_need_it_is_said_that_the_other_tabs_have_all() -> None:
    backend = failed(1_000)
    for counted, said in ((20_000, True), (1_000, False)):
        backend.counts = Counts(failed=counted)
        async with dashboard(backend, "G") as deck:
            found = "The first 1,000 of each status; the other tabs have all."
            assert (found in deck.line("peek")) == said


async def test_at_the_end_of_what_was_found_among_some_jobs_it_is_said_that_there_are_more() -> None:
    backend = failed(2)
    backend.searched = 100_000
    async with dashboard(backend) as deck:
        assert "looked through" not in deck.line("peek")
        await deck.press("j")
        assert "Only the first 100,000 jobs of this list were looked through." in deck.line("peek")


@pytest.mark.slow
async def test_a_search_that_ended_without_a_match_says_among_how_many_jobs() -> None:
    backend = failed(2)
    backend.searched = 1_000_000
    text = await shown(backend, "slash", *"zebra", "enter")
    assert "No job among the first 1,000,000 matches zebra. esc clears the filter." in text


@pytest.mark.slow
async def test_back_at_the_top_the_list_is_short_again_unless_something_is_marked() -> None:
    async with dashboard(failed(2_000), "G", "space", "g") as deck:
        assert deck.app.poller.request.limit == LONGEST_PAGE
        await deck.press("u", "g")
        await deck.refresh()
        assert len(deck.table.jobs) == PAGE


async def test_at_80_columns_the_keys_stay_where_they_are_whatever_the_job_under_the_cursor_allows() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED), make_job(2)])
    async with dashboard(backend) as deck:
        retry = deck.line("keys")
        await deck.press("j")
        run = deck.line("keys")
        at = retry.index("R retry")
        assert run == f"{retry[:at]}R run  {retry[at + 7 :]}"
        assert "P pause" in run


def test_what_is_cut_in_its_middle_ends_as_it_did_in_cells_too() -> None:
    name = "游戏平台同步任务处理器非常长的名字需要截断"
    for width in range(2, 44):
        cut = middle(name, width)
        assert cell_len(cut) <= width
        assert cell_len(cut) >= min(width, cell_len(name)) - 2
        assert cut == name or width < 4 or cut.endswith("断")


def test_the_ellipsis_follows_what_was_cut_without_a_gap() -> None:
    assert fit("王小明和他", 6) == "王小… "
    assert fit("one two three", 5) == "one… "


@pytest.mark.slow
async def test_wide_and_joined_characters_keep_every_column_in_its_place() -> None:
    names = ("游戏平台同步任务处理器非常长的名字需要截断", "sync_👨‍👩‍👧‍👦_family", "🏴‍☠️👩🏽‍💻🇩🇪", "é" * 9, "plain")
    backend = FakeBackend([make_job(at, Status.FAILED, task_type=name) for at, name in enumerate(names)])
    for size in (SMALL, LARGE):
        async with dashboard(backend, "d", size=size) as deck:
            lines = [line for line in deck.screen_text().splitlines() if line.startswith(" ✗ ")]
            assert len(lines) == len(names)
            assert len({cell_len(line[: line.index(" failed ")]) for line in lines}) == 1
