"""The text of the page of trends: a line for each type, and four plots of the current one. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.cells import cell_len

from jobdeck.core.words.tables import EVERYTHING, TRENDS, Seconds, TrendLine
from jobdeck.tui.format import age, fit, one_line, plural, short_count
from jobdeck.tui.text.lines import cells, heading, named
from jobdeck.tui.widgets.pane import Entry, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.read.stats.backlog import Mark, TrendReport
    from jobdeck.core.read.stats.figures import RunStats
    from jobdeck.tui.widgets.ink import Span

GAP: Final = 2
LEAST_HEIGHT: Final = 2
LETTERS: Final = {"pause": "P", "resume": "R", "release": "N"}
"""The letters of marks on the axis."""
DOTS: Final = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""The bits of the dots of a cell, by column, lowest dot first."""
EMPTY: Final = 0x2800


class Plot(NamedTuple):
    """A plot: its name, the meaning of the area and the line, their values, and the unit of the greatest one."""

    name: str
    legend: str
    area: Sequence[float | None]
    line: Sequence[float | None]
    seconds: bool
    ink: str


def columns(width: int) -> str:
    """The heading of the lines."""
    return fit(f" {fit('type', _name(width))}{heading(TRENDS)}", width)


def line(name: str | None, stats: RunStats, width: int, fronts: Sequence[str] = ()) -> Entry:
    """The figures of the window of one type, or of all."""
    room = _name(width)
    shown = [(fit(EVERYTHING, room), "strong")] if name is None else named(name, room, fronts)
    return entry(
        (" ", "text"),
        *shown,
        *cells(TRENDS, TrendLine(name, stats)),
        key=("type", name),
    )


def plots(report: TrendReport, name: str | None, width: int, height: int) -> list[Entry]:
    """Four plots, two beside each other, and the marks of the window."""
    window = report.trends
    stats = window.course(name)
    known = [at + window.step > window.counted_since for at in window.buckets]
    counted = [one if there else None for one, there in zip(stats, known, strict=True)]
    waiting = [None if one is None else float(one.jobs) for one in report.waiting(name)]
    wanted = [
        Plot("runs", "▄failed ─all", _each(counted, lambda one: one.failed),
             _each(counted, lambda one: one.failed + one.succeeded), False, "bad"),
        Plot("backlog", "▄waiting", waiting, (), False, "warn"),
        Plot("wait", "▄p50 ─p95", _each(counted, lambda one: one.wait(0.5)), _each(counted, lambda one: one.wait(0.95)),
             True, "run"),
        Plot("took", "▄p50 ─p95", _each(counted, lambda one: one.duration(0.5)),
             _each(counted, lambda one: one.duration(0.95)), True, "good"),
    ]  # fmt: skip
    marks = [mark for mark in report.marks if _belongs(mark, name)]
    each = max((height - 1) // 2 - 2, LEAST_HEIGHT)
    room = (width - GAP - 2) // 2
    drawn = [_drawn(one, report, marks, room, each) for one in wanted]
    found = [
        entry((" ", "text"), *left, (" " * GAP, "text"), *right)
        for pair in (drawn[:2], drawn[2:])
        for left, right in zip(*pair, strict=True)
    ]
    return [*found, entry((fit(f" {_said(marks, window.at)}", width).rstrip(), "muted"))]


def summary(report: TrendReport, window: timedelta) -> list[Span]:
    """The window, and since when runs are counted if that is shorter."""
    found: list[Span] = [(f"last {span(window)}, {plural(len(report.trends.types), 'type')}", "muted")]
    if report.trends.counted_since > report.trends.since:
        found.append((f"  counted since {report.trends.counted_since:%m-%d %H:%M}Z", "warn"))
    return [*found, (f"  jobdeck trends --since {span(window).replace(' ', '')}", "muted")]


def span(window: timedelta) -> str:
    """A window in words: `6 h`, `7 d`."""
    hours = window // timedelta(hours=1)
    return f"{hours} h" if hours <= 24 else f"{hours // 24} d"


def _each(
    counted: Sequence[RunStats | None], read: Callable[[RunStats], float | None]
) -> list[float | None]:  # fmt: skip
    """A figure of each bucket; None where nothing was counted."""
    return [None if one is None else read(one) for one in counted]


def _name(width: int) -> int:
    return max(min(width - 45, 40), 12)


def _belongs(mark: Mark, name: str | None) -> bool:
    return name is None or mark.kind == "release" or mark.name in {None, name}


def _drawn(one: Plot, report: TrendReport, marks: Sequence[Mark], width: int, height: int) -> list[tuple[Span, ...]]:
    """One plot as lines of exactly `width` cells: heading, dots, and the axis with its marks."""
    top = greatest(one.area, one.line)
    most = "no data" if not any(value is not None for value in (*one.area, *one.line)) else (
        f"max {Seconds(top).words(age) if one.seconds else short_count(int(top))}")  # fmt: skip
    head = f"{one.name} {most}"
    legend = fit(f"  {one.legend}", max(width - cell_len(head), 0))
    rows = plot(one.area, one.line, width, height)
    return [
        ((fit(head, width - cell_len(legend)), "head"), (legend, "muted")),
        *(((row, one.ink),) for row in rows),
        ((_axis(report, marks, width), "muted"),),
    ]


def _axis(report: TrendReport, marks: Sequence[Mark], width: int) -> str:
    """The time from left to right; a letter where something was paused, resumed or first seen."""
    window = report.trends
    start, end = window.buckets[0], window.buckets[-1] + window.step
    form = "%H:%M" if end - start <= timedelta(days=1, hours=1) else "%m-%d"
    cells = list(fit(f"{start:{form}}Z", width - 3).replace(" ", "─") + "now")[:width]
    for mark in marks:
        at = min(column_of((mark.at - start) / (end - start), width), width - len("now") - 1)
        cells[at] = LETTERS[mark.kind] if cells[at] not in LETTERS.values() else "*"
    return fit("".join(cells), width)


def _said(marks: Sequence[Mark], at: datetime) -> str:
    """The newest marks in words."""
    if not marks:
        return "no pauses and no new releases in this window"
    words = []
    for mark in reversed(marks):
        what = one_line(mark.name) if mark.name else "everything"
        words.append(f"{LETTERS[mark.kind]} {mark.kind} {what} {age(at - mark.at)} ago")
    return " · ".join(words)


def plot(area: Sequence[float | None], line: Sequence[float | None], width: int, height: int) -> list[str]:
    """An area of braille dots and a line over it, which read without a colour: `height` rows of `width` cells.

    Each value has as many dot columns as fit; None leaves a gap.
    Area and line have one scale from 0 to the greatest value. A value above 0 is at least one dot high.
    """
    top = greatest(area, line)
    cells = [[0] * width for _ in range(height)]
    columns, levels = width * 2, height * 4
    for x in range(columns):
        filled = _level(_at(area, x, columns), top, levels)
        above = _level(_at(line, x, columns), top, levels)
        lit = {*range(filled), *([above - 1] if above else [])}
        for y in lit:
            cells[height - 1 - y // 4][x // 2] |= DOTS[x % 2][y % 4]
    return ["".join(chr(EMPTY + cell) if cell else " " for cell in row) for row in cells]


def greatest(*courses: Sequence[float | None]) -> float:
    """The greatest value, 0 without one."""
    return max((value for course in courses for value in course if value is not None), default=0.0)


def column_of(place: float, width: int) -> int:
    """The cell of a place between 0 and 1."""
    return min(max(int(place * width), 0), max(width - 1, 0))


def _at(values: Sequence[float | None], x: int, columns: int) -> float | None:
    return values[x * len(values) // columns] if values else None


def _level(value: float | None, top: float, levels: int) -> int:
    if not value or top <= 0:
        return 0
    return max(round(value / top * levels), 1)
