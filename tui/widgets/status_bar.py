"""The lines around the job table: header, health, tabs, banner, the job under the cursor. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from jobdeck.core.model import Status, arguments
from jobdeck.core.read.sentences import status_word
from jobdeck.tui.actions import key_of
from jobdeck.tui.backend.poller import LinkState
from jobdeck.tui.format import (
    clock,
    count,
    middle,
    one_line,
    payload_summary,
    plural,
    seconds,
)
from jobdeck.tui.widgets.ink import width_of
from jobdeck.tui.widgets.pause_banner import pause_banner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from jobdeck.core.model import Job, Processing
    from jobdeck.core.read.report_types import Counts, ErrorGroup
    from jobdeck.tui.backend.poller import Link
    from jobdeck.tui.backend.protocol import View
    from jobdeck.tui.deck import Deck, Options
    from jobdeck.tui.widgets.ink import Span

    Named = Callable[[str], str]
    """Returns the name of an action's key, by the action's id."""

TABS: tuple[tuple[str, Status | None], ...] = (
    ("All", None),
    *((status.value.capitalize(), status) for status in Status),
)
AGE_WORDS = (("updated ", "ago"), ("", "old"), None)
"""The words before and after the age of the data, the longest first; None leaves the age out."""
LATE = 3.0
"""From this many seconds on, a late answer is reported."""
ON, PAUSED = "● ON", "○ PAUSED"
ALL_JOBS: Final[Sequence[Span]] = (("  counts of all jobs", "muted"),)
SHORT_TABS = {"Pending": "Pend", "Running": "Run", "Succeeded": "Succ", "Failed": "Fail", "Cancelled": "Canc"}


@dataclass(frozen=True, slots=True)
class Bar:
    """The content of the header. `label` names the database until there is a view."""

    now: datetime
    view: View | None
    link: Link
    environment: str = ""
    production: bool = False
    read_only: bool = False
    updated: float | None = None
    pace: float = 2.0
    frozen: datetime | None = None
    covered: bool = False
    label: str = ""


def bar_of(deck: Deck, *, covered: bool) -> Bar:
    """The content of the header now; `covered` is whether another screen is on top."""
    poller = deck.poller
    return Bar(
        deck.now(),
        deck.view,
        poller.link,
        deck.options.environment,
        deck.options.production,
        deck.read_only_reason is not None,
        None if poller.read_at is None else deck.monotonic() - poller.read_at,
        poller.pace,
        None if poller.frozen_since is None or deck.view is None else deck.view.snapshot.at,
        covered,
        deck.backend.label if deck.backend else deck.options.opened,
    )


def header(bar: Bar, width: int) -> tuple[list[Span], list[Span]]:
    """The left and right part of the header; less important words are dropped until it fits."""
    for step in range(8):
        left = _header_left(bar, step)
        for words in AGE_WORDS[: 1 if step < 3 else 2 if step < 6 else 3]:
            right = _header_right(bar, words)
            if width_of(left) + width_of(right) + 2 <= width:
                return left, right
    return left, right


def _header_left(bar: Bar, step: int) -> list[Span]:
    spans: list[Span] = [(" Jobdeck", "strong")]
    if bar.environment:
        spans += [("  ", "text"), (f" {one_line(bar.environment)} " if bar.production else one_line(bar.environment),
                                   "danger" if bar.production else "accent")]  # fmt: skip
    label = one_line(bar.view.session.label if bar.view else bar.label)
    if label and (step < 6 or not bar.environment):
        spans.append((f"  {middle(label, 18) if step >= 5 else label}", "accent"))
    if bar.view is None:
        if bar.link.state is LinkState.DISCONNECTED:
            return [*spans, ("  not connected", "bad")]
        return [*spans, ("  connecting…", "muted")]
    session = bar.view.session
    if step < 1:
        spans.append((f"  {one_line(session.actor)}", "muted"))
    if bar.read_only:
        spans.append(("  read-only", "warn"))
    elif step < 2:
        spans.append(("  operator", "muted"))
    state = [*_switch(bar.view.snapshot.processing, step), *_workers(bar.view, step)]
    return [*spans, *(dimmed(state) if bar.link.state is LinkState.DISCONNECTED else state)]


def dimmed(spans: Sequence[Span], *, but: str = "") -> list[Span]:
    """The words in grey, as they may be out of date; except those in the ink `but`."""
    return [(text, ink if ink == but else "muted") for text, ink in spans]


def environment(options: Options) -> list[Span]:
    """The environment label at the right end of a page's heading; red for production."""
    if not options.environment:
        return []
    ink = "danger" if options.production else "accent"
    return [(f" {one_line(options.environment)} ", ink), (" ", "text")]


def _switch(processing: Processing, step: int) -> list[Span]:
    word = ("   Automatic Processing ", "  Processing ", "  ")[0 if step < 4 else 1 if step < 7 else 2]
    return [(word, "text"), (ON, "good") if processing.enabled else (PAUSED, "warn")]


def _workers(view: View, step: int) -> list[Span]:
    alive = sum(worker.alive for worker in view.snapshot.workers)
    here = view.worker.state != "off"
    if not alive:
        return [("  ", "text"), ("worker connecting", "muted") if here and step < 4 else ("no worker", "warn")]
    if step >= 4:
        return [(f"  {plural(alive, 'worker')}", "text")]
    draining = ", draining" if view.worker.state == "draining" else ""
    return [
        ("   workers ", "muted"),
        (f"{alive}{f' (1 here{draining})' if here else ''}", "text"),
        *_slots(view),
    ]


def _slots(view: View) -> list[Span]:
    """How many places of the live workers are taken; more than all of them where handlers are async."""
    alive = [worker for worker in view.snapshot.workers if worker.alive]
    if not alive:
        return []
    taken, places = sum(worker.running for worker in alive), sum(worker.concurrency for worker in alive)
    return [("   slots ", "muted"), (f"{taken:,}/{places:,}", "warn" if taken >= places else "text")]


def _header_right(bar: Bar, words: tuple[str, str] | None) -> list[Span]:
    """The clock and the age of the data between two `words`; with None, the age is shown only when it is late."""
    if bar.covered and bar.view is not None and bar.frozen is None:
        # As wide as the usual text, here too.
        room = width_of(_header_right(replace(bar, covered=False), words))
        at = clock(bar.view.snapshot.at)
        return [(f"{f'as of {at}' if room > len(at) + 6 else at} ".rjust(room), "warn")]
    if bar.frozen is not None:
        return [(f"FROZEN {'as of ' if words == AGE_WORDS[0] else ''}{clock(bar.frozen)} ", "warn")]
    time: Span = (clock(bar.now), "text")
    late = bar.updated is not None and bar.updated >= bar.pace + LATE
    if bar.updated is None or (words is None and not late):
        return [time, (" ", "text")]
    before, after = words or AGE_WORDS[1]
    # An age that is shown only once it matters sends nothing over a slow line before that.
    usual = f"  {before}<{seconds(bar.pace + LATE)} {after} "
    if not late:
        return [time, (usual, "muted")]
    # As wide as the usual text, so that nothing beside it moves.
    return [time, (f"  {before}{seconds(bar.updated)} {after} ".rjust(len(usual)), "warn")]


def tabs(
    counts: Counts | None, active: Status | None, width: int, *, stale: bool = False, filtered: bool = False,
    key: Named = key_of,
) -> list[Span]:  # fmt: skip
    """The status tabs with their keys and counts; shortened where they do not fit, dimmed when out of date.

    Where the list is `filtered` and there is room, the line says that the counts are of all jobs.
    """
    spans = _tabs(counts, active, width, key)
    if filtered and width_of(spans) + width_of(ALL_JOBS) <= width:
        spans += ALL_JOBS
    return dimmed(spans, but="tab") if stale else spans


def _tabs(counts: Counts | None, active: Status | None, width: int, key: Named) -> list[Span]:
    for short in (False, True):
        spans: list[Span] = [(" ", "text")]
        for name, status in TABS:
            tab = key(f"tab.{name.lower()}")
            word = SHORT_TABS.get(name, name) if short else name
            value = count(counts.of(status), at_least=counts.at_least(status), short=short) if counts else "…"
            if status is active:
                spans.append((f"{tab} {word} {value}", "tab"))
            else:
                hot = status is Status.FAILED and counts is not None and counts.of(status) > 0
                spans += [(f"{tab} ", "muted"), (f"{word} ", "text"), (value, "bad" if hot else "muted")]
            spans.append((" " if short else "  ", "text"))
        if width_of(spans) <= width + 2:
            return spans[:-1]
    return spans


def group(
    found: ErrorGroup, total: int | None, *, stale: bool = False, key: Named = key_of
) -> tuple[list[Span], list[Span]]:
    """The line in place of the tabs while the jobs of a group of errors are listed: their number, and the way back."""
    jobs = "…" if total is None else plural(total, "job")
    left: list[Span] = [
        (" ", "text"),
        (f"{jobs} of this error", "tab"),
        (f"  {one_line(found.task_type)}  ", "text"),
        (one_line(found.sample), "bad"),
    ]
    return dimmed(left, but="tab") if stale else left, [(f"{key('back')} goes back to Errors ", "muted")]


def banner(
    view: View | None, link: Link, now: float, at: datetime, *, width: int = 0, named: bool = False,
    key: Named = key_of,
) -> list[Span]:  # fmt: skip
    """The most important notice: a lost connection first, then a pause; empty when there is none.

    With a `width`, the reason of a pause is cut so that the rest fits. The reason of a loss is shown elsewhere, and if
    paused types are `named` elsewhere, they have no banner.
    """
    if link.state is LinkState.DISCONNECTED:
        left = link.retry_at - now
        retry = f"retry in {seconds(left)} · {key('refresh')} retries now" if left > 0 else "trying again"
        shown = f" · data of {clock(view.snapshot.at)}" if view else ""
        return [(f" disconnected {seconds(now - link.since)}, {retry}{shown}", "danger")]
    if view is None:
        return []
    return pause_banner(view, at, width, f" · {key('processing')} resumes", named=named)


def peek(
    job: Job | None, marked: int, place: str, *, ranging: bool, chosen: int = 0, key: Named = key_of
) -> tuple[list[Span], list[Span]]:
    """The job under the cursor in one line: its error or its arguments; on the right, marks and place."""
    right: list[Span] = []
    if chosen:
        right.append((f"{chosen:,} matching jobs selected · {key('mark.undo')} clears  ", "accent"))
    if ranging:
        right.append((f"selecting a range · {key('mark.range')} ends it  ", "accent"))
    if marked:
        right.append((f"{marked} marked  ", "accent"))
    right.append((f"{place} ", "muted"))
    if job is None:
        return [], right
    left: list[Span] = [(f" {one_line(job.task_type)}  ", "muted")]
    message = (job.progress or {}).get("message")
    if job.status is Status.RUNNING:
        worker = f" on {one_line(job.locked_by)}" if job.locked_by else ""
        left.append((f"{status_word(job)}{worker}{f'  {one_line(str(message))}' if message else ''}", "run"))
    elif job.last_error:
        left.append((one_line(job.last_error), "bad" if job.status is Status.FAILED else "warn"))
    else:
        dry = "DRY RUN " if arguments(job.payload).get("dryRun") is True else ""
        left.append((f"{dry}{payload_summary(job.payload)}" or "no arguments", "muted"))
    return left, right


def place(cursor: int, top: int, listed: int, more: bool) -> str:
    """The cursor's place in the list, and the number of rows above the first visible one."""
    if not listed:
        return "0 jobs"
    above = f"↑{top} " if top else ""
    return f"{above}{cursor + 1}/{listed}{'+' if more else ''}"
