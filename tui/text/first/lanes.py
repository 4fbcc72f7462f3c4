"""The plot of the first screen: a lane for each of ok, failed and waiting, over one axis of time. Pure.

The lanes are told apart by their place, so the plot reads without a colour, and two failures beside thousands of
successes are seen. The edge of a column has the ink, its body the grey of frames; failures are whole.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import chain, groupby
from typing import TYPE_CHECKING, Final

from jobdeck.tui.format import SPARKS, middle, one_line
from jobdeck.tui.shape import GUTTER
from jobdeck.tui.text.figures.trends import LETTERS
from jobdeck.tui.text.first.frames import merged
from jobdeck.tui.widgets.ink import width_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from jobdeck.core.read.stats.backlog import Mark
    from jobdeck.core.read.stats.minutes import LastMinutes
    from jobdeck.tui.text.first.frames import Row
    from jobdeck.tui.widgets.ink import Span

NOTHING: Final = "·"
"""The cell of a minute in which nothing happened."""
LEAST_TOP: Final = 4
"""The lowest top of a scale: one run is a low mark and not a wall."""
VERBS: Final = {"pause": "paused", "resume": "resumed", "release": "release"}
NAMED: Final = (40, 24, 14)
"""The cells of a name on the lower edge: the first number with which all marks fit, otherwise the last."""
SEVERAL: Final = "*"
"""The letter of a minute with several marks."""
STEPS: Final = (45, 60, 120)
"""The numbers of minutes that a plot may have."""


def fitting(found: LastMinutes | None, most: int) -> int:
    """How many minutes to draw: as many as the history has, in few steps, so that the plot seldom changes its width."""
    if found is None:
        return most
    known = sum(one is not None for one in found.succeeded)
    return min(next((step for step in STEPS if step >= known), most), most)


def plot(found: LastMinutes | None, minutes: int, lanes: tuple[int, int, int], *, alarmed: bool) -> list[Row]:
    """The lanes with as many lines as each is given, then the axis and its times. Failures are red if `alarmed`."""
    ok, failed, waiting = lanes
    if found is None:
        return [()] * (sum(lanes) + 2)
    rows = lane("ok", found.succeeded[-minutes:], ok, "run", unit="a minute")
    rows += lane("failed", found.failed[-minutes:], failed, "bad" if alarmed else "muted", whole=True)
    if waiting:
        rows += lane("wait", found.waiting[-minutes:], waiting, "warn" if alarmed else "muted")
    return [*rows, *axis(found, minutes)]


def lane(
    name: str, values: Sequence[int | None], height: int, ink: str, *, unit: str = "", whole: bool = False
) -> list[Row]:
    """One lane of `height` lines with a scale of its own. A minute that was not counted is empty."""
    top = top_of(max((value for value in values if value is not None), default=0))
    rows = []
    for line in range(height, 0, -1):
        label = short(top) if line == height else "0" if line == 1 else ""
        left = name if line == height else unit if line == height - 1 else ""
        room = GUTTER - 2 - len(left)
        cells = [_cell(value, top, line, height, ink, whole=whole) for value in values]
        rows.append(merged([
            (left, "text" if line == height else "muted"), (label.rjust(room), "muted"),
            (" ┤" if label else " │", "line"), *cells,
        ]))  # fmt: skip
    return rows


def axis(found: LastMinutes, minutes: int) -> list[Row]:
    """The line of time with a letter for each mark, and the times below it."""
    line, words = ["─"] * minutes, [" "] * minutes
    start = found.present - timedelta(minutes=minutes)
    every = 10 if minutes <= STEPS[-2] else 20
    for at in range(minutes):
        moment = start + timedelta(minutes=at)
        if moment.minute % every == 0:
            line[at] = "┴"
            label = f"{moment:%H:%M}"
            begin = min(max(0, at - len(label) // 2), minutes - len(label))
            if not "".join(words[max(begin - 1, 0) : begin + len(label) + 1]).strip():
                words[begin : begin + len(label)] = label
    cells: list[Span] = [(cell, "line") for cell in line]
    for mark in found.marks:
        at = _place(mark, start, minutes)
        if at >= 0:
            taken = cells[at][1] != "line"
            cells[at] = (SEVERAL if taken else LETTERS[mark.kind], _mark_ink(mark))
    return [
        merged([(" " * (GUTTER - 1) + "┼", "line"), *cells]),
        merged([(" " * GUTTER + "".join(words), "muted")]),
    ]


def legend(found: LastMinutes | None, minutes: int, room: int) -> list[Span]:
    """The marks in words, the newest first, as many as fit whole; those of one minute have one letter and one time."""
    if found is None:
        return []
    start = found.present - timedelta(minutes=minutes)
    marks = reversed([mark for mark in found.marks if mark.at >= start])
    said = [list(of_minute) for _, of_minute in groupby(marks, lambda mark: _place(mark, start, minutes))]
    for cells in NAMED:
        spans = list(
            chain.from_iterable(_in_words(of_minute, cells, first=not at) for at, of_minute in enumerate(said))
        )
        if width_of(spans) <= room:
            return spans
    shown: list[Span] = []
    for of_minute in said:
        more = _in_words(of_minute, NAMED[-1], first=not shown)
        if width_of(chain(shown, more)) > room:
            break
        shown += more
    return shown


def _place(mark: Mark, start: datetime, minutes: int) -> int:
    """The cell of a mark on the axis, below 0 before its start. The last cell also has the minute that is not over."""
    return min((mark.at - start) // timedelta(minutes=1), minutes - 1)


def _in_words(of_minute: Sequence[Mark], cells: int, *, first: bool) -> list[Span]:
    """The marks of one minute as the axis shows them, their names in so many cells."""
    mark = of_minute[0]
    letter = LETTERS[mark.kind] if len(of_minute) == 1 else SEVERAL
    what = ", ".join(
        f"{VERBS[one.kind]} {middle(one_line(one.name), cells) if one.name else 'everything'}" for one in of_minute
    )
    gap: list[Span] = [] if first else [("   ", "muted")]
    return [*gap, (letter, _mark_ink(mark)), (f" {mark.at:%H:%M} {what}", "muted")]


def heading(minutes: int) -> str:
    """The time that the plot covers in words."""
    return {60: "last hour", 120: "last 2 hours"}.get(minutes, f"last {minutes} minutes")


def top_of(value: int) -> int:
    """The top of a scale for a greatest value: 4, 5, 10, 20, 50, 100 and so on."""
    if value <= LEAST_TOP:
        return LEAST_TOP
    power: int = 10 ** (len(str(value)) - 1)
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value)


def short(value: int) -> str:
    """A top in at most four cells: `500`, `20k`, `5M`."""
    for unit, name in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if value >= unit:
            return f"{value // unit}{name}"
    return str(value)


def _cell(value: int | None, top: int, line: int, height: int, ink: str, *, whole: bool) -> Span:
    """The cell of one minute on one line of its lane, counted from below."""
    if value is None:
        return " ", "line"
    if value == 0:
        return (NOTHING if line == 1 else " "), "line"
    level = value / top * height - (line - 1)
    if level <= 0 and line > 1:
        return " ", ink
    eighths = max(min(round(level * len(SPARKS)), len(SPARKS)), 1 if line == 1 else 0)
    if not eighths:
        return " ", ink
    goes_on = round((level - 1) * len(SPARKS)) >= 1
    return SPARKS[eighths - 1], "line" if goes_on and not whole else ink


def _mark_ink(mark: Mark) -> str:
    return "warn" if mark.kind == "pause" else "strong"
