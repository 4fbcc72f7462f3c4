"""Commands for the whole queue: `pause`, `resume`, `cleanup`, `purge`, `retention`, `erase`."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.answers import IDS, answer_results, resolved
from jobdeck.core.cli.commands.look.types import warn_without_worker
from jobdeck.core.cli.output import Progress
from jobdeck.core.cli.session import Session, command, dry_run_option, reason_option, yes_option
from jobdeck.core.cli.signals import Stop, interrupted_with, stop_signals
from jobdeck.core.errors import Interrupted, StillRunning, UsageError
from jobdeck.core.plugins import Erased, load_plugins
from jobdeck.core.queue import operator, privacy, service
from jobdeck.core.read import jobs
from jobdeck.core.read.pages.outlook import outlook
from jobdeck.core.read.sentences import result
from jobdeck.core.times import parse_duration, parse_time, write_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from jobdeck.core.model import Processing
    from jobdeck.core.plugins import Connection, Erasure

    Way = Callable[[Connection], Sequence[Erased]]

LEFT: Final = (
    "The search afterwards found some of it. A series is left because it would never run again: edit its payload, or "
    "delete it. Read the other rows; they can be about somebody else. Then run the command again."
)
LEFT_CODE: Final = 3
ONE_OF_BOTH: Final = "Give --type or --queue, not both."
POLL_SECONDS: Final = 0.5
"""Between two looks whether a job still runs."""


@command("pause")
@reason_option
@click.option("--until", metavar="TIME", help="Resume automatically at this time (UTC).")
@click.option("--for", "lasting", metavar="DURATION", help="Resume automatically after this time.")
@click.option("--type", "task_type", metavar="TYPE", help="Pause only this task type.")
@click.option("--queue", metavar="QUEUE", help="Pause only the types of this queue, also those that join it later.")
@dry_run_option
def pause(
    session: Session,
    reason: str | None,
    until: str | None,
    lasting: str | None,
    task_type: str | None,
    queue: str | None,
    dry_run: bool,
) -> None:
    """Stop all workers from taking jobs. Running jobs finish, and jobs can still be enqueued."""
    if until and lasting:
        raise UsageError("Give --until or --for, not both.")
    if task_type and queue:
        raise UsageError(ONE_OF_BOTH)
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        known = service.known_type(conn, session.registry, task_type) if task_type else None
        now = jobs.clock().run(conn)
        resume_at = _resume_at(until, lasting, now)
        switched = operator.pause(
            conn, reason=reason, actor=session.actor, resume_at=resume_at, task_type=task_type, queue=queue
        )
    what = _subject(task_type, queue)
    until_text = f" until {output.when(resume_at)}" if resume_at else ""
    _answer(session, switched, f"{what} {'would be' if dry_run else 'is'} paused{until_text}.")
    if known is not None:
        warn_without_worker(known)


@command("resume")
@click.option("--type", "task_type", metavar="TYPE", help="Resume only this task type.")
@click.option("--queue", metavar="QUEUE", help="End the pause of this queue.")
@dry_run_option
def resume(session: Session, task_type: str | None, queue: str | None, dry_run: bool) -> None:
    """Let workers take jobs again; --dry-run says what will start.

    A recurring job runs once for the slots that it missed, unless it catches up on all.
    """
    if task_type and queue:
        raise UsageError(ONE_OF_BOTH)
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        before = jobs.processing().run(conn)
        if queue:
            switched = operator.resume(conn, actor=session.actor, queue=queue)
            open_again = {one.task_type for one in before.paused_types} - {
                one.task_type for one in switched.paused_types
            }
            ahead = outlook(sorted(open_again)).run(conn) if dry_run else None
        else:
            ahead = outlook([task_type] if task_type else None, resumed=task_type).run(conn) if dry_run else None
            switched = operator.resume(conn, actor=session.actor, task_type=task_type)
    was_on = not (task_type or queue) and before.enabled
    outcome = "was not paused" if was_on else "would be resumed" if dry_run else "resumed"
    said = f" {ahead.words}" if ahead is not None and not was_on else ""
    still = next((one.queue for one in switched.paused_types if one.task_type == task_type and one.queue), None)
    said += f" It stays paused with its queue {still}." if still else ""
    data = output.plain(switched) | ({"starts": output.plain(ahead)} if ahead is not None else {})
    session.answer(data, [f"{_subject(task_type, queue)} {outcome}.{said}"])


@command("cleanup")
@click.argument("ids", nargs=-1, metavar=IDS)
@click.option(
    "--older-than",
    metavar="DURATION",
    default=write_duration(operator.STUCK_AFTER),
    show_default=True,
    help="Minimum time since the start.",
)
@dry_run_option
@yes_option
def cleanup(session: Session, ids: tuple[str, ...], older_than: str, dry_run: bool, yes: bool) -> int | None:
    """List stuck jobs; with --yes mark them failed.

    A job is stuck when it started long ago and its lease has expired. With ids, only these jobs are checked.
    """
    age = parse_duration(older_than, what="duration of --older-than")
    looking = dry_run or not yes
    with session.connection() as conn:
        asked = resolved(conn, ids)
        results = operator.cleanup(conn, actor=session.actor, older_than=age, dry_run=looking, ids=asked or None)
    if results and looking and not dry_run:
        output.note(f"Nothing was changed. Run it again with --yes to mark {len(results)} of them failed.")
    stuck = {one.job_id for one in results}
    results += [result(job_id, "not-stuck", ok=False, older_than=older_than) for job_id in asked if job_id not in stuck]
    return answer_results(session, results, dry_run=looking, nothing="No stuck jobs.")


@command("purge")
@click.option(
    "--older-than",
    metavar="DURATION",
    default=f"{operator.KEPT_FOR.days} days",
    show_default=True,
    help="Minimum time since the end.",
)
@dry_run_option
@yes_option
def purge(session: Session, older_than: str, dry_run: bool, yes: bool) -> None:
    """Count old succeeded and cancelled jobs; --yes trashes them."""
    age = parse_duration(older_than, what="duration of --older-than")
    looking = dry_run or not yes
    with session.connection() as conn:
        purge_them = partial(operator.purge, conn, actor=session.actor, older_than=age)
        count = purge_them(dry_run=True)
        if not looking:
            with stop_signals() as stop:
                count = purge_them(dry_run=False, moving=partial(_moving, stop, Progress("purge", count)))
    if count and looking and not dry_run:
        output.note("Nothing was changed. Run it again with --yes to move them to the trash.")
    verb = "would be moved" if looking else "moved"
    noun = "job" if count == 1 else "jobs"
    lasting = "" if looking or not count else " They can be restored for 7 days."
    session.answer(
        {"purged": count, "dry_run": looking}, [f"{count} succeeded or cancelled {noun} {verb} to the trash.{lasting}"]
    )


@command("retention")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--days", type=click.IntRange(1, 36_500), metavar="DAYS", help="Set the period of NAME.")
@click.option("--default", "reset", is_flag=True, help="Reset the period of NAME.")
@dry_run_option
def retention(session: Session, name: str | None, days: int | None, reset: bool, dry_run: bool) -> None:
    """List how long rows are kept; --days sets a period."""
    if bool(name) != (days is not None or reset) or (days is not None and reset):
        raise UsageError("Give a NAME together with --days or with --default, or nothing to list the periods.")
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        if name:
            privacy.set_period(conn, name, days, actor=session.actor)
        found = privacy.periods().run(conn)
    if name:
        line = next(one for one in found if one.name == name)
        outcome = "would be kept" if dry_run else "are kept"
        session.answer({"retention": [line], "dry_run": dry_run}, [f"Rows of {name} {outcome} for {line.days} days."])
        return
    rows = [(line.name, line.component, line.days, "set by the owner" if line.chosen else "default") for line in found]
    session.answer({"retention": found}, output.table(("ROWS", "PART", "DAYS", "WHY"), rows))


@command("erase")
@click.option("--payload-key", metavar="KEY=VALUE", help="Erase the contents of jobs with this value in their payload.")
@click.option("--person", metavar="KIND=VALUE", help="Erase a person of a plugin, such as email=-; - reads the value.")
@click.option("--keep-shared", is_flag=True, help="Leave addresses that other people have too.")
@click.option("--wait", is_flag=True, help="Wait for the end of jobs that run with it.")
@dry_run_option
@yes_option
def erase(
    session: Session,
    payload_key: str | None,
    person: str | None,
    keep_shared: bool,
    wait: bool,
    dry_run: bool,
    yes: bool,
) -> int:
    """List where personal data is; --yes erases it.

    It cannot be restored. Afterwards the texts are searched in another way; exit code 3 means that the search found
    some. docs/security.md says what stays, and why.
    """
    looking = dry_run or not yes
    if bool(payload_key) == bool(person):
        raise UsageError("Give --payload-key or --person, and not both.")
    way = _jobs(session, payload_key) if payload_key else _person(session, person or "", keep_shared=keep_shared)
    with interrupted_with("Interrupted. Nothing was erased."):
        found = _carried_out(session, way, looking=looking, wait=wait)
    places = _added_up(one for one in found if not one.remains)
    left = _added_up(one for one in found if one.remains)
    if looking and not dry_run:
        output.note("Nothing was changed. Run it again with --yes to erase it; it cannot be restored.")
    if left:
        output.note(LEFT)
    lines: list[str] = []
    data: dict[str, object] = {"dry_run": looking}
    for what, rows in {"erased": places, "left": left}.items():
        data[what] = [{"place": place, "rows": count} for place, count in rows.items()]
        verb = f"would be {what}" if looking else what
        lines += [f"{count} {'row' if count == 1 else 'rows'} {verb} in {place}." for place, count in rows.items()]
    session.answer(data, lines)
    return LEFT_CODE if left else 0


def _moving(stop: Stop, progress: Progress, moved: int) -> None:
    progress.at(moved)
    if stop.asked:
        raise Interrupted(f"Interrupted after {moved:,} jobs were moved to the trash. Run it again for the rest.")


def _carried_out(session: Session, way: Way, *, looking: bool, wait: bool) -> Sequence[Erased]:
    """Erases in one transaction; with `wait`, tries again until no job runs with the texts."""
    said = ""
    while True:
        try:
            with session.connection() as conn, conn.transaction(force_rollback=looking):
                return way(conn)
        except StillRunning as running:
            if not wait:
                raise
            if str(running) != said:
                said = str(running)
                output.note(f"Waiting for its end. {said}")
        time.sleep(POLL_SECONDS)


def _jobs(session: Session, payload_key: str) -> Way:
    key, value = _parts(payload_key, "--payload-key")
    return lambda conn: privacy.erase_payload(conn, key, value, actor=session.actor)


def _person(session: Session, person: str, *, keep_shared: bool) -> Way:
    kind, value = _parts(person, "--person")
    ways: dict[str, Erasure] = {
        name: plugin.erase for plugin in load_plugins() if plugin.erase is not None for name in plugin.erase.people
    }
    if kind not in ways:
        known = ", ".join(f"{name} ({way.people[name]})" for name, way in ways.items())
        raise UsageError(
            f"There is no kind of person {kind!r}. Known: {known or 'none, because no plugin has people'}."
        )
    return lambda conn: ways[kind].run(conn, session.settings, kind, value, keep_shared, session.actor)


def _parts(text: str, option: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if value == "-":
        value = sys.stdin.readline()
    if not name.strip() or not value.strip():
        raise UsageError(f"{option} needs a name and a value, like customerId=5.")
    return name.strip(), value.strip()


def _added_up(found: Iterable[Erased]) -> dict[str, int]:
    """The rows of each place, in the order in which they came first."""
    rows: dict[str, int] = {}
    for one in found:
        rows[one.place] = rows.get(one.place, 0) + one.rows
    return {place: count for place, count in rows.items() if count}


def _subject(task_type: str | None, queue: str | None) -> str:
    return f"Processing of queue {queue}" if queue else f"Processing of {task_type}" if task_type else "Processing"


def _resume_at(until: str | None, lasting: str | None, now: datetime) -> datetime | None:
    if lasting:
        return now + parse_duration(lasting, what="duration of --for")
    if not until:
        return None
    moment = parse_time(until, now, what="time of --until")
    if moment <= now:
        raise UsageError(f"The time of --until, {output.when(moment)}, is in the past. Choose a later time.")
    return moment


def _answer(session: Session, switched: Processing, sentence: str) -> None:
    session.answer(output.plain(switched), [sentence])
