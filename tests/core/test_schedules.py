"""Cron expressions and intervals, against an implementation that walks minutes."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from jobdeck.core.errors import UsageError
from jobdeck.core.schedules import AHEAD, MOST, Cron, Every, Rhythm, stored
from jobdeck.core.schedules import given as given_to
from tests.support.cron_walk import Walked
from tests.support.examples import THOROUGH, examples
from tests.support.limits import PROPERTY_SECONDS

ODD_ZONES = (
    "UTC", "America/New_York", "Europe/London", "Europe/Berlin", "Europe/Dublin", "Australia/Lord_Howe",
    "America/Sao_Paulo", "America/St_Johns", "America/Havana", "Asia/Tehran", "Asia/Gaza", "Asia/Kathmandu",
    "Africa/Casablanca", "Africa/Cairo", "Pacific/Apia", "Pacific/Kwajalein", "Antarctica/Troll", "America/Caracas",
)  # fmt: skip
ZONES = tuple(sorted(available_timezones()))
PARTS = 8
MOST_SLOTS = 200
HOUR = timedelta(hours=1)
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "0", "3", "7")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def first(cron: Cron, after: str, count: int) -> list[str]:
    return [f"{slot:%Y-%m-%d %H:%M:%S}" for slot in islice(cron.after(at(after)), count)]


@st.composite
def part(draw: st.DrawFn, least: int, most: int, *, wide: bool = True) -> str:
    low = draw(st.integers(least, most))
    kind = draw(st.sampled_from(("value", "range", "from", "star", "every") if wide else ("value", "range", "from")))
    step = draw(st.integers(1, max((most - least) // 2, 2)))
    high = draw(st.integers(low, most))
    shapes = {"value": f"{low}", "range": f"{low}-{high}", "from": f"{low}/{step}", "star": "*", "every": f"*/{step}"}
    return shapes[kind] + (f"/{step}" if kind == "range" and draw(st.booleans()) else "")


def field(least: int, most: int) -> st.SearchStrategy[str]:
    some = st.lists(part(least, most, wide=False), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), part(least, most), some)


@st.composite
def expressions(draw: st.DrawFn) -> str:
    day = draw(st.one_of(st.just("*"), field(1, 28), st.sampled_from(("29", "31", "L", "1,L"))))
    month = draw(st.one_of(st.just("*"), st.just("*"), field(1, 12), st.sampled_from(("FEB", "3,10,11", "JAN-MAR"))))
    names = st.sampled_from(DAYS)
    nth = st.builds("{}#{}".format, names, st.integers(1, 5))
    last = st.sampled_from("0123457").map("{}L".format)
    week = draw(st.one_of(st.just("*"), st.just("*"), field(0, 6), names, nth, last, st.just("MON-FRI")))
    return f"{draw(field(0, 59))} {draw(field(0, 23))} {day} {month} {week}"


def transitions(zone: ZoneInfo, year: int) -> list[datetime]:
    """The days of a year in which the zone's offset changes."""
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(366)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    return [day for day, before, after in zip(days, offsets, offsets[1:], strict=False) if before != after]


@st.composite
def cases(draw: st.DrawFn, part: int = 0, parts: int = 1) -> tuple[str, str, datetime]:
    zone = draw(st.one_of(st.sampled_from(ODD_ZONES), st.sampled_from(ZONES[part::parts])))
    year = draw(st.integers(1986, 2036))
    changes = transitions(ZoneInfo(zone), year)
    near: bool = draw(st.booleans())
    if changes and near:
        moment = draw(st.sampled_from(changes)) + timedelta(minutes=draw(st.integers(-1500, 1500)))
    else:
        moment = datetime(year, 1, 1, tzinfo=UTC) + timedelta(seconds=draw(st.integers(0, 365 * 86_400)))
    return draw(expressions()), zone, moment


def refusal(expression: str, zone: str = "UTC") -> str:
    """The sentence that refuses a schedule; empty if it is one."""
    try:
        Cron(expression, zone)
    except UsageError as error:
        return str(error)
    return ""


def test_a_zone_that_is_no_text_is_refused() -> None:
    no_zone: Any = None
    assert refusal("* * * * *", no_zone).startswith('There is no time zone "None".')


def agrees(expression: str, zone: str, moment: datetime) -> None:
    walked = Walked(expression, zone)
    refused = refusal(expression, zone)
    if refused:
        day = datetime(2000, 1, 1, tzinfo=UTC)
        comes = any(walked.on_day(day + timedelta(days=number)) for number in range(12 * 366))
        # The last day of a short month, as in "31 FEB", is the only thing wrong with these expressions.
        assert ("its day of month is wrong" if comes else "never comes") in refused
        return
    slots: list[datetime] = []
    for slot in islice(Cron(expression, zone).after(moment), MOST_SLOTS):
        slots.append(slot)
        if slot > max(moment, slots[0] - 20 * HOUR) + 40 * HOUR:
            break
    for start in {moment, max(moment, slots[0] - 20 * HOUR)}:
        until = start + 40 * HOUR
        if len(slots) == MOST_SLOTS:
            until = min(until, slots[-1])
        assert [slot for slot in slots if start < slot <= until] == list(walked.between(start, until))
    day = moment.astimezone(walked.zone).replace(hour=12) + 2 * 24 * HOUR
    while day < slots[0] - 48 * HOUR:
        assert not walked.on_day(day)
        day += 24 * HOUR


@settings(max_examples=examples(300), deadline=None)
@given(case=cases())
def test_slots_are_those_that_a_walk_over_all_minutes_finds(case: tuple[str, str, datetime]) -> None:
    agrees(*case)


@pytest.mark.slow
@pytest.mark.limit(PROPERTY_SECONDS)
@pytest.mark.skipif(not THOROUGH, reason="takes minutes")
@pytest.mark.parametrize("part", range(PARTS))
def test_thousands_of_schedules_have_the_slots_that_a_walk_over_all_minutes_finds(
    part: int, pytestconfig: pytest.Config
) -> None:
    """In parts, each with zones and examples of its own, which run beside each other."""
    begin = pytestconfig.getoption("--hypothesis-seed")

    # One seed for all parts would try the same expressions in each of them.
    @seed(random.getrandbits(64) if begin is None else f"{begin} {part}")
    @settings(max_examples=examples(20_000) // PARTS, deadline=None)
    @given(case=cases(part, PARTS))
    def look(case: tuple[str, str, datetime]) -> None:
        agrees(*case)

    look()


def test_a_time_that_is_left_out_in_spring_runs_when_the_clock_was_set_forward() -> None:
    assert first(Cron("30 2 * * *", "America/New_York"), "2026-03-07 00:00", 3) == [
        "2026-03-07 07:30:00", "2026-03-08 07:00:00", "2026-03-09 06:30:00",
    ]  # fmt: skip
    assert first(Cron("0,30 2,3 * * *", "America/New_York"), "2026-03-08 05:00", 2) == [
        "2026-03-08 07:00:00", "2026-03-08 07:30:00",
    ]  # fmt: skip


def test_a_time_that_comes_twice_in_autumn_runs_at_the_first() -> None:
    assert first(Cron("30 1 * * *", "America/New_York"), "2026-10-31 12:00", 2) == [
        "2026-11-01 05:30:00", "2026-11-02 06:30:00",
    ]  # fmt: skip


def test_each_half_hour_runs_in_both_of_the_repeated_hours_and_in_none_that_is_left_out() -> None:
    assert first(Cron("*/30 1-2 * * *", "America/New_York"), "2026-11-01 04:00", 7) == [
        "2026-11-01 05:00:00", "2026-11-01 05:30:00", "2026-11-01 06:00:00", "2026-11-01 06:30:00",
        "2026-11-01 07:00:00", "2026-11-01 07:30:00", "2026-11-02 06:00:00",
    ]  # fmt: skip
    assert first(Cron("*/30 2 * * *", "America/New_York"), "2026-03-08 00:00", 1) == ["2026-03-09 06:00:00"]


def test_a_leap_day_comes_every_four_years_but_not_in_2100() -> None:
    assert first(Cron("0 0 29 2 *"), "2092-01-01 00:00", 3) == [
        "2092-02-29 00:00:00", "2096-02-29 00:00:00", "2104-02-29 00:00:00",
    ]  # fmt: skip


def test_six_fields_begin_with_the_second() -> None:
    assert first(Cron("*/20 * * * * *"), "2026-01-01 00:00:05", 4) == [
        "2026-01-01 00:00:20", "2026-01-01 00:00:40", "2026-01-01 00:01:00", "2026-01-01 00:01:20",
    ]  # fmt: skip
    assert first(Cron("15,45 30 2 * * *", "America/New_York"), "2026-03-08 00:00", 3) == [
        "2026-03-08 07:00:15", "2026-03-08 07:00:45", "2026-03-09 06:30:15",
    ]  # fmt: skip


def test_a_step_in_a_range_of_one_value_is_that_value() -> None:
    assert first(Cron("30-30/2 9-9/3 * * *"), "2026-01-01 00:00", 2) == ["2026-01-01 09:30:00", "2026-01-02 09:30:00"]


def test_a_macro_is_an_expression() -> None:
    assert first(Cron("@Daily", "Asia/Kolkata"), "2026-01-01 00:00", 1) == ["2026-01-01 18:30:00"]


def test_a_day_that_a_zone_skipped_runs_at_its_end() -> None:
    assert first(Cron("0 9 30 12 *", "Pacific/Apia"), "2011-12-01 00:00", 1) == ["2011-12-30 10:00:00"]


def test_twenty_slots_to_come_are_written_beside_those_that_passed() -> None:
    hourly = Cron("0 * * * *", catch_up="all")
    now = at("2026-01-02 00:00")
    assert len(hourly.slots(now, now=now)) == AHEAD
    assert len(hourly.slots(at("2026-01-01 00:00"), now=now)) == 24 + AHEAD
    assert len(hourly.slots(at("2020-01-01 00:00"), now=now)) == MOST


@pytest.mark.parametrize(
    ("expression", "zone", "words"),
    [
        ("0 0 30 2 *", "UTC", 'The cron expression "0 0 30 2 *" never comes: no year has such a day. Change its day'),
        ("0 0 31 4,6,9,11 *", "UTC", "never comes"),
        ("0 0 31 jun *", "UTC", "never comes"),
        ("61 * * * *", "UTC", 'The cron expression "61 * * * *" cannot be read: its minute is wrong. Write it like'),
        ("0 24 * * *", "UTC", "its hour is wrong"),
        ("0 0 0 * *", "UTC", "its day of month is wrong"),
        ("0 0 31 13 *", "UTC", "its month is wrong"),
        ("0 0 * * 8", "UTC", "its day of week is wrong"),
        ("60 0 0 * * *", "UTC", "its second is wrong"),
        ("* * * *", "UTC", "does not have five fields, or six with seconds"),
        ("", "UTC", "does not have five fields"),
        ("* " * 150, "UTC", "does not have five fields"),
        ("@often", "UTC", "does not have five fields"),
        ("* * * * *", "America/NewYork", 'There is no time zone "America/NewYork"; did you mean "America/New_York"?'),
        ("* * * * *", "Mars/Olympus", "There is no time zone"),
        ("* * * * *", "../../etc/passwd", "There is no time zone"),
        ("* * * * *", "America", "There is no time zone"),
        ("* * * * *", "", "There is no time zone"),
    ],
)
def test_a_bad_schedule_is_refused_in_a_sentence(expression: str, zone: str, words: str) -> None:
    assert words in refusal(expression, zone)


@settings(max_examples=examples(300))
@given(st.text(alphabet="0123456789*/-,#LWMONFEB@ \t\x00é", max_size=30))
def test_any_text_is_a_schedule_or_refused_in_a_sentence(text: str) -> None:
    refused = refusal(text)
    if refused:
        assert refused.startswith("The cron expression")
    else:
        assert Cron(text).slots(at("2026-01-01 00:00"), now=at("2026-01-01 00:00"))


def test_a_schedule_that_leads_beyond_the_calendar_is_refused_in_a_sentence() -> None:
    late = datetime(9998, 12, 31, tzinfo=UTC)
    for expression in ("0 0 29 2 *", "0 0 1 * *"):
        with pytest.raises(UsageError, match="leads beyond the year 9998"):
            Cron(expression).slots(late, now=late)


@pytest.mark.parametrize("lengths", [{"seconds": 0}, {"seconds": 0.5}, {"days": 40_000}, {"minutes": -1}, {}])
def test_an_interval_is_whole_seconds_up_to_a_hundred_years(lengths: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="whole seconds, from 1 second to 100 years"):
        Every(**lengths)  # type: ignore[arg-type]


def test_the_lengths_of_an_interval_are_added() -> None:
    assert Every(days=1, hours=1, minutes=1, seconds=1).seconds == 90_061
    assert Every(minutes=0.5).seconds == 30
    assert Every(minutes=90).whole_minutes == 90
    assert Every(seconds=90).whole_minutes is None


def test_a_catch_up_is_one_of_three_words() -> None:
    for made in (lambda word: Cron("* * * * *", catch_up=word), lambda word: Every(minutes=1, catch_up=word)):
        with pytest.raises(UsageError, match="must be one, all or none"):
            made("some")


def test_columns_hold_what_minutes_cannot_say() -> None:
    cases: list[tuple[Any, Any]] = [
        (None, (None, None)),
        (Every(minutes=5), (5, None)),
        (Every(minutes=5, catch_up="all"), (5, {"catch_up": "all"})),
        (Every(seconds=45), (None, {"seconds": 45})),
        (Cron("0 9 * * *", "Europe/Paris"), (None, {"cron": "0 9 * * *", "zone": "Europe/Paris"})),
        (Cron("@daily", catch_up="none"), (None, {"cron": "@daily", "zone": "UTC", "catch_up": "none"})),
    ]
    for schedule, columns in cases:
        assert stored(schedule) == columns
    assert given_to(Every(minutes=5)) == {"seconds": 300, "catch_up": "one"}


def test_an_interval_is_said_in_its_largest_units_and_a_series_without_one_does_not_run_every_0_seconds() -> None:
    endless = Rhythm(None, {})
    assert (endless.short, endless.words) == ("never", "never, because it has no interval")
    assert [Rhythm(1440, {}).words, Rhythm(90, {}).words] == ["every 1d", "every 1h30m"]
    assert Rhythm(None, {"seconds": 10, "catch_up": "none"}).words == "every 10s, makes up no missed slot"
    assert (Rhythm(60, {}).short, Rhythm(None, {"seconds": 10}).short) == ("60m", "10s")
    assert (Rhythm(1440, {}).short, Rhythm(10_080, {}).short, Rhythm(1500, {}).short) == ("1d", "7d", "1500m")
