"""A shift in words: its figures, and the whole hand-over as Markdown, with all foreign text masked and escaped."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Final

from jobdeck.core.model import Status, TypePause, Verdict
from jobdeck.core.plugins import load_plugins
from jobdeck.core.read.sentences import PAST, amount
from jobdeck.core.words.plain import cut, pauses, when
from jobdeck.core.words.runs import lost_sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.read.report_types import AuditEntry, Digest, ErrorGroup

_MARKS: Final = re.compile(r"([\\`*_{}\[\]<>#|!~&])")
LONGEST: Final = 300
"""Maximum number of characters of one foreign text."""


def finished_words(digest: Digest) -> str:
    """The number of runs by outcome, with the start of the count when it does not cover the whole shift."""
    parts = [f"{digest.succeeded:,} succeeded"]
    parts += [f"{digest.partial:,} partial"] if digest.partial else []
    parts += [f"{digest.continued:,} to be continued"] if digest.continued else []
    parts += [f"{digest.troubled:,} {'run' if digest.troubled == 1 else 'runs'} retried"]
    if digest.cycles:
        parts += [f"{digest.cycles:,} failed {'cycle' if digest.cycles == 1 else 'cycles'} of series"]
    parts += [f"{digest.failed:,} failed permanently"]
    parts += [f"{digest.dry_runs:,} {'dry run' if digest.dry_runs == 1 else 'dry runs'}"] if digest.dry_runs else []
    text = ", ".join(parts)
    if digest.counted_since > digest.since:
        return f"{text} (counted since {digest.counted_since:%m-%d %H:%M}Z)"
    return text


def jobs_words(digest: Digest, status: Status) -> str:
    """The number of jobs in a state; where there may be more, `10,000+`."""
    return amount(digest.counts.of(status), at_least=digest.counts.at_least(status))


def trigger_words(digest: Digest) -> str:
    """The number of cycles and worker windows by source, and how many of them failed."""
    parts = [
        f"{one.count} {one.source}{f' ({one.troubled} failed)' if one.troubled else ''}" for one in digest.triggers
    ]
    return ", ".join(parts) or "none"


def action_words(digest: Digest) -> list[tuple[str, str]]:
    """Each actor with what they did: `retried 12, paused 1`."""
    past = {**PAST, **{action: words for plugin in load_plugins() for action, words in plugin.wording.items()}}
    return [
        (actor, ", ".join(f"{past.get(one.action, one.action)} {one.count:,}" for one in done))
        for actor, done in groupby(digest.actions, key=lambda one: one.actor)
    ]


def figures(found: Digest) -> dict[str, str]:
    """The state of now and what ended in the shift, by name."""
    alarm = found.health.verdict is not Verdict.OK and found.health.findings
    worst = found.health.findings[0].evidence if alarm else "No problems found."
    reason = found.processing.paused_reason or "no reason given"
    return {
        "now": f"{found.health.verdict.value}: {worst}",
        "processing": "on" if found.processing.enabled else f"PAUSED: {reason}",
        "waiting": f"{jobs_words(found, Status.PENDING)} pending, {jobs_words(found, Status.FAILED)} failed",
        "finished": finished_words(found),
        "ran twice": " ".join(lost_sentences(found.lost)),
        "triggers": trigger_words(found),
    }


def deed_words(entry: AuditEntry, subject: str | None = None) -> str:
    """What was done, by whom and why: `pause processing by mara: the vendor is down`."""
    after = entry.after or {}
    what = subject or after.get("task_type") or (f"queue {after['queue']}" if "queue" in after else "processing")
    return f"{entry.action} {what} by {entry.actor}{f': {entry.reason}' if entry.reason else ''}"


def markdown(found: Digest) -> str:
    """The hand-over: figures, errors, pauses, canaries without an answer, bulk actions, operators, and open notes."""
    parts = [
        [f"# Hand-over {when(found.since)} to {when(found.at)}"],
        [f"- {name}: {_text(words)}" for name, words in figures(found).items()],
        _section("Notes", [f"{when(one.at)} {_text(one.actor)}: {_text(one.note, 2_000)}" for one in found.notes]),
        _section("Errors", [_error(found, trend) for trend in found.errors]),
        _section("Paused types and queues", [_paused(pause) for pause in pauses(found.processing)]),
        _section("Pauses", [_entry(one) for one in found.pauses]),
        _section("Canaries without a result", [_entry(one, _job(one)) for one in found.canaries]),
        _section("Bulk actions", [_entry(one, _bulk(one)) for one in found.bulks]),
        _section("Operators", [f"{_text(actor)}: {_text(words)}" for actor, words in action_words(found)]),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines)] if lines else []


def _text(value: str | None, longest: int = LONGEST) -> str:
    """One masked line in which no character is markup."""
    return _MARKS.sub(r"\\\1", str(cut(value, longest))) if value else "no reason given"


def _error(found: Digest, trend: ErrorGroup) -> str:
    muted = found.mute_of(trend)
    marks = "**new** " if found.is_new(trend) else ""
    if muted is not None:
        marks = f"muted until {when(muted.until)} by {_text(muted.actor)} ({_text(muted.reason)}) "
    runs, jobs = ("run", "runs")[trend.count != 1], ("job", "jobs")[trend.failed != 1]
    counts = f"{trend.count:,} {runs}, {trend.failed:,} {jobs} failed now, last {when(trend.last_seen)}"
    return f"{marks}{_text(trend.task_type)}: {_text(trend.sample)} ({counts})"


def _paused(pause: TypePause) -> str:
    until = f" until {when(pause.resume_at)}" if pause.resume_at else ""
    return f"{_text(pause.task_type)} since {when(pause.paused_at)}{until}: {_text(pause.reason)}"


def _entry(one: AuditEntry, subject: str | None = None) -> str:
    return f"{when(one.at)} {_text(deed_words(one, subject), 3 * LONGEST)}"


def _job(one: AuditEntry) -> str:
    return f"job {one.job_id}" if one.job_id else "a job"


def _bulk(one: AuditEntry) -> str:
    after = one.after or {}
    words = f", filter {after['filter']}" if after.get("filter") else ""
    jobs = f"{after['jobs']:,} jobs" if isinstance(after.get("jobs"), int) else "it"
    return f"{jobs} ({after.get('bulk')}{words})"
