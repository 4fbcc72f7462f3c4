"""`note`, `mute`, `unmute`: what one shift tells the next, and errors that need nobody's attention for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command, dry_run_option, reason_option
from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.queue.operators import notes
from jobdeck.core.read import jobs
from jobdeck.core.read.operators.notes import MOST_DAYS, SHOWN_DAYS, Note, mutes, open_notes
from jobdeck.core.read.stats import error_groups
from jobdeck.core.times import parse_duration, parse_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import psycopg

    from jobdeck.core.read.report_types import ErrorGroup


@command("note")
@click.argument("text", required=False)
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), help=f"Days to show it, unless acknowledged. Default: {SHOWN_DAYS}."
)
@click.option("--acknowledge", metavar="ID", type=click.IntRange(1), help="Acknowledge a note: it is shown no longer.")
@dry_run_option
def note(session: Session, text: str | None, days: int | None, acknowledge: int | None, dry_run: bool) -> None:
    """Leave a note for the next shift, or list or close notes."""
    if text is not None and acknowledge is not None:
        raise UsageError("Give the text of a note, or --acknowledge with the ID of one.")
    if text is None and days is not None:
        raise UsageError("--days needs the text of a note.")
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        added = None
        if text is not None:
            added = notes.add(conn, text, days=days or SHOWN_DAYS, actor=session.actor)
        if acknowledge is not None:
            notes.acknowledge(conn, acknowledge, actor=session.actor)
        found = open_notes().run(conn)
    session.answer(
        {"note": added, "acknowledged": acknowledge, "notes": [output.plain(one) for one in found], "dry_run": dry_run},
        note_table(found) or ["No open notes."],
    )


def note_table(found: Sequence[Note]) -> list[str]:
    """The open notes, or nothing where there are none."""
    rows = [(one.id, output.when(one.at), one.actor, output.when(one.until), one.note) for one in found]
    return output.table(("NOTE", "LEFT", "BY", "SHOWN UNTIL", ""), rows)


@command("mute")
@click.argument("task_type", metavar="TYPE")
@click.argument("group")
@click.option("--for", "lasting", metavar="DURATION", help="How long: 2h, 3d.")
@click.option("--until", metavar="TIME", help="Until when (UTC).")
@reason_option
@dry_run_option
def mute(session: Session, task_type: str, group: str, reason: str | None, dry_run: bool, **given: Any) -> None:
    """Mute a group of errors until a time. `errors` shows the groups, which are still counted."""
    if bool(given["lasting"]) == bool(given["until"]):
        raise UsageError("Give --for or --until: a group of errors is muted until a time.")
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        until = _until(given, jobs.clock().run(conn))
        found = _group(conn, task_type, group)
        notes.mute(conn, task_type, found.fingerprint, until=until, actor=session.actor, reason=reason)
    data = {"task_type": task_type, "fingerprint": found.fingerprint, "until": until, "dry_run": dry_run}
    would = "Would be muted" if dry_run else "Muted"
    session.answer(data, [f"{would} until {output.when(until)}: {output.cut(found.sample, 80)}"])


@command("unmute")
@click.argument("task_type", metavar="TYPE")
@click.argument("group")
@reason_option
@dry_run_option
def unmute(session: Session, task_type: str, group: str, reason: str | None, dry_run: bool) -> None:
    """End the mute of a group of errors."""
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        alike = [one for one in mutes().run(conn) if one.task_type == task_type and one.fingerprint.startswith(group)]
        if len(alike) != 1:
            raise Refused(_which(task_type, group, len(alike), "muted group of errors"))
        notes.unmute(conn, task_type, alike[0].fingerprint, actor=session.actor, reason=reason)
    data = {"task_type": task_type, "fingerprint": alike[0].fingerprint, "dry_run": dry_run}
    session.answer(data, ["Would be muted no longer." if dry_run else "Muted no longer."])


def _until(given: dict[str, Any], now: datetime) -> datetime:
    if given["lasting"]:
        return now + parse_duration(given["lasting"], what="duration of --for")
    return parse_time(given["until"], now, what="time of --until")


def _group(conn: psycopg.Connection[Any], task_type: str, group: str) -> ErrorGroup:
    """The group of this type whose fingerprint begins so."""
    groups = error_groups.groups(limit=10_000).run(conn)
    alike = [one for one in groups if one.task_type == task_type and one.fingerprint.startswith(group)]
    if len(alike) != 1:
        raise Refused(_which(task_type, group, len(alike), "group of errors of the last 7 days"))
    return alike[0]


def _which(task_type: str, group: str, number: int, what: str) -> str:
    if number:
        return f"{number} groups of errors of {task_type} begin with {group}. Give more digits."
    return f"No {what} of {task_type} begins with {group}. `jobdeck errors` lists the groups."
