"""What comes in the next hour is said below a short list of all jobs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobdeck.core.model import Filter, Job, Status
from jobdeck.tui.backend.protocol import Request
from jobdeck.tui.text.first.coming import coming
from tests.tui.fake import NOW, FakeBackend, make_job, minutes
from tests.tui.support import LARGE, SMALL, dashboard


def series(number: int, every: int, first: int) -> Job:
    return make_job(
        number, task_type=f"every_{every}", run_at=NOW + minutes(first), anchor_at=NOW + minutes(first),
        is_recurring=True, recurrence_interval_minutes=every,
    )  # fmt: skip


def lanes(*jobs: Job, room: int = 20, width: int = 120) -> list[str]:
    return [
        "".join(text for text, _ in row).rstrip()
        for row in coming(FakeBackend(list(jobs)).view(Request(Filter())), width, room)
    ]


def test_each_series_has_a_lane_with_its_runs_soonest_first() -> None:
    found = lanes(series(1, 30, 20), series(2, 15, 3))
    assert found[1] == " Coming  the next hour"
    assert found[2].split() == ["every_15", f"···│{'·' * 14}│{'·' * 14}│{'·' * 14}│{'·' * 11}"]
    assert found[3].split() == ["every_30", f"{'·' * 20}│{'·' * 29}│{'·' * 9}"]
    assert "┴" in found[4]
    assert "12:10" in found[5]


def test_jobs_of_one_type_that_run_once_have_one_lane_together() -> None:
    found = lanes(
        *(make_job(at, run_at=NOW + timedelta(minutes=5)) for at in (1, 2)), make_job(3, run_at=NOW + minutes(9))
    )
    assert found[2].split() == ["game_platform_sync", f"·····█···│{'·' * 50}"]


@pytest.mark.parametrize(
    "job",
    [
        make_job(1, run_at=NOW + timedelta(hours=2)), make_job(1, Status.RUNNING, run_at=NOW + minutes(3)),
        make_job(1, run_at=NOW - minutes(3)),
    ],
)  # fmt: skip
def test_what_is_late_or_runs_or_comes_later_has_no_lane(job: Job) -> None:
    assert lanes(job) == []


def test_without_room_nothing_is_said_and_lanes_without_room_are_counted() -> None:
    many = [series(at, at + 10, 1) for at in range(1, 11)]
    assert lanes(*many, room=0) == lanes(*many, width=99) == []
    assert len(lanes(*many, room=10)) == 10
    assert lanes(*many, room=10)[1] == " Coming  the next hour, and 4 others"


@pytest.mark.slow
async def test_it_stands_below_all_jobs_only() -> None:
    backend = FakeBackend([series(1, 15, 3)])
    async with dashboard(backend, size=LARGE) as deck:
        assert "Coming  the next hour" in deck.screen_text()
        await deck.press("2")
        assert "Coming" not in deck.screen_text()
        await deck.press("1")
        await deck.pilot.resize_terminal(*SMALL)
        await deck.pilot.pause()
        assert "Coming" not in deck.screen_text()
