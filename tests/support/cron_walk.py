"""Cron expressions read and walked minute by minute, by rules written down here a second time."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

MINUTE: Final = timedelta(minutes=1)
MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
NAMES: Final = {3: {name: number + 1 for number, name in enumerate(MONTHS)}, 4: {d: n for n, d in enumerate(DAYS)}}
LEAST: Final = (0, 0, 1, 1, 0)
MOST: Final = (59, 23, 31, 12, 7)


class Walked:
    """An expression of five fields in a zone."""

    def __init__(self, expression: str, zone: str) -> None:
        self.fields = expression.split()
        self.zone = ZoneInfo(zone)
        self.minutes, self.hours, self.of_month, self.months, self.of_week = (self._plain(one) for one in range(5))
        both = self.fields[2].startswith("*") or self.fields[4].startswith("*")
        self._days = all if both else any
        self.once = not self.fields[0].startswith("*") and not self.fields[1].startswith("*")
        self._known: dict[date, bool] = {}

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The moments in (after, until] at which it runs."""
        moment = after.astimezone(UTC).replace(second=0, microsecond=0)
        before = moment.astimezone(self.zone)
        while moment <= until:
            moment, last = moment + MINUTE, before
            before = here = moment.astimezone(self.zone)
            if moment > until:
                return
            if moment > after and (
                (self._matches(here) and not (self.once and here.fold)) or (self.once and self._left_out(last, here))
            ):
                yield moment

    def on_day(self, day: datetime) -> bool:
        """Whether any minute of a local day could match."""
        there = day.date()
        if there not in self._known:
            days = (self._in_month(there), self._in_week(there))
            self._known[there] = there.month in self.months and self._days(days)
        return self._known[there]

    def _left_out(self, last: datetime, here: datetime) -> bool:
        """Whether a minute matches that the clock did not show before this one."""
        clock, shown = last.replace(tzinfo=None) + MINUTE, here.replace(tzinfo=None)
        while clock < shown:
            if self._matches(clock):
                return True
            clock += MINUTE
        return False

    def _matches(self, here: datetime) -> bool:
        return here.minute in self.minutes and here.hour in self.hours and self.on_day(here)

    def _plain(self, place: int) -> set[int]:
        found: set[int] = set()
        for part in self.fields[place].split(","):
            if "#" not in part and "L" not in part.replace("JUL", ""):
                found |= self._range(place, part)
        return found

    def _range(self, place: int, part: str) -> set[int]:
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        least, most = LEAST[place], MOST[place]
        if span != "*":
            least = self._value(place, first)
            most = self._value(place, last) if last else (most if step else least)
        return set(range(least, most + 1, int(step or 1)))

    def _value(self, place: int, text: str) -> int:
        names = NAMES.get(place, {})
        return names[text] if text in names else int(text)

    def _in_month(self, day: date) -> bool:
        last = calendar.monthrange(day.year, day.month)[1]
        return day.day in self.of_month or ("L" in self.fields[2].split(",") and day.day == last)

    def _in_week(self, day: date) -> bool:
        of_week = day.isoweekday() % 7
        if of_week in {one % 7 for one in self.of_week}:
            return True
        for part in self.fields[4].split(","):
            name, _, number = part.partition("#")
            if number and self._value(4, name) % 7 == of_week and (day.day - 1) // 7 + 1 == int(number):
                return True
            if part.endswith("L") and self._value(4, part[:-1]) % 7 == of_week:
                return day.day + 7 > calendar.monthrange(day.year, day.month)[1]
        return False
