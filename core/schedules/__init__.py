"""When a series runs: cron expressions in time zones, and intervals.

Cronsim parses an expression and finds the wall-clock times that it names; the zone's rules turn them into moments.
Where a clock is set forward or back, `Cron` does what the cron of Debian does.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from jobdeck.core.errors import Unreadable, meant
from jobdeck.core.times import write_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from zoneinfo import ZoneInfo

    from cronsim import CronSim

    from jobdeck.core.model import Job

CatchUp = Literal["one", "all", "none"]
CATCH_UPS: Final[tuple[CatchUp, ...]] = get_args(CatchUp)
AHEAD: Final = 20
"""The number of slots to come that the database holds of a cron series."""
MOST: Final = 1_000
"""The number of slots written at once of a series that makes up many."""
NO_SLOT: Final = datetime(9999, 12, 30, tzinfo=UTC)
"""The due time of a series whose slots are used up: job_no_slot() of the schema."""
LONGEST_EXPRESSION: Final = 200
LARGEST_SHIFT: Final = timedelta(hours=25)
"""More than any zone was ever set forward or back."""
LONGEST_INTERVAL: Final = 36_525 * 86_400
MACROS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_HELP: Final = 'Write it like "0 9 * * 1-5": minute, hour, day of month, month, day of week'
_EXAMPLE: Final = "try 0 9 * * 1-5"
_LONE_STEP: Final = re.compile(r"(\d{1,9})-(\d{1,9})/0*[1-9]\d*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone.

    The expression has five fields (minute, hour, day of month, month, day of week), or six with the second first, or is
    a macro such as `@daily`. `tz` is a name of the IANA database, such as `America/New_York`.

    An expression whose minute or hour begins with `*` runs at all moments at which the clock shows such a time: twice
    when an hour is repeated, never in an hour that is left out. Any other runs once: at the first of two, and at the
    end of the hour that is left out.

    `catch_up` says what happens to slots that passed while no worker took them: `one` runs once for all of them, `all`
    runs once for each, `none` runs for none of them, that is, not later than a minute.

    Raises:
        UsageError: the expression cannot be parsed or never comes, there is no such zone, or no such catch-up.
    """

    expression: str
    tz: str = "UTC"
    catch_up: CatchUp = "one"

    def __post_init__(self) -> None:
        object.__setattr__(self, "expression", " ".join(self.expression.split()))
        _check_catch_up(self.catch_up)
        _fields(self.expression)
        if self.tz not in _zones():
            tz = str(self.tz)
            raise Unreadable(
                f'There is no time zone "{tz[:60]}"{meant(tz, _zones())} Name it like America/New_York or UTC.',
                "is no time zone; try Europe/Paris",
            )
        if next(self._local(datetime(2000, 1, 1)), None) is None:  # noqa: DTZ001 -- a time on the wall, in no zone
            raise _never_comes(self.expression)

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The slots after a moment, in order, as UTC."""
        zone = _zone(self.tz)
        minutes = self._wildcard(zone, moment) if self._repeats else self._fixed(zone, moment)
        seconds = _seconds_of(self.expression)
        last = moment
        for minute in minutes:
            for second in seconds:
                slot = minute + timedelta(seconds=second)
                if slot > last:
                    last = slot
                    yield slot

    def slots(self, after: datetime, *, now: datetime) -> list[datetime]:
        """The slots after a moment: up to `now` and the 20 that come then, but at most 1,000.

        Raises:
            UsageError: they are not all before the year 9999, where the calendar ends.
        """
        found: list[datetime] = []
        ahead = 0
        try:
            for slot in self.after(after):
                found.append(slot)
                ahead += slot > now
                if ahead == AHEAD or len(found) == MOST:
                    break
        except (OverflowError, ValueError):
            found.append(NO_SLOT)
        if not found or found[-1] >= NO_SLOT:
            message = f'The cron expression "{self.expression}" leads beyond the year 9998. Let it begin earlier.'
            raise Unreadable(message, "begins too late; try an earlier time")
        return found

    @property
    def _repeats(self) -> bool:
        minute, hour = _fields(self.expression)[-5:-3]
        return minute.startswith("*") or hour.startswith("*")

    def _local(self, start: datetime) -> Iterator[datetime]:
        """The wall-clock minutes that the expression names, after a minute; a calendar without zones."""
        return iter(_parsed(_fields(self.expression), start))

    def _fixed(self, zone: ZoneInfo, moment: datetime) -> Iterator[datetime]:
        for local in self._local(_wall(zone, moment) - LARGEST_SHIFT):
            yield _real(local.replace(tzinfo=zone))

    def _wildcard(self, zone: ZoneInfo, moment: datetime) -> Iterator[datetime]:
        """Both moments of a repeated minute, and none of one that is left out, in the order of the moments."""
        waiting: list[datetime] = []
        for local in self._local(_wall(zone, moment) - LARGEST_SHIFT):
            for fold in (0, 1):
                there = local.replace(tzinfo=zone, fold=fold)
                at = there.astimezone(UTC)
                if at.astimezone(zone).replace(tzinfo=None) == local and at not in waiting:
                    heapq.heappush(waiting, at)
            # No later minute has an earlier moment than the first one of this minute.
            reached = local.replace(tzinfo=zone).astimezone(UTC)
            while waiting and waiting[0] <= reached:
                yield heapq.heappop(waiting)


@dataclass(frozen=True, slots=True)
class Every:
    """An interval of whole seconds, counted from the first run.

    The lengths are added. `catch_up` is that of `Cron`.

    Raises:
        UsageError: the interval is below a second, not of whole seconds, or above a hundred years.
    """

    seconds: float = 0
    minutes: float = 0
    hours: float = 0
    days: float = 0
    catch_up: CatchUp = "one"

    def __post_init__(self) -> None:
        _check_catch_up(self.catch_up)
        total = self.seconds + 60 * (self.minutes + 60 * (self.hours + 24 * self.days))
        if not 1 <= total <= LONGEST_INTERVAL or total != int(total):
            raise Unreadable(
                "The interval of a recurring job must be whole seconds, from 1 second to 100 years.",
                "whole seconds; try 30m",
            )
        object.__setattr__(self, "seconds", int(total))
        for name in ("minutes", "hours", "days"):
            object.__setattr__(self, name, 0)

    @property
    def whole_minutes(self) -> int | None:
        """The interval in minutes; None if it is not of whole minutes."""
        minutes, rest = divmod(int(self.seconds), 60)
        return None if rest else minutes


Schedule = Cron | Every


def given(schedule: Schedule) -> dict[str, Any]:
    """A schedule as the function `job_series_create` takes it."""
    if isinstance(schedule, Cron):
        return {"cron": schedule.expression, "zone": schedule.tz, "catch_up": schedule.catch_up}
    return {"seconds": schedule.seconds, "catch_up": schedule.catch_up}


def stored(schedule: Schedule | None) -> tuple[int | None, dict[str, Any] | None]:
    """The columns of a job for a schedule: `recurrence_interval_minutes` and `schedule`."""
    if schedule is None:
        return None, None
    minutes = schedule.whole_minutes if isinstance(schedule, Every) else None
    kept = {key: value for key, value in given(schedule).items() if key != "seconds" or minutes is None}
    if schedule.catch_up == "one":
        del kept["catch_up"]
    return minutes, kept or None


@dataclass(frozen=True, slots=True)
class Rhythm:
    """The schedule of a job as its row has it, for people: a row may hold what no program can parse."""

    minutes: int | None
    columns: Mapping[str, Any]

    @property
    def cron(self) -> str | None:
        """The cron expression; None for an interval."""
        return str(self.columns["cron"]) if "cron" in self.columns else None

    @property
    def zone(self) -> str:
        return str(self.columns.get("zone", "UTC"))

    @property
    def catch_up(self) -> str:
        return str(self.columns.get("catch_up", "one"))

    @property
    def name(self) -> str | None:
        """The name of the declaration in code; None if somebody enqueued the series."""
        return str(self.columns["name"]) if "name" in self.columns else None

    @property
    def interval(self) -> int:
        """The interval in seconds; 0 for a cron expression."""
        seconds = self.columns.get("seconds", 0)
        return (self.minutes or 0) * 60 or (seconds if isinstance(seconds, int) else 0)

    @property
    def short(self) -> str:
        """The interval as one word; `cron` for an expression, `never` without an interval."""
        if self.cron is not None:
            return "cron"
        if self.minutes and self.minutes % 1440 == 0:
            return f"{self.minutes // 1440}d"
        return f"{self.minutes}m" if self.minutes else f"{self.interval}s" if self.interval else "never"

    @property
    def words(self) -> str:
        """The schedule in words, with its zone, and its catch-up if that is not `one`."""
        if self.cron is None and not self.interval:
            return "never, because it has no interval"
        every = f"every {write_duration(timedelta(seconds=self.interval))}"
        text = every if self.cron is None else f"{self.cron} {self.zone}"
        return text + {"all": ", makes up all missed slots", "none": ", makes up no missed slot"}.get(self.catch_up, "")

    def schedule(self) -> Schedule:
        """The same, parsed.

        Raises:
            UsageError: the row has an expression, a zone or a catch-up that is none.
        """
        catch_up: Any = self.catch_up
        if self.cron is not None:
            return Cron(self.cron, self.zone, catch_up)
        return Every(seconds=self.interval, catch_up=catch_up)


def rhythm(job: Job) -> Rhythm | None:
    """The schedule of a recurring job; None for a job that runs once."""
    if not job.is_recurring:
        return None
    return Rhythm(job.recurrence_interval_minutes, job.schedule if isinstance(job.schedule, dict) else {})


def has_run_out(job: Job) -> bool:
    """Whether the slots of a cron series are used up, so that it is due at no time until a worker writes more."""
    return job.is_recurring and job.run_at >= NO_SLOT


def next_runs(job: Job, most: int) -> list[datetime]:
    """The next runs of a job as its row has them: at most as many as the database holds slots of it."""
    own = rhythm(job)
    runs = [] if has_run_out(job) else [job.run_at]
    if own is not None and own.cron is not None:
        from_then_on = None if job.anchor_at == NO_SLOT else job.anchor_at
        runs += [slot for slot in job.slots or () if slot > job.run_at and slot >= (from_then_on or slot)]
    elif own is not None and own.interval:
        anchor, step = job.anchor_at or job.run_at, timedelta(seconds=own.interval)
        first = anchor + max((job.run_at - anchor) // step, -1) * step
        runs += [first + number * step for number in range(1, most)]
    return [run for run in runs[:most] if job.expires_at is None or run < job.expires_at]


def _check_catch_up(catch_up: str) -> None:
    if catch_up not in CATCH_UPS:
        raise Unreadable(f'The catch-up "{catch_up}" must be one, all or none.', "one, all or none")


@cache
def _zones() -> frozenset[str]:
    from zoneinfo import available_timezones  # noqa: PLC0415 -- only schedules in zones need it

    return frozenset(available_timezones())


def _zone(name: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo  # noqa: PLC0415 -- only schedules in zones need it

    return ZoneInfo(name)


def _wall(zone: ZoneInfo, moment: datetime) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _real(there: datetime) -> datetime:
    """The moment of a wall-clock time, the first of two; for one that is left out, the end of what is left out."""
    while True:
        at = there.astimezone(UTC)
        if at.astimezone(there.tzinfo).replace(tzinfo=None) == there.replace(tzinfo=None):
            return at
        there += timedelta(minutes=1)


@lru_cache(maxsize=1024)
def _fields(expression: str) -> tuple[str, ...]:
    """The fields of an expression, checked.

    Raises:
        UsageError: it cannot be parsed, or its day never comes.
    """
    fields = tuple(map(_without_lone_steps, MACROS.get(expression.lower(), expression).upper().split()))
    shown = expression[:60]
    if len(expression) > LONGEST_EXPRESSION or len(fields) not in {5, 6}:
        message = f'The cron expression "{shown}" does not have five fields, or six with seconds. {_HELP}.'
        raise Unreadable(message, f"needs five fields; {_EXAMPLE}")
    trouble = _trouble(fields)
    # A day of the month beside one of the week is another day, unless one of them is any day.
    alone = fields[-3].startswith("*") or fields[-1].startswith("*")
    if (
        trouble
        and alone
        and not _trouble((*fields[:-2], "*", fields[-1]))
        and not _trouble(("0", "0", "1", *fields[-2:]))
    ):
        raise _never_comes(expression)
    if trouble:
        raise Unreadable(f'The cron expression "{shown}" cannot be read: its {trouble} is wrong. {_HELP}.',
                         f"{trouble} is wrong; {_EXAMPLE}")  # fmt: skip
    return fields


def _without_lone_steps(field: str) -> str:
    """The field with `5` in place of `5-5/2`, which cronsim takes for `5/2`, every second one from 5 on."""
    parts = [(_LONE_STEP.fullmatch(part), part) for part in field.split(",")]
    return ",".join(found[1] if found and int(found[1]) == int(found[2]) else part for found, part in parts)


def _trouble(fields: tuple[str, ...]) -> str:
    """The name of the first field that is wrong; empty if all can be parsed."""
    from cronsim import CronSimError  # noqa: PLC0415 -- only schedules need it

    start = datetime(2000, 1, 1)  # noqa: DTZ001 -- a time on the wall, in no zone
    try:
        _parsed(fields, start)
    except CronSimError as error:
        return str(error).removeprefix("Bad ").replace("-", " ")
    try:
        _parsed((fields[0], "*", "*", "*", "*"), start)
    except CronSimError:
        return "second"
    return ""


def _parsed(fields: tuple[str, ...], start: datetime) -> CronSim:
    """The iterator over the minutes of an expression; its second, if it has one, is left out."""
    from cronsim import CronSim  # noqa: PLC0415 -- only schedules need it

    return CronSim(" ".join(fields[-5:]), start)


@lru_cache(maxsize=1024)
def _seconds_of(expression: str) -> tuple[int, ...]:
    """The seconds of each minute, which have the form of minutes."""
    fields = _fields(expression)
    if len(fields) == 5:
        return (0,)
    start = datetime(2000, 1, 1)  # noqa: DTZ001 -- a time on the wall, in no zone
    found = []
    for minute in _parsed((fields[0], "*", "*", "*", "*"), start - timedelta(minutes=1)):
        if minute >= start + timedelta(hours=1):
            break
        found.append(minute.minute)
    return tuple(found)


def _never_comes(expression: str) -> Unreadable:
    return Unreadable(
        f'The cron expression "{expression[:60]}" never comes: no year has such a day. Change its day or month.',
        "never comes; change the day or month",
    )
