"""The line of health over the job table: what is wrong, then the figures. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from jobdeck.core.model import Verdict
from jobdeck.tui.format import VERDICT_INK, age, ago, due, fit, one_line, seconds, since, sparkline
from jobdeck.tui.widgets.ink import width_of
from jobdeck.tui.widgets.status_bar import LATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from jobdeck.core.model import Finding, WorkerRun
    from jobdeck.tui.backend.protocol import View
    from jobdeck.tui.widgets.ink import Span

NARROW: Final = 110
"""Below this many columns only the worst problem is said."""
WAITING: Final = "due jobs"
"""The signal of the finding that says how long the oldest job has waited."""
SPACE: Final = ("  ", "text")
SOURCE_WORDS: Final = {"cron_http": "cron", "cli": "command", "manual": "Run Worker"}


def health(view: View | None, took: float = 0.0, width: int = 0) -> tuple[list[Span], list[Span]]:
    """Each problem with its beginning, then the figures. What a problem says already is no figure as well.

    Below `NARROW` columns, and where not all fits, only the worst problem is spelled out, cut so that the failures and
    the dashboard's own worker always stay, at the right end. `took` is the duration of the last reading in seconds: a
    slow database delays everything else as well.
    """
    if view is None:
        return [], []
    snapshot = view.snapshot
    wrong = [finding for finding in snapshot.health.findings if finding.verdict in {Verdict.CRITICAL, Verdict.WARNING}]
    problems = [_finding(finding, snapshot.at) for finding in wrong]
    if took >= LATE:
        problems.insert(0, (f"⚠ Database slow: {seconds(took)}", "warn"))
    figures = _figures(view, waits=all(finding.signal != WAITING for finding in wrong))
    spans = [part for problem in problems for part in (problem, SPACE)]
    whole: list[Span] = [(" ", "text"), *spans, *_joined([*figures, *_last_figures(view)[:1], *_triggers(view)])]
    if not width or (width >= NARROW and width_of(whole) <= width):
        return whole, []
    right = [*_joined(_last_figures(view)), (" ", "text")]
    room = width - width_of(right) - 2
    if not problems:
        if width_of(_joined(figures)) > room:
            figures = _figures(view, waits=True, course=False)
        return [(" ", "text"), *_as_fits([*figures, *_triggers(view)], room)], right
    (text, ink), others = problems[0], problems[1:]
    more = f" +{len(others)}" if others else ""
    return [
        (" ", "text"),
        (fit(text, min(room - len(more), cell_len(text))), ink),
        *([(more, ink)] if more else []),
    ], right


def _as_fits(parts: Sequence[list[Span]], room: int) -> list[Span]:
    """The first parts that fit, whole."""
    kept = list(parts)
    while kept and width_of(_joined(kept)) > room:
        kept.pop()
    return _joined(kept)


def _joined(parts: Iterable[list[Span]]) -> list[Span]:
    spans: list[Span] = []
    for part in parts:
        spans += [(" · ", "muted"), *part] if spans else part
    return spans


def _finding(finding: Finding, now: datetime) -> Span:
    word = "✗ " if finding.verdict is Verdict.CRITICAL else "⚠ "
    begun = f" ({since(finding.since, now)})" if finding.since else ""
    return (f"{word}{one_line(finding.evidence).rstrip('.')}{begun}", VERDICT_INK[finding.verdict])


def _figures(view: View, *, waits: bool, course: bool = True) -> list[list[Span]]:
    """The longest wait, if it `waits` to be said, and what ended in the last full minute, with its `course`."""
    now_health, now = view.snapshot.health, view.snapshot.at
    parts: list[list[Span]] = []
    if now_health.oldest_due is None:
        parts.append([("no backlog", "muted")])
    elif waits:
        _, ink = due(now_health.oldest_due, now, paused=not view.snapshot.processing.enabled)
        parts.append([("longest wait ", "muted"), (age(now - now_health.oldest_due), ink)])
    if now_health.last_minute is not None:
        succeeded, failed = now_health.last_minute
        rate: list[Span] = [(f"{succeeded:,} ok/min", "text")]
        if failed:
            rate = [(f"{succeeded:,} ok, ", "text"), (f"{failed:,} failed/min", "bad")]
        spark: Span = (f" {sparkline(now_health.finished_per_minute[:-1])}" if course else "", "run")
        parts.append([*rate, spark])
    return parts


def _last_figures(view: View) -> list[list[Span]]:
    """The failures, and the worker inside this dashboard; workers elsewhere are in the line above."""
    failed = view.snapshot.health.failed_last_hour
    state = view.worker.state
    shown = {"running": ("●", "good"), "off": ("off", "muted")}.get(state, (state, "warn"))
    return [
        [(f"failed {failed:,}/h", "warn" if failed else "muted")],
        [("own worker ", "muted"), shown],
    ]


def _triggers(view: View) -> list[list[Span]]:
    last = view.snapshot.health.last_trigger
    return [_trigger(last, view.snapshot.at)] if last is not None else []


def _trigger(trigger: WorkerRun, now: datetime) -> list[Span]:
    good = trigger.http_status in {None, 200} and trigger.status != "error"
    source = SOURCE_WORDS.get(trigger.source, one_line(trigger.source))
    answer = f"{trigger.http_status} " if trigger.http_status else ""
    if good and trigger.status == "paused":
        return [(f"{source} ", "muted"), (f"◦ {answer}paused {ago(trigger.started_at, now)}", "warn")]
    return [
        (f"{source} ", "muted"),
        ("● " if good else "✗ ", "good" if good else "bad"),
        (f"{answer}{ago(trigger.started_at, now)}", "text" if good else "bad"),
    ]
