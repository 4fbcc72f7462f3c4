"""The text of the audit and the digest, as lines. Pure; every foreign text is cleaned and masked here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobdeck.core.words.shift import action_words, deed_words, figures
from jobdeck.tui.format import VERDICT_INK, age, clock, fit, middle, one_line, plural, short_id, wrapped
from jobdeck.tui.widgets.pane import BLANK, Entry, entry

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jobdeck.core.read.report_types import AuditLine, AuditReport, Digest

ROOMY = 110
MOST_ERRORS = 6
LABEL = 11
MANY = "many"
"""The first part of the key of a line that has the actions on many jobs."""


def lines(report: AuditReport, width: int) -> list[Entry]:
    """The digest, then the actions, newest first."""
    found = digest(report.digest, width)
    found += [BLANK, entry((" Operator actions, newest first", "run"), key="entries")]
    found += [_action(one, report.digest, width) for one in report.lines]
    if not report.lines:
        found.append(entry(("   No operator actions.", "muted")))
    return found


def digest(shift: Digest, width: int) -> list[Entry]:
    """The figures of a period."""
    verdict = shift.health.verdict
    words = figures(shift)
    found = _fact("now", one_line(words["now"]), width, VERDICT_INK[verdict])
    for n, one in enumerate(shift.notes):
        said = f"{clock(one.at)} {one_line(one.actor)}: {one_line(one.note)}"
        found += _fact("" if n else "notes", said, width, "strong", key=("note", one.id))
    found += _fact("finished", words["finished"], width, "text")
    if shift.lost.twice or shift.lost.unclear:
        found += _fact("ran twice", words["ran twice"], width, "warn")
    troubled = any(trigger.troubled for trigger in shift.triggers)
    found += _fact("triggers", one_line(words["triggers"]), width, "bad" if troubled else "text")
    for number, (actor, deeds) in enumerate(action_words(shift)):
        found += _fact("" if number else "operators", one_line(f"{actor}: {deeds}"), width, "text")
    for number, pause in enumerate(shift.pauses[-4:]):
        found += _fact("" if number else "pauses", f"{clock(pause.at)} {one_line(deed_words(pause))}", width, "warn")
    for number, trend in enumerate(shift.errors[:MOST_ERRORS]):
        new = "NEW " if shift.is_new(trend) and shift.mute_of(trend) is None else ""
        text = f"{new}{one_line(trend.task_type)}: {plural(trend.count, 'run')}, {one_line(trend.sample)}"
        found += _fact("" if number else "errors", text, width, "bad" if new else "warn")
    if not shift.errors:
        found += _fact("errors", "none", width, "good")
    elif len(shift.errors) > MOST_ERRORS:
        found += _fact("", f"and {len(shift.errors) - MOST_ERRORS} more; e shows them", width, "muted")
    return found


def _fact(name: str, text: str, width: int, ink: str, *, key: Hashable | None = None) -> list[Entry]:
    """A name and its text, which goes on below the first line on one other."""
    room = max(width - LABEL - 1, 8)
    first, *others = wrapped(text, room)
    below = [fit(" ".join(others), room).rstrip()] if others else []
    return [
        entry((f" {'' if at else name:<{LABEL}}", "muted"), (part, ink), key=None if at else key)
        for at, part in enumerate([first, *below])
    ]


def _action(line: AuditLine, shift: Digest, width: int) -> Entry:
    one, roomy = line.entry, width >= ROOMY
    when = f"{one.at:%m-%d} {clock(one.at)}" if roomy else clock(one.at)
    about = short_id(one.job_id) if one.job_id else "-"
    if line.jobs > 1:
        about = f"{line.jobs:,}{'+' if line.at_least else ''} jobs"
    return entry(
        (f"   {when} ", "text"),
        (f"{age(shift.at - one.at):>4} ago  ", "muted"),
        (fit(one_line(one.action), 11), "strong"),
        (fit(about, 13), "muted"),
        (fit(middle(_who(one.actor, roomy=roomy), 34 if roomy else 18), 36 if roomy else 20), "text"),
        (fit(_detail(line), max(width - (89 if roomy else 67), 6)).rstrip(), "muted"),
        key=(MANY if line.jobs > 1 else "job", one.job_id, one.id) if one.job_id else ("entry", one.id),
    )


def _who(actor: str, *, roomy: bool) -> str:
    """The actor; the database role in brackets is dropped on a narrow screen."""
    return one_line(actor if roomy else actor.partition(" (")[0])


def _detail(line: AuditLine) -> str:
    one = line.entry
    before, after = one.before or {}, one.after or {}
    parts = [one_line(one.reason)] if one.reason else []
    task_type = after.get("task_type") or before.get("task_type")
    if line.mixed:
        parts.append("several task types")
    elif task_type:
        parts.append(one_line(str(task_type)))
    elif one.action in {"pause", "resume"} and "queue" in after:
        parts.append(f"queue {one_line(str(after['queue']))}")
    moved = _moved(before, after) if line.jobs == 1 else ""
    return "  ".join([*parts, moved] if moved else parts)


def _moved(before: dict[str, Any], after: dict[str, Any]) -> str:
    old, new = before.get("status"), after.get("status")
    if old and new and old != new:
        return f"{one_line(str(old))} → {one_line(str(new))}"
    return ""
