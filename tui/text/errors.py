"""The text of the errors page: a line for each group, and the details of the group under the cursor. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobdeck.tui.format import (
    age,
    ago,
    fit,
    middle,
    one_line,
    plural,
    short_count,
    short_id,
    shown,
    sparkline,
    stamp,
    wrapped,
)
from jobdeck.tui.widgets.pane import BLANK, Entry, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from jobdeck.core.read.operators.notes import Mute
    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.tui.backend.protocol import Canary
    from jobdeck.tui.widgets.ink import Span

ROOMY = 160
"""From this width on, all columns fit beside the error."""
LABEL = 14
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


def heading(width: int) -> Entry:
    if width >= ROOMY:
        text = (
            f"  {'runs':>6} {'failed':>7} {'waiting':>8}  {'first seen':<11}{'last seen':<11}"
            f"{'last 24 hours, or 1 hour':<26}{'task':<36}{'kind':<22}error"
        )
    else:
        text = f"  {'runs':>6} {'failed':>6}  {'last':<8}{'24 h or 1 h':<15}{'task':<19} error"
    return entry((fit(text, width), "head"))


def line(trend: ErrorGroup, at: datetime, width: int, canary: Canary | None, mute: Mute | None = None) -> Entry:
    """One group; its error begins with NEW if it is new, or with the end of its mute.

    In its first hour its course has bars of 5 minutes, which it says, and later of hours.
    """
    fresh = bool(trend.bars) and trend.is_in_first_hour(at)
    mark: Span = ("  ", "text") if canary is None else ("◆ ", CANARY_WORDS[canary.state][1])
    failed: Span = (f"{short_count(trend.failed):>7}", "bad" if trend.failed else "muted")
    new = "NEW " if trend.is_new(at) else ""
    sample = f"{new if mute is None else f'muted for {age(mute.until - at)} '}{one_line(trend.sample)}"
    ink = "text" if mute is None else "muted"
    if width >= ROOMY:
        spans: tuple[Span, ...] = (
            (f"{short_count(trend.count):>6} ", "text"),
            failed,
            (f" {short_count(trend.waiting):>8}  ", "warn" if trend.waiting else "muted"),
            (fit(ago(trend.first_seen, at), 11), "muted"),
            (fit(ago(trend.last_seen, at), 11), "text"),
            (fit(f"{sparkline(trend.bars)} 5 min each" if fresh else sparkline(trend.hours), 26), "run"),
            (fit(middle(one_line(trend.task_type), 34), 36), "text"),
            (fit(one_line(trend.error_kind or ""), 20) + "  ", "muted"),
            (fit(sample, max(width - 134, 8)), ink),
        )
    else:
        halves = [sum(trend.hours[at : at + 2]) for at in range(0, len(trend.hours), 2)]
        spans = (
            (f"{short_count(trend.count):>6}", "text"),
            failed,
            (f"  {fit(ago(trend.last_seen, at), 8)}", "muted"),
            (fit(f"{sparkline(trend.bars[1:])} 5m" if fresh else sparkline(halves), 15), "run"),
            (fit(middle(one_line(trend.task_type), 19), 19), "text"),
            (f" {fit(sample, max(width - 60, 8))}", ink),
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
