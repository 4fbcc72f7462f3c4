"""The pages of trends and series."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from jobdeck.core.model import Status
from jobdeck.core.read.stats.backlog import Mark
from jobdeck.core.schedules import NO_SLOT
from jobdeck.tui.format import short_id
from jobdeck.tui.text.figures.trends import plot
from tests.tui.fake import FakeBackend, lost
from tests.tui.figures_sample import BROKEN, CALM, incident, trends
from tests.tui.screens.test_snapshots import SnapCompare, walk
from tests.tui.support import SMALL, dashboard, make_app, shown

WIDE = (120, 35)
HOSTILE = "a\x1b]52;c;UFdORUQ=\x07b[/foo]"


# Plots


def test_an_area_is_filled_from_below_and_a_line_is_one_dot() -> None:
    assert plot([1, 2, 3, 4], [], 2, 1) == ["⣠⣾"]
    assert plot([], [4, 4, 2, 2], 2, 1) == ["⠉⠤"]
    assert plot([2, 2], [4, 4], 1, 2) == ["⠉", "⣿"]


def test_unknown_values_leave_a_gap_and_small_ones_are_seen() -> None:
    assert plot([None, None, 4, 4], [], 2, 1) == [" ⣿"]
    assert plot([0, 0, 1, 1000], [], 2, 1) == [" ⣸"]
    assert plot([], [], 2, 1) == ["  "]


def test_more_values_than_columns_and_fewer_both_fill_the_width() -> None:
    assert plot([1] * 100, [], 3, 1) == ["⣿⣿⣿"]
    assert plot([1], [], 3, 1) == ["⣿⣿⣿"]


# Trends


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, WIDE, (200, 50)])
async def test_a_table_of_types_and_four_plots_of_the_chosen_one(size: tuple[int, int]) -> None:
    async with dashboard(incident(), "t", size=size) as deck:
        text = deck.screen_text()
        assert deck.here == "Trends"
        for part in ("last 6 h, 2 types", "runs max 126", "backlog max 14,412", "wait max", "took max", "all types"):
            assert part in text, part
        assert "P──" in text
        assert "R resume sms" in text
        assert text.count("now") >= 4
        await deck.press("j")
        assert "runs max 26" in deck.screen_text()
        assert "P pause" not in deck.screen_text().replace("P pause  e errors", "")
        assert "? help  q back" in deck.screen_text()


@pytest.mark.slow
async def test_t_goes_through_the_windows() -> None:
    backend = incident()
    assert "last 1 h" in await shown(backend, "t", "t", "t", "t", "t")
    hours = [window / timedelta(hours=1) for window in backend.figures.windows]
    assert hours == [6, 24, 168, 720, 1]


@pytest.mark.slow
async def test_a_history_shorter_than_the_window_says_since_when_it_counts() -> None:
    backend = incident()
    found = trends()
    backend.figures.seen = replace(found, trends=replace(found.trends, counted_since=found.trends.buckets[30]))
    assert f"counted since {found.trends.buckets[30]:%m-%d %H:%M}Z" in await shown(backend, "t")


@pytest.mark.slow
async def test_t_on_a_type_opens_its_trends() -> None:
    async with dashboard(incident(), "i", "G", "t") as deck:
        assert deck.here == "Trends"
        assert f" {BROKEN} ─" in deck.screen_text()
        await deck.press("k")
        assert f" {CALM} ─" in deck.screen_text()
        await deck.press("q")
        assert deck.here == "Dashboard"


@pytest.mark.slow
async def test_without_runs_it_says_that_there_is_no_data_and_a_lost_connection_is_said() -> None:
    backend = FakeBackend()
    async with dashboard(backend, "t") as deck:
        assert "no data" in deck.screen_text()
        assert "no pauses and no new releases" in deck.screen_text()
        backend.failure = lost()
        await deck.refresh()
        assert "disconnected" in deck.screen_text()


async def test_a_mark_of_the_last_minute_leaves_the_end_of_the_axis_readable() -> None:
    backend = incident()
    found = trends()
    backend.figures.seen = replace(found, marks=(Mark(found.trends.at, "release", "jobdeck@0.2.0", None),))
    text = await shown(backend, "t")
    assert "─Nnow" in text
    assert "N release jobdeck@0.2.0" in text


@pytest.mark.slow
async def test_a_hostile_name_comes_out_harmless() -> None:
    backend = incident()
    found = trends()
    marks = tuple(replace(mark, name=HOSTILE) for mark in found.marks)
    types = {HOSTILE: found.trends.types[CALM]}
    backend.figures.seen = replace(found, marks=marks, trends=replace(found.trends, types=types))
    text = await shown(backend, "t", "j", size=WIDE)
    assert "[/foo]" in text
    assert not [character for character in text if ord(character) < 32 and character != "\n"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, WIDE], ids=["80x24", "120x35"])
def test_trends_page_looks_like(size: tuple[int, int], snap_compare: SnapCompare) -> None:
    assert snap_compare(make_app(incident()), terminal_size=size, run_before=walk("t"))


# Series


@pytest.mark.slow
async def test_each_series_has_one_line_with_its_streak_and_details_below() -> None:
    text = await shown(incident(), "c")
    assert "6 recurring jobs, 6 late, 1 failing" in text
    row = next(line for line in text.splitlines()[2:] if "sms_digest" in line)
    assert row.split()[1] == "1h"
    assert row.rstrip().endswith("2 failed")
    assert "interval      every 5m" in text


@pytest.mark.slow
async def test_series_without_a_payload_are_told_apart_by_their_jobs() -> None:
    backend = incident()
    text = await shown(backend, "c", size=WIDE)
    ids = {short_id(job.id) for job in backend.jobs}
    rows = [ids & set(line.split()) for line in text.splitlines()[2:8]]
    assert sorted(map(len, rows)) == [1] * 6
    assert len(set.union(*rows)) == 6


@pytest.mark.slow
async def test_r_runs_the_series_now_and_s_skips_one_run_with_the_command_of_it() -> None:
    backend = incident()
    async with dashboard(backend, "c", "S") as deck:
        assert "Skip one run" in deck.screen_text()
        assert "jobdeck series skip" in deck.screen_text()
        assert backend.calls == []
        await deck.press("y")
        job_id = backend.calls[-1][1]
        assert backend.calls[-1] == ("skip", job_id)
        assert "It runs next at 2026-07-04 13:30Z." in deck.toasts[-1]
        assert f"jobdeck series skip {job_id}" in deck.toasts[-1]
        await deck.press("R", "y")
        assert backend.calls[-1] == ("retry", (job_id,))


@pytest.mark.slow
async def test_z_pauses_one_series_alone_and_resumes_it() -> None:
    backend = incident()
    async with dashboard(backend, "c", "Z") as deck:
        assert "Pause this series" in deck.screen_text()
        assert "jobdeck series pause" in deck.screen_text()
        assert backend.calls == []
        await deck.press("y")
        job_id = backend.calls[-1][1]
        assert backend.calls == [("pause series", job_id)]
        assert f"jobdeck series pause {job_id}" in deck.toasts[-1]
        await deck.press("r")
        text = deck.screen_text()
        assert "PAUSED alone" in text
        assert "by bob@10.0.0.9: moved" in text
        await deck.press("S")
        assert "It is paused. Z resumes it." in deck.toasts[-1]
        await deck.press("Z")
        assert "Resume this series" in deck.screen_text()
        await deck.press("y")
        assert backend.calls[-1] == ("resume series", job_id)


@pytest.mark.slow
async def test_p_proposes_to_pause_the_type_of_the_series_and_enter_opens_its_job() -> None:
    async with dashboard(incident(), "c", "P") as deck:
        assert "Pause admin_alert_dispatch" in deck.screen_text()
        await deck.press("escape", "enter")
        assert deck.here == "JobDetailScreen"


@pytest.mark.slow
async def test_a_running_series_and_an_empty_list_say_why_nothing_can_be_done() -> None:
    backend = incident()
    series = [job for job in backend.jobs if job.is_recurring]
    backend.jobs = [replace(series[0], status=Status.RUNNING)]
    async with dashboard(backend, "c", "S") as deck:
        assert "It is running." in deck.toasts[-1]
        backend.jobs = []
        deck.clock.now += 6
        await deck.refresh()
        assert "No recurring jobs." in deck.screen_text()
        await deck.press("R")
        assert deck.toasts[-1] == "No recurring job under the cursor."


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, WIDE])
async def test_a_cron_series_shows_its_expression_and_its_next_runs_and_one_without_slots_says_so(
    size: tuple[int, int],
) -> None:
    backend = incident()
    series = next(job for job in backend.jobs if job.is_recurring)
    due = datetime(2026, 7, 6, 13, tzinfo=UTC)
    cron = replace(
        series, recurrence_interval_minutes=None, run_at=due,
        slots=[due + number * timedelta(days=1) for number in (0, 1, 2)],
        schedule={"cron": "0 9 * * 1-5", "zone": "America/New_York", "catch_up": "none", "name": "digest"},
    )  # fmt: skip
    backend.jobs = [cron]
    async with dashboard(backend, "c", size=size) as deck:
        text = deck.screen_text()
        for part in ("   cron  ", "0 9 * * 1-5 America/New_York, makes up no missed slot", "declared as   digest",
                     "2026-07-06 13:00:00Z", "then 07-07 13:00Z, 07-08 13:00Z"):  # fmt: skip
            assert part in text, part
        backend.jobs = [replace(cron, run_at=NO_SLOT)]
        deck.clock.now += 6
        await deck.refresh()
        assert "no slot yet" in deck.screen_text()
        assert "a worker writes more within seconds" in deck.screen_text()
        await deck.press("enter")
        assert "no slot yet: a worker writes it" in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, WIDE], ids=["80x24", "120x35"])
def test_series_page_looks_like(size: tuple[int, int], snap_compare: SnapCompare) -> None:
    assert snap_compare(make_app(incident()), terminal_size=size, run_before=walk("c", "j"))
