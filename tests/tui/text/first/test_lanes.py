"""The plot of the first screen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from jobdeck.core.read.stats.backlog import Mark
from jobdeck.core.read.stats.minutes import LastMinutes
from jobdeck.tui.text.first import lanes
from jobdeck.tui.text.first.frames import merged

PRESENT = datetime(2026, 3, 1, 12, 4, tzinfo=UTC)


def last(ok: list[int | None], failed: list[int | None], *marks: Mark) -> LastMinutes:
    return LastMinutes(PRESENT, tuple(ok), tuple(failed), (None,) * len(ok), marks)


def drawn(found: LastMinutes, minutes: int, heights: tuple[int, int, int] = (3, 1, 0)) -> list[str]:
    rows = lanes.plot(found, minutes, heights, alarmed=True)
    return ["".join(text for text, _ in row).rstrip() for row in rows]


def test_each_lane_has_its_own_scale_and_a_dot_where_nothing_happened() -> None:
    found = last([0, 16_000, 8_000, 0] * 5, [0, 0, 2, 0] * 5)
    assert drawn(found, 20) == [
        "ok     20k ┤ ▃   ▃   ▃   ▃   ▃",
        "a minute   │ █▂  █▂  █▂  █▂  █▂",
        "         0 ┤·██··██··██··██··██·",
        "failed   4 ┤··▄···▄···▄···▄···▄·",
        "           ┼──────┴─────────┴───",
        "                11:50     12:00",
    ]


def test_minutes_before_the_queue_counted_are_empty_and_not_dots() -> None:
    rows = drawn(last([None] * 6 + [3] * 4, [None] * 6 + [0] * 4), 10)
    assert rows[2].endswith("┤      ████")
    assert rows[3].endswith("┤      ····")


def test_a_mark_is_a_letter_on_the_axis_and_said_on_the_lower_edge() -> None:
    pause = Mark(PRESENT - timedelta(minutes=10), "pause", "sms_digest", "alice")
    release = Mark(PRESENT - timedelta(minutes=17), "release", "1.3", None)
    found = last([1] * 20, [0] * 20, release, pause)
    assert drawn(found, 20)[4] == "           ┼───N──┴───P─────┴───"
    said = "".join(text for text, _ in lanes.legend(found, 20, 60))
    assert said == "P 11:54 paused sms_digest   N 11:47 release 1.3"
    assert "".join(text for text, _ in lanes.legend(found, 20, 30)) == "P 11:54 paused sms_digest"


def test_marks_of_one_minute_have_one_sign_that_the_lower_edge_explains() -> None:
    at = PRESENT - timedelta(minutes=10)
    found = last([1] * 20, [0] * 20, Mark(at, "release", "1.3", None), Mark(at, "pause", "sms_digest", "alice"))
    assert drawn(found, 20)[4] == "           ┼──────┴───*─────┴───"
    assert "".join(text for text, _ in lanes.legend(found, 20, 60)) == "* 11:54 paused sms_digest, release 1.3"


def test_marks_of_the_last_two_minutes_share_the_last_cell_and_its_sign() -> None:
    ended, running = PRESENT - timedelta(seconds=30), PRESENT + timedelta(seconds=5)
    found = last([1] * 20, [0] * 20, Mark(ended, "release", "1.3", None), Mark(running, "pause", None, "alice"))
    assert drawn(found, 20)[4].endswith("*")
    assert "".join(text for text, _ in lanes.legend(found, 20, 60)) == "* 12:04 paused everything, release 1.3"


def test_a_name_on_the_lower_edge_is_whole_where_there_is_room_and_gives_way_before_a_mark_does() -> None:
    name = "competitor_announcement_dispatch"
    pause = Mark(PRESENT - timedelta(minutes=10), "pause", name, "alice")
    release = Mark(PRESENT - timedelta(minutes=17), "release", "1.3", None)
    found = last([1] * 20, [0] * 20, release, pause)
    said = {room: "".join(text for text, _ in lanes.legend(found, 20, room)) for room in (80, 64, 54)}
    assert said[80] == f"P 11:54 paused {name}   N 11:47 release 1.3"
    assert said[64] == "P 11:54 paused competi…ncement_dispatch   N 11:47 release 1.3"
    assert said[54] == "P 11:54 paused comp…_dispatch   N 11:47 release 1.3"


@pytest.mark.parametrize(("most", "top"), [(0, 4), (1, 4), (5, 5), (13, 20), (40, 50), (51, 100), (16_400, 20_000)])
def test_the_top_of_a_scale_is_a_round_number_and_never_below_four(most: int, top: int) -> None:
    assert lanes.top_of(most) == top


def test_a_young_queue_has_a_narrow_plot() -> None:
    for known, minutes in ((3, 45), (46, 60), (120, 60)):
        found = last([None] * (120 - known) + [1] * known, [0] * 120)
        assert lanes.fitting(found, 60) == minutes


def test_equal_neighbours_are_one_span() -> None:
    assert merged([("a", "run"), (" ", "text"), ("b", "run"), ("c", "bad"), (" ", "tab")]) == (
        ("a b", "run"), ("c", "bad"), (" ", "tab"),
    )  # fmt: skip
    rows = lanes.plot(last([7, 7, 9, 0] * 15, [0, 0, 0, 1] * 15), 60, (3, 1, 0), alarmed=True)
    for row in rows:
        assert all(one[1] != other[1] for one, other in pairwise(row))
