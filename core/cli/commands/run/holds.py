"""`hold` and `release`: jobs of one type that do not start while a key of their payload has a value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.commands.look.types import hold_json, hold_table, warn_without_worker
from jobdeck.core.cli.output import Progress
from jobdeck.core.cli.session import Session, command, dry_run_option, reason_option
from jobdeck.core.cli.signals import stop_signals
from jobdeck.core.errors import Interrupted, UsageError
from jobdeck.core.queue import service
from jobdeck.core.queue.operators import holds
from jobdeck.core.queue.operators.payload_change import parse_change
from jobdeck.core.read import jobs
from jobdeck.core.read.operators.hold import COUNTED
from jobdeck.core.read.operators.holds import holds as all_holds
from jobdeck.core.read.operators.holds import reach
from jobdeck.core.read.sentences import amount
from jobdeck.core.times import parse_duration, parse_time

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg


@command("hold")
@click.argument("task_type", metavar="[TYPE]", required=False)
@click.argument("condition", metavar="[KEY=VALUE]", required=False)
@reason_option
@click.option("--until", metavar="TIME", help="Release automatically at this time (UTC).")
@click.option("--for", "lasting", metavar="DURATION", help="Release automatically after this time.")
@dry_run_option
def hold(
    session: Session, task_type: str | None, condition: str | None, *, reason: str | None, until: str | None,
    lasting: str | None, dry_run: bool,
) -> None:  # fmt: skip
    """Hold the jobs of a type by a value, or list the holds.

    Held jobs do not start, also those to come; running ones finish. VALUE is JSON, else text: 7 is not "7".
    """
    if task_type is None:
        if reason or until or lasting:
            raise UsageError("Give a TYPE and KEY=VALUE to hold, or nothing to list the holds.")
        found = session.read(all_holds())
        session.answer({"holds": list(map(hold_json, found))}, hold_table(found) or ["No holds."])
        return
    if condition is None:
        raise UsageError('Give KEY=VALUE, such as customerId=5, after the TYPE. "jobdeck hold" alone lists the holds.')
    if until and lasting:
        raise UsageError("Give --until or --for, not both.")
    (key, value), *_ = parse_change([condition]).set.items()
    with session.connection() as conn:
        with conn.transaction(force_rollback=dry_run):
            known = service.known_type(conn, session.registry, task_type)
            ends = _ends(until, lasting, jobs.clock().run(conn))
            number = holds.begin(conn, task_type, key, value, actor=session.actor, reason=reason, until=ends)
            waiting, with_key = reach(task_type, key, json.dumps(value)).run(conn)
        if not dry_run:
            waiting = _carried_out(conn, "hold", number, waiting)
    until_text = f" until {output.when(ends)}" if ends else ""
    which = f"{_jobs(waiting)} with this {key} {'waits' if waiting == 1 else 'wait'}"
    words = (
        f"Would hold {task_type} by {key}{until_text}: {which}."
        if dry_run
        else f"Hold {number} keeps {task_type} by {key}{until_text}: {which}. `jobdeck release {number}` releases them."
    )
    data = {"hold": None if dry_run else number, "jobs": waiting, "until": ends, "dry_run": dry_run}
    session.answer(data, [words])
    warn_without_worker(known)
    if not with_key:
        output.note(f"No waiting job of {task_type} has the key {key} in its payload now.")


@command("release")
@click.argument("number", metavar="HOLD", type=click.IntRange(1))
@dry_run_option
def release(session: Session, number: int, dry_run: bool) -> None:
    """Release the jobs of a hold. `hold` lists the holds with their numbers."""
    with session.connection() as conn:
        with conn.transaction(force_rollback=dry_run):
            waiting = {one.number: one.jobs for one in all_holds().run(conn)}.get(number, 0)
            holds.end(conn, number, actor=session.actor)
        released = waiting if dry_run else _carried_out(conn, "release", number, waiting)
    verb = "would be released" if dry_run else "released"
    data = {"hold": number, "jobs": released, "dry_run": dry_run}
    session.answer(data, [f"Hold {number} {verb}: {_jobs(released)} may start again."])


def _carried_out(conn: psycopg.Connection[Any], what: str, number: int, total: int) -> int:
    """Carries out the steps with progress; an interrupt leaves the rest to claims and upkeep."""
    progress, done = Progress(what, total), 0
    with stop_signals() as stop:
        for changed in holds.carry_out(conn, number):
            done += changed
            progress.at(done)
            if stop.asked:
                raise Interrupted(f"Interrupted after {done:,} jobs. It is in force; workers do the rest.")
    return done


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{amount(number, at_least=number == COUNTED)} jobs"


def _ends(until: str | None, lasting: str | None, now: datetime) -> datetime | None:
    if lasting:
        return now + parse_duration(lasting, what="duration of --for")
    return parse_time(until, now, what="time of --until") if until else None
