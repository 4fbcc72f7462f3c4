"""The text of the errors page: a line for each group, and the details of the group under the cursor. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len

from jobdeck.tui.format import (
    age,
    ago,
    fit,
    one_line,
    plural,
    short_count,
    short_id,
    shown,
    sparkline,
    stamp,
    wrapped,
)
from jobdeck.tui.text.lines import named
from jobdeck.tui.widgets.pane import BLANK, Entry, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from jobdeck.core.read.operators.notes import Mute
    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.tui.backend.protocol import Canary
    from jobdeck.tui.widgets.ink import Span

LABEL = 14
FIXED: Final = 2 + 6 + 7 + 1 + 6 + 6
"""The cells of the mark, the numbers and the ages."""
SHORT_COURSE: Final = 15
COURSE: Final = 26
"""The cells of 24 bars."""
LEAST_TASK: Final = 16
ERROR: Final = 28
"""The cells that errors have before the names of tasks are whole, where there are so many."""
ROOMY_ERROR: Final = 48
"""The cells that errors keep beside further columns."""
OPTIONAL: Final = {"waiting": "waiting", "kind": "error_kind"}
"""The field of a group that each further column shows."""
CANARY_WORDS: dict[str, tuple[str, str]] = {
    "waiting": ("is waiting for a worker", "run"),
    "running": ("is running", "run"),
    "succeeded": ("succeeded", "good"),
    "failed": ("failed again. Fix the cause first", "bad"),
    "taken back": ("was not run", "warn"),
}


SORTS: Final[Mapping[str, Callable[[ErrorGroup], Any]]] = {
    "first seen": lambda _: 0,
    "runs": lambda trend: trend.count,
    "failed jobs": lambda trend: trend.failed,
    "last seen": lambda trend: trend.last_seen,
}
"""The orders of the groups. The first one is how they are read: in it no group moves."""


def fate(canary: Canary, rest_key: str) -> str:
    """The state of a canary, and the key that retries the rest once it has succeeded."""
    word = CANARY_WORDS[canary.state][0]
    return f"{word}. {rest_key} retries the rest" if canary.state == "succeeded" else word


@dataclass(frozen=True, slots=True)
class Layout:
    """The cells of the columns. What is 0 is not shown, because errors need the room or all groups have the same."""

    task: int
    error: int
    waiting: int = 0
    kind: int = 0
    course: int = SHORT_COURSE


def layout(trends: Sequence[ErrorGroup], width: int) -> Layout:
    """First the error has room for its beginning, then tasks for their names; further columns come where both fit.

    Of those, a column that is equal in all rows would say nothing.
    """
    names = max((cell_len(one_line(trend.task_type)) for trend in trends), default=0)
    room = width - FIXED - SHORT_COURSE
    task = min(max(names, LEAST_TASK), max(room - ERROR, LEAST_TASK))
    left, more = room - task, {}
    for name, cells in (("waiting", 8), ("course", COURSE), ("kind", 22)):
        needed = cells - SHORT_COURSE if name == "course" else cells
        differs = name == "course" or len({getattr(trend, OPTIONAL[name]) for trend in trends}) > 1
        if differs and left - needed >= ROOMY_ERROR:
            left, more[name] = left - needed, cells
    return Layout(task, max(left, 8), **more)


def heading(shown: Layout, width: int) -> Entry:
    waiting = f"{'waiting':>8}" if shown.waiting else ""
    course = "last 24 hours, or 1 hour" if shown.course == COURSE else "24 h or 1 h"
    kind = fit("kind", shown.kind)
    text = (
        f"  {'runs':>6}{'lost':>7}{waiting} {'since':<6}{'last':<6}{fit(course, shown.course)}"
        f"{fit('task', shown.task)} {kind}error"
    )
    return entry((fit(text, width), "head"))


def line(
    trend: ErrorGroup, at: datetime, shown: Layout, canary: Canary | None, mute: Mute | None = None,
    fronts: Sequence[str] = (),
) -> Entry:  # fmt: skip
    """One group; its error begins with NEW if it is new, or with the end of its mute.

    In its first hour its course has bars of 5 minutes, which it says, and later of hours.
    """
    fresh = bool(trend.bars) and trend.is_in_first_hour(at)
    mark: Span = ("  ", "text") if canary is None else ("◆ ", CANARY_WORDS[canary.state][1])
    new = "NEW " if trend.is_new(at) else ""
    sample = f"{new if mute is None else f'muted for {age(mute.until - at)} '}{one_line(trend.sample)}"
    if shown.course == COURSE:
        course = f"{sparkline(trend.bars)} 5 min each" if fresh else sparkline(trend.hours)
    else:
        halves = [sum(trend.hours[at : at + 2]) for at in range(0, len(trend.hours), 2)]
        course = f"{sparkline(trend.bars[1:])} 5m" if fresh else sparkline(halves)
    spans: tuple[Span, ...] = (
        (f"{short_count(trend.count):>6}", "text"),
        (f"{short_count(trend.failed):>7}", "bad" if trend.failed else "muted"),
        (f"{short_count(trend.waiting):>8}" if shown.waiting else "", "warn" if trend.waiting else "muted"),
        (f" {fit(age(at - trend.first_seen), 6)}", "muted"),
        (fit(age(at - trend.last_seen), 6), "text"),
        (fit(course, shown.course), "run"),
        *named(trend.task_type, shown.task, fronts),
        (f" {fit(one_line(trend.error_kind or ''), shown.kind - 2)}  " if shown.kind else " ", "muted"),
        (fit(sample, shown.error - 1), "text" if mute is None else "muted"),
    )
    return entry(mark, *spans, key=trend.key)


def about(
    trend: ErrorGroup, at: datetime, width: int, canary: Canary | None, advice: list[str], *, rest_key: str = "F",
    mute: Mute | None = None, facets: Sequence[Entry] = (),
) -> list[Entry]:  # fmt: skip
    """The details of one group, with the lines of its facets, and the playbook's advice."""
    room = max(width - 2, 20)
    found = [entry((f" {text}", "bad")) for text in wrapped(shown(trend.sample), room)[:6]]
    runs = f"{'at least ' if trend.capped else ''}{plural(trend.count, 'run')}"
    running = trend.jobs - trend.failed - trend.waiting
    standing = f"{plural(trend.jobs, 'job')}: {trend.failed:,} failed permanently, {trend.waiting:,} awaiting retry"
    found += [
        _fact("seen", f"{runs}; first {stamp(trend.first_seen, at)}, last {ago(trend.last_seen, at)}", width),
        _fact("now", f"{standing}{f', {running:,} running' if running > 0 else ''}", width),
    ]
    if trend.bars and trend.is_in_first_hour(at):
        course = f"{sparkline(trend.bars)}  bars of 5 minutes, up to {plural(max(trend.bars), 'run')}"
        found.append(_fact("last hour", course, width))
    if trend.error_kind:
        found.append(_fact("kind", one_line(trend.error_kind), width))
    if mute is not None:
        why = one_line(mute.reason) if mute.reason else "no reason given"
        until = f"until {mute.until:%m-%d %H:%M}Z, for {age(mute.until - at)}"
        found.append(_fact("muted", f"{until} by {one_line(mute.actor)}: {why}", width))
    if canary is not None:
        ink = CANARY_WORDS[canary.state][1]
        job: Span = (f"{short_id(canary.job_id)} ", "text")
        found.append(entry((f" {'canary':<{LABEL}}", "muted"), job, (fate(canary, rest_key), ink)))
        if canary.answer is not None:
            found += [entry((f" {'':<{LABEL}}", "muted"), (line, "text"))
                      for line in wrapped(shown(canary.answer.message), max(room - LABEL - 1, 8))[:6]]  # fmt: skip
    found += facets
    if advice:
        found += [BLANK, entry((" The playbook says", "run"))]
        for part in advice:
            lines = wrapped(part, room - 2)
            found += [
                entry((" • " if number == 0 else "   ", "muted"), (text, "text")) for number, text in enumerate(lines)
            ]
    return found


def _fact(name: str, value: str, width: int) -> Entry:
    return entry((f" {name:<{LABEL}}", "muted"), (fit(value, max(width - LABEL - 1, 8)).rstrip(), "text"))
