"""Tables that commands and the dashboard show alike: each column is described once.

A column says what its value is. Commands write the value whole, the dashboard in the cells that the column has there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from jobdeck.core.model import Status, Verdict
from jobdeck.core.read.sentences import amount
from jobdeck.core.redact import clean, redact
from jobdeck.core.times import format_duration
from jobdeck.core.words.plain import cut, when
from jobdeck.core.words.wording import DEFAULT, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.read.pages.overview import DatabaseFigures, TypeFigures
    from jobdeck.core.read.stats.backlog import Waiting
    from jobdeck.core.read.stats.figures import FailureShare, RunStats
    from jobdeck.core.read.type_settings import TypeLine

T = TypeVar("T")
LATE_AFTER: Final = timedelta(minutes=15)
"""A job that has been due for longer is in the colour of a problem."""
ENOUGH: Final = 20
"""With fewer runs in 15 minutes a share of failures says little."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of jobs or runs, or of which there are `at_least` that many."""

    number: int
    at_least: bool = False

    def __bool__(self) -> bool:
        return bool(self.number)

    def __str__(self) -> str:
        return amount(self.number, at_least=self.at_least)

    def within(self, cells: int) -> str:
        """The number; where it does not fit, in thousands or millions."""
        number, more = self.number, "+" if self.at_least else ""
        if len(str(self)) <= cells:
            return str(self)
        return f"{number // 1000:,}k{more}" if number < 10_000_000 else f"{number // 1_000_000:,}M{more}"


class Share(float):
    """A share from 0 to 1."""

    __slots__ = ()

    def __str__(self) -> str:
        return percent(self)

    @property
    def brief(self) -> str:
        """The share in whole percent; above 0 at least 1 %, below 1 at most 99 %."""
        whole = round(self * 100)
        return f"{min(max(whole, 1), 99) if 0 < self < 1 else whole}%"


class Seconds(float):
    """How long something took."""

    __slots__ = ()

    def words(self, longer: Callable[[timedelta], str] = format_duration) -> str:
        """The time with the precision of its size; `longer` writes a minute and more."""
        if self < 1:
            return f"{self * 1000:.0f}ms"
        return f"{self:.1f}s" if self < 60 else longer(timedelta(seconds=self))


Value = Amount | Share | Seconds | timedelta | str | None


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column: its heading on the dashboard, and its value in a row.

    `long` is the heading of commands if it is not the same in capitals. On the dashboard the column has `cells`; with 0
    it is not shown, and if it is `roomy` only on a wide screen. Texts are at the `left`. `ink` is its colour, `none`
    that of an empty value.
    """

    name: str
    value: Callable[[T], Value]
    long: str = ""
    cells: int = 0
    ink: str | Callable[[T], str] = "text"
    none: str = "muted"
    roomy: bool = False
    left: bool = False

    @property
    def heading(self) -> str:
        """The heading of commands."""
        return self.long or self.name.upper()

    def colour(self, row: T) -> str:
        """The ink of this column in a row."""
        if isinstance(self.ink, str):
            return self.ink if self.value(row) else self.none
        return self.ink(row)

    def whole(self, row: T) -> str | None:
        """The value as commands write it."""
        value = self.value(row)
        if isinstance(value, Seconds):
            return value.words()
        return format_duration(value) if isinstance(value, timedelta) else None if value is None else str(value)


class TypeRow(NamedTuple):
    """A task type with its figures, and the time of the read."""

    figures: TypeFigures
    at: datetime

    @property
    def line(self) -> TypeLine:
        return self.figures.line

    @property
    def share(self) -> FailureShare | None:
        return self.figures.share

    @property
    def waited(self) -> timedelta | None:
        """How long the oldest due job has waited; None without a backlog."""
        return self.at - self.figures.oldest_due if self.figures.oldest_due else None

    @property
    def is_late(self) -> bool:
        """Whether a job of the type has waited for long, although the type is not paused."""
        return (self.waited or timedelta(0)) >= LATE_AFTER and self.line.paused_at is None


def failing_ink(share: FailureShare | None) -> str:
    """The colour of the share of failures now: that of a problem where it is far above the usual one."""
    if share is None or not share.runs or not share.failed:
        return "muted"
    return "bad" if share.runs >= ENOUGH and share.share >= 2 * share.usual else "text"


def _paused(line: TypeLine) -> str | None:
    """Until when a type is paused or that it is set aside, by whom and why; None if it is neither."""
    if line.paused_at is None:
        return None
    until = f"until {when(line.resume_at)}" if line.resume_at else "set aside" if line.set_aside else "yes"
    until += f" with queue {line.paused_queue}" if line.paused_queue else ""
    who = f", by {cut(line.paused_by, 30)}" if line.paused_by else ""
    why = f": {cut(line.paused_reason, 40)}" if line.paused_reason else ""
    return f"{until}{who}{why}"


def code_words(line: TypeLine) -> str | None:
    """What the code says of a type, which release said it, what operators changed, and which live releases differ."""
    if line.release is None or not (line.code or line.differing):
        return None
    changed = f"; operators set {', '.join(line.overridden)}" if line.overridden else ""
    differ = ", ".join(cut(name, 30) for name in line.differing)
    said = f"{'; '.join(line.code_limits) or 'no limits'} ({cut(line.release, 30)}){changed}"
    return clean(redact(f"{said}; live workers of {differ} say otherwise" if differ else said))


TYPE_SETTINGS: Final[Sequence[Column[TypeRow]]] = (
    Column("workers", lambda one: Amount(one.line.workers), cells=7, none="warn", roomy=True),
    Column("paused", lambda one: _paused(one.line)),
    Column("muted", lambda one: f"until {when(one.line.muted_until)}" if one.line.muted_until else None),
    Column("warning", lambda one: percent(one.line.warning_share)),
    Column("critical", lambda one: percent(one.line.critical_share)),
    Column("lost", lambda one: DEFAULT if one.line.lost_jobs is None else Amount(one.line.lost_jobs)),
    Column("limits", lambda one: "; ".join(one.line.limits) or None),
    Column("code", lambda one: code_words(one.line)),
)
TYPE_JOBS: Final[Sequence[Column[TypeRow]]] = (
    Column("type", lambda one: one.line.task_type),
    Column("pending", lambda one: Amount(one.line.pending, one.line.at_least), cells=8),
    Column("run", lambda one: Amount(one.line.running), long="RUNNING", cells=4, ink="run"),
    Column("failed", lambda one: Amount(one.line.failed, one.line.failed_at_least), cells=7, ink="bad"),
)
TYPES: Final[Sequence[Column[TypeRow]]] = (
    *TYPE_JOBS,
    Column("wait", lambda one: one.waited, cells=5, ink=lambda one: "bad" if one.is_late else "text"),
    Column("ok/min", lambda one: Amount(one.figures.succeeded), cells=6),
    Column("bad", lambda one: Amount(one.figures.failed), long="FAILED/MIN", cells=5, ink="bad"),
    Column(
        "share", lambda one: Share(one.share.share) if one.share and one.share.runs else None, long="FAILING",
        cells=5, ink=lambda one: failing_ink(one.share),
    ),
    Column(
        "usually", lambda one: Share(one.share.usual) if one.share and one.share.usual_runs else None, cells=7,
        ink=lambda _: "muted", roomy=True,
    ),
    *TYPE_SETTINGS,
)  # fmt: skip
"""The task types with their figures. `TYPE_JOBS` and `TYPE_SETTINGS` are the columns that need no statistics."""


class TrendLine(NamedTuple):
    """The figures of a type or a bucket, and the backlog of its buckets. `name` is None for all types."""

    name: str | None
    stats: RunStats
    backlog: Sequence[Waiting | None] = ()


EVERYTHING: Final = "all types"


def _backlog(one: TrendLine) -> Amount | None:
    most = max((waiting for waiting in one.backlog if waiting), key=lambda waiting: waiting.jobs, default=None)
    return Amount(most.jobs, most.at_least) if most else None


def _time(name: str, long: str, read: Callable[[RunStats], float | None]) -> Column[TrendLine]:
    def value(one: TrendLine) -> Seconds | None:
        found = read(one.stats)
        return None if found is None else Seconds(found)

    return Column(name, value, long, cells=6, ink=lambda _: "text")


TRENDS: Final[Sequence[Column[TrendLine]]] = (
    Column("type", lambda one: one.name or EVERYTHING),
    Column("runs", lambda one: Amount(one.stats.succeeded + one.stats.failed), cells=8, ink=lambda _: "text"),
    Column("ok", lambda one: Amount(one.stats.succeeded)),
    Column("bad", lambda one: Amount(one.stats.failed), long="FAILED", cells=6, ink="bad"),
    Column("forever", lambda one: Amount(one.stats.permanent)),
    _time("wait50", "WAIT P50", lambda stats: stats.wait(0.5)),
    _time("wait95", "WAIT P95", lambda stats: stats.wait(0.95)),
    _time("took50", "TOOK P50", lambda stats: stats.duration(0.5)),
    _time("took95", "TOOK P95", lambda stats: stats.duration(0.95)),
    Column("backlog", _backlog),
)


def _long_wait(one: DatabaseFigures) -> str:
    wait = one.longest_wait
    late = wait is not None and wait >= LATE_AFTER and one.health.verdict is not Verdict.PAUSED
    return "bad" if late else "text" if wait else "muted"


def _jobs(one: DatabaseFigures, status: Status) -> Amount:
    return Amount(one.counts.of(status), one.counts.at_least(status))


DATABASES: Final[Sequence[Column[DatabaseFigures]]] = (
    Column("pending", lambda one: _jobs(one, Status.PENDING), cells=7),
    Column("failed", lambda one: _jobs(one, Status.FAILED), cells=7, ink="bad"),
    Column("workers", lambda one: Amount(one.workers), cells=7, none="warn"),
    Column("wait", lambda one: one.longest_wait, cells=5, ink=_long_wait),
)
"""The figures of a database in a fleet, between its state and the evidence."""
