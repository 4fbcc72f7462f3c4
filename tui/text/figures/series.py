"""The text of the page of series: a line for each recurring job, and the details of the current one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from jobdeck.core.model import Job, Status, TypePause
from jobdeck.core.read.sentences import CLAIMED, outcome_words, status_word
from jobdeck.core.schedules import has_run_out, next_runs, rhythm
from jobdeck.core.words.wording import streak_words
from jobdeck.tui.format import (
    DRY_MARK,
    age,
    ago,
    fit,
    middle,
    one_line,
    outcome_look,
    payload_summary,
    plural,
    short_id,
    stamp,
)
from jobdeck.tui.text.lines import facts
from jobdeck.tui.widgets.pane import Entry, entry
from jobdeck.tui.widgets.pause_banner import pause_line

if TYPE_CHECKING:
    from datetime import datetime

    from jobdeck.core.read.pages.series import SeriesLine, SeriesPause, SeriesReport
    from jobdeck.tui.widgets.ink import Span

ROOMY: Final = 110


def columns(width: int) -> str:
    """The heading of the lines."""
    payload = "  job       payload" if width >= ROOMY else ""
    return fit(f" {fit('task', _name(width))} {'every':>6}  {fit('next', 12)}{fit('last run', 11)}  {fit('streak', 10)}"
               f"{payload}", width)  # fmt: skip


def line(one: SeriesLine, at: datetime, width: int, *, paused: bool) -> Entry:
    """One recurring job."""
    job = one.job
    last: Span = (fit("never", 11), "muted")
    if job.last_run_at is not None:
        mark, ink = outcome_look(job.last_outcome, dry=job.last_run_dry) if job.last_outcome else ("·", "muted")
        last = (fit(f"{mark} {ago(job.last_run_at, at)}", 11), ink)
    streak = streak_words(one.streak, least=one.streak_is_least)
    payload = fit(payload_summary(job.payload), max(width - _name(width) - 58, 4))
    dry = f" {DRY_MARK}" if job.is_dry else ""
    room = _name(width) - len(dry)
    name = middle(one_line(job.task_type), room)
    return entry(
        (f" {name}", "text"),
        (fit(dry, _name(width) - cell_len(name)), "warn"),
        (f" {every(job):>6}  ", "text"),
        next_run(one, at, paused=paused),
        last,
        (f"  {fit(streak or '-', 10)}", "bad" if one.streak < 0 else "good" if one.streak else "muted"),
        (f"  {short_id(job.id)}  {payload}" if width >= ROOMY else "", "muted"),
        key=("job", job.id),
    )


def next_run(one: SeriesLine, at: datetime, *, paused: bool) -> Span:
    """When it runs next, in words; late runs are not highlighted during a pause."""
    job = one.job
    if job.status is Status.RUNNING:
        return fit(status_word(job), 12), "run"
    if one.pause is not None:
        return fit("paused", 12), "warn"
    if has_run_out(job):
        return fit("no slot yet", 12), "warn"
    if one.late is not None:
        words = f"{age(one.late)} late" if one.late.total_seconds() >= 60 else "due now"
        return fit(f"{words}{' P' if paused else ''}", 12), "muted" if paused else "bad" if "late" in words else "text"
    return fit(f"in {age(job.run_at - at)}{' P' if paused else ''}", 12), "text"


def about(one: SeriesLine, pause: TypePause | None, at: datetime, width: int) -> list[Entry]:
    """Next and last run, interval, end, pause and payload of one recurring job."""
    job = one.job
    own = rhythm(job)
    streak = streak_words(one.streak, least=one.streak_is_least)
    last = f"{stamp(job.last_run_at, at, past=True)}  {outcome_words(job.last_outcome, dry=job.last_run_dry)}".rstrip()
    ended = f"{streak} in a row" if streak else "no run has ended yet"
    pairs = [
        ("next run", _next(job, at), "warn" if has_run_out(job) else "text"),
        ("last run", last, "text"),
        ("streak", ended, "bad" if one.streak < 0 else "text"),
        ("interval", f"every {every(job)}", "text") if own is None or (own.cron is None and own.catch_up == "one")
        else ("schedule", one_line(own.words), "text"),
        *([("declared as", one_line(own.name), "muted")] if own and own.name else []),
        ("paused", f"PAUSED{pause_line(pause, at, named=False)}" if pause else _alone(one.pause, at),
         "warn" if pause or one.pause else "muted"),
        ("expires", stamp(job.expires_at, at) if job.expires_at else "never", "text"),
        ("payload", payload_summary(job.payload) or "empty", "muted"),
    ]  # fmt: skip
    if job.last_error:
        pairs.append(("last error", one_line(job.last_error), "bad"))
    return facts(pairs, width, most=2)


def _alone(pause: SeriesPause | None, at: datetime) -> str:
    """Who paused this series alone, when and why."""
    if pause is None:
        return "neither it nor its type is paused"
    since = f" {ago(pause.at, at)}" if pause.at else ""
    by = f" by {one_line(pause.by)}" if pause.by else ""
    return f"PAUSED alone{since}{by}{f': {one_line(pause.reason)}' if pause.reason else ''}"


def name_of(one: SeriesLine) -> str:
    """The words in the rule: the type and the short id."""
    return f" {one_line(one.job.task_type)} {short_id(one.job.id)} "


def summary(report: SeriesReport) -> list[Span]:
    """How many series there are, and how many are late or fail."""
    late = sum(one.late is not None and one.late.total_seconds() >= 60 for one in report.series)
    failing = sum(one.streak < 0 for one in report.series)
    count = f"the first {len(report.series)} recurring jobs" if report.more else (
        plural(len(report.series), "recurring job"))  # fmt: skip
    found: list[Span] = [(count, "muted")]
    found += [(f", {late} late", "warn")] if late else []
    found += [(f", {failing} failing", "bad")] if failing else []
    return [*found, ("  jobdeck series", "muted")]


def every(job: Job) -> str:
    """An interval in its largest whole unit: `45s`, `30m`, `6h`, `7d`; `cron` for an expression."""
    own = rhythm(job)
    if own is None or own.cron is not None or not own.minutes:
        return own.short if own else ""
    if own.minutes % 1440 == 0:
        return f"{own.minutes // 1440}d"
    return f"{own.minutes // 60}h" if own.minutes % 60 == 0 else own.short


def _next(job: Job, at: datetime) -> str:
    """The next run, and those after it of a cron expression."""
    if job.status is Status.RUNNING:
        return "claimed by a worker" if status_word(job) == CLAIMED else "running now"
    if has_run_out(job):
        return "no slot yet: a worker writes more within seconds"
    more = [f"{run:%m-%d %H:%M}Z" for run in next_runs(job, 4)[1:]] if job.slots else []
    return stamp(job.run_at, at) + (f", then {', '.join(more)}" if more else "")


def _name(width: int) -> int:
    return max(min(width - 46, 40), 14)
