"""Parses and formats times and durations: `30m`, `14 days`, `in 2h`, `tomorrow 9:00`, `2026-08-01T09:00Z`.

There is no clock in here: callers pass the current time. What a person types without an offset is UTC, as are all
times that Jobdeck prints. A program has to say the zone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from jobdeck.core.errors import Refused, Unreadable

MINUTES: Final = "%Y-%m-%d %H:%MZ"
SECONDS: Final = "%Y-%m-%d %H:%M:%SZ"
LONGEST: Final = timedelta(days=36_525)
"""The maximum duration, a hundred years, so that a date plus a duration stays within the calendar."""

_UNITS: Final = {
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "mins": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hrs": 3600, "hour": 3600, "hours": 3600,
    "d": 86_400, "day": 86_400, "days": 86_400,
    "w": 604_800, "week": 604_800, "weeks": 604_800,
}  # fmt: skip
_PART: Final = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*([a-z]{1,7})\s*", re.ASCII)
_RATE: Final = re.compile(r"(\d{1,9}) ?/ ?([0-9a-z. ]{1,20})", re.ASCII)
_DURATION: Final = "30m or 7d"
_DURATION_HELP: Final = 'Write it like 45s, 30m, 1h30m, 7d or "14 days"'
_TIME_HELP: Final = 'Write it like 2026-08-01T09:00Z, "in 2h", 30m, "tomorrow 9:00" or now'
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CLOCK: Final = re.compile(r"(?:(?P<day>[a-z]{3,9})\s+)?(?:at\s+)?(?P<hour>\d{1,2}):(?P<minute>\d{2})", re.ASCII)


def parse_duration(text: str, *, what: str = "duration") -> timedelta:
    """Parses a positive duration: one or more numbers, each with its unit from seconds to weeks.

    Raises:
        UsageError: not a duration, zero, or longer than `LONGEST`; `what` is its name in the message.
    """
    seconds = _seconds(text.strip().lower())
    if seconds is None:
        message = f"The {what} {_quoted(text)} is not a duration. {_DURATION_HELP}."
        raise Unreadable(message, f"invalid; try {_DURATION}")
    if seconds == 0:
        raise Unreadable(f"The {what} {_quoted(text)} is zero. {_DURATION_HELP}.", f"is zero; try {_DURATION}")
    if seconds > LONGEST.total_seconds():
        message = f"The {what} {_quoted(text)} is longer than a hundred years. Choose a shorter one."
        raise Unreadable(message, f"too long; try {_DURATION}")
    return timedelta(seconds=seconds)


def parse_interval(text: str, *, what: str = "interval") -> int:
    """Parses an interval in whole seconds, as a recurring job has it.

    Raises:
        UsageError: not a duration, zero, or not a whole number of seconds.
    """
    duration = parse_duration(text, what=what)
    seconds, rest = divmod(duration, timedelta(seconds=1))
    if rest:
        message = f"The {what} {_quoted(text)} is not a whole number of seconds. The minimum is 1 second."
        raise Unreadable(message, "whole seconds; try 30m")
    return seconds


def with_zone(moment: datetime | None, name: str) -> datetime | None:
    """A time that an application gives by the option `name`, as it is; None for none.

    Raises:
        Refused: it has no time zone. Postgres would read it in that of the connection, hours away from what was meant.
    """
    if moment is not None and moment.utcoffset() is None:
        raise Refused(
            f"The time {name} has no time zone, so nobody can say which moment it is. Give it one, like "
            "datetime.now(UTC). Nothing was enqueued."
        )
    return moment


def parse_time(text: str, now: datetime, *, what: str = "time") -> datetime:
    """Parses a time, as UTC: ISO 8601, `now`, a duration from `now` with or without `in` before it, a time of day.

    A time of day, with or without `at`, is the next such time. `today`, `tomorrow` or a day of the week may precede
    it; a day of the week is the next such day, never today.

    Raises:
        UsageError: not a time, or outside the calendar; `what` is its name in the message.
    """
    wanted = text.strip()
    lowered = wanted.lower()
    if lowered == "now":
        return now.astimezone(UTC)
    seconds = _seconds(lowered.removeprefix("in ").strip())
    try:
        if seconds is not None:
            return now.astimezone(UTC) + timedelta(seconds=seconds)
        of_day = _time_of_day(lowered, now.astimezone(UTC))
        if of_day is not None:
            return of_day
        moment = datetime.fromisoformat(wanted)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"The {what} {_quoted(text)} is not a time. {_TIME_HELP}."
        raise Unreadable(message, "invalid; try tomorrow 9:00") from None


def parse_ahead(text: str, now: datetime, *, what: str = "time") -> timedelta | datetime:
    """Parses a duration from `now`, with or without `in` before it, or a future time, as UTC.

    Raises:
        UsageError: it is neither, or in the past; `what` is its name in the message.
    """
    length = text.strip().lower().removeprefix("in ")
    if _seconds(length.strip()) is not None:
        return parse_duration(length, what=what)
    moment = parse_time(text, now, what=what)
    if moment <= now:
        message = f"The {what} {_quoted(text)} is in the past. Choose a later one."
        raise Unreadable(message, "is past; try tomorrow 9:00")
    return moment


def format_duration(duration: timedelta) -> str:
    """A duration in its two largest units: `45s`, `12m`, `3h 5m`, `2d 4h`. Less than a second is `0s`."""
    left = int(abs(duration.total_seconds()))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount}{unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0s"


def write_duration(duration: timedelta) -> str:
    """A positive duration, exact, as one word that `parse_duration` parses to the same duration: `1d2h`, `90s`."""
    left, parts = abs(duration.total_seconds()), ""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        amount, left = divmod(left, size)
        parts += f"{int(amount)}{unit}" if amount else ""
    return parts + (f"{left:.6f}".rstrip("0").rstrip(".") + "s" if left or not parts else "")


def parse_rate(text: str, *, what: str = "rate") -> tuple[int, int]:
    """Parses a rate such as `100/m`, `5/10s` or `1000/day`: a number of runs, and the seconds of its period.

    Raises:
        UsageError: not a rate, or its period is not a whole number of seconds. The database says what is out of range.
    """
    match = _RATE.fullmatch(text.strip().lower())
    help_ = f"{_quoted(text)} is not a rate. Write the {what} like 100/m, 5/10s or 1000/h."
    if match is None:
        raise Unreadable(help_, "invalid; try 100/m")
    seconds = _seconds(match[2] if match[2][0].isdigit() else f"1{match[2]}")
    if not seconds or seconds != int(seconds):
        raise Unreadable(help_, "invalid; try 100/m")
    return int(match[1]), int(seconds)


def write_rate(runs: int, seconds: int) -> str:
    """A rate as `parse_rate` parses it: `100/m`, `5/10s`."""
    period = write_duration(timedelta(seconds=seconds))
    return f"{runs}/{period[1:] if re.fullmatch('1[a-z]', period) else period}"


def age(span: timedelta) -> str:
    """A duration in one unit, coarse enough that an idle screen does not change: `<1m`, `12m`, `3h`, `2d`."""
    minutes = int(abs(span.total_seconds()) // 60)
    if minutes < 1:
        return "<1m"
    if minutes < 120:
        return f"{minutes}m"
    if minutes < 48 * 60:
        return f"{minutes // 60}h"
    return f"{minutes // 1440}d"


def about(seconds: float) -> str:
    """A length of time that is an estimate: `about 13 minutes`."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * length or seconds >= length == 60:
            number = round(seconds / length)
            return f"about {number} {unit}{'' if number == 1 else 's'}"
    return "less than a minute"


def moment(value: object, form: str = SECONDS) -> str:
    """A time as the database wrote it, in UTC; one that Python cannot read, such as a year after 9999, as it is."""
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC).strftime(form)
    except (ValueError, OverflowError):
        return str(value or "")


def _seconds(text: str) -> float | None:
    total, at = 0.0, 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or part[2] not in _UNITS:
            return None
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    return total if text else None


def _time_of_day(text: str, now: datetime) -> datetime | None:
    said = _CLOCK.fullmatch(text)
    if said is None:
        return None
    moment = now.replace(hour=int(said["hour"]), minute=int(said["minute"]), second=0, microsecond=0)
    day = said["day"]
    if day is None:
        return moment if moment > now else moment + timedelta(days=1)
    if day in {"today", "tomorrow"}:
        return moment + timedelta(days=day == "tomorrow")
    meant = [number for number, name in enumerate(_DAYS) if name.startswith(day)]
    return moment + timedelta(days=(meant[0] - now.weekday() - 1) % 7 + 1) if meant else None


def _quoted(text: str) -> str:
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return f'"{shown}"'
