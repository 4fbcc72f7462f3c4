"""`edit`: changes one job, or the payloads of many jobs with a preview of the differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core.cli import answers, output
from jobdeck.core.cli.answers import answer_results
from jobdeck.core.cli.commands.act.enqueue import job_options
from jobdeck.core.cli.session import Session, command, dry_run_option, reason_option, yes_option
from jobdeck.core.errors import JobNotFound, UsageError
from jobdeck.core.queue import bulk, service
from jobdeck.core.queue.operators import bulk_edit
from jobdeck.core.queue.operators.payload_change import difference, parse_change
from jobdeck.core.queue.requests import DEFAULT, ONLY_A_SERIES, Wanted, own_timeout, parse_object, read_schedule
from jobdeck.core.read import jobs
from jobdeck.core.schedules import Rhythm, Schedule, rhythm
from jobdeck.core.times import parse_duration, parse_time

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    import psycopg

    from jobdeck.core.model import Job, Json
    from jobdeck.core.queue.bulk_model import Choice
    from jobdeck.core.queue.operators.payload_change import Difference, EditRehearsal, PayloadChange

ENDLESS: Final = "forever"
ONCE: Final = "off"


@command("edit")
@click.argument("wanted", metavar="[ID]", required=False)
@click.option("--filter", "expression", metavar="FILTER", help="Edit matching jobs; only --set and --unset do so.")
@click.option("--bulk", "again", metavar="BULK", help="Edit the jobs of an earlier bulk action.")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Set a payload key. VALUE is JSON, else text.")
@click.option("--unset", metavar="KEY", multiple=True, help="Remove a payload key.")
@click.option("--payload", metavar="JSON", help="The complete new payload.")
@job_options("edit")
@click.option("--if-version", type=click.IntRange(0), help="Only if the job still has this version.")
@reason_option
@dry_run_option
@yes_option
def edit(  # noqa: PLR0913 -- one parameter per option
    session: Session, *, wanted: str | None, expression: str | None, again: str | None, sets: tuple[str, ...],
    unset: tuple[str, ...], if_version: int | None, reason: str | None, dry_run: bool, yes: bool, **given: Any,
) -> int | None:  # fmt: skip
    """Change a job, or with --filter the payloads of many.

    Of one job the payload and the schedule can be changed. Running jobs are refused.
    """
    if (bool(wanted), expression is not None, bool(again)).count(True) != 1:
        raise UsageError("Name the jobs to edit, with an ID, --filter or --bulk.")
    change = parse_change(sets, unset)
    changed = bool(sets or unset)
    if wanted is not None:
        _check_one(given, changed=changed)
        return _edit_one(session, wanted, change, if_version=if_version, reason=reason, dry_run=dry_run, given=given)
    if not changed or if_version is not None or any(value is not None for value in given.values()):
        raise UsageError("Of many jobs, only payload keys can be changed. Give --set or --unset, and nothing else.")
    with session.connection() as conn:
        choice = answers.chosen(session, conn, again=again, expression=expression)
        return _edit_many(session, conn, choice, change, reason=reason, dry_run=dry_run, yes=yes)


def _check_one(given: dict[str, Any], *, changed: bool) -> None:
    if not changed and all(value is None for value in given.values()):
        raise UsageError(
            "Nothing to change. Give --set, --payload, --at, --every, --cron, --for, --priority, --max-attempts or "
            "--timeout."
        )
    if changed and given["payload"] is not None:
        raise UsageError("--payload replaces the payload, --set and --unset change its keys. Give one of them.")


def _edit_one(
    session: Session, wanted: str, change: PayloadChange, *, if_version: int | None, reason: str | None,
    dry_run: bool, given: dict[str, Any],
) -> int | None:  # fmt: skip

    with session.connection() as conn:
        job = jobs.job(jobs.resolve_id(conn, wanted)).run(conn)
        if job is None:
            raise JobNotFound(f"Job {wanted} is not in the queue. It may have finished: see `jobdeck runs`.")
        made = _wanted(job, given, change, jobs.clock().run(conn))
        result = service.edit(
            conn, session.registry, job, made, settings=session.settings,
            actor=session.actor, version=if_version, reason=reason, dry_run=dry_run,
        )  # fmt: skip
    if dry_run and result.ok and not session.json:
        output.write(difference(job.payload, made.payload).lines)
    return answer_results(session, [result], dry_run=dry_run)


def _edit_many(
    session: Session, conn: psycopg.Connection[Any], choice: Choice | None, change: PayloadChange, *,
    reason: str | None, dry_run: bool, yes: bool,
) -> int | None:  # fmt: skip
    """Requires `--yes`, and edits the jobs of the choice in batches."""
    if choice is None:
        session.answer({"bulk": None, "results": [], "dry_run": dry_run}, ["No job matches."])
        return None
    chosen = choice.bulk
    try:
        if dry_run:
            found = bulk_edit.rehearse(
                conn, session.registry, chosen.id, change, settings=session.settings, actor=session.actor
            )
            session.answer(_rehearsed_json(found), _rehearsed_lines(found))
            return 1 if found.refused else None
        answers.confirm("edit", chosen.total, needed=True, given=yes)
        now = bulk_edit.start(conn, chosen.id, change, actor=session.actor, reason=reason)
        output.note(
            f"Bulk action {now.id}: edit {now.total:,} {'job' if now.total == 1 else 'jobs'} ({change.words}). "
            "If this command is interrupted, a worker of these types finishes it."
        )
        return answers.finish(session, conn, now)
    finally:
        bulk.drop(conn, chosen.id)


def _rehearsed_json(found: EditRehearsal) -> Json:
    return {
        "bulk": None, "jobs": found.total, "checked": found.checked, "changed": found.changed, "unchanged": found.same,
        "refused": len(found.refused), "dry_run": True,
        "first": [{"id": job.id, "diff": _difference_json(differs)} for job, differs in found.first],
        "results": [
            {"id": one.job_id, "ok": False, "code": one.code, "message": one.message}
            for one in found.refused[: answers.ANSWERS]
        ],
    }  # fmt: skip


def _difference_json(differs: Difference) -> Json:
    keys = [
        {"key": output.Verbatim(key.key), "old": key.before and output.Verbatim(key.before),
         "new": key.after and output.Verbatim(key.after)}
        for key in differs.keys
    ]  # fmt: skip
    return {"keys": keys, "left_out": differs.left}


def _rehearsed_lines(found: EditRehearsal) -> list[str]:
    lines = [found.words]
    for job, differs in found.first:
        lines += output.section(f"{job.id}  {job.task_type}", [output.Verbatim(line) for line in differs.lines])
    rows = [(one.job_id, one.message) for one in found.refused[: answers.ANSWERS]]
    return [*lines, *output.section("Refused", output.table(("JOB", ""), rows))]


def _wanted(job: Job, given: dict[str, Any], change: PayloadChange, now: datetime) -> Wanted:
    """The job with the changes of the options."""
    schedule, lasting = _schedule(job, given), given["lasting"]
    endless = lasting is not None and lasting.strip().lower() == ENDLESS
    lasts = parse_duration(lasting, what="duration of --for") if lasting is not None and not endless else None
    if lasts and not schedule:
        raise UsageError(ONLY_A_SERIES)
    return Wanted(
        job.task_type,
        change.apply(job.payload) if given["payload"] is None else parse_object(given["payload"]),
        at=parse_time(given["at"], now, what="time of --at") if given["at"] is not None else None,
        schedule=schedule,
        lasting=lasts,
        endless=endless,
        priority=(job.priority or 0) if given["priority"] is None else given["priority"],
        max_attempts=given["max_attempts"],
        timeout=_timeout(job, given["timeout"]),
    )


def _timeout(job: Job, given: str | None) -> timedelta | None:
    """The timeout of the job's own that `--timeout` gives, or that it has; None for that of the type."""
    if given is None:
        return own_timeout(job)
    return None if given.strip().lower() == DEFAULT else parse_duration(given, what="duration of --timeout")


def _schedule(job: Job, given: dict[str, Any]) -> Schedule | Rhythm | None:
    """The schedule that the options give, or the job's own; a zone or a catch-up alone changes the job's own."""
    every, cron, tz, catch_up = (given[name] for name in ("every", "cron", "tz", "catch_up"))
    if every is not None and every.strip().lower() == ONCE:
        return read_schedule(None, cron, tz, catch_up)
    own = rhythm(job)
    if own is None or every is not None or cron is not None:
        return read_schedule(every, cron, tz, catch_up or (own.catch_up if own else None))
    if tz is None and not catch_up:
        return own
    every = f"{own.interval}s" if own.cron is None else None
    zone = own.zone if tz is None and own.cron is not None else tz
    return read_schedule(every, own.cron, zone, catch_up or own.catch_up)
