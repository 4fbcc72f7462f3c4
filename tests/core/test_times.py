"""Times and durations as a person types them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobdeck.core.errors import UsageError
from jobdeck.core.times import (
    LONGEST,
    format_duration,
    parse_ahead,
    parse_duration,
    parse_interval,
    parse_time,
    write_duration,
)

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def in_another_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is of a machine whose zone is not UTC."""
    with monkeypatch.context() as machine:
        machine.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("30m", 1800),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("14 days", 14 * 86_400),
        (" 2 Weeks ", 14 * 86_400),
        ("1.5h", 5400),
        ("7d", 7 * 86_400),
    ],
)
def test_a_duration_is_read_with_its_units(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "  ", "10", "m", "-5m", "5 parsecs", "30m later", "0m", "0s", "1e3s", "٣m"])
def test_what_is_no_positive_duration_is_refused_with_the_text_and_an_example(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_duration(text, what="interval")
    assert f'The interval "{text}"' in str(refused.value)
    assert "30m" in str(refused.value)


def test_a_duration_beyond_a_hundred_years_is_refused() -> None:
    assert parse_duration("36525d") == LONGEST
    with pytest.raises(UsageError, match="hundred years"):
        parse_duration("999999999w")


def test_an_interval_is_whole_seconds() -> None:
    assert parse_interval("1h30m") == 5400
    assert parse_interval("45s") == 45
    for text in ("0.5s", "1.5s", "0m"):
        with pytest.raises(UsageError):
            parse_interval(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("in 2h", NOW + timedelta(hours=2)),
        ("30m", NOW + timedelta(minutes=30)),
        ("tomorrow 9:00", datetime(2026, 8, 2, 9, tzinfo=UTC)),
        ("Tomorrow at 09:05", datetime(2026, 8, 2, 9, 5, tzinfo=UTC)),
        ("today 18:30", datetime(2026, 8, 1, 18, 30, tzinfo=UTC)),
        ("today 9:00", datetime(2026, 8, 1, 9, tzinfo=UTC)),
        ("13:00", datetime(2026, 8, 1, 13, tzinfo=UTC)),
        ("at 13:00", datetime(2026, 8, 1, 13, tzinfo=UTC)),
        ("9:00", datetime(2026, 8, 2, 9, tzinfo=UTC)),
        ("12:00", datetime(2026, 8, 2, 12, tzinfo=UTC)),
        ("mon 9:00", datetime(2026, 8, 3, 9, tzinfo=UTC)),
        ("saturday 23:00", datetime(2026, 8, 8, 23, tzinfo=UTC)),
        ("2026-08-02T09:00Z", datetime(2026, 8, 2, 9, tzinfo=UTC)),
        ("2026-08-02T09:00", datetime(2026, 8, 2, 9, tzinfo=UTC)),
        ("2026-08-02 09:00:30", datetime(2026, 8, 2, 9, 0, 30, tzinfo=UTC)),
        ("2026-08-02", datetime(2026, 8, 2, tzinfo=UTC)),
        ("2026-08-02T09:00+02:00", datetime(2026, 8, 2, 7, tzinfo=UTC)),
    ],
)
@pytest.mark.usefixtures("in_another_zone")
def test_a_time_is_read_as_utc(text: str, expected: datetime) -> None:
    read = parse_time(text, NOW)
    assert read == expected
    assert read.utcoffset() == timedelta(0)


def test_now_may_be_given_in_any_zone() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=5)))
    assert parse_time("in 1h", there) == NOW + timedelta(hours=1)


@pytest.mark.parametrize("text", [
    "", "soon", "25:00", "9:61", "2026-13-01", "in", "in a while", "tomorrow", "tomorrow 25:00", "someday 9:00", "1",
])  # fmt: skip
def test_what_is_no_time_is_refused_with_the_text_and_an_example(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_time(text, NOW, what="time of --at")
    assert f'The time of --at "{text}"' in str(refused.value)
    assert "2026-08-01T09:00Z" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", timedelta(hours=2)),
        ("in 2h", timedelta(hours=2)),
        ("at 13:00", datetime(2026, 8, 1, 13, tzinfo=UTC)),
        ("2026-08-02T09:00+02:00", datetime(2026, 8, 2, 7, tzinfo=UTC)),
    ],
)
def test_what_lies_ahead_is_a_length_or_a_time(text: str, expected: timedelta | datetime) -> None:
    assert parse_ahead(text, NOW) == expected


@pytest.mark.parametrize(("text", "words"), [
    ("now", "in the past"), ("today 9:00", "in the past"), ("2026-07-01", "in the past"), ("0m", "is zero"),
    ("tomorrow", "is not a time"),
])  # fmt: skip
def test_what_does_not_lie_ahead_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_ahead(text, NOW)


def test_a_time_beyond_the_calendar_is_refused() -> None:
    for text in ("in 999999999w", "0001-01-01T00:00+10:00", "9999-12-31T23:59-10:00"):
        with pytest.raises(UsageError):
            parse_time(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (3660, "1h 1m"), (3601, "1h"), (187_200, "2d 4h"), (-90, "1m 30s")],
)
def test_a_duration_is_written_in_its_two_greatest_units(seconds: float, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text


def answer(read: Callable[[str], object], text: str) -> str | None:
    """The sentence a reader refuses a text with, or None where it reads it."""
    try:
        read(text)
    except UsageError as refused:
        return str(refused)
    return None


@settings(deadline=None)
@given(st.text(max_size=40) | st.text(alphabet="0123456789.smhdw -:TZ+in", max_size=30))
def test_no_text_does_more_than_read_or_be_refused(text: str) -> None:
    readers: list[Callable[[str], object]] = [
        parse_duration, parse_interval, lambda words: parse_time(words, NOW), lambda words: parse_ahead(words, NOW),
    ]  # fmt: skip
    for read in readers:
        sentence = answer(read, text)
        assert sentence is None or sentence.endswith(".")


@settings(deadline=None)
@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=LONGEST))
def test_what_is_written_of_a_duration_can_be_read_back(duration: timedelta) -> None:
    whole = timedelta(seconds=int(duration.total_seconds()))
    read = parse_duration(format_duration(whole))
    assert timedelta(0) <= whole - read < timedelta(days=1)


@settings(deadline=None)
@given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=LONGEST))
def test_a_duration_is_written_with_nothing_left_out(duration: timedelta) -> None:
    assert parse_duration(write_duration(duration)) == duration


@settings(deadline=None)
@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)))  # noqa: DTZ001 -- bounds of naive times
def test_an_iso_time_reads_as_itself(moment: datetime) -> None:
    assert parse_time(moment.isoformat(), NOW) == moment.replace(tzinfo=UTC)
