"""The digest of a shift as Markdown, to paste into a message or a ticket. All foreign text is masked and escaped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from jobdeck.core.cli import output
from jobdeck.core.cli.wording import action_words, finished_words, jobs_words, trigger_words
from jobdeck.core.model import Status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from jobdeck.core.read.report_types import AuditEntry, Digest, ErrorGroup

_MARKS: Final = re.compile(r"([\\`*_{}\[\]<>#|!~&])")
LONGEST: Final = 300
"""Maximum number of characters of one foreign text."""


def markdown(found: Digest) -> str:
    """The hand-over: figures, errors, pauses, canaries without an answer, bulk actions, operators, and open notes."""
    verdict = found.health.verdict.value
    worst = found.health.findings[0].evidence if found.health.findings else ""
    parts = [
        [f"# Hand-over {output.when(found.since)} to {output.when(found.at)}"],
        [
            f"- now: {verdict}: {_text(worst)}",
            f"- processing: {'on' if found.processing.enabled else f'PAUSED: {_text(found.processing.paused_reason)}'}",
            f"- waiting: {jobs_words(found, Status.PENDING)} pending, {jobs_words(found, Status.FAILED)} failed",
            f"- finished: {_text(finished_words(found))}",
            f"- triggers: {_text(trigger_words(found))}",
        ],
        _section("Notes", [f"{_by(one.at, one.actor)}: {_text(one.note, 2_000)}" for one in found.notes]),
        _section("Errors", [_error(found, trend) for trend in found.errors]),
        _section("Paused types", [_paused(found, number) for number in range(len(found.processing.paused_types))]),
        _section("Pauses", [_entry(one, _subject(one)) for one in found.pauses]),
        _section("Canaries without a result", [_entry(one, _job(one.job_id)) for one in found.canaries]),
        _section("Bulk actions", [_entry(one, _bulk(one)) for one in found.bulks]),
        _section("Operators", [f"{_text(actor)}: {_text(words)}" for actor, words in action_words(found)]),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines)] if lines else []


def _text(value: str | None, longest: int = LONGEST) -> str:
    """One masked line in which no character is markup."""
    return _MARKS.sub(r"\\\1", str(output.cut(value, longest))) if value else "no reason given"


def _by(at: object, actor: str) -> str:
    return f"{output.when(at)} {_text(actor)}"  # type: ignore[arg-type]


def _error(found: Digest, trend: ErrorGroup) -> str:
    muted = found.mute_of(trend)
    marks = "**new** " if found.is_new(trend) else ""
    if muted is not None:
        marks = f"muted until {output.when(muted.until)} by {_text(muted.actor)} ({_text(muted.reason)}) "
    counts = f"{trend.count:,} runs, {trend.failed:,} jobs failed now, last {output.when(trend.last_seen)}"
    return f"{marks}{_text(trend.task_type)}: {_text(trend.sample)} ({counts})"


def _paused(found: Digest, number: int) -> str:
    pause = found.processing.paused_types[number]
    until = f" until {output.when(pause.resume_at)}" if pause.resume_at else ""
    return f"{_text(pause.task_type)} since {output.when(pause.paused_at)}{until}: {_text(pause.reason)}"


def _entry(one: AuditEntry, subject: str) -> str:
    reason = f": {_text(one.reason)}" if one.reason else ""
    return f"{output.when(one.at)} {_text(one.action)} {subject} by {_text(one.actor)}{reason}"


def _subject(one: AuditEntry) -> str:
    task_type = (one.after or {}).get("task_type")
    return _text(str(task_type)) if task_type else "processing"


def _job(job_id: UUID | None) -> str:
    return f"job {job_id}" if job_id else "a job"


def _bulk(one: AuditEntry) -> str:
    after = one.after or {}
    words = f", filter {_text(str(after['filter']))}" if after.get("filter") else ""
    jobs = f"{after['jobs']:,} jobs" if isinstance(after.get("jobs"), int) else "it"
    return f"{jobs} ({_text(str(after.get('bulk')))}{words})"
