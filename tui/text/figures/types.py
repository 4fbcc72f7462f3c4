"""The text of the page of task types: a line for each, and the details of the current one. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from jobdeck.core.schedules import NO_SLOT
from jobdeck.core.words.tables import TYPES, Column, Share, TypeRow, code_words, failing_ink
from jobdeck.core.words.wording import NO_WAIT, NONE_FOR_WORKER, percent
from jobdeck.tui.format import age, due, fit, one_line, plural, stamp
from jobdeck.tui.text.lines import cells, facts, heading, named, width_of
from jobdeck.tui.widgets.pane import Entry, entry
from jobdeck.tui.widgets.pause_banner import pause_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.read.pages.overview import TypeFigures, TypeReport
    from jobdeck.core.read.stats.figures import FailureShare
    from jobdeck.core.read.type_settings import TypeLine
    from jobdeck.tui.widgets.ink import Span

ROOMY: Final = 120


class State(NamedTuple):
    """How a task type stands. What has a lower `rank` is listed first."""

    sign: str
    words: str
    ink: str
    rank: int


def chosen(found: Sequence[TypeFigures], at: datetime, width: int) -> tuple[Column[TypeRow], ...]:
    """The columns that fit. Where some do not, one that is equal in all rows gives its place to one that is not."""
    listed = [one for one in TYPES if one.cells]
    if width >= ROOMY:
        return tuple(listed)
    rows = [TypeRow(one, at) for one in found]
    differing = {one.name for one in listed if len({one.value(row) for row in rows}) > 1}
    room = width_of(TYPES, roomy=False)
    usual = [one for one in listed if not one.roomy]
    for more in (one for one in listed if one.roomy and one.name in differing):
        kept = usual
        while width_of([*kept, more]) > room and (equal := [one for one in kept if one.name not in differing]):
            kept = [one for one in kept if one is not equal[-1]]
        if width_of([*kept, more]) <= room:
            usual = [one for one in listed if one in (*kept, more)]
    return tuple(usual)


def columns(shown: Sequence[Column[TypeRow]], width: int) -> str:
    """The heading of the lines."""
    return fit(f"   {fit('type', _name_width(width))}{heading(shown)}  state", width)


def line(
    one: TypeFigures, at: datetime, width: int, shown: Sequence[Column[TypeRow]], fronts: Sequence[str] = ()
) -> Entry:
    """One task type. Every state is a sign and a word as well as a colour."""
    name = _name_width(width)
    state = state_of(one)
    room = max(width - name - 5 - width_of(shown), 6)
    return entry(
        (f" {state.sign} ", state.ink),
        *named(one.line.task_type, name, fronts),
        *cells(shown, TypeRow(one, at)),
        (f"  {fit(state.words, room).rstrip()}", state.ink),
        key=("type", one.line.task_type),
    )


def worst_first(found: Sequence[TypeFigures]) -> list[TypeFigures]:
    """The types that something is wrong with, then those that are kept, then all others, each by name."""
    return sorted(found, key=lambda one: (state_of(one).rank, one.line.task_type))


def about(one: TypeFigures, at: datetime, width: int) -> list[Entry]:
    """Pause, wait, the runs of now and usually, workers and settings of one type."""
    found = one.line
    pairs = [
        *([("paused", *_pause(found, found.paused_at, at))] if found.paused_at is not None else []),
        ("longest wait", *_wait(one, at)),
        ("last minute", f"{one.succeeded:,} succeeded, {one.failed:,} failed", "text"),
        ("failing", *_failing(one.share)),
        ("workers", f"{plural(found.workers, 'live worker')} handle{'s' if found.workers == 1 else ''} it"
         if found.workers else "No live worker handles it.", "text" if found.workers else "warn"),
    ]  # fmt: skip
    pairs += [("limits", *_limits(found)), ("health", _thresholds(found), "text")]
    if found.muted_until is not None:
        pairs.append(("muted", *_mute(found, found.muted_until, at)))
    if found.at_least or found.failed_at_least:
        pairs.append(("+", "There are more: jobs are counted up to 10,000.", "muted"))
    return [*facts(pairs, width), *_code(found, width)]


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
    return max(min(width - 63, 44), 12) if width < ROOMY else min(width - 82, 52)


def state_of(one: TypeFigures) -> State:
    """How a type stands: what is wrong, otherwise what keeps its jobs, otherwise whether some run or wait."""
    found, paused = one.line, one.line.paused_at is not None
    reason = f": {one_line(found.paused_reason)}" if found.paused_reason else ""
    failing = found.muted_until is None and failing_ink(one.share) == "bad"
    known = (
        (found.set_aside, State("·", f"set aside{reason}", "muted", 4)),
        (paused, State("‖", f"paused{reason}", "warn", 2)),
        (not found.workers and (found.pending or one.oldest_due), State("!", "no worker", "warn", 1)),
        (failing, State("✗", "failing", "bad", 0)),
        (found.is_full and found.pending, State("◌", f"{found.running:,} of {found.max_running} run", "warn", 3)),
        (found.muted_until, State("·", "muted", "muted", 4)),
        (found.running, State("●", "running", "run", 4)),
        (found.pending, State("○", "pending", "muted", 4)),
    )
    return next((state for holds, state in known if holds), State("·", "", "muted", 4))


def _pause(found: TypeLine, paused_at: datetime, at: datetime) -> tuple[str, str]:
    who, length, why, until = pause_words(found.paused_by, paused_at, found.paused_reason, found.resume_at, at)
    if found.set_aside:
        return f"set aside for another runner{length}{who}{why}; no worker takes its jobs", "text"
    queue = f" with its queue {found.paused_queue}" if found.paused_queue else ""
    return f"PAUSED{queue}{length}{who}{why or ', no reason given'}{until}", "warn"


def _wait(one: TypeFigures, at: datetime) -> tuple[str, str]:
    if one.oldest_due is None:
        coming = one.line.due_since
        if coming is not None and coming < NO_SLOT:
            return f"{NO_WAIT}; next {due(coming, at)[0]}", "muted"
        return NONE_FOR_WORKER if one.line.pending else NO_WAIT, "muted"
    return f"due {stamp(one.oldest_due, at)}", "bad" if TypeRow(one, at).is_late else "text"


def _failing(share: FailureShare | None) -> tuple[str, str]:
    if share is None:
        return "no run ended in the last day", "muted"
    usually = "no usual share yet"
    if share.usual_runs:
        usually = f"usually {Share(share.usual).brief} of {share.usual_runs:,} in 7 days"
    row = f"; {share.failed_in_a_row:,} in a row" if share.failed_in_a_row > 1 else ""
    if not share.runs:
        return f"no run ended in 15 minutes; {usually}{row}", "muted"
    now = f"{Share(share.share).brief}: {share.failed:,} of {share.runs:,} runs in 15 minutes"
    return f"{now}; {usually}{row}", failing_ink(share) if share.failed else "text"


def _thresholds(found: TypeLine) -> str:
    if found.warning_share is None and found.critical_share is None and found.lost_jobs is None:
        return "warns by the thresholds that hold for every type"
    lost = "" if found.lost_jobs is None else f", at {found.lost_jobs:,} lost jobs"
    return f"warns at {percent(found.warning_share)}, critical at {percent(found.critical_share)}{lost}"


def _limits(found: TypeLine) -> tuple[str, str]:
    if not found.owned_limits:
        return "none: as many run at once as the workers have slots", "muted"
    full = "; no other starts until one ends" if found.is_full else ""
    said = [f"{words} ({'an operator' if by_hand else 'the code'})" for words, by_hand in found.owned_limits]
    return f"{'; '.join(said)}{full}", "warn" if full else "text"


def _code(found: TypeLine, width: int) -> list[Entry]:
    """What the code says where something else holds, otherwise only which release said it; `enter` opens that."""
    said = code_words(found)
    if said is None or found.release is None:
        return []
    whole = found.differing or found.overridden
    words = said if whole else f"as declared by {one_line(found.release)}"
    listed = facts([("code", words, "warn" if found.differing else "text")], width)
    return [replace(line, key=("release", found.release, at)) for at, line in enumerate(listed)]


def _mute(found: TypeLine, until: datetime, at: datetime) -> tuple[str, str]:
    who = f" by {one_line(found.muted_by)}" if found.muted_by else ""
    why = f": {one_line(found.muted_reason)}" if found.muted_reason else ""
    left = age(max(until - at, timedelta(0)))
    return f"until {until:%m-%d %H:%M}Z, for {left}{who}{why}", "warn"
