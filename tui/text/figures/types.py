"""The text of the page of task types: a line for each, and the details of the current one. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobdeck.core.cli.wording import percent
from jobdeck.tui.format import LATE_AFTER, age, fit, middle, one_line, plural, stamp, wrapped
from jobdeck.tui.widgets.pane import Entry, entry
from jobdeck.tui.widgets.pause_banner import pause_words

if TYPE_CHECKING:
    from datetime import datetime

    from jobdeck.core.read.pages.overview import TypeFigures, TypeReport
    from jobdeck.core.read.stats.figures import FailureShare
    from jobdeck.core.read.type_settings import TypeLine
    from jobdeck.tui.widgets.ink import Span

ROOMY: Final = 120
LABEL: Final = 14
ENOUGH: Final = 20
"""With fewer runs in 15 minutes a share of failures says little."""


def columns(width: int) -> str:
    """The heading of the lines."""
    wide = f" {'usually':>7} {'workers':>7}" if width >= ROOMY else ""
    head = f" {fit('type', _name_width(width))} {'pending':>8} {'run':>4} {'failed':>7} {'wait':>5}"
    return fit(f"{head} {'ok/min':>6} {'bad':>5} {'share':>5}{wide}  state", width)


def line(one: TypeFigures, at: datetime, width: int) -> Entry:
    """One task type. Every state is a word as well as a colour."""
    found, share = one.line, one.share
    late = one.oldest_due is not None and at - one.oldest_due >= LATE_AFTER
    wait = age(at - one.oldest_due) if one.oldest_due is not None else "-"
    wide: tuple[Span, ...] = ()
    if width >= ROOMY:
        usual = _whole(share.usual) if share is not None and share.usual_runs else "-"
        wide = ((f" {usual:>7}", "muted"), (f" {found.workers:>7,}", "text" if found.workers else "warn"))
    spent = width - _name_width(width) - 1 - sum(len(text) for text, _ in wide) - 49
    state, ink = _state(found, one, max(spent, 6))
    return entry(
        (f" {fit(middle(one_line(found.task_type), _name_width(width)), _name_width(width))}", "text"),
        (f" {_number(found.pending, 8, about=found.estimated)}", "text" if found.pending else "muted"),
        (f" {_number(found.running, 4)}", "run" if found.running else "muted"),
        (f" {_number(found.failed, 7, about=found.failed_estimated)}", "bad" if found.failed else "muted"),
        (f" {wait:>5}", "bad" if late and not found.paused_at else "text"),
        (f" {_number(one.succeeded, 6)}", "text" if one.succeeded else "muted"),
        (f" {_number(one.failed, 5)}", "bad" if one.failed else "muted"),
        (f" {_whole(share.share) if share is not None and share.runs else '-':>5}", _share_ink(share)),
        *wide,
        (f"  {state}", ink),
        key=("type", found.task_type),
    )


def about(one: TypeFigures, at: datetime, width: int) -> list[Entry]:
    """Pause, wait, the runs of now and usually, workers and settings of one type."""
    found = one.line
    facts = [
        ("paused", *_pause(found, at)),
        ("longest wait", *_wait(one, at)),
        ("last minute", f"{one.succeeded:,} succeeded, {one.failed:,} failed", "text"),
        ("failing", *_failing(one.share)),
        ("workers", f"{plural(found.workers, 'live worker')} handle{'s' if found.workers == 1 else ''} it"
         if found.workers else "No live worker handles it.", "text" if found.workers else "warn"),
        ("health", _thresholds(found), "text"),
        ("muted", *_mute(found, at)),
    ]  # fmt: skip
    if found.limits:
        facts.append(("limits", *_limits(found)))
    if found.estimated or found.failed_estimated:
        facts.append(("~", "Over 10,000 jobs: numbers with ~ come from a sample.", "muted"))
    return [piece for name, text, ink in facts for piece in _fact(name, text, ink, width)]


def summary(report: TypeReport) -> list[Span]:
    """How many types there are, how many are paused, and how many are set aside."""
    aside = sum(one.line.set_aside for one in report.types)
    paused = sum(one.line.paused_at is not None for one in report.types) - aside
    found: list[Span] = [(plural(len(report.types), "type"), "muted")]
    if paused:
        found.append((f", {paused} paused", "warn"))
    if aside:
        found.append((f", {aside} set aside", "muted"))
    return [*found, ("  jobdeck types list", "muted")]


def _name_width(width: int) -> int:
    return max(min(width - 61, 44), 12) if width < ROOMY else min(width - 80, 52)


def _number(value: int, width: int, *, about: bool = False) -> str:
    """A number with its thousands apart; where it does not fit, in thousands or millions."""
    mark = "~" if about else ""
    text = f"{mark}{value:,}"
    if len(text) > width:
        text = f"{mark}{value // 1000:,}k" if value < 10_000_000 else f"{mark}{value // 1_000_000:,}M"
    return f"{text:>{width}}"


def _whole(share: float) -> str:
    """A share in whole percent; above 0 at least 1 %, below 1 at most 99 %."""
    whole = round(share * 100)
    if 0 < share < 1:
        whole = min(max(whole, 1), 99)
    return f"{whole}%"


def _share_ink(share: FailureShare | None) -> str:
    if share is None or not share.runs or not share.failed:
        return "muted"
    return "bad" if share.runs >= ENOUGH and share.share >= 2 * share.usual else "text"


def _state(found: TypeLine, one: TypeFigures, room: int) -> tuple[str, str]:
    if found.paused_at is not None:
        reason = f": {one_line(found.paused_reason)}" if found.paused_reason else ""
        word, ink = ("set aside", "muted") if found.set_aside else ("paused", "warn")
        return fit(f"{word}{reason}", room).rstrip(), ink
    if found.is_full and found.pending:
        return fit(f"{found.running:,} of {found.max_running:,} run", room).rstrip(), "warn"
    if found.muted_until is not None:
        return "muted", "muted"
    if not found.workers and (found.pending or one.oldest_due):
        return fit("no worker", room).rstrip(), "warn"
    return "", "muted"


def _pause(found: TypeLine, at: datetime) -> tuple[str, str]:
    if found.paused_at is None:
        return "no", "muted"
    who, length, why, until = pause_words(found.paused_by, found.paused_at, found.paused_reason, found.resume_at, at)
    if found.set_aside:
        return f"set aside for another runner{length}{who}{why}; no worker takes its jobs", "text"
    return f"PAUSED{length}{who}{why or ', no reason given'}{until}", "warn"


def _wait(one: TypeFigures, at: datetime) -> tuple[str, str]:
    if one.oldest_due is None:
        return "no backlog", "muted"
    late = at - one.oldest_due >= LATE_AFTER and one.line.paused_at is None
    return f"due {stamp(one.oldest_due, at)}", "bad" if late else "text"


def _failing(share: FailureShare | None) -> tuple[str, str]:
    if share is None:
        return "no run ended in the last day", "muted"
    usually = "no usual share yet"
    if share.usual_runs:
        usually = f"usually {_whole(share.usual)} of {share.usual_runs:,} in 7 days"
    row = f"; {share.failed_in_a_row:,} in a row" if share.failed_in_a_row > 1 else ""
    if not share.runs:
        return f"no run ended in 15 minutes; {usually}{row}", "muted"
    now = f"{_whole(share.share)}: {share.failed:,} of {share.runs:,} runs in 15 minutes"
    return f"{now}; {usually}{row}", _share_ink(share) if share.failed else "text"


def _thresholds(found: TypeLine) -> str:
    return f"warns at {percent(found.warning_share)}, critical at {percent(found.critical_share)}"


def _limits(found: TypeLine) -> tuple[str, str]:
    full = "; no other starts until one ends" if found.is_full else ""
    return f"{'; '.join(found.limits)}{full}", "warn" if full else "text"


def _mute(found: TypeLine, at: datetime) -> tuple[str, str]:
    if found.muted_until is None:
        return "no", "muted"
    who = f" by {one_line(found.muted_by)}" if found.muted_by else ""
    why = f": {one_line(found.muted_reason)}" if found.muted_reason else ""
    left = age(found.muted_until - at) if found.muted_until > at else age(timedelta(0))
    return f"until {found.muted_until:%m-%d %H:%M}Z, for {left}{who}{why}", "warn"


def _fact(name: str, text: str, ink: str, width: int) -> list[Entry]:
    lines = wrapped(text, max(width - LABEL - 2, 20))
    return [entry((f" {'' if at else name:<{LABEL}}", "muted"), (part, ink)) for at, part in enumerate(lines)]
