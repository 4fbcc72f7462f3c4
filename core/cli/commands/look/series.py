"""`series`: the recurring jobs; one of them is paused, resumed, or skips a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, Words, command, dry_run_option, reason_option
from jobdeck.core.errors import UsageError
from jobdeck.core.queue import operator
from jobdeck.core.read import jobs
from jobdeck.core.read.pages import series as read
from jobdeck.core.read.sentences import status_word
from jobdeck.core.schedules import has_run_out, rhythm
from jobdeck.core.times import format_duration
from jobdeck.core.words.wording import streak_words

if TYPE_CHECKING:
    from jobdeck.core.model import Job
    from jobdeck.core.read.pages.series import SeriesLine

HEADER = ("JOB", "TASK", "EVERY", "NEXT", "LATE", "LAST RUN", "STREAK", "STATUS", "PAYLOAD")


VERBS = ("pause", "resume", "skip")


@command("series")
@click.argument("verb", required=False, type=Words(VERBS), metavar="[pause|resume|skip")
@click.argument("wanted", required=False, metavar="ID]")
@reason_option
@dry_run_option
def series(session: Session, verb: str | None, wanted: str | None, reason: str | None, dry_run: bool) -> int | None:
    """List recurring jobs, or pause, resume or skip a run of one.

    A paused series does not run at its slots until it is resumed; then it runs at the next one.
    """
    if verb is not None:
        if wanted is None:
            raise UsageError(f"Name the recurring job: `jobdeck series {verb} ID`. `jobdeck series` lists them.")
        return _act(session, verb, wanted, reason, dry_run=dry_run)

    found = session.read(read.series())
    paused = found.processing.held_types
    held = not found.processing.enabled

    def waits(one: SeriesLine) -> bool:
        return held or one.pause is not None or one.job.task_type in paused

    data = {"at": found.at, "more": found.more, "series": [_data(one, paused=waits(one)) for one in found.series]}
    rows = [_row(one, paused=waits(one)) for one in found.series]
    text = output.table(HEADER, rows) or ["No recurring jobs."]
    session.answer(data, [*text, *(["There are more; these are due first."] if found.more else [])])
    return None


def _act(session: Session, verb: str, wanted: str, reason: str | None, *, dry_run: bool) -> int | None:

    act = {"pause": operator.pause_series, "resume": operator.resume_series, "skip": operator.skip}[verb]
    with session.connection() as conn:
        job_id = jobs.resolve_id(conn, wanted)
        answer = act(conn, job_id, actor=session.actor, reason=reason, dry_run=dry_run)
    session.answer({**output.plain(answer), "dry_run": dry_run}, [f"{answer.job_id}: {answer.message}"])
    return None if answer.ok else 1


def _data(one: SeriesLine, *, paused: bool) -> dict[str, Any]:
    job = one.job
    return {
        "id": job.id, "task_type": job.task_type, "payload": job.payload, "status": job.status, "paused": paused,
        "interval_minutes": job.recurrence_interval_minutes, "schedule": job.schedule,
        "next_run_at": None if has_run_out(job) else job.run_at, "late_seconds": one.late,
        "last_run_at": job.last_run_at, "last_outcome": job.last_outcome, "last_run_dry": job.last_run_dry,
        "expires_at": job.expires_at, "streak": one.streak, "streak_is_least": one.streak_is_least, "pause": one.pause,
    }  # fmt: skip


def _every(job: Job) -> str:
    own = rhythm(job)
    return "" if own is None else own.short if own.cron is None else f"{own.cron} {own.zone}"


def _row(one: SeriesLine, *, paused: bool) -> tuple[object, ...]:
    job = one.job
    return (
        job.id, job.task_type, _every(job), "no slot yet" if has_run_out(job) else output.when(job.run_at),
        format_duration(one.late) if one.late else None, output.last_run(job),
        streak_words(one.streak, least=one.streak_is_least),
        f"{status_word(job)}, paused" if paused else status_word(job), output.payload(job.payload, 40),
    )  # fmt: skip
