"""What is wrong now, worst first, and the key that leads there; on a calm day what comes next. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from jobdeck.core.model import Status, Verdict
from jobdeck.core.read.operators.hold import COUNTED
from jobdeck.core.read.sentences import DUE, amount
from jobdeck.core.words.plain import pauses
from jobdeck.core.words.wording import NO_WAIT, NONE_FOR_WORKER, backlog_words
from jobdeck.tui.format import OVERDUE_AFTER, age, ago, due, fit, one_line, plural, seconds, since, wrapped
from jobdeck.tui.text.first.frames import merged, sides
from jobdeck.tui.widgets.pause_banner import pause_line
from jobdeck.tui.widgets.status_bar import LATE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from jobdeck.core.model import Finding, TypePause, WorkerRun
    from jobdeck.core.read.operators.hold import Hold
    from jobdeck.core.read.report_types import Counts
    from jobdeck.tui.backend.protocol import View
    from jobdeck.tui.text.first.frames import Row
    from jobdeck.tui.widgets.ink import Span

    Named = Callable[[str], str]
    """Returns the name of an action's key, by the action's id."""

FAILURES: Final = "failures"
"""The signal of the findings of types of which too many runs fail."""
LEAST_ERROR: Final = 60
"""The cells of an error that are said in every box."""
SIGNS: Final = {Verdict.CRITICAL: ("✗", "bad"), Verdict.WARNING: ("!", "warn")}
LEADS: Final = {
    FAILURES: "page.errors", "workers": "page.workers", "silent workers": "page.workers", DUE: "tab.pending",
    "long runs": "tab.running", "recurring jobs": "page.series", "late series": "page.series",
    "dry runs": "page.series",
}  # fmt: skip
"""The action that shows more of a signal; Cron Health has all others."""
SOURCE_WORDS: Final = {"cron_http": "cron", "cli": "command", "manual": "Run Worker"}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a person should know: its sign, the words, and the action that leads there.

    What is `extra` is said only in room that nothing else needs.
    """

    sign: str
    ink: str
    words: str
    action: str = ""
    extra: bool = False
    brief: Callable[[int], str] | None = None
    """Says it in fewer cells, if one line is all there is."""


CONNECTING: Final = Item("○", "muted", "The worker in this dashboard is connecting", "page.workers")


def items(view: View | None, took: float = 0.0, *, figures: bool = True) -> list[Item]:
    """What is wrong, worst first; then what is special though fine; then the figures, if nothing else shows them.

    `took` is the duration of the last reading in seconds: a slow database delays everything else as well.
    """
    if view is None:
        return []
    snapshot = view.snapshot
    now = snapshot.at
    wrong = [finding for finding in snapshot.health.findings if finding.verdict in SIGNS]
    found = [CONNECTING if _connects(finding, view) else _finding(finding, now) for finding in wrong]
    if took >= LATE:
        found.insert(0, Item("!", "warn", f"Database slow: {seconds(took)}"))
    paused = pauses(snapshot.processing)
    found += [_paused(pause, now) for pause in paused]
    found += [_held(hold, now) for hold in snapshot.holds]
    late = snapshot.health.oldest_due
    if late is not None and now - late >= OVERDUE_AFTER and not any(_says_since(one, late) for one in wrong):
        ink = due(late, now, paused=not snapshot.processing.enabled)[1]
        told = next((one for one in snapshot.health.findings if one.since and _says_since(one, late)), None)
        words = f"longest wait {age(now - late)}" if told is None else one_line(told.evidence).rstrip(".")
        found.append(Item("!" if ink != "muted" else "‖", ink, words, "tab.pending"))
    waits = backlog_words(snapshot.health) if late is None else ""
    rates = _rates(view)
    if not wrong and snapshot.processing.enabled:
        well = "No alarm" if snapshot.counts.failed else "All well"
        backlog = f", {NO_WAIT}" if waits == NO_WAIT else ""
        found.insert(0, Item("✓", "good", f"{well}{backlog}{f'; {rates}' if figures and rates else ''}"))
    if waits not in {"", NO_WAIT, NONE_FOR_WORKER}:
        found.append(Item("·", "muted", waits, "tab.pending", extra=True))
    if snapshot.counts.failed:
        found.append(_failed(snapshot.counts))
    if (wrong or not snapshot.processing.enabled) and figures and rates:
        found.append(Item("·", "muted", rates, extra=True))
    if snapshot.next_due is not None:
        name, at = snapshot.next_due
        found.append(Item("○", "muted", f"next series: {one_line(name)} in {age(at - now)}", "tab.pending", extra=True))
    if snapshot.health.last_trigger is not None:
        found.append(_trigger(snapshot.health.last_trigger, now))
    return found


def _connects(finding: Finding, view: View) -> bool:
    """Whether a finding only says that the worker of this dashboard has not connected yet, the first one ever."""
    return finding.signal == "workers" and finding.since is None and view.worker.state == "running"


def with_error(evidence: str, error: str, width: int = 0) -> str:
    """What is said of a failing type with its most common error before its end; as it is, if it names an error.

    In a box of `width` cells the error has a line at most.
    """
    said, _, end = evidence.rpartition("; ")
    if not said or " with a new error: " in said or ": recovering since " in said:
        return evidence
    text = one_line(error)
    return f"{said}; most common error: {fit(text, min(cell_len(text), max(width, LEAST_ERROR))).rstrip()}; {end}"


def lines(found: Sequence[Item], width: int, height: int, key: Named) -> tuple[list[Row], list[str]]:
    """The items in `height` lines of `width` cells, and the action of each line.

    The rest of an item is below it while there is room, worst first. Items without room are counted at the end
    of the last line.
    """
    needed = [item for item in found if not item.extra]
    hidden = max(len(needed) - height, 0)
    wanted = [len(_drawn(item, width, key, most=height)) for item in needed[:height]]
    rows: list[tuple[Row, str]] = []
    for item, most in zip(needed, _shares(wanted, height), strict=False):
        counted = f"  +{hidden}" if hidden and len(rows) == height - 1 else ""
        rows += [(row, item.action) for row in _drawn(item, width, key, counted=counted, most=most)]
    for item in found:
        if item.extra:
            rows += [(row, item.action) for row in _drawn(item, width, key)]
    return [row for row, _ in rows[:height]], [action for _, action in rows[:height]]


def _shares(wanted: Sequence[int], height: int) -> list[int]:
    """How many of `height` lines each item has: one, then each that wants more a second one, then a third."""
    given = [1] * len(wanted)
    spare = height - len(given)
    for line in range(2, max(wanted, default=0) + 1):
        for at, most in enumerate(wanted):
            if spare > 0 and most >= line:
                given[at] += 1
                spare -= 1
    return given


def _drawn(item: Item, width: int, key: Named, *, counted: str = "", most: int = 1) -> list[Row]:
    """An item in as many lines as it needs, `most` of them at most; `counted` is said at the end of the first."""
    tail: list[Span] = [(f"  {key(item.action)}", "key")] if item.action else []
    tail += [(counted, "muted")] if counted else []
    room = width - sum(cell_len(text) for text, _ in tail) - 2 - bool(tail)
    ink = "muted" if item.extra else "text"
    words = item.words
    if item.brief is not None and most == 1 and cell_len(words) > room:
        words = item.brief(room)
    first = wrapped(words, room)[0] if most > 1 else fit(words, min(room, cell_len(words)))
    drawn = [merged(sides([(f"{item.sign} ", item.ink), (first, ink)], tail, width))]
    rest = words[len(first) :].strip()
    while rest and len(drawn) < most:
        last = len(drawn) == most - 1
        line = fit(rest, min(width - 2, cell_len(rest))) if last else wrapped(rest, width - 2)[0]
        drawn.append(merged(sides([("  ", "text"), (line, "muted")], (), width)))
        rest = rest[len(line) :].strip()
    return drawn


def rates(view: View | None, room: int) -> str:
    """What ended in the last full minute, and if it fits, the jobs that failed permanently in the last hour."""
    if view is None:
        return ""
    whole = _rates(view)
    return whole if len(whole) <= room else _rates(view, lost=False)


def _failed(counts: Counts) -> Item:
    """The jobs that failed permanently, which nothing but a person ends."""
    number = amount(counts.failed, at_least=counts.at_least(Status.FAILED))
    wait = "failed job waits" if counts.failed == 1 else "failed jobs wait"
    return Item("·", "muted", f"{number} {wait} for a retry or a deletion", "tab.failed", extra=True)


def _finding(finding: Finding, now: datetime) -> Item:
    sign, ink = SIGNS[finding.verdict]
    words = one_line(finding.evidence).rstrip(".")
    begun = since(finding.since, now) if finding.since else ""
    if begun and begun not in words:
        words += f"; {finding.verdict.value} {begun}" if finding.signal == "failures" else f" ({begun})"
    return Item(sign, ink, words, LEADS.get(finding.signal, "page.health"))


def _says_since(finding: Finding, late: datetime) -> bool:
    """Whether a finding is about the job that has waited longest."""
    return finding.signal == DUE or (
        finding.signal == "cannot run" and finding.since is not None and finding.since <= late
    )


def _paused(pause: TypePause, now: datetime) -> Item:
    def said(room: int) -> str:
        return pause_line(pause, now, room=room, verb=" paused")

    return Item("‖", "warn", f"{said(0)} · its jobs are kept", "processing", brief=said)


def _held(hold: Hold, now: datetime) -> Item:
    jobs = f" held ({plural(hold.jobs, 'job')})" if hold.jobs < COUNTED else f" held ({hold.number_of_jobs} jobs)"

    def said(room: int) -> str:
        return pause_line(hold.as_pause, now, room=room, verb=jobs)

    return Item("‖", "warn", said(0), "processing", brief=said)


def _rates(view: View, *, lost: bool = True) -> str:
    """Runs, and beside them jobs: then both are named."""
    health = view.snapshot.health
    said = []
    jobs = lost and health.failed_last_hour > 0
    if health.last_minute is not None:
        succeeded, failed = health.last_minute
        ok = plural(succeeded, "run") if jobs else f"{succeeded:,}"
        said.append(f"last minute {ok} ok, {failed:,} failed")
    if jobs:
        said.append(f"{plural(health.failed_last_hour, 'job')} failed permanently in the last hour")
    return ", ".join(said)


def _trigger(trigger: WorkerRun, now: datetime) -> Item:
    source = SOURCE_WORDS.get(trigger.source, one_line(trigger.source))
    answer = f" {trigger.http_status}" if trigger.http_status else ""
    called = f"last trigger: {source}{answer}, {ago(trigger.started_at, now)}"
    if trigger.status == "error" or trigger.http_status not in {None, 200}:
        return Item("✗", "bad", called, "page.health")
    if trigger.status == "paused":
        return Item("‖", "warn", f"{called}, paused", "page.health")
    return Item("●", "good", called, "page.health", extra=True)
